"""The MQTT storm: 20,000 messages, the relay killed 20 times, the broker restarted twice.

Nothing may be lost, and what the broker sends twice must be one item. The control acknowledges what it has not stored
yet, as MQTT clients do by themselves: the storm has to see it lose messages.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker.mosquitto import Mosquitto
from tests.daemon.running import REPOSITORY, wait_for

MESSAGES = 20_000
KILLS = 20

CONFIG = """
[device]
id = "rig"

[spool]
path = "{spool}"
min_free = "1MB"

[broker.local]
url = "{url}"
receive_maximum = 200

[source.sensors]
type = "mqtt"
broker = "local"
topics = ["sensor/#"]
max_per_second = 100000

[destination.desk]
type = "webhook"
url = "http://127.0.0.1:9/nobody"

[[rule]]
name = "all"
from = ["sensors"]
deliver = [{{ to = "desk" }}]
"""


class Publisher:
    """Sends numbered messages with QoS 1 and goes on until the broker has acknowledged each, whatever happens to it."""

    def __init__(self, port: int) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "publisher", clean_session=False)
        self._client.on_publish = self._acknowledged
        self._sent = self._done = 0
        self._client.max_inflight_messages = 500
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def send(self, count: int) -> None:
        for _ in range(count):
            self._client.publish(f"sensor/{self._sent % 50}", json.dumps({"n": self._sent}), qos=1)
            self._sent += 1

    def has_sent_everything(self) -> bool:
        return self._done == self._sent

    def _acknowledged(self, *_: object) -> None:
        self._done += 1

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Rig:
    """A broker, a publisher and a relay that is killed."""

    def __init__(self, folder: Path, entry: Sequence[str] = ("-m", "relayd")) -> None:
        self.broker = Mosquitto(folder / "broker", options="max_inflight_messages 0").start()
        self.publisher = Publisher(self.broker.port)
        self._entry = entry
        self._spool = folder / "spool"
        self._spool.mkdir()
        self._config = folder / "relayd.toml"
        self._config.write_text(CONFIG.format(spool=self._spool, url=self.broker.url))
        self._log = folder / "relay.log"
        self._relay: subprocess.Popen[bytes] | None = None

    def start_relay(self) -> None:
        with self._log.open("ab") as log:
            self._relay = subprocess.Popen(
                [sys.executable, *self._entry, "--config", str(self._config), "run"],
                cwd=REPOSITORY,
                env=os.environ,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def let_relay_run(self, seconds: float) -> None:
        """Until the moment to kill it. Fails if it ends by itself before."""
        assert self._relay is not None
        with pytest.raises(subprocess.TimeoutExpired):
            self._relay.wait(seconds)

    def kill_relay(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
            self._relay = None

    def stop(self) -> None:
        self.kill_relay()
        self.publisher.stop()
        self.broker.stop()

    def count(self) -> int:
        """How many items there are."""
        return int(next(iter(self._ask("SELECT count(*) FROM items")), (0,))[0])

    def taken(self) -> Counter[int]:
        """Number of each message → how many items it became."""
        return Counter(json.loads(row[0])["n"] for row in self._ask("SELECT payload FROM items"))

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        path = self._spool / "spool.db"
        if not path.exists():
            return []
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            db.close()

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


def _wait_for_more(rig: Rig) -> None:
    before = rig.count()
    wait_for(lambda: rig.count() > before, "the relay takes messages")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.stop()


@pytest.mark.timeout(600)
def test_twenty_thousand_messages_twenty_kills_and_two_broker_restarts_lose_and_double_nothing(rig: Rig) -> None:
    chance = random.Random(417)
    rig.start_relay()
    wait_for(lambda: "connected" in rig.tail(), "the relay has subscribed")
    for number in range(KILLS):
        rig.publisher.send(MESSAGES * (number + 1) // KILLS - MESSAGES * number // KILLS)
        _wait_for_more(rig)
        rig.let_relay_run(chance.uniform(0.01, 0.25))
        rig.kill_relay()
        if number in (KILLS // 3, 2 * KILLS // 3):
            rig.broker.stop()
            rig.broker.start()
        rig.start_relay()
    wait_for(rig.publisher.has_sent_everything, "the broker has everything")
    wait_for(lambda: rig.count() >= MESSAGES, "everything is taken")
    assert set(rig.taken()) == set(range(MESSAGES))
    doubled = [number for number, items in rig.taken().items() if items > 1]
    assert doubled == [], f"{len(doubled)} messages became several items\n{rig.tail()}"


@pytest.mark.timeout(600)
def test_the_storm_sees_a_relay_that_acknowledges_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, entry=("-m", "tests.crash.sabotage", "acknowledge-at-once"))
    try:
        rig.start_relay()
        wait_for(lambda: "connected" in rig.tail(), "the relay has subscribed")
        rig.kill_relay()
        for _ in range(5):
            rig.publisher.send(MESSAGES // 5)
            wait_for(rig.publisher.has_sent_everything, "the broker has everything")
            rig.start_relay()
            _wait_for_more(rig)
            rig.kill_relay()
        rig.start_relay()
        last = -1
        while rig.count() != last:
            last = rig.count()
            rig.let_relay_run(2.0)  # nothing more in this time: it is over
        assert last < MESSAGES, "a sabotaged relay lost nothing: this storm proves nothing"
    finally:
        rig.stop()
