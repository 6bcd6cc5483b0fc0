"""The journal's catalog and the unit: every message is explained, nothing is explained that nobody says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from relayd.messages import Message

ROOT = Path(__file__).parents[2]
CATALOG = (ROOT / "systemd" / "relayd.catalog").read_text()
ENTRIES = dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", CATALOG, re.MULTILINE | re.DOTALL))
SOURCES = {path: path.read_text() for path in (ROOT / "relayd").rglob("*.py")}


def said(message: Message) -> list[Path]:
    """Where the program says it."""
    return [path for path, text in SOURCES.items() if f"Message.{message.name}" in text]


@pytest.mark.parametrize("message", Message, ids=lambda message: message.name)
def test_every_message_is_said_somewhere_and_explained(message: Message) -> None:
    assert said(message), f"nobody says {message.name}"
    entry = ENTRIES[message.value]
    assert re.match(r"Subject: .{10,80}\nDefined-By: relayd\nSupport: \S+\n\n", entry)
    assert len(entry.split()) > 15, "what happened, and what to do"


def test_nothing_is_explained_that_nobody_says_and_no_id_is_there_twice() -> None:
    assert set(ENTRIES) == {message.value for message in Message}
    assert len(re.findall(r"^-- ", CATALOG, re.MULTILINE)) == len(Message)


def test_a_text_uses_only_fields_that_its_message_has() -> None:
    for message in Message:
        for field in set(re.findall(r"@([A-Z_]+)@", ENTRIES[message.value])):
            known = "".join(SOURCES[path] for path in said(message))
            assert re.search(rf"\b{field.lower()}\b", known), f"{message.name} has no {field}"


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="no systemd here")
def test_systemd_reads_the_catalog_and_fills_it_in(tmp_path: Path) -> None:
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    (place / "relayd.catalog").write_text(CATALOG)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    for words in (["--update-catalog"], ["--list-catalog"]):
        done = subprocess.run(["journalctl", f"--root={tmp_path}", *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(Message)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_is_as_closed_as_it_can_be_and_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    unit = ROOT / "systemd" / "relayd.service"
    closed = ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(unit)]
    done = subprocess.run(closed, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout[-300:]
    text = unit.read_text()
    assert "\nMemoryDenyWriteExecute=true\n" in text
    for name, content in (
        ("relayd.service", text.replace("/usr/bin/relayd", "/bin/true")),
        ("relayd.path", (ROOT / "systemd" / "relayd.path").read_text()),
    ):
        (tmp_path / name).write_text(content)
    paths = [str(tmp_path / "relayd.service"), str(tmp_path / "relayd.path")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_has_no_dead_end_and_does_not_start_a_wrong_configuration_again_and_again() -> None:
    lines = (ROOT / "systemd" / "relayd.service").read_text().splitlines()
    for line in ("StartLimitIntervalSec=0", "Restart=always", "RestartPreventExitStatus=2", "OnFailure=relayd.path"):
        assert line in lines
    path = (ROOT / "systemd" / "relayd.path").read_text().splitlines()
    assert {"PathChanged=/etc/relayd/relayd.toml", "PathChanged=/etc/relayd/conf.d", "Unit=relayd.service"} <= set(path)
