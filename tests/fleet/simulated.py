"""Many relays on one broker, as far as its topics show: births, wills, health, deaths; and what a table must say.

Each is a real connection with a real will, spoken with a few bytes of MQTT 3.1.1 so that a thousand of them are cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from relayd import clock

BASE = "relayd/v1"
KEEPALIVE_SECONDS = 600
AT_ONCE = 50
HOUR = 3600.0


@dataclass(frozen=True)
class Expected:
    """What is to be told of a relay."""

    state: str
    health: str
    ignored_will: bool = False
    pending: int | None = None


class Connection:
    """One client: connects with a will, publishes with QoS 1, leaves or dies."""

    def __init__(self, client_id: str, will: tuple[str, bytes] | None = None) -> None:
        self._client_id = client_id
        self._will = will
        self._mid = 0

    async def open(self, port: int) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        flags = 0x02 | (0x04 | 0x08 | 0x20 if self._will else 0)
        body = _text("MQTT") + bytes([4, flags]) + struct.pack("!H", KEEPALIVE_SECONDS) + _text(self._client_id)
        if self._will:
            body += _text(self._will[0]) + struct.pack("!H", len(self._will[1])) + self._will[1]
        self._writer.write(_packet(0x10, body))
        answer = await self._reader.readexactly(4)
        assert answer[0] == 0x20
        assert answer[3] == 0, f"refused: {answer[3]}"
        return self

    async def publish(self, topic: str, payload: bytes) -> None:
        """Retained; returns after the acknowledgement."""
        self._mid += 1
        self._writer.write(_packet(0x33, _text(topic) + struct.pack("!H", self._mid) + payload))
        answer = await self._reader.readexactly(4)
        assert answer[0] == 0x40

    async def leave(self) -> None:
        self._writer.write(b"\xe0\x00")
        await self._writer.drain()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def die(self) -> None:
        """As when the power is cut; the broker publishes the will."""
        self._writer.transport.abort()


class Simulation:
    """`await populate(port, count)`; `expected` says what each relay must be shown as."""

    def __init__(self, base: str = BASE) -> None:
        self.base = base
        self.expected: dict[str, Expected] = {}
        self._open: list[Connection] = []

    async def populate(self, port: int, count: int) -> None:
        """Relays of every kind, in turn; returns when the broker has everything, wills included."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def live(number: int) -> None:
            async with gate:
                name = f"amb-{number:04d}"
                kind = KINDS[number % len(KINDS)]
                self.expected[name] = await kind(self, port, name, number)

        await asyncio.gather(*(live(number) for number in range(count)))

    async def close(self) -> None:
        for one in self._open:
            one.die()

    # --- what relays do

    async def _born(self, port: int, name: str, session: str, at: float) -> Connection:
        made = await Connection(f"{name}-{session}", self._will(name, session, at)).open(port)
        await made.publish(f"{self.base}/{name}/state", state("online", session, at))
        return made

    def _will(self, name: str, session: str, at: float) -> tuple[str, bytes]:
        return f"{self.base}/{name}/state", state("offline", session, at)

    async def _well(self, port: int, name: str, number: int, *, health_age: float = 1.0, **told: Any) -> Connection:
        now = clock.now()
        made = await self._born(port, name, "s1", now - 2 * HOUR)
        document = health(name, "s1", now - health_age, pending=number, **told)
        await made.publish(f"{self.base}/{name}/health", json.dumps(document).encode())
        return made

    async def online(self, port: int, name: str, number: int) -> Expected:
        self._open.append(await self._well(port, name, number))
        return Expected("online", "ok", pending=number)

    async def faulty(self, port: int, name: str, number: int) -> Expected:
        reasons = ["destination rapidsos: login refused: 401", "source front: nothing came for 20 min"]
        self._open.append(await self._well(port, name, number, state="fault", reasons=reasons))
        return Expected("online", "fault", pending=number)

    async def stale(self, port: int, name: str, number: int) -> Expected:
        self._open.append(await self._well(port, name, number, health_age=HOUR))
        return Expected("stale", "ok", pending=number)

    async def offline(self, port: int, name: str, number: int) -> Expected:
        (await self._well(port, name, number)).die()
        return Expected("offline", "ok", pending=number)

    async def lost(self, port: int, name: str, number: int) -> Expected:
        (await self._well(port, name, number, health_age=HOUR, state="degraded")).die()
        return Expected("lost", "degraded", pending=number)

    async def stopped(self, port: int, name: str, number: int) -> Expected:
        made = await self._well(port, name, number)
        await made.publish(f"{self.base}/{name}/state", state("stopped", "s1", clock.now()))
        await made.leave()
        return Expected("stopped", "ok", pending=number)

    async def with_late_will(self, port: int, name: str, number: int) -> Expected:
        """A half-open connection of the old session is noticed after the new one is at work."""
        now = clock.now()
        old = await self._born(port, name, "s0", now - 3 * HOUR)
        self._open.append(await self._well(port, name, number))
        old.die()
        return Expected("online", "ok", ignored_will=True, pending=number)

    async def dead_at_birth(self, port: int, name: str, number: int) -> Expected:
        """The new session breaks before its first health: this will is no old one."""
        await (await self._well(port, name, number)).leave()
        (await self._born(port, name, "s2", clock.now())).die()
        return Expected("offline", "ok", pending=number)

    async def garbled(self, port: int, name: str, number: int) -> Expected:
        made = await self._born(port, name, "s1", clock.now())
        await made.publish(f"{self.base}/{name}/health", GARBAGE[number // len(KINDS) % len(GARBAGE)])
        self._open.append(made)
        return Expected("online", "unknown")

    async def silent(self, port: int, name: str, number: int) -> Expected:
        self._open.append(await self._born(port, name, "s1", clock.now()))
        return Expected("online", "unknown")


KINDS: tuple[Callable[[Simulation, int, str, int], Awaitable[Expected]], ...] = (
    Simulation.online,
    Simulation.faulty,
    Simulation.stale,
    Simulation.offline,
    Simulation.lost,
    Simulation.stopped,
    Simulation.with_late_will,
    Simulation.dead_at_birth,
    Simulation.garbled,
    Simulation.silent,
)

GARBAGE = (
    b"\xff\xfe no JSON",
    b"[1, 2, 3]",
    b"[" * 200_000,
    json.dumps({"state": ["ok"], "at": 7, "device": [], "spool": "full", "reasons": {"a": 1}, "session": {}}).encode(),
    b'{"state": "\x1b[2J", "spool": {"pending": -1, "dead": NaN, "oldest_pending_seconds": 1e999}}',
    b'{"padding": "' + b"x" * 3_000_000 + b'"}',
    b'{"spool": {"pending": ' + b"9" * 5_000 + b"}}",
)


def state(word: str, session: str, at: float) -> bytes:
    return json.dumps({"state": word, "session": session, "at": clock.rfc3339(at), "version": "0.1.0"}).encode()


def health(name: str, session: str, at: float, *, pending: int, **told: Any) -> dict[str, Any]:
    """A snapshot as large as a usual one."""
    part = {
        "state": "ok",
        "reason": "",
        "pending": 3,
        "delivered": 4_711,
        "dead": 0,
        "under_way": 1,
        "bytes_sent": 10**9,
    }
    return {
        "schema": 1,
        "device": {"id": name, "name": f"Ambulance {name}", "site": ("odense", "aarhus")[pending % 2]},
        "version": "0.1.0",
        "state": "ok",
        "reasons": [],
        "at": clock.rfc3339(at),
        "session": session,
        "spool": {"items": 10_000, "pending": pending, "dead": pending % 3, "oldest_pending_seconds": float(pending)},
        "sources": {f"camera-{number}": part for number in range(6)},
        "destinations": {f"destination-{number}": part for number in range(6)},
        **told,
    }


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("!H", len(raw)) + raw


def _packet(first: int, body: bytes) -> bytes:
    left, length = len(body), b""
    while True:
        left, digit = left >> 7, left & 0x7F
        length += bytes([digit | (0x80 if left else 0)])
        if not left:
            return bytes([first]) + length + body
