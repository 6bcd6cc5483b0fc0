"""The commands check, schema and explain."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relayd import clock
from relayd.cli import main
from relayd.config import online
from relayd.spool.abilities import Lack

NEEDS_REPORT = (
    "needs the report_id of an incident, and no rule with `incident` delivers"
    ' { to = "room", action = "report" }: it is not sent'
)
CONTRACT = Path(__file__).parent / "config_samples" / "contract.toml"
GOOD = """\
[device]
id = "amb"
[spool]
path = "{folder}/spool"
min_free = "1MB"
min_free_percent = 0
min_free_inodes_percent = 0
[source.front]
type = "folder"
path = "{folder}/front"
name_pattern = "{{camera}}_{{time}}.jpg"
time_zone = "UTC"
[destination.disk]
type = "folder"
path = "/media/usb"
[destination.room]
type = "sayvu"
url = "https://api.example.org"
api_key = {{ env = "X" }}
mode = "training"
[destination.vms]
type = "watcher"
url = "https://vms.example.org"
login = "gateway"
password = {{ env = "X" }}
[[rule]]
name = "copy"
from = ["front"]
priority = "high"
deliver = [{{ to = "disk", path = "{{{{ item.camera }}}}/{{{{ item.name }}}}", then = [
  {{ to = "room", action = "message", text = "at {{{{ receipt.path }}}}" }} ] }}]
[[rule]]
name = "big"
from = ["*"]
when = "item.size > 100"
deliver = [{{ to = "room", action = "image" }}]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    place = tmp_path / "relayd.toml"
    place.write_text(GOOD.format(folder=tmp_path), encoding="utf-8")
    (tmp_path / "front").mkdir()
    return place


def run(place: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(place), *words])


def document(result: Result) -> Any:
    return json.loads(result.stdout)


def test_check_says_what_is_there_and_leaves_with_0(settings: Path) -> None:
    result = run(settings, "check")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{settings}: good",
        "sources: front (folder)",
        "destinations: disk (folder), room (sayvu), vms (watcher)",
        "rules: copy, big",
        f"{settings}:36: rule.big.deliver[1]: {NEEDS_REPORT}",
    ]


def test_check_says_every_problem_on_standard_error_and_leaves_with_2(settings: Path) -> None:
    settings.write_text("[device]\nnam = 1\n[spool]\nmax_size = 1\n", encoding="utf-8")
    result = run(settings, "check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f'{settings}:2: device.nam: unknown key, did you mean "name"?',
        f'{settings}:4: spool.max_size: not a size, write for example "500MB" or "2GiB"',
    ]


def test_check_prints_one_document(settings: Path) -> None:
    good = document(run(settings, "check", "--json"))
    assert (good["ok"], good["problems"], good["online"]) == (True, [], None)
    assert good["destinations"] == {
        "disk": {"type": "folder"},
        "room": {"type": "sayvu"},
        "vms": {"type": "watcher"},
    }
    settings.write_text("[device]\nnam = 1\n", encoding="utf-8")
    bad = run(settings, "check", "--json")
    assert bad.exit_code == 2
    assert document(bad) == {
        "ok": False,
        "problems": [
            {"file": str(settings), "line": 2, "key": "device.nam", "text": 'unknown key, did you mean "name"?'}
        ],
    }


def test_check_of_a_missing_file_leaves_with_2(tmp_path: Path) -> None:
    result = run(tmp_path / "none.toml", "check")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_check_online_tries_folders_and_the_disk_and_leaves_with_1_if_one_fails(settings: Path, tmp_path: Path) -> None:
    found = {one["subject"]: one for one in document(run(settings, "check", "--online", "--json"))["online"]}
    assert "clock" in found
    assert found["spool"]["ok"]
    assert "source front" in found
    (tmp_path / "front").rmdir()
    result = run(settings, "check", "--online")
    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED") and "source front" in line]
    assert len(failed) == 1
    assert " → " in failed[0]


def test_check_online_says_what_the_spools_file_system_cannot_do(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Lack(text="it keeps no rights", remedy="use another", is_grave=True)]
    found.append(Lack(text="it has no hard links", remedy="", is_grave=False))
    monkeypatch.setattr(online, "lacks", lambda folder: found)
    said = document(run(settings, "check", "--online", "--json"))["online"]
    spool = [(one["ok"], one["text"], one["remedy"]) for one in said if one["subject"] == "spool"][1:]
    assert spool == [(False, "it keeps no rights", "use another"), (True, "it has no hard links", "")]


def test_check_online_says_that_there_is_no_room(settings: Path) -> None:
    text = settings.read_text(encoding="utf-8").replace('min_free = "1MB"', 'min_free = "900TB"')
    settings.write_text(text, encoding="utf-8")
    found = {one["subject"]: one for one in document(run(settings, "check", "--online", "--json"))["online"]}
    assert not found["spool"]["ok"]
    assert found["spool"]["remedy"]


def test_schema_prints_a_schema(settings: Path) -> None:
    for what in ("config", "status", "state", "event", "command", "response"):
        assert document(run(settings, "schema", what))["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert run(settings, "schema", "nothing").exit_code == 2


def test_explain_shows_which_rules_match_and_what_would_be_sent(settings: Path, tmp_path: Path) -> None:
    camera_file = tmp_path / "front" / "gate_20260131T120000.jpg"
    camera_file.write_bytes(b"\xff\xd8\xff\xe0 small")
    told = document(run(settings, "explain", str(camera_file), "--json"))
    assert told["item"]["source"] == "front"
    assert told["item"]["camera"] == "gate"
    assert told["item"]["captured_at"] == "2026-01-31T12:00:00.000Z"
    assert [(rule["name"], rule["matched"], rule["reason"]) for rule in told["rules"]] == [
        ("copy", True, "it has no condition"),
        ("big", False, "`item.size > 100` does not hold"),
    ]
    (delivery,) = told["deliveries"]
    assert (delivery["destination"], delivery["action"], delivery["priority"]) == ("disk", "copy", "high")
    assert delivery["arguments"] == {"path": "gate/gate_20260131T120000.jpg"}
    assert delivery["then"][0]["arguments"] == {"text": "at <receipt.path>"}
    assert camera_file.exists()
    assert not (tmp_path / "spool").exists()


def test_explain_is_readable(settings: Path, tmp_path: Path) -> None:
    camera_file = tmp_path / "front" / "gate_20260131T120000.jpg"
    camera_file.write_bytes(b"\xff\xd8\xff\xe0 small")
    lines = [line.rstrip() for line in run(settings, "explain", str(camera_file)).stdout.splitlines()]
    assert "copy  yes      it has no condition" in lines
    assert "big   no       `item.size > 100` does not hold" in lines
    assert "captured at 2026-01-31T12:00:00.000Z: as the fields of its name_pattern say" in lines
    assert "→ disk (folder): copy, priority high" in lines
    assert "    path: gate/gate_20260131T120000.jpg" in lines
    assert "  → room (sayvu): message, priority high, once that has arrived" in lines


@pytest.mark.parametrize(
    ("name", "written_at", "told", "captured_from", "in_words"),
    [
        ("x20260131T120000.jpg", 1_769_860_860, 1_769_860_800, "name", "as its name says"),
        ("x20260131T120000.jpg", 1_769_960_860, 1_769_960_860, "mtime", "when it was last written"),
        ("plain.jpg", 1_769_860_860, 1_769_860_860, "mtime", "when it was last written"),
    ],
)
def test_explain_says_when_a_file_was_captured_and_what_says_so(
    settings: Path, tmp_path: Path, name: str, written_at: int, told: int, captured_from: str, in_words: str
) -> None:
    camera_file = tmp_path / "front" / name
    camera_file.write_bytes(b"\xff\xd8\xff\xe0 small")
    os.utime(camera_file, (written_at, written_at))
    shown = document(run(settings, "explain", str(camera_file), "--json"))
    assert (shown["item"]["captured_at"], shown["captured_from"]) == (clock.rfc3339(told), captured_from)
    assert in_words in run(settings, "explain", str(camera_file)).stdout


def test_explain_of_a_file_that_no_pattern_fits_says_what_cannot_be_filled_in(settings: Path, tmp_path: Path) -> None:
    camera_file = tmp_path / "front" / "plain.jpg"
    camera_file.write_bytes(b"x")
    result = run(settings, "explain", str(camera_file), "--json")
    assert result.exit_code == 1
    assert document(result)["deliveries"][0]["error"] == 'path: there is no field "camera"'


def test_explain_of_a_message_finds_the_source_by_its_topic() -> None:
    told = document(run(CONTRACT, "explain", "--topic", "vehicle/panic", "--payload", '{"pressed": true}', "--json"))
    assert told["item"]["source"] == "panic"
    assert told["payload"] == {"pressed": True}
    assert [(one["destination"], one["action"], one["arguments"]) for one in told["deliveries"]] == [
        ("control-room", "report", {"category": "Violence", "description": "Panic button in Ambulance 417"}),
        ("incidentshare", "sms", {"phone_number": "+4512345678"}),
    ]
    quiet = document(run(CONTRACT, "explain", "--topic", "vehicle/panic", "--payload", '{"released": 1}', "--json"))
    assert quiet["deliveries"] == []
    assert quiet["rules"][0]["trouble"]


def test_explain_of_a_health_event_of_the_relay_itself_needs_no_payload(settings: Path) -> None:
    told = document(run(CONTRACT, "explain", "--source", "relayd", "--json"))
    assert (told["item"]["name"], told["item"]["source"]) == ("fault_raised destination rapidsos", "relayd")
    assert [(one["rule"], one["destination"]) for one in told["deliveries"]] == [("gateway faults", "status-page")]
    payload = json.dumps({**told["payload"], "type": "fault_cleared", "part": "spool", "kind": "spool"})
    cleared = document(run(CONTRACT, "explain", "--source", "relayd", "--payload", payload, "--json"))
    assert cleared["item"]["name"] == "fault_cleared spool"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["explain"], 2, "Name either a FILE"),
        (["explain", "/no/such/file"], 1, "cannot read /no/such/file"),
        (["explain", "--topic", "other", "--payload", "1"], 1, "no source takes topic other"),
        (["explain", "--source", "pnic", "--payload", "1"], 1, 'there is no source "pnic", did you mean "panic"?'),
        (["explain", "--source", "relayd", "--payload", '{"type": "x"}'], 1, "no health event of relayd (schema: "),
    ],
)
def test_explain_says_what_it_cannot_work_out(words: list[str], code: int, said: str) -> None:
    result = run(CONTRACT, *words)
    assert result.exit_code == code
    assert said in result.stderr


def test_a_hostile_payload_is_shown_and_not_worked_out(settings: Path) -> None:
    payload = json.dumps({"pressed": "{{ 12345*3 }}\x1b[31m"})
    result = run(CONTRACT, "explain", "--topic", "vehicle/panic", "--payload", payload)
    assert result.exit_code == 0
    assert "37035" not in result.stdout
    assert "\x1b" not in result.stdout
