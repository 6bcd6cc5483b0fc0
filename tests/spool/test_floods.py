"""Floods: whatever fills a small spool, an emergency gets in, nothing is given up for nothing, the counters add up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from relayd.errors import SpoolFull
from relayd.model import Item, Kind, Priority, Receipt, State
from relayd.spool import Spool, check
from relayd.spool.evicting import Gain
from relayd.spool.limits import Disk
from tests.spool.rig import NOW, adds_up, begun, config, make_way, message, opened, order

AT_ONCE = 100
ROUNDS = 8


async def pour(
    spool: Spool, priority: Priority | None, payload: bytes, count: int, kind: Kind = Kind.MESSAGE
) -> Counter[str]:
    """So many puts side by side; how many were taken and refused."""
    orders = [] if priority is None else [order("api", priority)]
    done = await asyncio.gather(
        *[spool.put(message(payload, kind=kind), orders, now=NOW) for _ in range(count)], return_exceptions=True
    )
    assert all(isinstance(one, Item | SpoolFull) for one in done), [one for one in done if not isinstance(one, Item)]
    return Counter("taken" if isinstance(one, Item) else "refused" for one in done)


async def presses(spool: Spool, count: int = 3) -> None:
    taken = await pour(spool, Priority.EMERGENCY, b'{"pressed": true}', count)
    assert taken == {"taken": count}


async def fill(spool: Spool, priority: Priority, size: int) -> None:
    """Until nothing more of it is taken."""
    while (await pour(spool, priority, b"x" * size, AT_ONCE))["taken"]:
        pass


async def is_whole(spool: Spool) -> None:
    assert adds_up(spool)
    states = Counter(summary.state for summary in await spool.items(limit=100_000))
    assert states[State.PENDING] == spool.counters.pending
    assert spool._engine.used_bytes <= spool.counters.max_bytes


@pytest.mark.parametrize("size", [40, 3_000, 30_000])
@pytest.mark.parametrize("priority", [None, Priority.BULK, Priority.HIGH])
async def test_an_emergency_gets_into_a_spool_that_is_flooded_with_messages(
    tmp_path: Path, priority: Priority | None, size: int
) -> None:
    settings = config(tmp_path, max_size="2MB")
    async with opened(settings) as spool:
        for _ in range(ROUNDS):
            await pour(spool, priority, b"x" * size, 300)
            await presses(spool)
        await is_whole(spool)
        counters = spool.counters
        assert counters.destinations["api"].pending >= 3 * ROUNDS
        if priority is None:
            assert counters.stored == 3 * ROUNDS
            assert counters.unclaimed == 300 * ROUNDS
    assert check(settings.path).is_good


@pytest.mark.parametrize("is_collected", [False, True])
async def test_an_emergency_gets_into_a_spool_of_8_mb_whatever_floods_it(tmp_path: Path, is_collected: bool) -> None:
    """Kinds and sizes by chance, a relay that never gets anything out, and emergencies beyond the reserve."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    settings = config(tmp_path, max_size="8MB")
    async with opened(settings, collected=["panic"] if is_collected else []) as spool:
        for _ in range(15):
            priority = chance.choice([None, Priority.BULK, Priority.NORMAL, Priority.HIGH])
            size = chance.choice([10, 400, 5_000, 40_000])
            kind = chance.choice(list(Kind))
            await pour(spool, priority, b"x" * size, chance.choice([20, 150]), kind)
            await presses(spool, 40)
        await is_whole(spool)
        waiting = {
            summary.item.id
            for summary in await spool.items(state="pending", limit=100_000)
            if summary.priority is Priority.EMERGENCY
        }
        assert len(waiting) == 15 * 40
    assert check(settings.path).is_good


async def test_a_flood_of_equals_is_refused_and_gives_nothing_up(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="2MB")) as spool:
        await fill(spool, Priority.HIGH, 3_000)
        before = spool.counters.destinations
        assert (await pour(spool, Priority.HIGH, b"x" * 3_000, AT_ONCE))["taken"] == 0
        assert spool.counters.destinations == before
        await is_whole(spool)


async def test_what_is_more_urgent_gets_in_for_about_as_much_as_it_needs(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="2MB")) as spool:
        await fill(spool, Priority.BULK, 300)
        assert (await pour(spool, Priority.HIGH, b"x" * 300, 60))["taken"] == 60
        assert spool.counters.evicted < 60 + 6 * AT_ONCE / 10
        await is_whole(spool)


async def test_records_of_the_past_make_way_before_anything_that_is_alive(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="2MB")) as spool:
        assert (await pour(spool, Priority.NORMAL, b"x" * 1_000, 3 * AT_ONCE))["taken"] == 3 * AT_ONCE
        out = await asyncio.gather(*[begun(spool) for _ in range(3 * AT_ONCE)])
        await asyncio.gather(*[spool.record_delivered(it.delivery.id, Receipt(proof=""), now=NOW) for it in out])
        bulk = await spool.put(message(), [order("api", Priority.BULK)], now=NOW)
        await fill(spool, Priority.BULK, 1_000)
        assert spool.counters.evicted == 0
        detail = await spool.item(bulk.id)
        assert detail is not None
        assert detail.state is State.PENDING
        assert spool.counters.delivered == 3 * AT_ONCE
        assert spool.counters.stored == spool.counters.pending
        await is_whole(spool)


async def test_an_eviction_that_gains_nothing_gives_nothing_up(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        for priority in (Priority.BULK, Priority.HIGH) * 20:
            await spool.put(message(b"x" * 20), [order("api", priority)], now=NOW)
        before = spool.counters.destinations
        assert await make_way(spool, now=NOW, media_wanted=1, bytes_wanted=1) == Gain()
        assert spool.counters.destinations == before


@pytest.mark.parametrize("wanted", [{"inodes_wanted": 1}, {"media_wanted": 1, "bytes_wanted": 1}])
async def test_nothing_goes_for_room_that_only_others_can_give(tmp_path: Path, wanted: dict[str, int]) -> None:
    """A message gives back no file, however much older it is than the media behind it."""
    async with opened(config(tmp_path)) as spool:
        told = await spool.put(message(b"x" * 20), [order("api", Priority.HIGH)], now=NOW)
        seen = await spool.put(message(b"x" * 20, kind=Kind.MEDIA), [order("api", Priority.HIGH)], now=NOW)
        assert (await make_way(spool, now=NOW, **wanted)).items == 1
        assert [summary.item.id for summary in await spool.items(state=State.PENDING)] == [told.id]
        assert [summary.item.id for summary in await spool.items(state=State.EVICTED)] == [seen.id]
        await is_whole(spool)


async def test_free_pages_of_the_database_are_room_for_messages_where_the_disk_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path, min_free="1GB")
    free = [2 * 10**9]
    roomy = Disk(total_bytes=10**12, free_bytes=10**12, total_inodes=0, free_inodes=0)

    def of(path: Path) -> Disk:
        return Disk(total_bytes=roomy.total_bytes, free_bytes=free[0], total_inodes=0, free_inodes=0)

    monkeypatch.setattr(Disk, "of", of)
    async with opened(settings) as spool:
        await pour(spool, Priority.BULK, b"x" * 1_000, 20 * AT_ONCE)
        free[0] = 10**9 - 34_000 - spool._engine.config.reserve_bytes
        before = spool.counters.evicted
        assert (await pour(spool, Priority.HIGH, b"x" * 100, 10))["taken"] == 10
        assert 0 < spool.counters.evicted - before < 100
        await presses(spool)
        await is_whole(spool)


async def test_a_put_that_was_refused_leaves_nothing_and_succeeds_once_when_it_is_tried_again(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="2MB")) as spool:
        await fill(spool, Priority.HIGH, 3_000)
        before, refused = spool.counters, message(b"y" * 20_000)
        with pytest.raises(SpoolFull):
            await spool.put(refused, [order("api", Priority.HIGH)], now=NOW)
        assert spool.counters.items == before.items
        for _ in range(12):
            await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof=""), now=NOW)
        item = await spool.put(refused, [order("api", Priority.HIGH)], now=NOW)
        assert spool.counters.items == before.items + 1
        detail = await spool.item(item.id)
        assert detail is not None
        assert detail.item.payload == b"y" * 20_000
