"""The installed package in a booted Debian 12: what a technician does with it, and what a bad day does to it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import gateway
from tests.system.conftest import Installed
from tests.system.machine import Machine, booted
from tests.system.package import Package

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

BACKLOG = 10_000
FILES = {f"clip-{number}.bin": hashlib.shake_256(bytes([number])).digest(1 + number**3 * 2_000) for number in range(12)}
OF_THE_FUTURE = """
import sqlite3
spool = sqlite3.connect("/var/lib/relayd/spool.db")
spool.execute("PRAGMA user_version = 9000")
spool.close()
"""


@pytest.fixture
def machine(relay: Installed, tmp_path: Path) -> Iterator[Machine]:
    """A newly booted gateway with relayd installed, not configured."""
    with booted(relay.roots, tmp_path / "machine") as running:
        yield running


@pytest.fixture
def running(machine: Machine) -> Machine:
    """A gateway whose relay runs and delivers to a sandbox."""
    gateway.start(machine)
    return machine


def main_pid(machine: Machine) -> int:
    return int(machine.show("MainPID"))


def timestamp(machine: Machine, name: str) -> float:
    """When a state was reached last, by the monotonic clock, which the machine shares with us."""
    return int(machine.show(f"{name}TimestampMonotonic")) / 1e6


# --- before there is a configuration


def test_installed_it_says_what_is_next_and_runs_nothing(relay: Installed, machine: Machine) -> None:
    assert "relayd is installed, and does nothing before it has a configuration" in relay.said
    assert "/etc/relayd/relayd.toml" in relay.said

    assert machine.show("ActiveState") == "inactive"
    assert machine.show("UnitFileState") == "enabled"
    machine.run("systemctl start relayd")
    assert machine.show("ConditionResult") == "no"
    shown = machine.run("systemctl status relayd", check=False)
    assert shown.returncode == 3
    assert "/etc/relayd/relayd.toml was not met" in shown.stdout
    assert machine.run("pgrep -u relayd", check=False).stdout == ""


def test_a_command_that_finds_no_relay_says_how_to_start_one(machine: Machine) -> None:
    done = machine.run("relayd status", check=False)

    assert done.returncode == 3
    assert "systemctl start relayd" in done.stderr


def test_users_folders_and_modes_are_what_secrets_need(machine: Machine) -> None:
    folders = "/etc/relayd /etc/relayd/conf.d /etc/relayd/secrets /etc/relayd/credentials"
    modes = machine.says(f"stat --format='%n %a %U:%G' {folders}").splitlines()

    assert modes == [
        "/etc/relayd 755 root:root",
        "/etc/relayd/conf.d 755 root:root",
        "/etc/relayd/secrets 750 root:relayd",
        "/etc/relayd/credentials 700 root:root",
    ]
    assert re.search(
        r"^relayd:x:\d+:\d+:relayd edge relay:/var/lib/relayd:/usr/sbin/nologin$", machine.says("getent passwd relayd")
    )


def test_the_unit_is_sound_and_little_exposed(machine: Machine) -> None:
    verified = machine.run("systemd-analyze verify --man=no relayd.service")
    assert verified.stdout + verified.stderr == ""

    judged = machine.run("systemd-analyze security --offline=true --threshold=15 relayd.service", check=False)
    assert judged.returncode == 0, judged.stdout[-500:]


def test_the_program_runs_alone_whatever_lies_about(machine: Machine) -> None:
    machine.write("/root/click.py", "raise SystemExit('taken from the current folder')")
    machine.write("/root/evil/aiohttp.py", "raise SystemExit('taken from PYTHONPATH')")

    done = machine.run("cd /root && PYTHONPATH=/root/evil relayd --version")

    assert done.stdout.startswith("relayd ")


# --- at work


def test_files_reach_the_sandbox_byte_for_byte_and_leave_the_drop_folder(running: Machine) -> None:
    assert running.show("ActiveState") == "active"
    assert re.search(r"\b1 source.*\b1 destination.*\b0 items wait", running.show("StatusText"))

    gateway.drop(running, FILES)
    status = gateway.wait_for_delivered(running, len(FILES))

    assert sorted(gateway.stored(running).values()) == sorted(FILES.values())
    assert running.says(f"ls -A {gateway.DROP}") == ""
    assert status["spool"]["dead"] == 0
    assert running.show("NRestarts") == "0"


def test_killed_it_is_back_within_three_seconds_and_goes_on(running: Machine) -> None:
    before = main_pid(running)

    start_seconds = timestamp(running, "ActiveEnter") - timestamp(running, "InactiveExit")
    killed_at = time.monotonic()
    running.run(f"kill -9 {before}")
    running.wait(lambda: main_pid(running) not in (0, before) and running.status(), "it is back", seconds=10)

    back_seconds = timestamp(running, "ActiveEnter") - killed_at
    assert 0 < back_seconds <= max(3.0, 1.5 + 1.5 * start_seconds)  # a machine that is so busy that it starts slowly
    gateway.drop(running, FILES)
    gateway.wait_for_delivered(running, len(FILES))


def test_stopped_in_its_tracks_it_is_aborted_by_the_watchdog_and_started_again(running: Machine) -> None:
    gateway.override(running, "watchdog", "WatchdogSec=3s")  # instead of a minute: the test's time is dear
    running.run("systemctl restart relayd")
    running.wait_for_active()
    before = main_pid(running)

    running.run(f"kill -STOP {before}")
    running.wait(lambda: main_pid(running) not in (0, before) and running.status(), "it is back", seconds=30)

    assert "Watchdog timeout (limit 3s)!" in running.journal()
    assert running.show("NRestarts") == "1"


def test_a_healthy_relay_is_left_alone_by_the_watchdog(running: Machine) -> None:
    gateway.override(running, "watchdog", "WatchdogSec=1s")
    running.run("systemctl restart relayd")
    running.wait_for_active()
    before, at = main_pid(running), time.monotonic()

    gateway.drop(running, FILES)
    gateway.wait_for_delivered(running, len(FILES))
    running.wait(lambda: time.monotonic() - at > 5, "five limits have passed")

    assert main_pid(running) == before


def test_a_new_configuration_is_in_force_after_a_reload_in_the_same_process(running: Machine) -> None:
    before = main_pid(running)
    running.write("/etc/relayd/relayd.toml", gateway.CONFIG.replace("amb-0417", "amb-0815"))

    running.run("systemctl reload relayd")
    running.wait(lambda: running.status()["device"]["id"] == "amb-0815", "the new configuration is in force")

    assert main_pid(running) == before
    assert "configuration loaded: /etc/relayd/relayd.toml" in running.journal()


def test_a_bad_configuration_changes_nothing_and_is_named_with_file_and_line(running: Machine) -> None:
    before = main_pid(running)
    good = running.status()["config"]["sha256"]
    bad = gateway.CONFIG.replace('type = "rapidsos"', 'type = "rapidsus"')
    line = 1 + bad.splitlines().index('type = "rapidsus"')
    running.write("/etc/relayd/relayd.toml", bad)

    reload = running.run("systemctl reload relayd", check=False)
    error = running.wait(lambda: running.status()["config"]["error"], "the status says that it was refused")

    where = f"/etc/relayd/relayd.toml:{line}: destination.rapidsos.type"
    assert reload.returncode != 0, "the technician sees that it did not work"
    running.wait(lambda: "configuration refused" in running.show("StatusText"), "systemctl status says it, too")
    assert error.startswith(where)
    assert where in running.journal()
    assert (main_pid(running), running.status()["config"]["sha256"]) == (before, good)
    gateway.drop(running, FILES)
    gateway.wait_for_delivered(running, len(FILES))

    running.write("/etc/relayd/relayd.toml", gateway.CONFIG)
    running.run("systemctl reload relayd")
    running.wait(lambda: running.status()["config"]["error"] is None, "the fault is gone")


def test_a_start_that_is_refused_is_tried_again_when_the_configuration_has_changed_and_not_before(
    running: Machine,
) -> None:
    running.run("systemctl stop relayd")
    running.write("/etc/relayd/relayd.toml", gateway.CONFIG.replace("[device]", "[devise]"))
    assert running.run("systemctl start relayd", check=False).returncode != 0
    assert running.show("ActiveState") == "failed"
    assert running.show("ExecMainStatus") == "2"
    assert "configuration refused: /etc/relayd/relayd.toml:1: devise" in running.show("StatusText")
    refused_at = timestamp(running, "InactiveEnter")

    running.wait(lambda: time.monotonic() - refused_at > 5, "five of the usual restarts have passed")
    assert timestamp(running, "InactiveEnter") == refused_at
    running.write("/etc/relayd/relayd.toml", gateway.CONFIG)

    running.wait_for_active()


def test_stopped_by_a_person_it_stays_stopped_whatever_is_written(running: Machine) -> None:
    running.run("systemctl stop relayd")
    running.write("/etc/relayd/relayd.toml", gateway.CONFIG.replace("[device]", "[devise]"))
    running.run("systemctl start relayd", check=False)
    running.wait(lambda: running.says("systemctl is-active relayd.path; true") == "active", "it is watched")
    running.run("systemctl stop relayd")
    assert running.says("systemctl is-active relayd.path; true") == "inactive"

    running.write("/etc/relayd/relayd.toml", gateway.CONFIG)
    at = time.monotonic()
    running.wait(lambda: time.monotonic() - at > 3, "it had the time to start")
    assert running.show("ActiveState") != "active"


def test_one_line_of_systemctl_says_how_it_goes(running: Machine) -> None:
    running.wait(
        lambda: running.show("StatusText") == "1 source, 1 destination ok, 0 items wait", "the status is there"
    )
    gateway.ask_sandbox(running, "faults", {"faults": "token status 401"})
    gateway.drop(running, FILES)
    running.wait(lambda: "0 of 1 destination ok, 12 items wait (rapidsos: " in running.show("StatusText"), "it follows")


def test_the_journal_explains_what_happened_and_finds_it_by_its_fields(running: Machine) -> None:
    gateway.ask_sandbox(running, "faults", {"faults": "token status 401"})
    gateway.drop(running, FILES)
    running.wait(lambda: running.status()["destinations"]["rapidsos"]["state"] == "fault", "the login is refused")

    said = running.says("journalctl --no-pager -x -u relayd DESTINATION=rapidsos")
    assert "Subject: Destination rapidsos refuses us: a person has to do something" in said
    assert "relayd resume rapidsos" in said
    assert gateway.SECRET not in said


def test_a_secret_reaches_the_relay_as_a_credential_and_shows_nowhere(running: Machine) -> None:
    gateway.drop(running, FILES)
    gateway.wait_for_delivered(running, len(FILES))

    pid = main_pid(running)
    as_relay = "setpriv --reuid=relayd --regid=relayd --clear-groups"
    for place in (
        f"cat /proc/{pid}/environ /proc/{pid}/cmdline",
        "systemctl show relayd; systemctl cat relayd",
        "journalctl --unit relayd --output verbose",
        "relayd status --json; relayd items --json; relayd doctor",
        "cat /var/lib/relayd/spool.db*",
        f"{as_relay} sh -c 'cat /etc/relayd/credentials/* /etc/credstore.encrypted/*'",
    ):
        assert gateway.SECRET not in running.run(place, check=False).stdout, place


def test_it_stops_within_five_seconds_in_the_middle_of_an_upload_and_the_upload_is_not_lost(running: Machine) -> None:
    gateway.ask_sandbox(running, "faults", {"faults": "store slow 20000"})
    gateway.drop(running, {"long.bin": FILES["clip-11.bin"]})
    incoming = running.path(f"{gateway.STORED}/incoming")
    running.wait(lambda: any(one.stat().st_size for one in incoming.iterdir()), "the upload is under way")

    at = time.monotonic()
    running.run("systemctl stop relayd")
    seconds = time.monotonic() - at

    assert seconds <= 5.0
    assert running.show("Result") == "success"
    gateway.ask_sandbox(running, "faults", {"faults": ""})
    running.run("systemctl start relayd")
    gateway.wait_for_delivered(running, 1)
    assert list(gateway.stored(running).values()) == [FILES["clip-11.bin"]]


# --- over the years


def test_an_upgrade_with_a_backlog_loses_nothing(
    deb: Package, older_deb: Package, debian: Path, tmp_path: Path
) -> None:
    with booted([debian], tmp_path / "machine") as machine:
        gateway.install(machine, older_deb.path)
        gateway.start(machine)
        gateway.ask_sandbox(machine, "link", {"up": False})
        machine.run(
            f"cd {gateway.DROP} && for n in $(seq {BACKLOG}); do echo $n > .$n && mv .$n $n.txt; done", timeout=300
        )
        machine.wait(lambda: machine.status()["spool"]["pending"] == BACKLOG, "all is taken", seconds=300)
        assert machine.status()["version"] == older_deb.field("Version")
        machine.write("/etc/relayd/conf.d/site.toml", '[device]\nsite = "odense"\n')

        said = gateway.install(machine, deb.path)
        machine.wait(lambda: machine.status().get("version") == deb.field("Version"), "the new one runs")

        assert "does nothing before it has a configuration" not in said
        spool = machine.status()["spool"]
        assert (spool["items"], spool["pending"], spool["dead"], spool["evicted"]) == (BACKLOG, BACKLOG, 0, 0)
        assert machine.path("/etc/relayd/relayd.toml").read_text() == gateway.CONFIG
        assert machine.status()["device"]["site"] == "odense"
        gateway.ask_sandbox(machine, "link", {"up": True})
        machine.wait(lambda: machine.status()["spool"]["delivered"] >= 300, "the backlog drains", seconds=120)
        spool = machine.status()["spool"]
        assert spool["pending"] + spool["delivered"] == BACKLOG
        for name, content in gateway.stored(machine).items():
            assert content.decode() == name.partition(".")[0] + "\n"


def test_an_older_version_refuses_the_spool_of_a_newer_one_and_leaves_it_alone(running: Machine) -> None:
    gateway.drop(running, FILES)
    gateway.wait_for_delivered(running, len(FILES))
    running.run("systemctl stop relayd")
    running.run("setpriv --reuid=relayd --regid=relayd --clear-groups python3 -", stdin=OF_THE_FUTURE)
    before = running.says("sha256sum /var/lib/relayd/spool.db")

    running.run("systemctl start relayd", check=False, timeout=60)
    running.wait(lambda: "newer relayd" in running.journal(), "the journal says why it does not start")

    assert "the shape 9000 of a newer relayd" in running.journal()
    assert "install the newer version again" in running.journal()
    running.run("systemctl stop relayd")
    assert running.says("sha256sum /var/lib/relayd/spool.db") == before


def test_purging_leaves_nothing_running_and_nothing_behind_when_all_is_delivered(running: Machine) -> None:
    gateway.drop(running, FILES)
    gateway.wait_for_delivered(running, len(FILES))

    said = running.says("DEBIAN_FRONTEND=noninteractive apt-get purge -y relayd 2>&1")

    assert running.run("pgrep -u relayd", check=False).stdout == ""
    assert "kept" not in said
    for place in ("/etc/relayd", "/var/lib/relayd", "/run/relayd", "/usr/lib/relayd", "/usr/share/doc/relayd"):
        assert not running.path(place).exists(), place
    left = running.says("find / -xdev -iname '*relayd*' -not -path '/proc/*' -not -path '/run/host/*'").splitlines()
    ours = [path for path in left if not path.startswith(("/sys/", "/srv/sandbox", "/root/"))]
    assert ours == []


def test_purging_keeps_what_was_never_delivered_and_says_where(running: Machine) -> None:
    gateway.ask_sandbox(running, "link", {"up": False})
    gateway.drop(running, FILES)
    running.wait(lambda: running.status()["spool"]["pending"] == len(FILES), "all is taken")

    said = running.says("DEBIAN_FRONTEND=noninteractive apt-get purge -y relayd 2>&1")

    assert f"items in it were not delivered: {len(FILES)}." in said
    assert "the spool /var/lib/relayd is kept" in said
    assert not running.path("/etc/relayd").exists()
    assert running.run("pgrep -u relayd", check=False).stdout == ""
    assert running.path("/var/lib/relayd/spool.db").exists()
