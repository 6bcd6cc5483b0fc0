"""Picking and charging: what goes next."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from relayd.model import Kind, Outcome, Priority, State
from relayd.spool import Spool
from tests.spool.rig import NOW, adds_up, begin, begun, camera_file, config, message, opened, order


async def put(spool: Spool, priority: Priority = Priority.NORMAL, *, now: float = NOW, size: int = 2) -> str:
    return (await spool.put(message(b"x" * size), [order("api", priority)], now=now)).id


async def test_more_urgent_goes_first_and_older_first_among_equals(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        bulk = await put(spool, Priority.BULK, now=NOW - 5)
        second = await put(spool, Priority.NORMAL, now=NOW - 3)
        first = await put(spool, Priority.NORMAL, now=NOW - 4)
        urgent = await put(spool, Priority.EMERGENCY, now=NOW - 1)
        high = await put(spool, Priority.HIGH, now=NOW - 2)
        order_out = [(await begun(spool)).item.id for _ in range(5)]
        assert order_out == [urgent, high, first, second, bulk]
        assert await begin(spool) is None


async def test_what_is_begun_is_charged_before_it_is_tried(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        await put(spool)
        it = await begun(spool, delay=lambda attempts: attempts * 7.0)
        assert (it.delivery.attempts, it.delivery.due_at) == (1, NOW + 7)
        assert it.item.payload == b"xx"
    async with opened(settings) as spool:  # the process died: nothing to rescue, it is due later
        assert await begin(spool, now=NOW + 6.9) is None
        assert await spool.next_due("api", now=NOW, longest_backoff=300, exclude=()) == NOW + 7
        again = await begun(spool, now=NOW + 7, delay=lambda attempts: attempts * 7.0)
        assert (again.delivery.attempts, again.delivery.due_at) == (2, NOW + 21)
        detail = await spool.item(again.item.id)
        assert detail is not None
        assert [(one.number, one.outcome, one.ended_at) for one in detail.deliveries[0].attempts] == [
            (1, Outcome.STARTED, None),
            (2, Outcome.STARTED, None),
        ]


async def test_what_is_out_now_is_not_begun_again_even_when_its_time_has_come(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        for _ in range(3):
            await put(spool)
        out: set[int] = set()
        for _ in range(3):
            out.add((await begun(spool, exclude=out, delay=lambda _: 0.0)).delivery.id)
        assert len(out) == 3
        assert await begin(spool, exclude=out, now=NOW + 1) is None
        assert await spool.next_due("api", now=NOW, longest_backoff=300, exclude=out) is None
        assert await begin(spool, exclude=set(), now=NOW + 1) is not None


async def test_an_empty_exclusion_excludes_nothing(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await put(spool)
        assert await begin(spool, exclude=()) is not None


async def test_a_destination_sees_only_its_own(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await put(spool)
        assert await begin(spool, "nas") is None
        assert await spool.next_due("nas", now=NOW, longest_backoff=300, exclude=()) is None


async def test_a_probe_takes_the_smallest_of_the_most_urgent(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await put(spool, Priority.NORMAL, size=1)
        await put(spool, Priority.HIGH, size=500)
        small = await put(spool, Priority.HIGH, size=5)
        await put(spool, Priority.HIGH, size=50)
        assert (await begun(spool, probe=True)).item.id == small


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNAVAILABLE, Outcome.NOT_READY, None])
async def test_a_probe_is_no_big_normal_one_while_a_small_urgent_one_backs_off(
    tmp_path: Path, outcome: Outcome | None
) -> None:
    async with opened(config(tmp_path)) as spool:
        await put(spool, Priority.NORMAL, size=3000)
        small = await put(spool, Priority.HIGH, size=50)
        it = await begun(spool, delay=lambda _: 60.0)
        if outcome is not None:
            await spool.record_deferred(it.delivery.id, outcome, "", due_at=NOW + 60, now=NOW)
        found = await begun(spool, probe=True)
        assert (found.item.id == small) == (outcome is not Outcome.NOT_READY), "it was told how long to wait"


async def test_when_the_clock_was_put_back_nothing_waits_for_a_time_far_off(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await put(spool, now=NOW)
        year_ago = NOW - 365 * 86400
        assert await spool.next_due("api", now=year_ago, longest_backoff=300, exclude=()) == year_ago
        it = await begun(spool, now=year_ago, delay=lambda _: 60.0)
        assert (it.item.id, it.delivery.due_at) == (item, year_ago + 60)


async def test_a_wait_within_the_longest_backoff_is_kept(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await put(spool, now=NOW + 299)
        assert await begin(spool, now=NOW) is None
        assert await spool.next_due("api", now=NOW, longest_backoff=300, exclude=()) == NOW + 299


async def test_a_jumped_one_that_is_urgent_goes_before_a_due_one_that_is_not(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await put(spool, Priority.BULK, now=NOW)
        urgent = await put(spool, Priority.EMERGENCY, now=NOW + 9e6)
        assert (await begun(spool)).item.id == urgent


async def test_many_begin_at_once_and_none_is_begun_twice(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        for _ in range(20):
            await put(spool)
        out = await asyncio.gather(*[begun(spool) for _ in range(20)])
        assert len({it.delivery.id for it in out}) == 20


@pytest.mark.parametrize("damage", ["gone", "cut off", "a folder"])
async def test_an_item_without_its_media_dies_with_the_reason_and_does_not_hold_up_the_line(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.sweep()
        lost = await spool.put(message(b"picture", kind=Kind.MEDIA), [order("api"), order("nas")], now=NOW - 1)
        good = await spool.put(message(b"picture", kind=Kind.MEDIA), [order("api")], now=NOW)
        path = spool.folder / "media" / lost.id[-1] / lost.id
        if damage == "cut off":
            path.write_bytes(b"pic")
        else:
            path.unlink()
        if damage == "a folder":
            path.mkdir()
        with caplog.at_level(logging.WARNING, "relayd.spool"):
            assert (await begun(spool)).item.id == good.id
        assert f"item {lost.id} is lost to 2 deliveries: the spooled file" in caplog.text
        detail = await spool.item(lost.id)
        assert detail is not None
        assert detail.state is State.DEAD
        assert all("the spooled file" in one.delivery.reason for one in detail.deliveries)
        assert spool.counters.dead == 1
        assert spool.counters.destinations["nas"].dead == 1
        assert adds_up(spool)


async def test_media_that_the_disk_will_not_show_holds_up_nobody_else_and_is_not_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    async with opened(config(tmp_path / "s")) as spool:
        with camera_file(tmp_path / "a.jpg") as capture:
            hidden = await spool.put(capture, [order("api", Priority.EMERGENCY)], now=NOW)
        other = await put(spool)
        shelf = spool.folder / "media" / hidden.id[-1]
        shelf.rename(spool.folder / "elsewhere")
        shelf.touch()
        first = await begun(spool)
        second = await begun(spool, exclude={first.delivery.id})
        assert [first.item.id, second.item.id] == [hidden.id, other]
        with pytest.raises(OSError, match="Not a directory"):
            spool.open_media(hidden.id)
        shelf.unlink()
        (spool.folder / "elsewhere").rename(shelf)
        with spool.open_media(hidden.id) as media:
            assert media.read() == b"abc"


async def test_a_step_of_a_delivery_that_was_purged_meanwhile_is_no_error(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.store_intent(99, "sms")
        await spool.store_step(99, "sms", {})
