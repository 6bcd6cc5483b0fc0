"""Looking at the fleet's broker: connects, listens, and fills a `Fleet`.

Promises: only listens; the broker forgets this client when it leaves. What cannot be reached or is not allowed is said
in `trouble`; the connection is sought again for as long as one looks.

A broker may queue no more than so many messages for one client and drop the rest without a word (mosquitto: 1,000, as
it comes). So what it kept is asked for in turn: every `state`, every `health`, then topic by topic what is missing.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relayd import clock
from relayd.broker import Broker, BrokerConfig, Message
from relayd.errors import RelaydError
from relayd.fleet import Fleet

QUIET_SECONDS = 1.0
"""When nothing more of what the broker had kept has come for so long, it is all there."""
PAUSE_SECONDS = 0.4
"""The same between one question and the next."""
ASKED_AT_ONCE = 200
MEND_SECONDS = 5.0
"""How often gaps are looked for, once all is asked."""
LONGEST_WAIT_SECONDS = 30.0
LOOK_SECONDS = 0.05


class NoFleet(RelaydError):
    """The fleet's broker cannot be had, or does not let us look."""


class Watch:
    """One look at one fleet. `changes` counts what came."""

    def __init__(self, fleet: Fleet, broker: Broker) -> None:
        self.fleet = fleet
        self.changes = 0
        self._broker = broker
        self._before = broker.view().reason
        self._kept_at: float | None = None
        self._is_asked = False
        self._subscription = broker.subscribe(
            fleet.filters[:1], self._take, name="fleet", qos=1, on_skipped=fleet.too_large
        )
        broker.on_connected(self._connected)

    @property
    def is_connected(self) -> bool:
        return self._broker.is_connected

    @property
    def trouble(self) -> str:
        """Why nothing comes, or not everything; empty if all is well, and before the first try has ended."""
        if self._broker.is_connected:
            return self._subscription.reason
        reason = self._broker.view().reason
        return "" if reason == self._before else reason

    async def everything(self, seconds: float | None) -> bool:
        """Wait until everything that the broker had kept is here, or for just so many `seconds`; False if it was still
        coming when the wait ended. Raises NoFleet."""
        began = clock.monotonic()
        while True:
            now = clock.monotonic()
            is_quiet = self._is_asked and self._kept_at is not None and now - self._kept_at >= QUIET_SECONDS
            if self.trouble and (seconds is None or not self.is_connected):
                raise NoFleet(f"the fleet cannot be seen: {self.trouble}")
            if seconds is None and is_quiet:
                return True
            if now - began >= (LONGEST_WAIT_SECONDS if seconds is None else seconds):
                if self._kept_at is None:
                    raise NoFleet(f"the fleet cannot be seen: no answer of the broker in {now - began:.0f} s")
                return is_quiet
            await asyncio.sleep(LOOK_SECONDS)

    async def _connected(self, is_session_present: bool) -> None:
        """Ask for the rest, and go on filling gaps until the connection ends."""
        self._is_asked = False
        self._kept_at = clock.monotonic()
        await self._pause()
        await self._ask(self.fleet.filters[1])
        await self._pause()
        asked: set[str] = set()
        while True:
            gaps = [topic for topic in self.fleet.gaps if topic not in asked]
            for start in range(0, len(gaps), ASKED_AT_ONCE):
                some = gaps[start : start + ASKED_AT_ONCE]
                await asyncio.gather(*(self._ask(topic) for topic in some))
                asked.update(some)
                await self._pause()
            self._is_asked = True
            await asyncio.sleep(MEND_SECONDS)

    async def _ask(self, pattern: str) -> None:
        await self._broker.ask(self._subscription, pattern)
        self._kept_at = clock.monotonic()

    async def _pause(self) -> None:
        """Until nothing more comes of what was asked for."""
        while clock.monotonic() - (self._kept_at or 0.0) < PAUSE_SECONDS:  # noqa: ASYNC110 - silence has no event
            await asyncio.sleep(LOOK_SECONDS)

    async def _take(self, message: Message) -> None:
        now = clock.monotonic()
        if message.is_retained:
            self._kept_at = now
        self.changes += 1
        self.fleet.take(message.topic, message.payload, is_retained=message.is_retained, now=clock.now(), monotonic=now)


@asynccontextmanager
async def watching(fleet: Fleet, config: BrokerConfig) -> AsyncIterator[Watch]:
    """Look from here to the end of the block."""
    broker = Broker("fleet", config, f"relayd-fleet-{uuid.uuid4().hex[:12]}", keeps_session=False)
    watch = Watch(fleet, broker)
    task = asyncio.create_task(broker.run(), name="fleet broker")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
