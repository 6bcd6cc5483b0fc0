"""The emergency lane of the whole relay: events and stills beside 500 MB of bulk, on a road of 256 kbit/s."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import trustme

from relayd.sandbox.exchange import Entry
from relayd.sandbox.server import Sandbox
from tests.broker.mosquitto import Mosquitto
from tests.daemon.running import RunningRelay, wait_for
from tests.system.processes import installed
from tests.system.thin_road import HOST, ThinRoad

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

BITS_PER_SECOND = 256_000
BYTES_PER_SECOND = BITS_PER_SECOND / 8
CLIPS, CLIP_BYTES = 10, 50_000_000
SHORT_BYTES = 200_000
STILL_BYTES = 50_000
MAPS, MAP_BYTES = 10, 900_000
EMERGENCIES = 3
LOOK_EVERY_SECONDS = 0.2
WINDOW_SECONDS = 10.0
HTTPS_PORT, MQTT_PORT = 443, 1883
BULK = frozenset({"store", "media"})

CONFIG = """
[device]
id = "amb-0417"
location = {{ latitude = 55.4, longitude = 10.4 }}

[spool]
path = "{spool}"
min_free = "1MB"

[broker.local]
url = "mqtt://127.0.0.1:1883"

[source.clips]
type = "folder"
path = "{clips}"

[broker.fleet]
url = "mqtt://{host}:1883"

[source.maps]
type = "folder"
path = "{maps}"

[source.short]
type = "folder"
path = "{short}"

[source.front-camera]
type = "folder"
path = "{stills}"

[source.panic]
type = "mqtt"
broker = "local"
topics = ["vehicle/panic"]

[destination.rapidsos]
type = "rapidsos"
url = "https://{host}"
ca_file = "{ca}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SECRET" }}
concurrency = 4

[destination.archive]
type = "rapidsos"
url = "https://{host}"
ca_file = "{ca}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SECRET" }}
concurrency = 4

[destination.share]
type = "incidentshare"
url = "https://{host}"
ca_file = "{ca}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SECRET" }}

[destination.evidence]
type = "rapidsos"
url = "https://{host}"
ca_file = "{ca}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SECRET" }}

[destination.fleet]
type = "mqtt"
broker = "fleet"

[destination.control-room]
type = "sayvu"
url = "https://{host}"
ca_file = "{ca}"
api_key = {{ env = "TEST_KEY" }}
mode = "training"

[destination.hook]
type = "webhook"
url = "https://{host}/webhook"
ca_file = "{ca}"

[[rule]]
name = "panic"
from = ["panic"]
when = "payload.pressed"
priority = "emergency"
incident = {{ key = "panic-{{{{ payload.number }}}}" }}
deliver = [
  {{ to = "control-room", action = "report", category = "Security", description = "Panic {{{{ payload.number }}}}" }},
  {{ to = "hook" }},
]

[[rule]]
name = "stills"
from = ["front-camera"]
priority = "{still_priority}"
deliver = [ {{ to = "rapidsos" }} ]

[[rule]]
name = "short"
from = ["short"]
priority = "bulk"
deliver = [ {{ to = "evidence" }} ]

[[rule]]
name = "maps"
from = ["maps"]
priority = "bulk"
deliver = [ {{ to = "fleet", topic = "maps/{{{{ item.name }}}}" }} ]

[[rule]]
name = "clips"
from = ["clips"]
priority = "bulk"
deliver = [
  {{ to = "rapidsos" }},
  {{ to = "archive" }},
  {{ to = "share", action = "media", stream_id = "vehicle-12" }},
]
"""


@dataclass
class Times:
    """How long the emergencies took from the press of the button, the drop of the still, to the server's record."""

    events: list[float] = field(default_factory=list)
    reports: list[float] = field(default_factory=list)
    stills: list[float] = field(default_factory=list)


class Drive:
    """One relay on a thin road, full of bulk."""

    def __init__(self, folder: Path, relay: RunningRelay, sandbox: Sandbox, broker: Mosquitto) -> None:
        self.relay, self.sandbox = relay, sandbox
        self.clips, self.short, self.stills, self.maps = (
            folder / name for name in ("clips", "short", "stills", "maps")
        )
        self._broker = broker
        self._bulk: list[tuple[float, int]] = []

    def drop_clips(self) -> None:
        """500 MB for three destinations."""
        for number in range(CLIPS):
            with (self.clips / f"clip-{number}.bin").open("wb") as file:
                file.write(os.urandom(64))
                file.truncate(CLIP_BYTES)

    def uploads(self) -> list[Entry]:
        """Every bulk upload that the server has seen the beginning of."""
        return [
            entry
            for entry in self.sandbox.log
            if entry.operation in BULK and int(entry.headers.get("Content-Length", 0)) > 2 * STILL_BYTES
        ]

    def bulk_bytes(self) -> int:
        """How much of them has come."""
        return sum(entry.received_bytes for entry in self.uploads())

    async def watch(self) -> None:
        """Keep the record of what has come of the backlog, for ever."""
        while True:
            self._bulk.append((time.monotonic(), self.bulk_bytes()))
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def windows(self) -> list[int]:
        """What came of the backlog in each whole window since the watch began."""
        found, (since, before) = [], self._bulk[0]
        for at, total in self._bulk:
            if at - since >= WINDOW_SECONDS:
                found.append(total - before)
                since, before = at, total
        return found

    async def emergency(self, number: int, times: Times) -> None:
        """The button is pressed and a still dropped; until both are at the server."""
        name = f"still-{number}.jpg"
        pressed = time.time()
        async with aiomqtt.Client("127.0.0.1", self._broker.port) as button:
            await button.publish("vehicle/panic", f'{{"pressed": true, "number": {number}}}', qos=1)
        (self.stills / name).write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(STILL_BYTES - 6) + b"\xff\xd9")
        await eventually(lambda: len(self.ended("webhook")) > number, "the event is at the hook", 120)
        await eventually(lambda: len(self.ended("report")) > number, "the report is made", 120)
        await eventually(lambda: self.stored(name), "the still is stored", 120)
        times.events.append(self.ended("webhook")[number] - pressed)
        times.reports.append(self.ended("report")[number] - pressed)
        times.stills.append(self.stored(name)[0] - pressed)

    def ended(self, operation: str) -> list[float]:
        return [
            entry.ended_at
            for entry in self.sandbox.log
            if entry.operation == operation and entry.has_effect and entry.ended_at is not None
        ]

    def stored(self, name: str) -> list[float]:
        return [
            entry.ended_at
            for entry in self.sandbox.log
            if entry.operation == "store" and entry.has_effect and entry.ended_at and (entry.key or "").endswith(name)
        ]


async def eventually(true: Callable[[], Any], what: str, seconds: float) -> None:
    await asyncio.to_thread(wait_for, true, what, seconds)


@asynccontextmanager
async def drive(
    folder: Path, *, still_priority: str = "emergency", entry: Sequence[str] = ("-m", "relayd")
) -> AsyncIterator[Drive]:
    """The relay runs, and all its places for bulk uploads are taken."""
    installed("system")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    relay = RunningRelay(folder, entry=entry)
    relay.environment["TEST_KEY"] = "ak_sandbox"
    drops = {name: folder / name for name in ("clips", "short", "stills", "maps")}
    for drop in drops.values():
        drop.mkdir()
    relay.config.write_text(
        CONFIG.format(host=HOST, still_priority=still_priority, spool=relay.spool, ca=folder / "ca.pem", **drops)
    )
    broker = Mosquitto(folder / "broker").start()
    try:
        async with Sandbox(tls=context) as sandbox:
            port = int(sandbox.url.rpartition(":")[2])
            async with ThinRoad(
                BITS_PER_SECOND, near={MQTT_PORT: broker.port}, far={HTTPS_PORT: port, MQTT_PORT: broker.port}
            ) as road:
                driven = Drive(folder, relay, sandbox, broker)
                relay.spawn(road.prefix)
                try:
                    await _fill(driven)
                    yield driven
                finally:
                    await asyncio.to_thread(relay.end)
    finally:
        broker.stop()


@asynccontextmanager
async def watched(driven: Drive) -> AsyncIterator[None]:
    """Meanwhile the record of what comes of the backlog is kept."""
    watch = asyncio.create_task(driven.watch())
    try:
        yield
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _fill(driven: Drive) -> None:
    driven.drop_clips()
    await eventually(lambda: len(driven.uploads()) >= 10, "ten uploads run", 120)
    for number in range(MAPS):
        (driven.maps / f"map-{number}.bin").write_bytes(os.urandom(MAP_BYTES))
    (driven.short / "short.bin").write_bytes(os.urandom(SHORT_BYTES))
    await eventually(lambda: len(driven.uploads()) == 11, "the short one runs, too", 60)
    full = driven.bulk_bytes() + 3 * BYTES_PER_SECOND
    await eventually(lambda: driven.bulk_bytes() > full, "the road is full", 60)


async def test_emergencies_pass_the_backlog_which_goes_on_and_begins_nothing_anew(tmp_path: Path) -> None:
    times = Times()
    async with drive(tmp_path) as driven, watched(driven):
        running = {entry.number for entry in driven.uploads()}
        for number in range(EMERGENCIES):
            await driven.emergency(number, times)
        before = driven.bulk_bytes()
        await asyncio.sleep(WINDOW_SECONDS)
        after = driven.bulk_bytes()
        await eventually(lambda: driven.stored("short.bin"), "the short upload is through", 120)
        status = await asyncio.to_thread(driven.relay.json, "status")

    assert max(times.events) < 2, times
    assert max(times.reports) < 2, times
    assert max(times.stills) < 10, times
    assert min(driven.windows()) > 0
    assert after - before > 0.7 * BYTES_PER_SECOND * WINDOW_SECONDS, "the backlog has the road again"
    assert {entry.number for entry in driven.uploads()} == running, "none was begun anew"
    (short,) = [entry for entry in driven.uploads() if (entry.key or "").endswith("short.bin")]
    assert SHORT_BYTES < short.received_bytes < SHORT_BYTES + 4096
    assert status["spool"]["dead"] == 0


async def test_a_still_that_is_high_passes_the_backlog_too(tmp_path: Path) -> None:
    times = Times()
    async with drive(tmp_path, still_priority="high") as driven, watched(driven):
        await driven.emergency(0, times)
    assert max(times.events) < 2, times
    assert max(times.stills) < 10, times


async def test_without_the_lane_the_event_and_the_still_are_too_late(tmp_path: Path) -> None:
    """The negative control: nobody gives way, and nothing keeps the road's queue short."""
    times = Times()
    async with drive(tmp_path, entry=("-m", "tests.crash.sabotage", "no-lane")) as driven:
        await driven.emergency(0, times)
    assert min(times.events) > 2, times
    assert min(times.stills) > 10, times
