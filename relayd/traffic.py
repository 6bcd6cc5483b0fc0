"""Who gives way to whom while several deliveries send: what is less urgent sends a trickle until the way is free.

Promises: an upload gives way only to what is more urgent, and only to `emergency` and `high`; it never stands still, so
its connection lives on and the backlog goes on arriving. Knows priorities, not destinations: all share one link.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar

from relayd import clock
from relayd.model import Priority

TRICKLE_BYTES = 4096
TRICKLE_EVERY_SECONDS = 1.0
"""All that gives way together sends so much each time: an eighth of a link of 256 kbit/s."""

AHEAD_SECONDS = 0.5
"""So much of an upload may be on its way, unacknowledged: what has left already can give way to nobody."""
LEAST_AHEAD_BYTES = 8 * 1024
FIRST_AHEAD_BYTES = 8 * 1024
MEASURED_SECONDS = 0.5
"""Over such a span the speed of an upload is measured."""
LOOK_AGAIN_SECONDS = 0.05


class Traffic:
    """What is under way over one relay's links."""

    def __init__(self) -> None:
        self._under_way: Counter[Priority] = Counter()
        self._freed = asyncio.Event()
        self._next_trickle_at = 0.0

    @contextlib.contextmanager
    def carrying(self, priority: Priority) -> Iterator[None]:
        """While this lasts, a delivery of this priority is under way, and its uploads are in the lane of it."""
        self._under_way[priority] += 1
        before = lane.set(Lane(self, priority))
        try:
            yield
        finally:
            lane.reset(before)
            self._under_way[priority] -= 1
            self._freed.set()

    def must_give_way(self, priority: Priority) -> bool:
        """Whether something urgent is under way that is more urgent than this."""
        return any(self._under_way[urgent] for urgent in _URGENT if urgent < priority)

    async def wait_for_way(self, priority: Priority) -> None:
        """Until the way is free, or until it is this upload's turn to send a little all the same."""
        now = clock.monotonic()
        self._next_trickle_at = max(now, self._next_trickle_at) + TRICKLE_EVERY_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._next_trickle_at - now):
                while self.must_give_way(priority):
                    self._freed.clear()
                    await self._freed.wait()


class Pace:
    """How far ahead of the other side's acknowledgements one upload may be: what its link takes in half a second."""

    def __init__(self) -> None:
        self.ahead_bytes = FIRST_AHEAD_BYTES
        self._mark: tuple[float, int] | None = None

    def look(self, acknowledged_bytes: int, at: float) -> None:
        """`acknowledged_bytes` of the body have arrived by `at`, monotonic seconds."""
        if self._mark is None:
            self._mark = at, acknowledged_bytes
            return
        since, before = self._mark
        arrived, passed = acknowledged_bytes - before, at - since
        if arrived >= self.ahead_bytes or passed >= MEASURED_SECONDS:
            self.ahead_bytes = max(LEAST_AHEAD_BYTES, int(arrived / max(passed, 1e-6) * AHEAD_SECONDS))
            self._mark = at, acknowledged_bytes


class Lane:
    """The part of the traffic in which one delivery goes. A most urgent one is slowed by nothing."""

    def __init__(self, traffic: Traffic, priority: Priority) -> None:
        self._traffic = traffic
        self._priority = priority
        self.gives_way = priority > min(_URGENT)

    async def pieces(self, chunk: bytes, pace: Pace, waiting_bytes: Callable[[], int]) -> AsyncIterator[bytes]:
        """The chunk, whole where the link is quick and the way is free, else piece by piece. `waiting_bytes` says how
        much of this upload has not been acknowledged yet."""
        rest = memoryview(chunk)
        while rest:
            is_slow = self._traffic.must_give_way(self._priority)
            size = TRICKLE_BYTES if is_slow else max(TRICKLE_BYTES, pace.ahead_bytes // 2)
            yield chunk if size >= len(chunk) == len(rest) else bytes(rest[:size])
            rest = rest[size:]
            if is_slow:
                await self._traffic.wait_for_way(self._priority)
            while waiting_bytes() > pace.ahead_bytes:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(LOOK_AGAIN_SECONDS)


_URGENT = (Priority.EMERGENCY, Priority.HIGH)

lane: ContextVar[Lane | None] = ContextVar("relayd_lane", default=None)
"""The lane of the delivery that this task carries out; None: nobody is given way to."""
