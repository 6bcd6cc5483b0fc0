"""Files that were taken and not let go of yet: what may begin, what a change makes of them, and that none is stuck."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relayd.model import Capture, Earlier, Item, Priority, Receipt
from relayd.spool import Spool, counting, holder
from tests.spool.rig import DAY, NOW, adds_up, begin, begun, camera_file, config, media_names, opened, order

PART = bytes(range(256)) * 200
WHOLE = PART + b"the rest" * 1000


@contextmanager
def changed(path: Path, earlier: Item, *, is_same_content: bool) -> Iterator[Capture]:
    """What a source hands over when a file that it holds has changed."""
    with camera_file(path) as capture:
        was = Earlier(item_id=earlier.id, is_same_content=is_same_content)
        yield dataclasses.replace(capture, is_held=True, earlier=was)


async def take(spool: Spool, path: Path, content: bytes, *priorities: Priority) -> Item:
    path.write_bytes(content)
    with camera_file(path) as capture:
        orders = [order(priority.word, priority) for priority in priorities or (Priority.NORMAL,)]
        return await spool.put(dataclasses.replace(capture, is_held=True), orders, now=NOW)


async def test_what_is_urgent_begins_at_once_and_the_rest_when_the_original_is_let_go(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        hints: list[frozenset[str]] = []
        item = await take(spool, tmp_path / "clip.ts", PART, *Priority)
        assert (await begun(spool, "emergency")).item.id == item.id
        assert (await begun(spool, "high")).item.id == item.id
        for word in ("normal", "bulk"):
            assert await begin(spool, word) is None
            assert await spool.next_due(word, now=NOW, longest_backoff=300.0, exclude=()) is None
        spool.subscribe(hints.append)
        await spool.release([item.id])
        assert hints == [frozenset({"normal", "bulk"})]
        assert (await begun(spool, "normal")).item.id == item.id
        assert (await begun(spool, "bulk")).item.id == item.id


async def test_what_is_held_survives_a_restart_and_is_known_by_its_file(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        item = await take(spool, tmp_path / "clip.ts", PART)
    async with opened(settings) as spool:
        assert await begin(spool, "normal") is None
        (held,) = await spool.held("cam")
        assert (held.item_id, held.sha256, held.origin.path) == (item.id, item.sha256, b"clip.ts")
        assert await spool.held("other") == []
        await spool.release([item.id])
        assert await spool.held("cam") == []
        assert (await begun(spool, "normal")).item.id == item.id


async def test_what_no_source_vouches_for_is_let_go_after_a_while(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await take(spool, tmp_path / "a.ts", PART)
        other = await take(spool, tmp_path / "b.ts", PART)
        assert await holder.look(spool._engine) == 0
        spool._engine.vouched[item.id] -= 61.0
        assert await holder.look(spool._engine) == 1
        assert [held.item_id for held in await spool.held("cam")] == [other.id]


async def test_content_that_goes_on_takes_the_place_of_what_was_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "clip.ts"
    async with opened(config(tmp_path)) as spool:
        part = await take(spool, path, PART)
        path.write_bytes(WHOLE)
        with changed(path, part, is_same_content=False) as capture:
            whole = await spool.put(capture, [order("normal")], now=NOW)
        assert await spool.item(part.id) is None
        await spool._engine.settled()
        assert media_names(tmp_path / "spool") == [whole.id]
        await spool.release([whole.id])
        found = await begun(spool, "normal")
        assert (found.item.id, found.item.size_bytes) == (whole.id, len(WHOLE))
        assert await begin(spool, "normal") is None
        assert spool.counters.items == spool.counters.sources["cam"].captured == 1
        assert adds_up(spool)
        assert await spool._engine.browse(counting.differences) == []


async def test_content_that_goes_on_after_something_was_sent_follows_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip.ts"
    async with opened(config(tmp_path)) as spool:
        part = await take(spool, path, PART, Priority.HIGH, Priority.NORMAL)
        await begun(spool, "high")
        path.write_bytes(WHOLE)
        with changed(path, part, is_same_content=False) as capture:
            whole = await spool.put(capture, [order("high", Priority.HIGH)], now=NOW)
        detail = await spool.item(whole.id)
        assert detail is not None
        assert detail.trouble == (
            f"item {part.id} was taken before the writer of this file was done; this one is whole",
        )
        assert (await begun(spool, "high")).item.size_bytes == len(WHOLE)
        assert (await begun(spool, "normal")).item.id == part.id


async def test_another_picture_in_the_same_file_is_another_item(tmp_path: Path) -> None:
    path = tmp_path / "snap.jpg"
    async with opened(config(tmp_path)) as spool:
        first = await take(spool, path, PART)
        path.write_bytes(bytes(reversed(WHOLE)))
        with changed(path, first, is_same_content=False) as capture:
            second = await spool.put(capture, [order("normal")], now=NOW)
        assert (await begun(spool, "normal")).item.id == first.id
        await spool.release([second.id])
        assert (await begun(spool, "normal")).item.id == second.id


async def test_a_new_name_and_time_are_those_of_the_same_item_and_rules_decide_anew(tmp_path: Path) -> None:
    path = tmp_path / "q001.new"
    async with opened(config(tmp_path)) as spool:
        item = await take(spool, path, PART)
        renamed = path.rename(tmp_path / "q001.jpg")
        with changed(renamed, item, is_same_content=True) as capture:
            corrected = dataclasses.replace(capture, captured_at=NOW - 500)
            found = await spool.correct(corrected, [order("other", Priority.BULK)], now=NOW)
        assert found is not None
        assert (found.id, found.name, found.captured_at) == (item.id, "q001.jpg", NOW - 500)
        assert [known.origin.path for known in await spool.known("cam", b"", 9)] == [b"q001.jpg"]
        await spool.release([item.id])
        assert await begin(spool, "normal") is None
        assert (await begun(spool, "other")).item.name == "q001.jpg"
        assert await spool._engine.browse(counting.differences) == []


async def test_a_new_name_after_something_was_sent_orders_nothing_again(tmp_path: Path) -> None:
    path = tmp_path / "q001.new"
    async with opened(config(tmp_path)) as spool:
        item = await take(spool, path, PART, Priority.HIGH)
        sent = await begun(spool, "high")
        renamed = path.rename(tmp_path / "q001.jpg")
        with changed(renamed, item, is_same_content=True) as capture:
            await spool.correct(capture, [order("high", Priority.HIGH)], now=NOW)
        await spool.record_delivered(sent.delivery.id, Receipt(proof="200"), now=NOW)
        assert await begin(spool, "high") is None
        detail = await spool.item(item.id)
        assert detail is not None
        assert (detail.item.name, len(detail.deliveries)) == ("q001.jpg", 1)


@pytest.mark.parametrize(("later", "same"), [(DAY / 2, True), (2 * DAY, False)])
async def test_the_same_file_again_within_a_time_is_the_same_item(tmp_path: Path, later: float, same: bool) -> None:
    path = tmp_path / "snap.jpg"
    async with opened(config(tmp_path)) as spool:
        first = await take(spool, path, PART)
        path.unlink()
        path.write_bytes(PART)
        with camera_file(path) as capture:
            again = dataclasses.replace(capture, same_again_seconds=DAY, captured_at=NOW + later)
            second = await spool.put(again, [order("normal")], now=NOW + later)
        assert (second.id == first.id) is same
        assert spool.counters.sources["cam"].repeated == int(same)
        assert spool.counters.items == 2 - same


async def test_the_same_content_under_another_name_is_another_item(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        first = await take(spool, tmp_path / "a.jpg", PART)
        (tmp_path / "b.jpg").write_bytes(PART)
        with camera_file(tmp_path / "b.jpg") as capture:
            again = dataclasses.replace(capture, same_again_seconds=DAY)
            assert (await spool.put(again, [order("normal")], now=NOW)).id != first.id
