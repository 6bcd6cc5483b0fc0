"""The fleet's table with 1,000 relays on one mosquitto, as it comes from Debian: is it right, and what does it cost?

Every relay is a connection of its own with a will: online, faulty, stale, killed, lost, stopped, with a late will of an
old session, dead at birth, garbled, silent. `relayd fleet --json` must say so of each. Then the live table runs in a
terminal for a while, as many relays send their health every minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pty
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from relayd import clock
from tests.broker.mosquitto import Mosquitto
from tests.fleet.simulated import Connection, Simulation, health

LIMITS = {
    "seconds until all is shown": 15.0,
    "CPU seconds of --json": 4.0,
    "MB of memory of --json": 100.0,
    "CPU share of the live table (%)": 15.0,
    "MB of memory of the live table": 100.0,
}
HEALTH_EVERY_SECONDS = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relays", type=int, default=1000)
    parser.add_argument("--live-seconds", type=float, default=20.0)
    parser.add_argument("--check", action="store_true", help="fail where a limit does not hold")
    given = parser.parse_args()
    _allow_many_files()
    with tempfile.TemporaryDirectory(prefix="relayd-bench-fleet-") as folder:
        broker = Mosquitto(Path(folder), is_persistent=False, options="max_queued_messages 1000").start()
        try:
            wrong, figures = asyncio.run(_measure(broker, given.relays, given.live_seconds))
        finally:
            broker.stop()
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    print(f"{given.relays} relays, {len(wrong)} shown wrongly")
    failed = bool(wrong)
    for name, figure in figures.items():
        is_over = figure > LIMITS[name]
        failed |= is_over
        print(f"{name:<34} {figure:8.2f}   limit {LIMITS[name]:g}{'   EXCEEDED' if is_over else ''}")
    if given.check and failed:
        raise SystemExit(1)


async def _measure(broker: Mosquitto, count: int, live_seconds: float) -> tuple[list[str], dict[str, float]]:
    simulation = Simulation()
    await simulation.populate(broker.port, count)
    try:
        document, once = await asyncio.to_thread(_run_once, broker.url)
        wrong = differences(simulation, document)
        noise = asyncio.create_task(_report(simulation, broker.port))
        live = await asyncio.to_thread(_run_live, broker.url, live_seconds)
        noise.cancel()
        await asyncio.gather(noise, return_exceptions=True)
    finally:
        await simulation.close()
    return wrong, {**once, **live}


def differences(simulation: Simulation, document: dict[str, Any]) -> list[str]:
    """What the document says wrongly of each relay."""
    told = {relay["id"]: relay for relay in document["relays"]}
    found = [f"{name} is not there" for name in simulation.expected.keys() - told.keys()]
    found += [f"{name} is shown but is not there" for name in told.keys() - simulation.expected.keys()]
    for name in simulation.expected.keys() & told.keys():
        expected, relay = simulation.expected[name], told[name]
        for key in ("state", "health", "ignored_will", "pending"):
            if relay[key] != getattr(expected, key):
                found.append(f"{name}: {key} {relay[key]!r} instead of {getattr(expected, key)!r}")
    return found


def _run_once(url: str) -> tuple[dict[str, Any], dict[str, float]]:
    began = time.monotonic()
    process = subprocess.Popen(_command(url, "--json"), stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"exit code {process.returncode}"
    return json.loads(output), {
        "seconds until all is shown": time.monotonic() - began,
        "CPU seconds of --json": usage.ru_utime + usage.ru_stime,
        "MB of memory of --json": usage.ru_maxrss / 1000,
    }


def _run_live(url: str, seconds: float) -> dict[str, float]:
    """In a terminal of its own, which somebody reads."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", "LINES": "50", "COLUMNS": "120"})
        os.environ.pop("NO_COLOR", None)
        command = _command(url, "--for", f"{seconds:g}s")
        os.execv(command[0], command)
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # the other side has ended
    _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return {
        "CPU share of the live table (%)": 100 * (usage.ru_utime + usage.ru_stime) / seconds,
        "MB of memory of the live table": usage.ru_maxrss / 1000,
    }


async def _report(simulation: Simulation, port: int) -> None:
    """Everybody's health, spread over a minute."""
    reporter = await Connection("reporter").open(port)
    names = sorted(simulation.expected)
    while True:
        for number, name in enumerate(names):
            document = health(name, "s1", clock.now(), pending=number)
            await reporter.publish(f"{simulation.base}/{name}/health", json.dumps(document).encode())
            await asyncio.sleep(HEALTH_EVERY_SECONDS / len(names))


def _command(url: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "relayd", "fleet", "--broker", url, *options]


def _allow_many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384), hard))


if __name__ == "__main__":
    main()
