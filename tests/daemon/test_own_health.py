"""The relay's own health as a source, in the real program: what breaks reaches a webhook, once, and its end once."""

from __future__ import annotations

import http.server
import json
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from relayd import reports
from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

CHANCE = random.Random(17)
RAISED, CLEARED = "fault_raised", "fault_cleared"

SETTINGS = """
[health]
fault_after = "200ms"
waiting_after = "1s"
whole_after = "1s"
"""
TO_HOOK = """
[destination.hook]
type = "webhook"
url = "{url}"
backoff_first = "50ms"
backoff_cap = "200ms"

[[rule]]
name = "gateway faults"
from = ["relayd"]
deliver = [ {{ to = "hook" }} ]
"""


class Hook:
    """A server that takes what `accepts` says, and remembers each Idempotency-Key once, in order."""

    def __init__(self) -> None:
        self.by_key: dict[str, dict[str, Any]] = {}
        self.refused = 0
        self.accepts: Callable[[dict[str, Any]], bool] = lambda _: True
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_taken = hook.accepts(posted["payload"])
                hook.refused += not is_taken
                if is_taken:
                    hook.by_key.setdefault(self.headers["Idempotency-Key"], posted)
                self.send_response(200 if is_taken else 503)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def taken(self) -> list[dict[str, Any]]:
        return list(self.by_key.values())

    def turns(self, part: str) -> list[str]:
        return [one["payload"]["type"] for one in self.taken if one["payload"]["part"] == part]

    def payload(self, type_name: str, part: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = [one["payload"] for one in self.taken if one["payload"]["part"] == part]
        return next(one for one in found if one["type"] == type_name)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture
def rig(tmp_path: Path, hook: Hook) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.config.write_text(rig.config.read_text() + SETTINGS + TO_HOOK.format(url=hook.url))
    yield rig
    rig.stop()


def expect_every(rig: Rig, span: str) -> None:
    rig.config.write_text(rig.config.read_text().replace('rescan = "1s"', f'rescan = "1s"\nexpect_every = "{span}"'))


def test_a_silent_source_raises_and_a_file_clears_and_a_kill_in_between_tells_nothing_twice(
    rig: Rig, hook: Hook
) -> None:
    expect_every(rig, "2s")
    rig.start_sandbox()
    rig.start()
    wait_for(lambda: hook.turns("source camera") == [RAISED], "the silence is told")
    raised = hook.payload(RAISED, "source camera")
    assert (raised["kind"], raised["source"]) == ("source", "camera")
    assert "expected one every 2 s" in raised["reason"]
    assert rig.json("status")["state"] == "fault"
    assert rig.json("status")["reasons"][0].startswith("source camera: no file for ")
    rig.kill_relay()
    rig.start()
    wait_for(lambda: rig.json("status")["uptime_seconds"] > 3.0, "it had time to tell again, or to call it over")
    assert hook.turns("source camera") == [RAISED]
    rig.drop_file("gate.jpg", picture(CHANCE, 2_000))
    wait_for(lambda: hook.turns("source camera")[:2] == [RAISED, CLEARED], "its end is told")
    cleared = hook.payload(CLEARED, "source camera")
    assert (cleared["reason"], cleared["since"]) == (raised["reason"], raised["since"])
    assert cleared["at"] > raised["at"]
    schema = reports.event_schema()
    for payload in (raised, cleared):
        jsonschema.validate(payload, {**schema["$defs"]["FaultMessage"], "additionalProperties": False})


def test_a_wrong_secret_raises_with_the_reason_and_the_right_one_clears(rig: Rig, hook: Hook) -> None:
    rig.environment["TEST_SECRET"] = "hunter2-is-not-it"
    rig.start_sandbox()
    rig.start()
    rig.drop_file("gate.jpg", picture(CHANCE, 2_000))
    wait_for(lambda: hook.turns("destination rapidsos") == [RAISED], "the refused login is told")
    raised = hook.payload(RAISED, "destination rapidsos")
    assert raised["destination"] == "rapidsos"
    assert "login refused" in raised["reason"]
    assert "hunter2" not in json.dumps(hook.taken)
    rig.end()
    rig.environment["TEST_SECRET"] = "sandbox-secret"
    rig.start()
    wait_for(rig.has_arrived, "it is delivered")
    wait_for(lambda: hook.turns("destination rapidsos") == [RAISED, CLEARED], "its end is told")
    wait_for(lambda: rig.json("status")["spool"]["pending"] == 0, "that is on record, too")
    item = next(one for one in rig.json("items")["items"] if one["name"] == "fault_cleared destination rapidsos")
    assert (item["source"], item["state"], item["kind"]) == ("relayd", "delivered", "message")


def test_a_refused_configuration_is_raised_and_a_good_one_clears(rig: Rig, hook: Hook) -> None:
    relay = rig.start()
    good = rig.config.read_text()
    rig.config.write_text(good.replace("settle", "setle"))
    relay.send_signal(signal.SIGHUP)
    wait_for(lambda: hook.turns("configuration") == [RAISED], "the refusal is told")
    assert "setle" in hook.payload(RAISED, "configuration")["reason"]
    assert rig.json("status")["reasons"][0].startswith("configuration: the newest was refused")
    rig.config.write_text(good)
    relay.send_signal(signal.SIGHUP)
    wait_for(lambda: hook.turns("configuration") == [RAISED, CLEARED], "its end is told")


def test_without_a_rule_that_takes_from_it_nothing_is_put_into_the_spool(rig: Rig) -> None:
    rig.config.write_text(rig.config.read_text().partition("[destination.hook]")[0])
    expect_every(rig, "100ms")
    rig.start()
    wait_for(lambda: "source camera broke" in rig.log.read_text(), "the fault stands")
    status = rig.json("status")
    assert (status["spool"]["items"], set(status["sources"])) == (0, {"camera"})


def test_trouble_of_a_destination_that_is_told_to_itself_begets_no_further_trouble(rig: Rig, hook: Hook) -> None:
    """The hook is away when the silence is to be told: its own fault is raised, and told to it once it is back. Then it
    refuses the very message that says so: that message alone is no reason to tell it anything more."""
    expect_every(rig, "1s")
    hook.accepts = lambda _: False
    rig.start()
    wait_for(lambda: "destination hook broke" in rig.log.read_text(), "the hook's own fault stands")
    hook.accepts = lambda payload: payload["type"] == RAISED
    wait_for(lambda: hook.turns("destination hook") == [RAISED], "it is told of its own fault")
    wait_for(lambda: "destination hook is whole again" in rig.log.read_text(), "its end is to be told")
    refused = hook.refused
    wait_for(lambda: hook.refused > refused + 50, "that is refused again and again, for longer than waiting_after")
    wait_for(lambda: rig.json("status")["destinations"]["hook"]["state"] == "waiting", "it is seen to be away")
    names = [item["name"] for item in rig.json("items", "--source", "relayd")["items"]]
    assert names.count("fault_raised destination hook") == 1
    assert names.count("fault_cleared destination hook") == 1
    assert len(re.findall("destination hook broke", rig.log.read_text())) == 1
    hook.accepts = lambda _: True
    wait_for(lambda: hook.turns("destination hook") == [RAISED, CLEARED], "the end is told at last")


def test_kills_at_any_moment_leave_every_part_told_in_turns_and_the_last_one_true(rig: Rig, hook: Hook) -> None:
    away = rig.drop.with_name("away")
    rig.spawn()
    for _ in range(8):
        here, there = (rig.drop, away) if rig.drop.exists() else (away, rig.drop)
        here.rename(there)
        rig.let_relay_run(CHANCE.uniform(0.3, 3.0))
        rig.kill_relay()
        rig.spawn()
    if rig.drop.exists():
        rig.drop.rename(away)
    wait_for(lambda: hook.turns("source camera")[-1:] == [RAISED], "it is told that the folder is gone")
    away.rename(rig.drop)
    wait_for(lambda: hook.turns("source camera")[-1:] == [CLEARED], "it is told that it is back")
    wait_for(lambda: rig.json("status")["spool"]["pending"] == 0, "everything is told")
    told = hook.turns("source camera")
    assert told == [(RAISED, CLEARED)[index % 2] for index in range(len(told))]
