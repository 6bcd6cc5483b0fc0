"""Endurance: one relay that lives through reloads, brokers and servers that come and go, and failures by the thousand.

`python -m tests.crash.soak [--minutes M] [--failures N]`, or `make soak`. Each round drops files and publishes
messages, then something happens; when all has arrived, descriptors, tasks and memory are counted. Meanwhile a webhook
refuses everything. Exits 1 if any of them grows, if anything is lost, or if the failures fill the log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.daemon.running import wait_for

FILES, MESSAGES = 10, 50
REFUSED = 20
"""So many messages the webhook refuses for ever."""
WARM_UP_ROUNDS = 5
MORE_DESCRIPTORS, MORE_TASKS, MORE_BYTES = 2, 2, 6_000_000
MOST_LINES = 50
"""What the failures of the webhook may say in the log, however many they are."""

CONFIG = """
[device]
id = "soak"

[spool]
path = "{spool}"
min_free = "1MB"
keep_delivered = "1m"

[broker.local]
url = "{broker}"

[source.camera]
type = "folder"
path = "{drop}"
settle = "100ms"
rescan = "1s"

[source.sensors]
type = "mqtt"
broker = "local"
topics = ["sensor/#"]

[source.refused]
type = "mqtt"
broker = "local"
topics = ["refused/#"]

[destination.rapidsos]
type = "rapidsos"
url = "{url}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SECRET" }}
backoff_first = "50ms"
backoff_cap = "500ms"

[destination.hook]
type = "webhook"
url = "{url}/webhook"
keeps_keys = true
backoff_first = "5ms"
backoff_cap = "10ms"

[[rule]]
name = "everything"
from = ["camera"]
priority = "high"
deliver = [ {{ to = "rapidsos" }} ]

[[rule]]
name = "refused"
from = ["refused"]
deliver = [ {{ to = "hook" }} ]

[[rule]]
name = "incident {generation}"
from = ["sensors"]
when = "payload.number % 25 == 0"
incident = {{ key = "n-{{{{ payload.number }}}}", collect = ["camera"], before = "1s", after = "2s" }}

[source.generation-{generation}]
type = "folder"
path = "{other}"
"""


@dataclass(frozen=True)
class Sample:
    """What the relay holds, after a round."""

    descriptors: int
    tasks: int
    rss_bytes: int


class Soak:
    """The relay and its world, round by round."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, entry=("-m", "tests.crash.counted"))
        self._counts = folder / "counts.json"
        self.rig.environment["RELAYD_COUNTS"] = str(self._counts)
        self._other = folder / "other"
        self._other.mkdir()
        self.broker = Mosquitto(folder / "broker")
        self._chance = random.Random(7)
        self._publisher = mqtt.Client(CallbackAPIVersion.VERSION2, "publisher", clean_session=False)
        self._generation = self._published = 0
        self.samples: list[Sample] = []

    def start(self) -> None:
        self.broker.start()
        self.rig.start_sandbox("webhook status 500")
        self._write_config()
        self.rig.start()
        self._publisher.reconnect_delay_set(1, 1)
        self._publisher.connect("127.0.0.1", self.broker.port)
        self._publisher.loop_start()
        wait_for(self._is_connected, "the relay is at the broker")
        for number in range(REFUSED):
            self._publisher.publish(f"refused/{number}", json.dumps({"number": number}), qos=1)

    def stop(self) -> None:
        self._publisher.loop_stop()
        self.rig.stop()
        self.broker.stop()

    def round(self) -> None:
        """Work comes, something happens, all of it arrives."""
        for number in range(FILES):
            self.rig.drop_file(f"{len(self.samples)}-{number}.jpg", self._chance.randbytes(20_000))
        for _ in range(MESSAGES):
            self._published += 1
            self._publisher.publish("sensor/a", json.dumps({"number": self._published}), qos=1)
        self._chance.choice(self._happenings())()
        wait_for(self._has_arrived, f"round {len(self.samples)} has arrived\n{self.rig.tail()}")
        self.samples.append(self._sample())

    def failures(self) -> int:
        """How often the webhook has refused."""
        database = f"file:{self.rig.spool / 'spool.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(database, uri=True, timeout=20)) as db:
            row = db.execute("SELECT sum(attempts) FROM deliveries WHERE destination = 'hook'").fetchone()
        return int(row[0] or 0)

    def lines(self) -> int:
        """How much the log says of the webhook."""
        return sum("hook" in line for line in self.rig.log.read_text().splitlines())

    # --- what happens

    def _happenings(self) -> Sequence[Callable[[], None]]:
        return (self._reload, self._reload, self._lose_broker, self._freeze_broker, self._refuse, self._hang_up)

    def _reload(self) -> None:
        """With another rule and another source."""
        self._generation += 1
        self._write_config()
        assert self.rig.process is not None
        self.rig.process.send_signal(signal.SIGHUP)

    def _lose_broker(self) -> None:
        self.broker.stop()
        self.broker.start()

    def _freeze_broker(self) -> None:
        self.broker.freeze()
        time.sleep(self._chance.uniform(0.1, 0.5))
        self.broker.thaw()

    def _refuse(self) -> None:
        self._faults("store%30 status 503; slot%20 status 500; token%20 status 401")

    def _hang_up(self) -> None:
        self._faults("store%40 lose; slot%20 refuse" if self._chance.random() < 0.5 else "store%40 lose")

    def _faults(self, script: str) -> None:
        self.rig.script(f"webhook status 500; {script}")
        time.sleep(1.0)
        self.rig.script("webhook status 500")

    # --- looking

    def _write_config(self) -> None:
        self.rig.config.write_text(
            CONFIG.format(
                spool=self.rig.spool,
                drop=self.rig.drop,
                other=self._other,
                url=self.rig.url,
                broker=self.broker.url,
                generation=self._generation % 2,
            )
        )

    def _is_connected(self) -> bool:
        return bool(self._status()["brokers"]["local"]["state"] == "ok")

    def _status(self) -> Any:
        return self.rig.ask("GET", "/api/v1/status").document

    def _has_arrived(self) -> bool:
        if any(not name.name.startswith(".") for name in self.rig.drop.iterdir()):
            return False
        status = self._status()
        return bool(
            status["sources"]["sensors"]["captured"] >= self._published
            and status["destinations"]["rapidsos"]["pending"] == 0
            and status["destinations"]["rapidsos"]["delivered"] == len(self.rig.dropped)
        )

    def _sample(self) -> Sample:
        assert self.rig.process is not None
        process = Path(f"/proc/{self.rig.process.pid}")
        self._counts.unlink(missing_ok=True)
        self.rig.process.send_signal(signal.SIGUSR1)
        wait_for(self._counts.exists, "the relay counts its tasks")
        pages = int((process / "statm").read_text().split()[1])
        return Sample(
            descriptors=len(list((process / "fd").iterdir())),
            tasks=sum(json.loads(self._counts.read_text()).values()),
            rss_bytes=pages * 4096,
        )


def grown(samples: Sequence[Sample]) -> list[str]:
    """What the last third of the rounds has more of than the first third after the warm-up, beyond what is allowed."""
    settled = samples[WARM_UP_ROUNDS:]
    third = len(settled) // 3
    first, last = settled[:third], settled[-third:]
    tenths = [settled[len(settled) * part // 10].rss_bytes for part in range(10)] if len(settled) >= 10 else []
    print("memory over time, MB:", *(f"{rss / 1e6:.1f}" for rss in tenths))
    found = []
    for name, most in (("descriptors", MORE_DESCRIPTORS), ("tasks", MORE_TASKS), ("rss_bytes", MORE_BYTES)):
        before, after = (statistics.median(getattr(sample, name) for sample in part) for part in (first, last))
        print(f"{name:<12} {before:>12,.0f} → {after:>12,.0f}   limit +{most:,}")
        if after - before > most:
            found.append(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--failures", type=int, default=10_000, help="goes on until there were so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relayd-soak-") as name:
        soak = Soak(Path(name))
        try:
            soak.start()
            ends_at = time.monotonic() + options.minutes * 60
            while time.monotonic() < ends_at or soak.failures() < options.failures:
                soak.round()
                if time.monotonic() > ends_at + 600:
                    break
            failures, lines = soak.failures(), soak.lines()
        finally:
            soak.stop()
    faults = grown(soak.samples)
    print(f"{len(soak.samples)} rounds, {failures:,} failures of the webhook, {lines} lines (limit {MOST_LINES})")
    if failures < options.failures:
        faults.append("too few failures in time")
    if lines > MOST_LINES:
        faults.append("lines in the log")
    for fault in faults:
        print(f"GROWN: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
