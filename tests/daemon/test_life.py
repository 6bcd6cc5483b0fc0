"""The daemon's life: stop, reload, second owner, a link that goes and comes back; the real process each time."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

CHANCE = random.Random(9)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.stop()


def status(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] | None = rig.status()
    assert found is not None, rig.tail()
    return found


def test_sigterm_ends_it_within_five_seconds_in_mid_upload_and_the_item_arrives_later(rig: Rig) -> None:
    rig.start_sandbox("store#1 slow 20000")
    relay = rig.start()
    rig.drop_file("large.jpg", picture(CHANCE, 3_000_000))
    wait_for(rig.is_uploading, "the upload is under way")
    began = time.monotonic()
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(timeout=10) == 0
    assert time.monotonic() - began < 5.0
    rig.spawn()
    wait_for(rig.has_arrived, "it arrived after the restart")
    assert rig.toll().is_clean


def test_a_bad_configuration_on_sighup_changes_nothing_and_says_where_it_is_wrong(rig: Rig) -> None:
    rig.start_sandbox()
    relay = rig.start()
    session = status(rig)["session"]
    good = rig.config.read_text()
    rig.config.write_text(good.replace("settle", "setle"))
    relay.send_signal(signal.SIGHUP)
    wait_for(lambda: status(rig)["config"]["error"] is not None, "the refusal shows")
    refused = status(rig)
    assert "relayd.toml:" in refused["config"]["error"]
    assert "setle" in refused["config"]["error"]
    assert refused["state"] == "fault"
    assert refused["session"] == session
    rig.drop_file("still.jpg", picture(CHANCE, 1000))
    wait_for(rig.has_arrived, "it still delivers")
    rig.config.write_text(good)
    relay.send_signal(signal.SIGHUP)
    wait_for(lambda: status(rig)["config"]["error"] is None, "the refusal is taken back")
    assert status(rig)["state"] == "ok"


def test_an_unchanged_configuration_on_sighup_restarts_nothing(rig: Rig) -> None:
    rig.start_sandbox("store#1 slow 100000")
    relay = rig.start()
    loaded_at = status(rig)["config"]["loaded_at"]
    rig.drop_file("large.jpg", picture(CHANCE, 300_000))
    wait_for(rig.is_uploading, "the upload is under way")
    relay.send_signal(signal.SIGHUP)
    wait_for(lambda: "nothing changed" in rig.log.read_text(), "it read the file again")
    assert status(rig)["config"]["loaded_at"] == loaded_at
    wait_for(rig.has_arrived, "the upload ended")
    done = subprocess.run([*rig.command("items", "--json")], capture_output=True, check=True, timeout=30)
    (item,) = json.loads(done.stdout)["items"]
    assert item["deliveries"][0]["attempts"] == 1


def test_a_changed_configuration_on_sighup_takes_a_new_folder_without_losing_what_waits(rig: Rig) -> None:
    second = rig.drop.parent / "second"
    second.mkdir()
    relay = rig.start()
    rig.drop_file("waits.jpg", picture(CHANCE, 1000))
    wait_for(lambda: status(rig)["spool"]["pending"] == 1, "it waits, there is no server yet")
    rig.config.write_text(
        rig.config.read_text().replace('from = ["camera"]', 'from = ["camera", "second"]')
        + f'\n[source.second]\ntype = "folder"\npath = "{second}"\nsettle = "200ms"\n'
    )
    relay.send_signal(signal.SIGHUP)
    wait_for(lambda: "second" in status(rig)["sources"], "the new source is there")
    (second / "other.jpg").write_bytes(picture(CHANCE, 1000))
    rig.start_sandbox()
    wait_for(lambda: status(rig)["spool"]["delivered"] == 2, "both arrived")


def test_a_second_relay_on_the_same_spool_refuses_to_start_and_says_who_owns_it(rig: Rig) -> None:
    relay = rig.start()
    second = subprocess.run(rig.command("run"), capture_output=True, text=True, timeout=20, env=rig.environment)
    assert second.returncode == 1
    assert str(relay.pid) in second.stderr
    assert "Traceback" not in second.stderr


def test_a_wrong_configuration_ends_with_two_and_names_file_and_line(rig: Rig) -> None:
    rig.config.write_text(rig.config.read_text().replace("min_free", "minfree"))
    done = subprocess.run(rig.command("run"), capture_output=True, text=True, timeout=20, env=rig.environment)
    assert done.returncode == 2
    assert f"{rig.config}:7: " in done.stderr
    assert "min_free" in done.stderr


def test_a_destination_paused_by_hand_stays_paused_across_a_kill(rig: Rig) -> None:
    rig.start_sandbox()
    rig.start()
    subprocess.run(rig.command("pause", "rapidsos"), check=True, capture_output=True, timeout=20)
    rig.kill_relay()
    rig.start()
    rig.drop_file("held.jpg", picture(CHANCE, 1000))
    wait_for(lambda: status(rig)["destinations"]["rapidsos"]["pending"] == 1, "it is owed")
    assert status(rig)["destinations"]["rapidsos"]["state"] == "paused"
    subprocess.run(rig.command("resume"), check=True, capture_output=True, timeout=20)
    wait_for(rig.has_arrived, "it arrives once resumed")


def test_behind_a_captive_portal_nothing_counts_as_delivered_and_everything_arrives_afterwards(rig: Rig) -> None:
    rig.start_sandbox("any portal")
    rig.start()
    for number in range(5):
        rig.drop_file(f"p{number}.jpg", picture(CHANCE, 1000))
    wait_for(lambda: "portal" in status(rig)["destinations"]["rapidsos"]["reason"], "the portal is named")
    assert status(rig)["spool"]["delivered"] == 0
    rig.script("")
    wait_for(rig.has_arrived, "everything arrived")
    assert rig.toll().is_clean


def test_the_journal_of_a_wrong_secret_names_the_setting_and_never_the_secret(rig: Rig) -> None:
    rig.environment["TEST_SECRET"] = "hunter2-is-my-secret"
    rig.start_sandbox()
    rig.start()
    rig.drop_file("kept.jpg", picture(CHANCE, 1000))
    wait_for(lambda: status(rig)["destinations"]["rapidsos"]["state"] == "fault", "it is a fault")
    assert "client_secret" in status(rig)["destinations"]["rapidsos"]["reason"]
    assert status(rig)["spool"]["pending"] == 1
    assert "hunter2" not in rig.tail() + json.dumps(status(rig))


def test_a_database_damaged_while_running_is_salvaged_without_a_restart_by_hand(rig: Rig) -> None:
    relay = rig.start()
    for number in range(5):
        rig.drop_file(f"d{number}.jpg", picture(CHANCE, 20_000))
    wait_for(lambda: status(rig)["spool"]["pending"] == 5, "all wait, there is no server yet")
    database = rig.spool / "spool.db"
    for path in (database, database.with_name("spool.db-wal")):
        with path.open("r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xa5" * max(0, path.stat().st_size - 4096))
    wait_for(lambda: "salvage" in rig.log.read_text(), "the damage is told")
    assert relay.poll() is None
    rig.start_sandbox()
    rig.drop_file("after.jpg", picture(CHANCE, 20_000))
    wait_for(lambda: rig.is_stored("after.jpg"), "it goes on with new files")
    kept = [path for path in (rig.spool / "salvaged").rglob("*") if path.is_file()]
    stored = {each.sha256 for each in rig.objects().values()}
    on_disk = {hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    assert set(rig.dropped.values()) <= stored | on_disk, "no picture is gone"


@pytest.mark.parametrize("fault", ["[broken", "[destination.nobody]\ntype = 1\n"])
def test_a_bad_file_and_a_crash_start_with_the_last_good_configuration_and_say_so(rig: Rig, fault: str) -> None:
    rig.start_sandbox()
    rig.start()
    wait_for((rig.spool / "last-good.json").exists, "it is at work, and kept")
    rig.kill_relay()
    good = rig.config.read_text()
    rig.config.write_text(good + fault)
    rig.start()
    wait_for(lambda: status(rig)["config"]["error"], "why the files are not what runs")
    assert str(rig.config) in status(rig)["config"]["error"]
    assert not status(rig)["config"]["is_current"]
    rig.drop_file("after.jpg", picture(CHANCE, 1000))
    wait_for(rig.has_arrived, "it works as before")
    checked = rig.call("check")
    assert checked.exit_code == 2
    assert "last good configuration" in checked.output
    rig.config.write_text(good.replace("amb-0417", "amb-0418"))
    assert "device.id" in rig.call("check").output
    assert rig.end() == 0


def test_a_damaged_copy_of_the_last_good_configuration_is_ignored(rig: Rig) -> None:
    rig.start()
    wait_for((rig.spool / "last-good.json").exists, "it is kept")
    assert rig.end() == 0
    copies = [rig.spool / "last-good.json", rig.config.parent / ".relayd.toml.last-good.json"]
    for copy in copies:
        assert copy.stat().st_mode & 0o777 == 0o600
        copy.write_bytes(copy.read_bytes().replace(b"rapidsos", b"rapidsoz"))
    rig.config.write_text("[broken")
    done = subprocess.run(rig.command("run"), capture_output=True, text=True, timeout=20, env=rig.environment)
    assert done.returncode == 2
    assert "is damaged: it is ignored" in done.stderr


def test_another_spool_path_says_what_the_old_one_still_owes_and_a_move_takes_it_along(rig: Rig) -> None:
    rig.start()
    rig.drop_file("owed.jpg", picture(CHANCE, 20_000))
    wait_for(lambda: status(rig)["spool"]["pending"] == 1, "it is owed, there is no server yet")
    wait_for(lambda: not any(rig.drop.iterdir()), "its original is let go: the new spool would not know it")
    old, new = rig.spool, rig.spool.parent / "ssd"
    rig.config.write_text(rig.config.read_text().replace(str(old), str(new)))
    command = f"the spool at {old} still holds 1 undelivered item. Move it: "
    command += f"`systemctl stop relayd; relayd spool move {new}`, or take the change back"
    assert rig.process is not None
    rig.process.send_signal(signal.SIGHUP)
    wait_for(lambda: command in str(status(rig)["config"]["error"]), "the reload says what to do")
    assert rig.end() == 0
    rig.spool, rig.socket = new, new / "relayd.sock"
    rig.start()
    wait_for(lambda: any(command in reason for reason in status(rig)["reasons"]), "the start says it, too")
    assert rig.call("spool", "move", str(new)).exit_code == 1, "the relay runs"
    assert rig.end() == 0
    moved = rig.call("spool", "move", str(new))
    assert moved.exit_code == 0, moved.output
    assert not (old / "spool.db").exists()
    rig.start_sandbox()
    rig.start()
    wait_for(lambda: rig.is_stored("owed.jpg"), "what was owed arrives from the new place")
    assert not any("still holds" in reason for reason in status(rig)["reasons"])
