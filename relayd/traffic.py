"""Who gives way to whom while several deliveries send: what is less urgent sends a trickle until the way is free.

Promises: a delivery gives way only to what is more urgent, and only to `emergency` and `high`; of two that are as
urgent, media gives way to a message. It never stands still, so its connection lives on and the backlog goes on
arriving; and it gives way to nobody who has not moved for a while. However many upload at once, together they are never
far ahead of a slow link. Knows priorities, not destinations: all share one link.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from relayd import clock
from relayd.model import Kind, Priority

TRICKLE_BYTES = 4096
TRICKLE_EVERY_SECONDS = 1.0
"""All that gives way together sends so much each time: an eighth of a link of 256 kbit/s."""
TURN_WITHIN_SECONDS = 10.0
"""However many give way, each has its turn that often, if with less: servers hang up on whoever is silent for 20 s."""
PATIENCE_SECONDS = 10.0
"""An urgent delivery that has not moved for so long holds nobody up: its server does not answer."""

AHEAD_SECONDS = 0.5
"""So much of an upload may be queued on its way, unacknowledged: what has left already can give way to nobody."""
LEAST_AHEAD_BYTES = 4 * 1024
"""What may be ahead on whatever link, of all uploads together."""
LEAST_PIECE_BYTES = 1024
CONCEDED = 0.9
"""An upload keeps so much of its share of a link, and gets as much as everybody of the rest: so all become alike."""
GROWTH = 2
"""As TCP grows; what comes at once after a lost packet was sent again says nothing about the link."""
PIECES = 4
"""What is ahead goes in so many pieces."""
LOOK_AGAIN_SECONDS = 0.05
LEAST_LOOK_SECONDS = 0.005


@dataclass(slots=True, eq=False)
class _UnderWay:
    """A delivery; what has the smaller rank goes first. `moved_at`: when it last got on, monotonic seconds."""

    rank: tuple[Priority, bool]
    moved_at: float

    @property
    def is_urgent(self) -> bool:
        return self.rank[0] <= Priority.HIGH


class Traffic:
    """What is under way over one relay's links."""

    def __init__(self) -> None:
        self._under_way: list[_UnderWay] = []
        self._freed = asyncio.Event()
        self._next_trickle_at = 0.0

    @contextlib.contextmanager
    def carrying(self, priority: Priority, kind: Kind = Kind.MEDIA) -> Iterator[Lane]:
        """While this lasts, a delivery of this priority is under way, and what it sends is in the lane of it."""
        delivery = _UnderWay((priority, kind is Kind.MEDIA), clock.monotonic())
        self._under_way.append(delivery)
        own = Lane(self, delivery)
        before = lane.set(own)
        try:
            yield own
        finally:
            lane.reset(before)
            self._under_way.remove(delivery)
            self._freed.set()

    def must_give_way(self, delivery: _UnderWay) -> bool:
        """Whether something urgent is under way that is more urgent than this, and gets on."""
        since = clock.monotonic() - PATIENCE_SECONDS
        return any(
            other.rank < delivery.rank and other.is_urgent and other.moved_at >= since for other in self._under_way
        )

    @property
    def trickle_bytes(self) -> int:
        """How much goes at one turn."""
        return max(1, int(TRICKLE_BYTES * self._turn_seconds / TRICKLE_EVERY_SECONDS))

    @property
    def least_ahead_bytes(self) -> int:
        """How much of one upload may be ahead on whatever link."""
        return LEAST_AHEAD_BYTES // max(1, len(self._under_way))

    async def wait_for_way(self, delivery: _UnderWay) -> None:
        """Until the way is free, or until it is this one's turn to send a little all the same."""
        now, booked_seconds = clock.monotonic(), self._turn_seconds
        self._next_trickle_at = max(now, self._next_trickle_at) + booked_seconds
        had_turn = False
        try:
            async with asyncio.timeout(self._next_trickle_at - now):
                while self.must_give_way(delivery):
                    self._freed.clear()
                    await self._freed.wait()
        except TimeoutError:
            had_turn = True
        finally:
            if not had_turn:  # a turn that nobody took must not put off the turns of others
                self._next_trickle_at -= booked_seconds

    @property
    def _turn_seconds(self) -> float:
        return min(TRICKLE_EVERY_SECONDS, TURN_WITHIN_SECONDS / max(1, len(self._under_way)))


class Pace:
    """How far ahead of the other side's acknowledgements one upload may be: what its link takes in half a second, and
    while a packet is on its way there and back."""

    def __init__(self, least_bytes: int, trip_seconds: Callable[[], float]) -> None:
        """`trip_seconds` says how long there and back takes while the link is empty."""
        self.ahead_bytes = max(LEAST_PIECE_BYTES, least_bytes)
        self.trip_seconds = trip_seconds
        self._mark: tuple[float, int] | None = None

    def look(self, acknowledged_bytes: int, at: float, least_bytes: int) -> None:
        """`acknowledged_bytes` of the body have arrived by `at`, monotonic seconds."""
        if self._mark is None:
            self._mark = at, acknowledged_bytes
            return
        since, before = self._mark
        arrived, passed = acknowledged_bytes - before, at - since
        there_and_back_seconds = AHEAD_SECONDS + self.trip_seconds()
        if arrived >= self.ahead_bytes or passed >= there_and_back_seconds:
            wanted_bytes = least_bytes + int(arrived / max(passed, 1e-6) * there_and_back_seconds * CONCEDED)
            self.ahead_bytes = max(LEAST_PIECE_BYTES, min(wanted_bytes, GROWTH * self.ahead_bytes))
            self._mark = at, acknowledged_bytes

    @property
    def piece_bytes(self) -> int:
        """How much goes at once."""
        return max(LEAST_PIECE_BYTES, self.ahead_bytes // PIECES)


class Lane:
    """The part of the traffic in which one delivery goes. A most urgent one gives way to messages that are as urgent,
    and is slowed by nothing else."""

    def __init__(self, traffic: Traffic, delivery: _UnderWay) -> None:
        self._traffic = traffic
        self._delivery = delivery

    @property
    def is_paced(self) -> bool:
        """Whether it stays near what has been acknowledged."""
        return self._delivery.rank[0] > Priority.EMERGENCY

    @property
    def least_ahead_bytes(self) -> int:
        return self._traffic.least_ahead_bytes

    @property
    def rank(self) -> tuple[Priority, bool]:
        """The smaller, the more urgent."""
        return self._delivery.rank

    def moved(self) -> None:
        """It got on: bytes have left and were acknowledged."""
        self._delivery.moved_at = clock.monotonic()

    async def turn(self) -> None:
        """Before anything is sent: wait for the way, or for a turn beside what is more urgent."""
        if self._traffic.must_give_way(self._delivery):
            await self._traffic.wait_for_way(self._delivery)

    async def pieces(self, chunk: bytes, pace: Pace, waiting_bytes: Callable[[], int]) -> AsyncIterator[bytes]:
        """The chunk, whole where the link is quick and the way is free, else piece by piece. `waiting_bytes` says how
        much of this upload has not been acknowledged yet."""
        rest = memoryview(chunk)
        while rest:
            size = await self.allowed_bytes(len(rest), pace, waiting_bytes)
            yield chunk if size >= len(chunk) == len(rest) else bytes(rest[:size])
            rest = rest[size:]

    async def allowed_bytes(self, wanted: int, pace: Pace, waiting_bytes: Callable[[], int]) -> int:
        """As soon as something may go: how much."""
        has_turn = False
        while True:
            if not has_turn:
                await self.turn()
            has_turn = self._traffic.must_give_way(self._delivery)
            size = self._traffic.trickle_bytes if has_turn else wanted
            if not self.is_paced:
                return size
            size = min(size, pace.piece_bytes)
            waiting = waiting_bytes()
            if not waiting or waiting + size <= pace.ahead_bytes:
                return size
            await asyncio.sleep(min(LOOK_AGAIN_SECONDS, max(LEAST_LOOK_SECONDS, pace.trip_seconds())))  # nobody tells


lane: ContextVar[Lane | None] = ContextVar("relayd_lane", default=None)
"""The lane of the delivery that this task carries out; None: nobody is given way to."""
