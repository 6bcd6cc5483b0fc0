"""What else is owed to one destination by one action, and telling it what was done for it."""

from __future__ import annotations

from pathlib import Path

from relayd.model import Order, Outcome, Priority, Receipt, State
from relayd.spool import Spool, siblings
from tests.spool.rig import NOW, begin, begun, config, message, opened, order


def post(to: str = "page", priority: Priority = Priority.NORMAL, action: str = "incident") -> Order:
    return Order(destination=to, action=action, priority=priority, rule="test")


async def put(spool: Spool, *orders: Order) -> str:
    return (await spool.put(message(), orders, now=NOW)).id


async def test_siblings_are_the_pending_ones_of_one_destination_and_action_oldest_first(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await put(spool, post())
        done = await begun(spool, "page")
        await spool.record_delivered(done.delivery.id, Receipt(proof="done"), now=NOW)
        await put(spool, post())
        refused = await begun(spool, "page")
        await spool.record_ended(refused.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        first = await put(spool, post(priority=Priority.BULK))
        urgent = await put(spool, post(priority=Priority.HIGH))
        await put(spool, post("another"), post(action="component"), order("page"))
        last = await put(spool, post())
        me = await begun(spool, "page")
        assert me.item.id == urgent
        await spool.store_step(me.delivery.id, "mine", {})
        found = [other async for other in spool.siblings(me.delivery)]
        assert [other.item.id for other in found] == [first, last]
        assert [other.item.payload for other in found] == [b"{}", b"{}"]
        assert [other.steps for other in found] == [{}, {}]


async def test_many_siblings_are_read_a_page_at_a_time(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        ids = [await put(spool, post()) for _ in range(2 * siblings.PAGE + 3)]
        me = await begun(spool, "page")
        seen = spool.siblings(me.delivery)
        assert [(await anext(seen)).item.id for _ in range(siblings.PAGE)] == ids[1 : siblings.PAGE + 1]
        gone = await begun(spool, "page")  # ended while the list is being looked through: no longer listed
        await spool.record_delivered(gone.delivery.id, Receipt(proof="done"), now=NOW)
        assert [other.item.id async for other in seen] == ids[siblings.PAGE + 1 :]
        await seen.aclose()  # type: ignore[attr-defined]


async def test_what_is_told_is_a_step_from_then_on_and_due_at_once(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        await put(spool, post())
        await put(spool, post())
        first, second = await begun(spool, "page"), await begun(spool, "page")
        await spool.record_deferred(second.delivery.id, Outcome.NOT_READY, "later", due_at=NOW + 300, now=NOW)
        await spool.tell([second.delivery.id, 999], "told", {"incident_id": 7})
        await spool.tell([second.delivery.id], "told", None)
        assert [other.steps async for other in spool.siblings(first.delivery)] == [{"told": {"incident_id": 7}}]
    async with opened(settings) as spool:
        again = await begin(spool, "page", now=NOW + 1)
        assert again is not None
        assert again.delivery.id == second.delivery.id
        assert again.steps == {"told": {"incident_id": 7}}
