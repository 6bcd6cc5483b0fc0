"""Who gives way to whom, and that nobody stands still."""

from __future__ import annotations

import asyncio

import pytest

from relayd import traffic
from relayd.model import Priority
from relayd.traffic import LEAST_AHEAD_BYTES, TRICKLE_BYTES, Lane, Pace, Traffic, lane

CHUNK = bytes(range(256)) * 128


@pytest.mark.parametrize("own", list(Priority))
@pytest.mark.parametrize("other", list(Priority))
def test_only_what_is_urgent_is_given_way_to_and_only_by_what_is_less_so(own: Priority, other: Priority) -> None:
    road = Traffic()
    with road.carrying(other):
        is_urgent = other in (Priority.EMERGENCY, Priority.HIGH)
        assert road.must_give_way(own) == (is_urgent and own > other)
    assert not road.must_give_way(own)


def quick_pace() -> Pace:
    pace = Pace()
    pace.ahead_bytes = 10 * len(CHUNK)
    return pace


async def pieces_of(chunk: bytes, own: Lane) -> list[bytes]:
    return [piece async for piece in own.pieces(chunk, quick_pace(), lambda: 0)]


async def test_a_chunk_goes_whole_while_the_way_is_free() -> None:
    assert await pieces_of(CHUNK, Lane(Traffic(), Priority.BULK)) == [CHUNK]


async def test_an_upload_trickles_while_an_emergency_is_under_way_and_no_byte_of_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traffic, "TRICKLE_EVERY_SECONDS", 0.001)
    road = Traffic()
    with road.carrying(Priority.EMERGENCY):
        pieces = await pieces_of(CHUNK, Lane(road, Priority.BULK))
    assert {len(piece) for piece in pieces} == {TRICKLE_BYTES}
    assert b"".join(pieces) == CHUNK


async def test_an_upload_goes_on_at_once_when_the_emergency_is_over() -> None:
    road = Traffic()
    own = Lane(road, Priority.BULK)
    with road.carrying(Priority.EMERGENCY):
        pieces = own.pieces(CHUNK, quick_pace(), lambda: 0)
        assert await anext(pieces) == CHUNK[:TRICKLE_BYTES]
        following = asyncio.ensure_future(anext(pieces))
        await asyncio.wait({following}, timeout=0)
        assert not following.done()
    async with asyncio.timeout(traffic.TRICKLE_EVERY_SECONDS / 2):
        assert await following == CHUNK[TRICKLE_BYTES:]


async def test_a_delivery_finds_its_lane_also_in_the_tasks_that_it_starts() -> None:
    road = Traffic()

    async def own() -> Lane | None:
        return lane.get()

    with road.carrying(Priority.BULK):
        found = await asyncio.create_task(own())
    assert found is not None
    assert lane.get() is None


def test_a_quick_link_is_never_waited_for_and_a_slow_one_is_not_filled_ahead() -> None:
    quick, slow = Pace(), Pace()
    for number in range(50):
        quick.look(number * 1_000_000, number * 0.01)
        slow.look(number * 1_000, number * 1.0)
    assert quick.ahead_bytes == 50_000_000
    assert slow.ahead_bytes == LEAST_AHEAD_BYTES


async def test_an_upload_waits_for_acknowledgements_on_a_slow_link() -> None:
    pace = Pace()
    pace.ahead_bytes = LEAST_AHEAD_BYTES
    waiting = [LEAST_AHEAD_BYTES + 1, LEAST_AHEAD_BYTES]
    pieces = Lane(Traffic(), Priority.BULK).pieces(CHUNK, pace, lambda: waiting.pop(0) if waiting else 0)
    assert len(await anext(pieces)) == TRICKLE_BYTES
    assert len(await anext(pieces)) == TRICKLE_BYTES
    assert waiting == []
