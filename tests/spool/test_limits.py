"""Room: who may take how much, who makes way for whom, and that space comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest

from relayd.errors import SpoolFull
from relayd.model import Item, Kind, Outcome, Priority, Receipt, State
from relayd.spool import Spool, SpoolConfig
from relayd.spool.limits import Disk, Need, Used, shortage
from tests.spool.rig import NOW, adds_up, begun, config, media_names, message, opened, order

MB = 1_000_000
ROOMY = Disk(total_bytes=10**12, free_bytes=10**12, total_inodes=10**6, free_inodes=10**6)


def lacks(
    settings: SpoolConfig,
    disk: Disk = ROOMY,
    *,
    used: int = 0,
    size: int = 0,
    inodes: int = 1,
    claimed: int = 0,
    priority: int = 2,
) -> str:
    found = shortage(
        settings,
        disk,
        used=Used(used_bytes=used),
        claimed=Need(inodes=claimed),
        need=Need(size_bytes=max(1, size), inodes=inodes),
        priority=priority,
    )
    return "" if found is None else found.text.partition(":")[0]


def test_only_emergency_may_use_the_last_of_max_size(tmp_path: Path) -> None:
    settings = config(tmp_path, max_size="1GB", urgent_reserve="64MiB")
    reserve = 64 * 2**20
    assert lacks(settings, used=10**9 - reserve - 100, size=100) == ""
    assert lacks(settings, used=10**9 - reserve - 100, size=101) == "max_size"
    assert lacks(settings, used=10**9 - reserve - 100, size=reserve + 100, priority=Priority.EMERGENCY) == ""
    assert lacks(settings, used=10**9, size=1, priority=Priority.EMERGENCY) == "max_size"


def test_the_larger_of_both_floors_of_free_space_counts(tmp_path: Path) -> None:
    disk = dataclasses.replace(ROOMY, total_bytes=100 * 10**9, free_bytes=6 * 10**9)
    small, large = config(tmp_path, min_free="1GB", min_free_percent=5.0), config(tmp_path, min_free="7GB")
    assert lacks(small, disk, size=10**9) == ""
    assert lacks(small, disk, size=10**9 + 1) == "min_free"
    assert lacks(large, disk) == "min_free"


def test_emergency_may_dip_into_the_floor_by_the_reserve(tmp_path: Path) -> None:
    settings = config(tmp_path, min_free="1GB", max_size="20GB", urgent_reserve="64MiB")
    disk = dataclasses.replace(ROOMY, free_bytes=10**9)
    assert lacks(settings, disk, size=1) == "min_free"
    assert lacks(settings, disk, size=64 * 2**20, priority=Priority.EMERGENCY) == ""
    assert lacks(settings, disk, size=64 * 2**20 + 1, priority=Priority.EMERGENCY) == "min_free"


def test_inodes_have_a_floor_where_the_file_system_has_a_fixed_number(tmp_path: Path) -> None:
    settings = config(tmp_path, min_free_inodes_percent=1.0)
    assert lacks(settings, dataclasses.replace(ROOMY, free_inodes=10_001)) == ""
    assert lacks(settings, dataclasses.replace(ROOMY, free_inodes=10_000)) == "min_free_inodes_percent"
    assert lacks(settings, dataclasses.replace(ROOMY, total_inodes=0, free_inodes=0)) == ""
    assert lacks(settings, dataclasses.replace(ROOMY, free_inodes=10_003), claimed=2) == ""
    assert lacks(settings, dataclasses.replace(ROOMY, free_inodes=10_003), claimed=3) == "min_free_inodes_percent"


def test_a_message_takes_no_inode(tmp_path: Path) -> None:
    settings = config(tmp_path, min_free_inodes_percent=1.0)
    assert lacks(settings, dataclasses.replace(ROOMY, free_inodes=0), size=1000, inodes=0) == ""


def test_a_small_spool_keeps_an_eighth_for_emergency_at_most(tmp_path: Path) -> None:
    assert lacks(config(tmp_path, max_size="8MB", urgent_reserve="64MiB"), size=7 * MB) == ""


async def put(spool: Spool, priority: Priority | None, size: int = MB, *, now: float = NOW) -> Item:
    orders = [] if priority is None else [order("api", priority)]
    return await spool.put(message(b"x" * size, kind=Kind.MEDIA), orders, now=now)


async def state_of(spool: Spool, item: Item) -> State:
    detail = await spool.item(item.id)
    assert detail is not None
    return detail.state


async def fill(spool: Spool, priority: Priority) -> list[Item]:
    """As many items as fit without anything else making way."""
    items = []
    while spool._engine.missing(Need(size_bytes=MB + 8192, inodes=1), priority) is None:
        items.append(await put(spool, priority))
    return items


async def test_a_full_spool_refuses_equals_and_names_the_limit(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        items = await fill(spool, Priority.NORMAL)
        assert 6 <= len(items) <= 7
        with pytest.raises(SpoolFull, match="max_size"):
            await put(spool, Priority.NORMAL)
        assert [await state_of(spool, item) for item in items] == [State.PENDING] * len(items)
        assert len(media_names(spool.folder)) == len(items)


async def test_a_full_spool_becomes_usable_again_by_itself(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        await fill(spool, Priority.NORMAL)
        await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof=""), now=NOW)
        await put(spool, Priority.NORMAL)


async def test_a_more_urgent_item_evicts_the_oldest_of_the_least_urgent(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        oldest_normal = await put(spool, Priority.NORMAL)
        oldest_bulk = await put(spool, Priority.BULK)
        rest = await fill(spool, Priority.NORMAL)
        urgent = await put(spool, Priority.HIGH)
        assert await state_of(spool, oldest_bulk) is State.EVICTED
        assert await state_of(spool, oldest_normal) is State.PENDING
        await put(spool, Priority.HIGH)
        assert await state_of(spool, oldest_normal) is State.EVICTED
        assert await state_of(spool, urgent) is State.PENDING
        assert [await state_of(spool, item) for item in rest] == [State.PENDING] * len(rest)
        assert adds_up(spool)


async def test_an_evicted_item_leaves_a_tombstone_that_tells_why_and_survives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path, max_size="10MB")
    async with opened(settings) as spool:
        bulk = await put(spool, Priority.BULK)
        await fill(spool, Priority.NORMAL)
        await put(spool, Priority.HIGH)
    async with opened(settings) as spool:
        detail = await spool.item(bulk.id)
        assert detail is not None
        assert (detail.state, detail.has_content) == (State.EVICTED, False)
        assert detail.deliveries[0].delivery.reason == "evicted: no room in the spool"
        assert [one.item.id for one in await spool.items(state="evicted")] == [bulk.id]
        assert spool.counters.evicted == 1
        assert bulk.id not in media_names(spool.folder)
        assert await spool.retry([bulk.id], None, now=NOW) == 0
    assert f"1 items evicted for want of room, `relayd items --state evicted`: {bulk.id}" in caplog.text


async def test_nothing_undelivered_goes_for_something_less_urgent(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB", when_full="evict-oldest")) as spool:
        high = await fill(spool, Priority.HIGH)
        for priority in (Priority.NORMAL, Priority.BULK):
            with pytest.raises(SpoolFull):
                await put(spool, priority)
        assert [await state_of(spool, item) for item in high] == [State.PENDING] * len(high)


async def test_unclaimed_media_is_a_ring_that_goes_first(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB", when_full="wait")) as spool:
        spool.incidents.keep_delivered_of(["panic"])
        items = [await put(spool, None) for _ in range(9)]
        assert await spool.item(items[0].id) is None
        assert await state_of(spool, items[-1]) is State.UNCLAIMED
        bulk = await put(spool, Priority.BULK)
        assert await state_of(spool, bulk) is State.PENDING
        assert (spool.counters.unclaimed, spool.counters.evicted) == (9, 0)
        assert adds_up(spool)


async def test_wait_never_gives_up_anything_undelivered(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB", when_full="wait")) as spool:
        await fill(spool, Priority.BULK)
        with pytest.raises(SpoolFull):
            await put(spool, Priority.HIGH)
        assert spool.counters.evicted == 0


async def test_evict_oldest_lets_the_oldest_of_the_same_priority_go(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB", when_full="evict-oldest")) as spool:
        items = [await put(spool, Priority.NORMAL) for _ in range(8)]
        assert await state_of(spool, items[0]) is State.EVICTED
        assert await state_of(spool, items[-1]) is State.PENDING


async def test_dead_items_make_way_for_equals_but_not_for_the_less_urgent(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        dead = await put(spool, Priority.NORMAL)
        it = await begun(spool)
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        await fill(spool, Priority.BULK)
        assert dead.id in media_names(spool.folder)
        await put(spool, Priority.NORMAL)
        detail = await spool.item(dead.id)
        assert detail is not None
        assert detail.state is State.DEAD


async def test_nothing_is_evicted_when_it_would_not_be_enough(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        bulk = await put(spool, Priority.BULK)
        await fill(spool, Priority.NORMAL)
        with pytest.raises(SpoolFull):
            await put(spool, Priority.NORMAL, 5 * MB)
        assert await state_of(spool, bulk) is State.PENDING


async def test_puts_side_by_side_do_not_share_the_same_room(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        done = await asyncio.gather(*[put(spool, Priority.NORMAL) for _ in range(30)], return_exceptions=True)
        stored = [item for item in done if isinstance(item, Item)]
        assert all(isinstance(item, Item | SpoolFull) for item in done)
        assert 3 <= len(stored) <= 7
        assert spool.counters.bytes == len(stored) * MB


async def test_emergency_gets_in_when_all_else_is_full(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        await fill(spool, Priority.HIGH)
        with pytest.raises(SpoolFull):
            await put(spool, Priority.HIGH)
        await spool.put(message(), [order("api", Priority.EMERGENCY)], now=NOW)
        assert spool.counters.evicted == 0


async def test_the_spool_takes_no_more_of_the_disk_than_max_size(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        await fill(spool, Priority.HIGH)
        for _ in range(400):
            try:
                await spool.put(message(b"m" * 20_000), [order("api", Priority.EMERGENCY)], now=NOW)
            except SpoolFull:
                break
        await spool.evict_if_needed(now=NOW)
        taken = sum(path.stat().st_blocks * 512 for path in spool.folder.rglob("*") if path.is_file())
        assert 8 * MB < taken <= 10 * MB


async def test_the_limit_holds_right_after_a_restart_with_a_smaller_one(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="20MB")) as spool:
        spool.incidents.keep_delivered_of(["panic"])
        kept = await put(spool, Priority.NORMAL)
        for _ in range(12):
            await put(spool, None)
        assert spool.counters.evicted == 0
    async with opened(config(tmp_path, max_size="10MB")) as spool:
        while await spool.evict_if_needed(now=NOW):
            pass
        assert spool._engine.used_bytes <= 10 * MB
        assert await state_of(spool, kept) is State.PENDING


async def test_database_pages_go_back_to_the_disk(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        for _ in range(40):
            await spool.put(message(b"m" * 200_000), [order()], now=NOW)
        for _ in range(40):
            await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof=""), now=NOW)
        database = spool.folder / "spool.db"
        while await spool.purge(now=NOW + 10, keep_delivered=0, keep_dead=0):
            pass
        for _ in range(10):
            await spool.purge(now=NOW + 10, keep_delivered=0, keep_dead=0)
        assert spool.counters.stored == 0
    assert database.stat().st_size < 2 * MB


async def test_free_bytes_are_those_of_the_file_system(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        assert abs(spool.counters.free_bytes - shutil.disk_usage(tmp_path).free) < 10**9
        assert spool.counters.max_bytes == 20 * 10**9
