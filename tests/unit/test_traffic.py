"""Who gives way to whom, that nobody stands still, and that a slow link is not filled ahead."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import pytest

from relayd import clock, traffic
from relayd.model import Kind, Priority
from relayd.traffic import LEAST_AHEAD_BYTES, TRICKLE_BYTES, Lane, Pace, Traffic, lane

CHUNK = bytes(range(256)) * 128
QUICK_BYTES = traffic.PIECES * len(CHUNK)
URGENT = (Priority.EMERGENCY, Priority.HIGH)


def has_the_way(own: Lane) -> bool:
    """Whether this lane need not wait: `turn` returns without giving the loop away."""
    turn = own.turn()
    try:
        turn.send(None)
    except StopIteration:
        return True
    turn.close()
    return False


@pytest.mark.parametrize("own", list(Priority))
@pytest.mark.parametrize("other", list(Priority))
async def test_only_what_is_urgent_is_given_way_to_and_only_by_what_is_less_so(own: Priority, other: Priority) -> None:
    road = Traffic()
    with road.carrying(own) as mine:
        with road.carrying(other):
            assert has_the_way(mine) == (other not in URGENT or own <= other)
        assert has_the_way(mine)


@pytest.mark.parametrize("priority", list(Priority))
async def test_media_gives_way_to_a_message_that_is_as_urgent_if_both_are_urgent(priority: Priority) -> None:
    road = Traffic()
    with road.carrying(priority) as media, road.carrying(priority, Kind.MESSAGE) as message:
        assert has_the_way(media) == (priority not in URGENT)
        assert has_the_way(message)


async def test_nobody_waits_for_an_emergency_that_has_not_moved_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    road = Traffic()
    with road.carrying(Priority.BULK) as own, road.carrying(Priority.EMERGENCY) as stuck:
        assert not has_the_way(own)
        now += traffic.PATIENCE_SECONDS + 1
        assert has_the_way(own)
        stuck.moved()
        assert not has_the_way(own)


async def test_however_many_give_way_each_has_its_turn_before_a_server_hangs_up() -> None:
    road = Traffic()
    with road.carrying(Priority.EMERGENCY), contextlib.ExitStack() as crowd:
        alone = road.trickle_bytes
        many = [crowd.enter_context(road.carrying(Priority.BULK)) for _ in range(99)]
        assert alone == TRICKLE_BYTES
        assert road.trickle_bytes == int(TRICKLE_BYTES * traffic.TURN_WITHIN_SECONDS / (len(many) + 1))
        assert road.least_ahead_bytes == LEAST_AHEAD_BYTES // 100


async def test_turns_that_were_not_needed_put_off_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many short urgent deliveries in a row: each wait ends early, and the next long one must not find a queue of
    turns that nobody took."""
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    monkeypatch.setattr(traffic, "TRICKLE_EVERY_SECONDS", 0.1)
    road = Traffic()
    with road.carrying(Priority.BULK) as own:
        for _ in range(200):
            with road.carrying(Priority.HIGH):
                waiting = asyncio.ensure_future(own.turn())
                await asyncio.sleep(0)
            await waiting
        with road.carrying(Priority.HIGH) as urgent:
            for _ in range(3):
                now += traffic.TRICKLE_EVERY_SECONDS
                urgent.moved()
                async with asyncio.timeout(traffic.TURN_WITHIN_SECONDS):
                    await own.turn()


async def test_a_wait_that_is_cancelled_leaves_no_booking_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "TRICKLE_EVERY_SECONDS", 0.1)
    road = Traffic()
    with road.carrying(Priority.BULK) as own, road.carrying(Priority.HIGH):
        for _ in range(200):
            waiting = asyncio.ensure_future(own.turn())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(traffic.TURN_WITHIN_SECONDS):
            await own.turn()


def pace(ahead_bytes: int, trip_seconds: float = 0.0) -> Pace:
    return Pace(ahead_bytes, lambda: trip_seconds)


async def pieces_of(chunk: bytes, own: Lane) -> list[bytes]:
    return [piece async for piece in own.pieces(chunk, pace(QUICK_BYTES), lambda: 0)]


async def test_a_chunk_goes_whole_while_the_way_is_free() -> None:
    with Traffic().carrying(Priority.BULK) as own:
        assert await pieces_of(CHUNK, own) == [CHUNK]


async def test_an_upload_trickles_while_an_emergency_is_under_way_and_no_byte_of_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traffic, "TRICKLE_EVERY_SECONDS", 0.001)
    road = Traffic()
    with road.carrying(Priority.EMERGENCY), road.carrying(Priority.BULK) as own:
        pieces = await pieces_of(CHUNK, own)
    assert {len(piece) for piece in pieces} == {TRICKLE_BYTES}
    assert b"".join(pieces) == CHUNK


async def test_an_upload_waits_from_the_first_byte_and_goes_on_at_once_when_the_emergency_is_over() -> None:
    road = Traffic()
    with road.carrying(Priority.BULK) as own:
        with road.carrying(Priority.EMERGENCY):
            pieces = own.pieces(CHUNK, pace(QUICK_BYTES), lambda: 0)
            first = asyncio.ensure_future(anext(pieces))
            await asyncio.wait({first}, timeout=0)
            assert not first.done()
        async with asyncio.timeout(traffic.TRICKLE_EVERY_SECONDS / 2):
            assert await first == CHUNK


async def test_a_delivery_finds_its_lane_also_in_the_tasks_that_it_starts() -> None:
    road = Traffic()

    async def own() -> Lane | None:
        return lane.get()

    with road.carrying(Priority.BULK) as given:
        found = await asyncio.create_task(own())
    assert found is given
    assert lane.get() is None


async def test_an_upload_waits_for_acknowledgements_on_a_slow_link() -> None:
    own = LEAST_AHEAD_BYTES // traffic.PIECES
    waiting = [LEAST_AHEAD_BYTES, LEAST_AHEAD_BYTES - own + 1, LEAST_AHEAD_BYTES - own]
    with Traffic().carrying(Priority.BULK) as road:
        pieces = road.pieces(CHUNK, pace(LEAST_AHEAD_BYTES), lambda: waiting.pop(0) if waiting else 0)
        assert len(await anext(pieces)) == own
    assert waiting == []


async def test_an_emergency_is_slowed_by_no_link() -> None:
    with Traffic().carrying(Priority.EMERGENCY) as own:
        assert await anext(own.pieces(CHUNK, pace(1), lambda: 10**9)) == CHUNK


# --- a link in numbers: what is handed over waits in one queue, leaves it at the link's speed, and is acknowledged a
# --- trip later


class Link:
    """Uploads by `Pace` over one queue; time goes in steps."""

    STEP_SECONDS = 0.01
    PACKET_BYTES = 1500.0

    def __init__(self, bytes_per_second: float, trip_seconds: float, uploads: int) -> None:
        self._rate, self._trip = bytes_per_second, trip_seconds
        self._least = LEAST_AHEAD_BYTES // uploads
        self.paces = [pace(self._least, trip_seconds) for _ in range(uploads)]
        self.handed, self.acknowledged = [0.0] * uploads, [0.0] * uploads
        self._queue: deque[tuple[int, float]] = deque()
        self._returning: deque[tuple[float, int, float]] = deque()
        self._credit = self._now = self.queued_bytes = 0.0

    def run(self, seconds: float) -> float:
        """The most that was queued meanwhile."""
        longest = 0.0
        for _ in range(round(seconds / self.STEP_SECONDS)):
            self._now += self.STEP_SECONDS
            while self._returning and self._returning[0][0] <= self._now:
                _, number, size = self._returning.popleft()
                self.acknowledged[number] += size
            for number, own in enumerate(self.paces):
                self._send(number, own)
            self._leave()
            longest = max(longest, self.queued_bytes)
        return longest

    def _send(self, number: int, own: Pace) -> None:
        """As `Lane` does."""
        while True:
            waiting = self.handed[number] - self.acknowledged[number]
            own.look(int(self.acknowledged[number]), self._now, self._least)
            if waiting and waiting + own.piece_bytes > own.ahead_bytes:
                return
            self._queue.append((number, own.piece_bytes))
            self.handed[number] += own.piece_bytes
            self.queued_bytes += own.piece_bytes

    def _leave(self) -> None:
        self._credit = self._rate * self.STEP_SECONDS
        while self._queue and self._credit > 0:
            number, size = self._queue.popleft()
            packet = min(size, self._credit, self.PACKET_BYTES)
            self._credit -= packet
            self.queued_bytes -= packet
            self._returning.append((self._now + self._trip, number, packet))
            if size > packet:
                self._queue.appendleft((number, size - packet))


@pytest.mark.parametrize("trip_seconds", [0.05, 0.7])
@pytest.mark.parametrize("bytes_per_second", [32_000, 125_000, 5_000_000])
@pytest.mark.parametrize("uploads", [1, 12])
def test_uploads_fill_a_link_whatever_its_speed_and_length_and_queue_little_ahead(
    bytes_per_second: float, trip_seconds: float, uploads: int
) -> None:
    link = Link(bytes_per_second, trip_seconds, uploads)
    link.run(30)
    before = sum(link.acknowledged)
    longest = link.run(10)
    assert sum(link.acknowledged) - before > 0.9 * bytes_per_second * 10
    assert longest < bytes_per_second


def test_an_upload_that_was_there_first_does_not_keep_the_link_to_itself() -> None:
    link = Link(32_000, 0.05, 4)
    link.paces[0].ahead_bytes = 16_000
    link.run(20)
    before = list(link.acknowledged)
    link.run(60)
    shares = [after - earlier for after, earlier in zip(link.acknowledged, before, strict=True)]
    assert max(shares) < 3 * min(shares)


def test_what_arrives_all_at_once_after_a_gap_is_not_taken_for_a_quick_link() -> None:
    own = pace(LEAST_AHEAD_BYTES)
    for number in range(10):
        own.look(0, number * 0.5, LEAST_AHEAD_BYTES)
    own.look(1_000_000, 5.0, LEAST_AHEAD_BYTES)
    assert own.ahead_bytes <= traffic.GROWTH * LEAST_AHEAD_BYTES
