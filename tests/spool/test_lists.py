"""What people look up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relayd.model import Outcome, Priority, State
from tests.spool.rig import NOW, begun, camera_file, config, message, opened, order


async def test_items_come_newest_first_by_acceptance_in_pages_even_when_the_clock_went_back(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        ids = [(await spool.put(message(), [order()], now=NOW - 100 * number)).id for number in range(7)]
        found: list[str] = []
        before = None
        while page := await spool.items(before=before, limit=3):
            found += [summary.item.id for summary in page]
            before = found[-1]
        assert found == ids[::-1]


async def test_lists_can_be_narrowed(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        one = await spool.put(message(source="a"), [order("api")], now=NOW)
        two = await spool.put(message(source="b"), [order("nas", Priority.HIGH)], now=NOW)
        it = await begun(spool, "nas")
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)

        async def ids(**wanted: Any) -> list[str]:
            return [summary.item.id for summary in await spool.items(**wanted)]

        assert await ids(source="a") == [one.id]
        assert await ids(state="dead") == [two.id]
        assert await ids(state="pending") == [one.id]
        assert await ids(destination="nas") == [two.id]
        assert await ids(destination="nas", source="a") == []
        assert await ids(before="no such id") == []
        (summary,) = await spool.items(state="dead")
        assert (summary.state, summary.priority) == (State.DEAD, Priority.HIGH)
        assert summary.deliveries[0].reason == "no"
        assert summary.item.payload is None


async def test_an_unknown_item_is_none(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        assert await spool.item("nothing") is None
        assert await spool.find_by_path("cam", b"nothing") is None


async def test_an_item_is_found_by_the_path_it_came_from(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path), collected=["cam"]) as spool:
        with camera_file(picture) as capture:
            item = await spool.put(capture, [], now=NOW)
        assert await spool.find_by_path("cam", b"a.jpg") == item.id
        assert await spool.find_by_path("other", b"a.jpg") is None


async def test_the_oldest_pending_is_the_oldest_that_is_owed_to_somebody(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        assert await spool.oldest_pending() is None
        await spool.put(message(), [], now=NOW - 50)
        assert await spool.oldest_pending() is None
        await spool.put(message(), [order("api", Priority.BULK)], now=NOW - 20)
        await spool.put(message(), [order("api", Priority.HIGH)], now=NOW - 10)
        assert await spool.oldest_pending() == NOW - 20
