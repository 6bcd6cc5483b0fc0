"""MQTT in: how fast a backlog becomes durable, what a message costs, how late a trickle is, how much memory it takes.

One mosquitto keeps the same backlog (QoS 1, 200 bytes) for each contestant's session; each drains it alone:
mosquitto_sub and aiomqtt as they come, which keep nothing, and the relay, which acknowledges after the commit.
With --thingsboard PYTHON (one that has thingsboard-gateway installed) it runs too: its rate is that of its storage,
but it acknowledges before it stores (see contestants.py).
A backlog is at most 50,000 messages: with more than 65,535 for one session mosquitto 2.0 stalls, mosquitto_sub as well.
What is asked for beyond that reaches the relay alone, in waves of as many.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.contestants import ThingsBoard
from relayd.broker import Broker, BrokerConfig
from relayd.intake import Intake
from relayd.model import Capture, Device, Item
from relayd.rules import compile_rules
from relayd.sources.topic import TopicSource
from relayd.sources.topic_config import TopicConfig
from relayd.spool import Spool, SpoolConfig
from relayd.surroundings import Surroundings
from tests.broker.mosquitto import Mosquitto

LIMITS = {
    "p99 of 200 messages a second (ms)": 50.0,
    "growth of memory over the backlog (MB)": 16.0 + 10.0,
    "CPU of the relay, times aiomqtt's default": 6.0,
}
TOPIC = "bench/sensor"
WAVE = 50_000
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")

CONFIG = """
[device]
id = "bench"
[spool]
path = "{folder}/spool"
min_free = "1MB"
[broker.local]
url = "{url}"
receive_maximum = 500
max_waiting = "16MB"
[source.bench]
type = "mqtt"
broker = "local"
topics = ["bench/#"]
max_per_second = 1000000
"""

AIOMQTT = """
import asyncio, sys, aiomqtt
async def main():
    async with aiomqtt.Client("127.0.0.1", int(sys.argv[1]), identifier="aiomqtt", clean_session=False) as client:
        await client.subscribe("bench/#", qos=1)
        left = int(sys.argv[2])
        if left:
            async for _ in client.messages:
                left -= 1
                if not left:
                    return
asyncio.run(main())
"""


@dataclass(frozen=True)
class Drained:
    name: str
    seconds: float
    cpu_seconds: float
    is_durable: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--check", action="store_true", help="fail where a limit does not hold")
    parser.add_argument("--thingsboard", metavar="PYTHON", help="a python that has thingsboard-gateway installed")
    given = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="relayd-bench-ingest-") as folder:
        broker = Mosquitto(Path(folder) / "broker", is_persistent=False).start()
        try:
            drained = _drain_all(broker, Path(folder), given.messages, figures)
            if given.thingsboard:
                drained += _thingsboard(given.thingsboard, broker, Path(folder), min(given.messages, WAVE))
            figures["p99 of 200 messages a second (ms)"] = asyncio.run(_trickle(broker, Path(folder)))
        finally:
            broker.kill()
    failed = _show(drained, figures, min(given.messages, WAVE))
    if given.check and failed:
        raise SystemExit(1)


def _show(drained: list[Drained], figures: dict[str, float], count: int) -> bool:
    print(f"{'':<18}{'messages/s':>12}{'CPU µs each':>13}   durable")
    for one in drained:
        rate, cost = count / one.seconds, one.cpu_seconds / count * 1e6
        print(f"{one.name:<18}{rate:12,.0f}{cost:13.1f}   {'yes' if one.is_durable else 'no'}")
    by_name = {one.name: one for one in drained}
    figures["CPU of the relay, times aiomqtt's default"] = (
        by_name["relayd"].cpu_seconds / by_name["aiomqtt"].cpu_seconds
    )
    failed = False
    for name, figure in figures.items():
        is_over = name in LIMITS and figure > LIMITS[name]
        failed |= is_over
        limit = f"limit {LIMITS[name]:g}" if name in LIMITS else ""
        print(f"{name:<44}{figure:9.2f}   {limit}{'   EXCEEDED' if is_over else ''}")
    return failed


# --- draining a backlog


def _drain_all(broker: Mosquitto, folder: Path, count: int, figures: dict[str, float]) -> list[Drained]:
    port = str(broker.port)
    sub = ["mosquitto_sub", "-p", port, "-c", "-i", "mosquitto_sub", "-q", "1", "-t", "bench/#", "-V", "5"]
    peer = [sys.executable, "-c", AIOMQTT, port]
    config = folder / "relayd.toml"
    config.write_text(CONFIG.format(folder=folder, url=broker.url))
    (folder / "spool").mkdir()
    relay = [sys.executable, "-m", "relayd", "--config", str(config), "run"]

    subprocess.run([*sub, "-E"], check=True)
    subprocess.run([*peer, "0"], check=True)
    with subprocess.Popen(relay, stderr=subprocess.DEVNULL) as process:
        _wait(lambda: b"relayd-bench-local" in broker.log.read_bytes())
        time.sleep(1.0)
        idle_bytes = _memory(process.pid)
        process.terminate()
    first = min(count, WAVE)
    _publish(broker, first)
    drained = [
        _timed("mosquitto_sub", [*sub, "-C", str(first)]),
        _timed("aiomqtt", [*peer, str(first)]),
    ]
    for who in ("mosquitto_sub", "aiomqtt"):  # their sessions end, so that further waves do not pile up there
        subprocess.run(["mosquitto_sub", "-p", port, "-i", who, "-t", "bench/none", "-E", "-x", "0"], check=True)
    waves = [min(WAVE, count - start) for start in range(first, count, WAVE)]
    with subprocess.Popen(relay, stderr=subprocess.DEVNULL) as process:
        database = folder / "spool" / "spool.db"
        drained.append(_relay(process, database, first))
        highest = _memory(process.pid)
        for wave in waves:
            before = _items(database)
            _publish(broker, wave)
            while _items(database) < before + wave:
                highest = max(highest, _memory(process.pid))
                time.sleep(0.02)
        figures["growth of memory over the backlog (MB)"] = (highest - idle_bytes) / 1e6
        process.terminate()
    return drained


def _publish(broker: Mosquitto, count: int) -> None:
    """The backlog: 200 bytes each, all different."""
    command = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-l", "-t", TOPIC, "-V", "5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for number in range(count):
            process.stdin.write(json.dumps({"n": number, "pad": "x" * 170})[:200].encode() + b"\n")
        process.stdin.close()
    assert process.returncode == 0


def _timed(name: str, command: list[str]) -> Drained:
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{name}: exit code {process.returncode}"
    return Drained(name, time.monotonic() - began, usage.ru_utime + usage.ru_stime, is_durable=False)


def _relay(process: subprocess.Popen[bytes], database: Path, count: int) -> Drained:
    """From its first item to its last, so that the start of a daemon does not count."""
    _wait(lambda: _items(database) > 0)
    before, began, cpu = _items(database), time.monotonic(), _cpu(process.pid)
    while _items(database) < count:
        time.sleep(0.02)
    share = count / max(1, count - before)
    return Drained("relayd", (time.monotonic() - began) * share, (_cpu(process.pid) - cpu) * share, is_durable=True)


def _thingsboard(python: str, broker: Mosquitto, folder: Path, count: int) -> list[Drained]:
    """From the moment it goes on to its last stored message; by then the relay has ended, and its session is gone."""
    gateway = ThingsBoard(python, folder / "thingsboard", broker.port)
    if not gateway.is_installed:
        print(f"thingsboard-gateway is left out: {python} does not have it")
        return []
    relay = ["mosquitto_sub", "-p", str(broker.port), "-i", "relayd-bench-local", "-t", "bench/none", "-E"]
    subprocess.run([*relay, "-V", "5", "-c", "-U", "bench/#"], check=True)
    process = gateway.start()
    try:
        _publish(broker, count)
        began, cpu, stored = time.monotonic(), _cpu(process.pid), 0
        process.send_signal(signal.SIGCONT)
        while stored < count:
            assert process.poll() is None, "thingsboard-gateway ended by itself"
            assert time.monotonic() < began + 180, f"thingsboard-gateway: only {stored} stored"
            time.sleep(0.02)
            stored = gateway.stored()
        seconds, spent = time.monotonic() - began, _cpu(process.pid) - cpu
    finally:
        process.kill()
        process.wait()
    return [Drained("thingsboard-gw", seconds, spent, is_durable=False)]


def _items(database: Path) -> int:
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)
    try:
        return int(db.execute("SELECT value FROM counters WHERE subject = '' AND name = 'accepted'").fetchone()[0])
    except (sqlite3.OperationalError, TypeError):
        return 0
    finally:
        db.close()


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- a trickle


async def _trickle(broker: Mosquitto, folder: Path, *, rate: int = 200, seconds: float = 10.0) -> float:
    """From publishing to the end of the commit, 99th percentile, in milliseconds."""
    (folder / "trickle").mkdir()
    config = SpoolConfig.model_validate({"path": folder / "trickle", "min_free": "1MB"})
    spool = await Spool.open(config, now=time.time())
    intake = Intake(spool, compile_rules(()), Device(id="bench", name="bench"))
    late: list[float] = []

    async def put(capture: Capture) -> Item:
        item = await intake.put(capture)
        late.append(time.monotonic() - float(capture.payload or b"0"))
        return item

    reader = Broker("local", BrokerConfig(url=broker.url), "trickle")
    writer = Broker("local", BrokerConfig(url=broker.url), "writer")
    section = TopicConfig.model_validate({"type": "mqtt", "broker": "local", "topics": ["trickle"]})
    source = TopicSource("trickle", section, spool, Surroundings(brokers={"local": reader}))
    tasks = [asyncio.ensure_future(work) for work in (reader.run(), writer.run(), source.run(put))]
    while not (reader.is_connected and writer.is_connected):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    sent = []
    for _ in range(int(rate * seconds)):
        sent.append(asyncio.ensure_future(writer.publish("trickle", repr(time.monotonic()).encode())))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*sent)
    while len(late) < len(sent):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await spool.close()
    return statistics.quantiles(late, n=100)[98] * 1000


if __name__ == "__main__":
    main()
