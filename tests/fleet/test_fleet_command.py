"""`relayd fleet` itself, beside simulated relays on a real mosquitto."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from tests.broker.mosquitto import Mosquitto
from tests.fleet.simulated import GARBAGE, KINDS, Connection, Simulation, health, state
from tests.patience import PATIENT_SECONDS


def command(url: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "relayd", "fleet", "--broker", url, *options]


async def run(url: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return await run_line(command(url, *options), **environment)


async def run_line(line: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        line,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {relay["id"]: relay for relay in json.loads(done.stdout)["relays"]}


def check(simulation: Simulation, found: dict[str, Any]) -> None:
    assert found.keys() == simulation.expected.keys()
    for name, expected in simulation.expected.items():
        relay = found[name]
        shown = (relay["state"], relay["health"], relay["ignored_will"], relay["pending"])
        assert shown == (expected.state, expected.health, expected.ignored_will, expected.pending), name


@pytest.fixture
async def simulation() -> AsyncIterator[Simulation]:
    made = Simulation()
    yield made
    await made.close()


async def test_every_kind_of_relay_is_told_rightly(broker: Mosquitto, simulation: Simulation) -> None:
    await simulation.populate(broker.port, len(KINDS) * len(GARBAGE))
    check(simulation, told(await run(broker.url, "--json")))


async def test_a_broker_that_queues_few_messages_is_asked_bit_by_bit(tmp_path: Path, simulation: Simulation) -> None:
    """As mosquitto comes it drops what is more than 1,000 messages, without a word."""
    broker = Mosquitto(tmp_path, is_persistent=False, options="max_queued_messages 45").start()
    try:
        await simulation.populate(broker.port, 60)
        check(simulation, told(await run(broker.url, "--json")))
    finally:
        broker.stop()


async def test_filters_sort_and_limit_choose_what_is_shown(broker: Mosquitto, simulation: Simulation) -> None:
    await simulation.populate(broker.port, 30)
    done = await run(broker.url, "--filter", "state=stale", "--sort", "pending", "--limit", "2")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("30 relays: 3 lost, 3 stale, 6 offline, 15 online, 3 stopped")
    assert [line.split()[:2] for line in lines[2:4]] == [["amb-0022", "stale"], ["amb-0012", "stale"]]
    assert lines[4] == "1 more, see --limit"


async def test_an_id_with_escape_sequences_does_nothing_to_the_terminal(broker: Mosquitto) -> None:
    hostile = await Connection("hostile").open(broker.port)
    for name in ("\u202eevil", "x" * 5_000, "{{ 7*7 }}", "[red]", "\U000e0041"):
        await hostile.publish(f"relayd/v1/{name}/state", state("online", "s", clock.now()))
    document = health("plain", "s", clock.now(), pending=0, reasons=["\x1b]0;owned\x07\nnext line"], version="\x1b[2J")
    await hostile.publish("relayd/v1/plain/health", json.dumps(document).encode())
    done = await run(broker.url, PYTHONIOENCODING="utf-8")
    await hostile.leave()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + 6
    assert all(line.isprintable() for line in lines)


async def test_without_a_broker_it_says_so_and_fails() -> None:
    for options in (["--json"], ["--watch"], ["--for", "5s"]):
        done = await run("mqtt://127.0.0.1:1", *options)
        assert done.returncode == 1
        assert "Connection refused" in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--filter", "colour=red"], "no such filter"),
        (["--username", "me"], "no password for me"),
        (["--sort", "luck"], "luck"),
        (["--stale", "soon"], "not a duration"),
    ],
)
async def test_wrong_usage_is_exit_code_2(options: list[str], words: str) -> None:
    done = await run("mqtt://127.0.0.1:1", *options)
    assert done.returncode == 2
    assert words in done.stderr


async def test_a_password_is_never_sent_unencrypted_unasked() -> None:
    done = await run("mqtt://broker.example.org", "--username", "me", RELAYD_FLEET_PASSWORD="x")
    assert done.returncode == 2
    assert "--plain-login" in done.stderr


async def test_the_login_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    (await run_line(["mosquitto_passwd", "-b", str(passwords), "chief", "right"])).check_returncode()
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    broker = Mosquitto(
        tmp_path / "broker", is_persistent=False, is_open=False, options=f"password_file {passwords}"
    ).start()
    try:
        login = ("--json", "--username", "chief")
        assert told(await run(broker.url, *login, RELAYD_FLEET_PASSWORD="right")) == {}
        assert told(await run(broker.url, *login, "--password-file", str(secret))) == {}
        refused = await run(broker.url, *login, RELAYD_FLEET_PASSWORD="wrong")
        assert refused.returncode == 1
        assert "the fleet cannot be seen" in refused.stderr
        assert "wrong" not in refused.stderr
    finally:
        broker.stop()


async def test_broker_and_topic_come_from_the_configuration(tmp_path: Path, broker: Mosquitto) -> None:
    config = tmp_path / "relayd.toml"
    config.write_text(f'[broker.b]\nurl = "{broker.url}"\n[fleet]\nbroker = "b"\ntopic = "our/fleet"\n')
    simulation = Simulation("our/fleet")
    await simulation.populate(broker.port, 10)
    try:
        line = [sys.executable, "-m", "relayd", "--config", str(config), "fleet", "--json"]
        check(simulation, told(await run_line(line)))
        config.write_text("")
        done = await run_line(line)
        assert done.returncode == 2
        assert "--broker URL" in done.stderr
    finally:
        await simulation.close()


class Terminal:
    """A command in a terminal of its own; what it shows is read as it comes."""

    def __init__(self, line: list[str], columns: int = 100, lines: int = 14) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update({"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": str(lines)})
            os.environ.pop("NO_COLOR", None)
            os.execv(line[0], line)
        self._shown = ""

    async def wait_for(self, pattern: str) -> str:
        return await asyncio.to_thread(self._wait_for, pattern)

    def _wait_for(self, pattern: str) -> str:
        """What came up to the match, which is then forgotten."""
        deadline = time.monotonic() + PATIENT_SECONDS
        while True:
            match = re.search(pattern, self._shown, re.DOTALL)
            if match:
                found, self._shown = self._shown[: match.end()], self._shown[match.end() :]
                return found
            assert time.monotonic() < deadline, f"no {pattern!r} in {self._shown[-2000:]!r}"
            if select.select([self._descriptor], [], [], 0.2)[0]:
                try:
                    self._shown += os.read(self._descriptor, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"it ended without {pattern!r}: {self._shown[-2000:]!r}") from None

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def end(self) -> int:
        """The exit code."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def port_kept(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker").start()
    yield broker
    broker.stop()


async def test_the_live_table_follows_what_happens(port_kept: Mosquitto, simulation: Simulation) -> None:
    broker = port_kept
    await simulation.populate(broker.port, 20)
    dying = await Connection("dying", ("relayd/v1/zz/state", state("offline", "s", clock.now()))).open(broker.port)
    await dying.publish("relayd/v1/zz/state", state("online", "s", clock.now()))
    terminal = Terminal(command(broker.url, "--sort", "relay", "--reverse"))
    await terminal.wait_for("21 relays: 2 lost")
    await terminal.wait_for("zz .{0,40}online")
    dying.die()
    await terminal.wait_for("zz .{0,40}offline")
    terminal.type(" ")
    await terminal.wait_for("amb-0005")
    terminal.type("s")
    await terminal.wait_for("by state")
    broker.stop()
    await terminal.wait_for("NO BROKER")
    broker.start()
    await terminal.wait_for(r"\x1b\[H(?:\x1b\[[0-9;]*m)?21 relays")
    terminal.type("q")
    shown = await terminal.wait_for(re.escape("\x1b[?1049l"))
    assert "Traceback" not in shown
    assert terminal.end() == 0
