"""`relayd doctor`: what support asks first, and no secret in it."""

from __future__ import annotations

import json
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relayd.cli import main
from tests.daemon.running import RunningRelay

SECRET = "sandbox-secret"


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningRelay]:
    monkeypatch.setenv("TEST_SECRET", SECRET)
    made = RunningRelay(tmp_path)
    yield made
    made.end()


def doctor(relay: RunningRelay, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(relay.config), "doctor", *words])


def unpacked(bundle: Path) -> dict[str, str]:
    with tarfile.open(bundle) as archive:
        members = {entry.name.removeprefix("relayd-doctor/"): archive.extractfile(entry) for entry in archive}
        return {name: stream.read().decode() for name, stream in members.items() if stream is not None}


def test_the_bundle_of_a_running_relay_holds_what_support_asks_first(relay: RunningRelay, tmp_path: Path) -> None:
    relay.start()
    bundle = tmp_path / "bundle.tar.gz"
    result = doctor(relay, "--bundle", str(bundle))
    assert result.exit_code == 0, result.output
    parts = unpacked(bundle)
    assert json.loads(parts["status.json"])["device"]["id"] == "amb-0417"
    assert json.loads(parts["items-dead.json"]) == {"items": [], "next": None}
    assert "client_id" in parts["config/00-relayd.toml"]
    assert {"about.txt", "check.txt", "disk.txt", "journal.txt", "items-quarantined.json"} <= set(parts)
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600


def test_no_secret_gets_into_the_bundle_wherever_it_was_written(relay: RunningRelay, tmp_path: Path) -> None:
    relay.config.write_text(f"# the secret is {SECRET}\n" + relay.config.read_text())
    bundle = tmp_path / "bundle.tar.gz"
    doctor(relay, "--bundle", str(bundle))
    parts = unpacked(bundle)
    assert "# the secret is ***" in parts["config/00-relayd.toml"]
    assert SECRET not in "".join(parts.values())


def test_the_screen_shows_how_the_running_relay_is(relay: RunningRelay) -> None:
    relay.start()
    lines = doctor(relay).output.splitlines()
    assert "  the relay is ok" in lines
    assert lines[lines.index("items-dead.json") + 1] == "  0"


def test_without_a_running_relay_it_says_so_and_leaves_with_1(relay: RunningRelay) -> None:
    result = doctor(relay)
    assert result.exit_code == 1
    assert "no running relay answers" in result.output
    assert "the configuration is good" in result.output


def test_a_wrong_configuration_is_part_of_the_story(relay: RunningRelay) -> None:
    relay.config.write_text(relay.config.read_text().replace("[device]", "[devise]"))
    result = doctor(relay)
    assert result.exit_code == 1
    assert "devise" in result.output
    assert "Traceback" not in result.output


def test_a_bundle_that_cannot_be_written_is_said_in_one_sentence(relay: RunningRelay, tmp_path: Path) -> None:
    result = doctor(relay, "--bundle", str(tmp_path / "nowhere" / "bundle"))
    assert result.exit_code == 1
    assert "cannot be written: No such file or directory" in result.stderr
