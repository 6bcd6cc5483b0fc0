"""Commands from the fleet: what is allowed is done once, everything else changes nothing; a real relay and broker."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import status
from relayd.commands import LARGEST_COMMAND_BYTES, id_of, read
from relayd.errors import WrongRequest
from relayd.reports import command_schema
from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.daemon.running import wait_for
from tests.fleet.onlooker import BASE, Onlooker

DEVICE = "amb-0417"
COMMAND = f"{BASE}/{DEVICE}/command"


@pytest.fixture
def relay(rig: Rig, onlooker: Onlooker) -> Rig:
    """A running relay that the fleet sees."""
    rig.start()
    onlooker.wait_for("health")
    return rig


def state_of(rig: Rig) -> str:
    found: str = rig.json("status")["destinations"]["rapidsos"]["state"]
    return found


def test_status_answers_with_the_snapshot(relay: Rig, onlooker: Onlooker) -> None:
    answer = onlooker.ask(DEVICE, "status", "s-1")
    assert (answer["id"], answer["ok"]) == ("s-1", True)
    jsonschema.validate(answer["result"], status.json_schema())
    assert not onlooker.all("response/s-1")[0].is_retained


def test_pause_resume_flush_and_retry_do_what_the_command_line_does(relay: Rig, onlooker: Onlooker) -> None:
    assert onlooker.ask(DEVICE, "pause", "1", destination="rapidsos")["result"] == {"paused": ["rapidsos"]}
    assert state_of(relay) == "paused"
    assert onlooker.ask(DEVICE, "resume", "2")["result"] == {"resumed": ["rapidsos"]}
    assert state_of(relay) == "ok"
    assert onlooker.ask(DEVICE, "pause", "3", name="rapidsos")["result"] == {"paused": ["rapidsos"]}
    paused = onlooker.ask(DEVICE, "pause", "3s", source="camera")["result"]
    assert (paused["paused"], "unmounted" in paused["text"]) == (["camera"], True)
    assert onlooker.ask(DEVICE, "resume", "3r", name="camera")["result"] == {"resumed": ["camera"]}
    both = onlooker.ask(DEVICE, "pause", "3b", source="camera", destination="rapidsos")
    assert both["error"] == "name one destination or one source, not several"
    assert onlooker.ask(DEVICE, "flush", "4")["result"] == {"flushed": ["rapidsos"]}
    assert onlooker.ask(DEVICE, "retry", "5")["result"] == {"retried": 0}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("dance", {}, "there is no command dance; there are: flush, pause, ptz, reboot, resume, retry, status"),
    ("reboot", {"camera": "gate-3"}, "the command reboot is not allowed here"),
    ("pause", {"destination": "nowhere"}, "no destination nowhere; there are: rapidsos"),
    ("pause", {"destination": 7}, "destination: Input should be a valid string"),
    ("pause", {"for": "1h"}, "for: Extra inputs are not permitted"),
    ("retry", {"items": ["01hz{{7*7}}"]}, "no item 01hz{{7*7}} in the spool"),
    ("retry", {"items": "all"}, "items: Input should be a valid list"),
    ("retry", {"items": ["x"] * 1001}, "items: List should have at most 1000 items"),
    ("status", {"\x1b[31m": 1}, "Extra inputs are not permitted"),
]


def test_what_cannot_be_done_is_answered_in_words(relay: Rig, onlooker: Onlooker) -> None:
    for number, (name, arguments, said) in enumerate(REFUSED):
        answer = onlooker.ask(DEVICE, name, f"x{number}", **arguments)
        assert (answer["id"], answer["ok"]) == (f"x{number}", False)
        assert said in answer["error"]
        assert "\x1b" not in answer["error"]


def test_only_what_the_configuration_allows_is_done(rig: Rig, onlooker: Onlooker) -> None:
    text = rig.config.read_text()
    line = next(line for line in text.splitlines() if line.startswith("commands"))
    rig.config.write_text(text.replace(line, ""))
    rig.start()
    onlooker.wait_for("health")
    answer = onlooker.ask(DEVICE, "pause", "1")
    assert answer["error"] == "the command pause is not allowed here, [fleet] commands allows: status"
    assert state_of(rig) == "ok"
    assert onlooker.ask(DEVICE, "status", "2")["ok"]


def test_a_repeated_id_is_answered_again_and_not_run_again_also_after_a_kill(relay: Rig, onlooker: Onlooker) -> None:
    first = onlooker.ask(DEVICE, "pause", "p-1")
    assert onlooker.ask(DEVICE, "resume", "r-1")["ok"]
    assert onlooker.ask(DEVICE, "pause", "p-1") == first
    assert state_of(relay) == "ok"
    relay.kill_relay()
    onlooker.forget()
    relay.start()
    onlooker.wait_for("health")
    assert onlooker.ask(DEVICE, "pause", "p-1") == first
    assert state_of(relay) == "ok"
    other = onlooker.ask(DEVICE, "resume", "p-1")
    assert other["error"] == "this id was used before, for the command pause: each needs an id of its own"


def test_a_command_that_was_cut_is_not_run_again_and_the_answer_says_that_nobody_knows(
    relay: Rig, onlooker: Onlooker
) -> None:
    relay.kill_relay()
    with contextlib.closing(sqlite3.connect(relay.spool / "spool.db")) as db:
        db.execute("INSERT INTO commands (id, name, at) VALUES ('cut', 'pause', 1800000000.0)")
        db.commit()
    onlooker.forget()
    relay.start()
    onlooker.wait_for("health")
    answer = onlooker.ask(DEVICE, "pause", "cut")
    assert not answer["ok"]
    assert "whether it took effect is not known" in answer["error"]
    assert state_of(relay) == "ok"


def test_retained_commands_are_ignored_whenever_they_come(rig: Rig, onlooker: Onlooker) -> None:
    onlooker.publish(f"{COMMAND}/pause", b'{"id":"old"}', retain=True)
    rig.start()
    onlooker.wait_for("health")
    assert onlooker.ask(DEVICE, "status", "1")["ok"]
    assert state_of(rig) == "ok"
    assert onlooker.all("response/old") == []


HOSTILE = [
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b'"id"',
    b"{",
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b'{"id":"nan","destination":NaN}',
    b'{"id":"a","id":"b"}',
    b'{"id":"../../state"}',
    b'{"id":"a/b"}',
    b'{"id":"+"}',
    b'{"id":"#"}',
    b'{"id":""}',
    b'{"id":7}',
    b'{"id":null}',
    b'{"id":"\\u0000"}',
    b'{"id":"$SYS\\n"}',
    b'{"id":"' + b"x" * 129 + b'"}',
    b'{"id":"\xc3\x28"}',
    b'{"id":"big","destination":"' + b"x" * LARGEST_COMMAND_BYTES + b'"}',
    b"x" * 900_000,
]


def test_hostile_payloads_have_no_answer_no_effect_and_few_lines_in_the_log(relay: Rig, onlooker: Onlooker) -> None:
    for payload in HOSTILE:
        onlooker.publish(f"{COMMAND}/pause", payload)
    for topic in ("command/pause/x", "command", "command/", "commands/pause", "response/pause"):
        if not topic.startswith("response"):
            onlooker.publish(f"{BASE}/{DEVICE}/{topic}", b'{"id":"elsewhere"}')
    onlooker.publish(f"{BASE}/amb-0418/command/pause", b'{"id":"neighbour"}')
    assert onlooker.ask(DEVICE, "status", "still-there")["ok"]
    answered = {one.topic for one in onlooker.all_below("response")}
    assert answered <= {f"{BASE}/{DEVICE}/response/still-there", f"{BASE}/{DEVICE}/response/elsewhere"}
    assert state_of(relay) == "ok"
    assert relay.log.read_text().count("from the fleet refused or let go") <= 2


def test_a_flood_is_let_go_and_the_relay_stays_itself(relay: Rig, onlooker: Onlooker) -> None:
    for number in range(400):
        onlooker.publish(f"{COMMAND}/status", json.dumps({"id": f"f{number}"}).encode())
    wait_for(lambda: "refused or let go" in relay.log.read_text(), "the flood is noticed")
    assert state_of(relay) == "ok"
    assert len(onlooker.all_below("response")) < 200
    wait_for(lambda: _is_answered(onlooker), "commands are answered again")


def _is_answered(onlooker: Onlooker) -> bool:
    with contextlib.suppress(AssertionError):
        return bool(onlooker.ask(DEVICE, "status", "after", seconds=1.0)["ok"])
    return False


def test_a_command_that_came_while_the_relay_was_away_is_done_once_when_it_returns(
    relay: Rig, broker: Mosquitto, onlooker: Onlooker
) -> None:
    relay.end()
    onlooker.forget()
    onlooker.publish(f"{COMMAND}/pause", b'{"id":"waited"}')
    relay.start()
    assert onlooker.wait_for("response/waited")["ok"]
    assert state_of(relay) == "paused"
    assert len(onlooker.all("response/waited")) == 1


def test_a_broker_of_version_3_1_1_takes_reports_and_commands_too(rig: Rig, onlooker: Onlooker) -> None:
    rig.config.write_text(rig.config.read_text().replace("[broker.fleet]", '[broker.fleet]\nprotocol = "3.1.1"'))
    onlooker.publish(f"{COMMAND}/pause", b'{"id":"old"}', retain=True)
    rig.start()
    onlooker.wait_for("health")
    assert onlooker.ask(DEVICE, "status", "1")["result"]["destinations"]["rapidsos"]["state"] == "ok"
    assert onlooker.all("response/old") == []
    rig.kill_relay()
    onlooker.wait_for("state", lambda it: it["state"] == "offline")


# --- reading, without a relay


@given(st.binary(max_size=2_000) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_the_bytes_reading_ends_in_an_object_or_a_refusal(payload: bytes) -> None:
    with contextlib.suppress(WrongRequest):
        request = read(payload)
        assert isinstance(request, dict)
        id_of(request)


@given(st.text(max_size=200))
def test_an_id_is_one_plain_level_of_a_topic_or_none(text: str) -> None:
    found = id_of({"id": text})
    assert found in (None, text)
    if found is not None:
        assert 0 < len(found) <= 128
        assert not set(found) & set("/+#$\0\n ")


def test_the_schema_of_commands_takes_what_is_taken_and_refuses_what_is_refused() -> None:
    schema = command_schema()
    camera = {"id": "a", "camera": "gate-3"}
    for good in (
        {"id": "a"},
        {"id": "a", "destination": "x"},
        {"id": "a", "items": ["x"], "destination": None},
        {**camera, "up": 50, "in": 20, "priority": "emergency", "asked_at": "2026-11-25T12:00:00Z"},
    ):
        jsonschema.validate(good, schema)
    for bad in (
        {},
        {"id": "a/b"},
        {"id": "a", "for": 1},
        {"id": "a", "items": []},
        {**camera, "priority": "normal"},
        {**camera, "up": [50]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
