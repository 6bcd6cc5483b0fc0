"""What ends or is forgotten by age or by hand, also when the clock is wrong."""

from __future__ import annotations

from pathlib import Path

from relayd.model import Kind, Outcome, Priority, Receipt, State
from relayd.spool import ItemDetail, Spool
from tests.spool.rig import DAY, NOW, adds_up, begin, begun, config, media_names, message, opened, order


async def detail_of(spool: Spool, item_id: str) -> ItemDetail:
    detail = await spool.item(item_id)
    assert detail is not None
    return detail


async def tried(spool: Spool, times: int, *, now: float = NOW) -> str:
    """A media item whose only delivery has failed that often."""
    item = await spool.put(message(b"picture", kind=Kind.MEDIA), [order()], now=now)
    for _ in range(times):
        await begun(spool, now=now, delay=lambda _: 0.0)
    return item.id


async def test_what_was_tried_for_too_long_expires_and_its_media_is_kept(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await tried(spool, 3)
        assert await spool.expire(now=NOW + 30 * DAY - 1, give_up_after=30 * DAY) == 0
        assert await spool.expire(now=NOW + 30 * DAY, give_up_after=30 * DAY) == 1
        detail = await detail_of(spool, item)
        assert (detail.state, detail.has_content) == (State.EXPIRED, True)
        assert detail.deliveries[0].delivery.reason == "given up after 30 days and 3 attempts"
        assert media_names(spool.folder) == [item]
        assert spool.counters.expired == 1
        assert adds_up(spool)


async def test_what_was_tried_fewer_than_three_times_never_expires(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await tried(spool, 2)
        assert await spool.expire(now=NOW + 1000 * DAY, give_up_after=30 * DAY, min_attempts=1) == 0


async def test_more_attempts_can_be_asked_for(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await tried(spool, 4)
        assert await spool.expire(now=NOW + 100 * DAY, give_up_after=30 * DAY, min_attempts=5) == 0
        assert await spool.expire(now=NOW + 100 * DAY, give_up_after=30 * DAY, min_attempts=4) == 1


async def test_a_clock_at_1970_purges_nothing(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.put(message(), [order()], now=NOW)
        await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof=""), now=NOW)
        assert await spool.purge(now=100.0, keep_delivered=DAY, keep_dead=DAY) == 0
        assert spool.counters.stored == 1


async def test_media_that_no_rule_wanted_is_kept_for_a_while_then_let_go(tmp_path: Path) -> None:
    async with opened(config(tmp_path), collected=["panic"]) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [], now=NOW)
        assert await spool.expire_unclaimed(now=NOW + 599, keep_unclaimed=600) == 0
        detail = await detail_of(spool, item.id)
        assert (detail.state, detail.priority) == (State.UNCLAIMED, None)
        assert await spool.expire_unclaimed(now=NOW + 600, keep_unclaimed=600) == 1
        assert await spool.item(item.id) is None
        assert (spool.counters.unclaimed, spool.counters.pending, spool.counters.expired) == (1, 0, 0)
        assert adds_up(spool)
        await spool._engine.settled()
        assert media_names(spool.folder) == []


async def test_media_that_was_claimed_in_time_stays(tmp_path: Path) -> None:
    async with opened(config(tmp_path), collected=["panic"]) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [], now=NOW)
        await spool.add_orders(item.id, [order()], now=NOW + 10)
        assert await spool.expire_unclaimed(now=NOW + 6000, keep_unclaimed=600) == 0
        assert (await begun(spool, now=NOW + 10)).item.id == item.id


async def test_purged_items_are_counted_for_ever(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        for _ in range(3):
            await spool.put(message(), [order()], now=NOW)
        await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof=""), now=NOW)
        it = await begun(spool)
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        assert await spool.purge(now=NOW + DAY, keep_delivered=DAY, keep_dead=30 * DAY) == 1
        assert spool.counters.destinations["api"].dead == 1
        assert await spool.purge(now=NOW + 30 * DAY, keep_delivered=DAY, keep_dead=30 * DAY) == 1
    async with opened(settings) as spool:
        it_is = spool.counters
        assert (it_is.items, it_is.stored, it_is.delivered, it_is.dead, it_is.pending) == (3, 1, 1, 1, 1)
        counted = it_is.destinations["api"]
        assert (counted.delivered, counted.dead, counted.pending) == (1, 0, 1)
        assert adds_up(spool)


async def test_retry_makes_dead_and_expired_deliveries_due_again_and_keeps_their_steps(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        dead, expired = await tried(spool, 1), await tried(spool, 0)
        it = await begun(spool, now=NOW - 0, exclude=(), delay=lambda _: 1e6)
        await spool.store_step(it.delivery.id, "slot", {"a": 1})
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        for _ in range(3):
            other = await begun(spool, delay=lambda _: 0.0)
        await spool.expire(now=NOW + 31 * DAY, give_up_after=30 * DAY)
        assert {it.item.id, other.item.id} == {dead, expired}
        assert spool.counters.pending == 0
        assert await spool.retry(None, None, now=NOW + 31 * DAY) == 2
        assert spool.counters.pending == 2
        assert await spool.expire(now=NOW + 32 * DAY, give_up_after=30 * DAY) == 0
        again = await begun(spool, now=NOW + 31 * DAY)
        assert {"slot": {"a": 1}} in (again.steps, (await begun(spool, now=NOW + 31 * DAY)).steps)
        assert adds_up(spool)


async def test_retry_can_be_limited_to_items_and_to_a_destination(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        ids = []
        for _ in range(2):
            ids.append((await spool.put(message(), [order("api"), order("nas")], now=NOW)).id)
            for to in ("api", "nas"):
                it = await begun(spool, to)
                await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        assert await spool.retry([ids[0]], "nas", now=NOW) == 1
        assert (await begun(spool, "nas")).item.id == ids[0]
        assert await begin(spool, "api") is None
        assert await spool.retry(None, "api", now=NOW) == 2
        assert await spool.retry([], None, now=NOW) == 0
        assert await spool.retry(["unknown"], None, now=NOW) == 0


async def test_retry_of_very_many_is_done_in_portions(tmp_path: Path) -> None:
    import asyncio

    async with opened(config(tmp_path)) as spool:
        await asyncio.gather(*[spool.put(message(), [order()], now=NOW) for _ in range(1100)])
        out = await asyncio.gather(*[begun(spool) for _ in range(1100)])
        await asyncio.gather(
            *[spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "", now=NOW) for it in out]
        )
        assert await spool.retry(None, None, now=NOW) == 1100
        assert spool.counters.pending == 1100
        assert await spool.drop([it.item.id for it in out], now=NOW) == 1100
        assert spool.counters.dropped == 1100


async def test_a_dropped_item_has_a_state_of_its_own_frees_its_media_and_is_no_worry(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [order("api"), order("nas")], now=NOW)
        it = await begun(spool, "nas")
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        assert await spool.drop([item.id, "unknown"], now=NOW) == 1
        assert await spool.drop([item.id], now=NOW) == 0
        detail = await detail_of(spool, item.id)
        assert (detail.state, detail.has_content) == (State.DROPPED, False)
        assert {one.delivery.reason for one in detail.deliveries} == {"dropped by hand"}
        assert {one.delivery.state for one in detail.deliveries} == {State.DROPPED}
        assert spool.counters.destinations["api"].dead == spool.counters.destinations["nas"].dead == 0
        assert (spool.counters.dead, spool.counters.dropped) == (0, 1)
        assert await spool.retry([item.id], None, now=NOW) == 0
        await spool._engine.settled()
        assert media_names(spool.folder) == []
        assert adds_up(spool)


async def test_unclaimed_items_can_be_dropped_and_delivered_ones_not(tmp_path: Path) -> None:
    async with opened(config(tmp_path), collected=["panic"]) as spool:
        unclaimed = await spool.put(message(b"picture", kind=Kind.MEDIA), [], now=NOW)
        delivered = await spool.put(message(), [order("api", Priority.HIGH)], now=NOW)
        await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof=""), now=NOW)
        assert await spool.drop([unclaimed.id, delivered.id], now=NOW) == 1
        assert (await detail_of(spool, unclaimed.id)).reason == "dropped by hand"
        assert (await detail_of(spool, delivered.id)).state is State.DELIVERED


async def test_notes_survive_and_can_be_taken_back(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        await spool.set_note("paused.api", "since then")
        await spool.set_note("other", "x")
        await spool.set_note("other", None)
    async with opened(settings) as spool:
        assert await spool.note("paused.api") == "since then"
        assert await spool.note("other") is None
