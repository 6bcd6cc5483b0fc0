"""How fast one connection to a broker is written to: as its deliveries may, the most urgent of them.

Promises: a large message gives way to what is more urgent elsewhere and stays near a slow link, as uploads do. As soon
as an emergency waits for the same connection, what is before it goes out unhindered. What is no delivery (answers,
keep-alive, reports) opens nothing and is held up by nothing but what was being written before it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from relayd.traffic import Lane, Pace, lane

UNLIMITED = 1 << 62
MOST_AT_ONCE_BYTES = 64 * 1024


class Valve:
    """`take` is asked before each write, `opened` is called when there is more to take. Used in the loop, except for
    the handshake of a connection, during which nobody is in a lane."""

    def __init__(self, gone_bytes: Callable[[], int], trip_seconds: Callable[[], float]) -> None:
        """`gone_bytes`: how much the other end has taken of what was written to this connection."""
        self._gone_bytes = gone_bytes
        self._trip_seconds = trip_seconds
        self._lanes: list[Lane] = []
        self._credit = UNLIMITED
        self._written = 0
        self._emptied = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self.opened: Callable[[], None] = lambda: None

    @property
    def is_shut(self) -> bool:
        """Whether what waits to be written waits for a turn."""
        return self._credit <= 0

    def take(self, wanted: int) -> int:
        """How much may be written now."""
        return max(0, min(wanted, self._credit))

    def wrote(self, size: int) -> None:
        self._written += size
        if self._credit < UNLIMITED:
            self._credit -= size
            if self.is_shut:
                self._emptied.set()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """While this lasts, a message of the present delivery, if this is one, is on its way."""
        own = lane.get()
        if own is None:
            yield
            return
        self._lanes.append(own)
        self._start_anew()
        try:
            yield
        finally:
            self._lanes.remove(own)
            self._start_anew()

    def close(self) -> None:
        """Nothing is written any more."""
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None

    def _start_anew(self) -> None:
        self.close()
        if any(not own.is_paced for own in self._lanes) or not self._lanes:
            self._credit = UNLIMITED
            self.opened()
            return
        self._credit = 0
        most_urgent = min(self._lanes, key=lambda own: own.rank)
        self._pump = asyncio.get_running_loop().create_task(self._run(most_urgent), name="valve of a broker")

    async def _run(self, own: Lane) -> None:
        pace = Pace(own.least_ahead_bytes, self._trip_seconds)

        def waiting_bytes() -> int:
            gone = self._gone_bytes()
            pace.look(gone, asyncio.get_running_loop().time(), own.least_ahead_bytes)
            return self._written - gone

        while True:
            size = await own.allowed_bytes(MOST_AT_ONCE_BYTES, pace, waiting_bytes)
            self._emptied.clear()
            self._credit = size
            own.moved()
            self.opened()
            await self._emptied.wait()
