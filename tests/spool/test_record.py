"""How an attempt ended, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.model import Kind, Outcome, Priority, Receipt, State
from relayd.spool import ItemDetail, Spool
from relayd.spool.delivering import FIRST_KEPT, LAST_KEPT
from relayd.spool.states import state_of
from tests.spool.rig import NOW, adds_up, begin, begun, config, media_names, message, opened, order


async def detail_of(spool: Spool, item_id: str) -> ItemDetail:
    detail = await spool.item(item_id)
    assert detail is not None
    return detail


async def test_a_delivered_item_keeps_its_row_with_the_receipt_and_frees_its_media(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [order()], now=NOW)
        it = await begun(spool)
        await spool.store_step(it.delivery.id, "upload", {"key": "k"})
        await spool.record_delivered(it.delivery.id, Receipt(proof="ETag", fields={"uri": "u"}), now=NOW + 1)
        detail = await detail_of(spool, item.id)
        assert (detail.state, detail.has_content, detail.ended_at) == (State.DELIVERED, False, NOW + 1)
        one = detail.deliveries[0]
        assert (one.receipt, one.proof, one.steps) == ({"uri": "u"}, "ETag", {})
        assert [(it.outcome, it.ended_at) for it in one.attempts] == [(Outcome.DELIVERED, NOW + 1)]
        counted = spool.counters.destinations["api"]
        assert (counted.pending, counted.delivered, counted.bytes_sent) == (0, 1, 7)
        assert counted.last_success_at == NOW + 1
        assert (spool.counters.delivered, spool.counters.bytes) == (1, 0)
        await spool._engine.settled()
        assert media_names(spool.folder) == []


async def test_media_stays_while_anybody_is_owed(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [order("api"), order("nas")], now=NOW)
        await spool.record_delivered((await begun(spool, "api")).delivery.id, Receipt(proof=""), now=NOW)
        assert (await detail_of(spool, item.id)).state is State.PENDING
        assert media_names(spool.folder) == [item.id]


async def test_follow_ups_are_owed_in_the_commit_that_stores_the_receipt(tmp_path: Path) -> None:
    follow_up = order("control-room", Priority.HIGH, text="{{ receipt.uri }}")
    settings = config(tmp_path)
    async with opened(settings) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [order("api", Priority.BULK, follow_up)], now=NOW)
        it = await begun(spool, "api")
        assert it.delivery.then == (follow_up,)
        await spool.record_delivered(it.delivery.id, Receipt(proof="", fields={"uri": "u"}), now=NOW)
    async with opened(settings) as spool:
        assert (await detail_of(spool, item.id)).priority is Priority.HIGH
        assert spool.counters.pending == 1
        it = await begun(spool, "control-room")
        assert it.delivery.parent_receipt == {"uri": "u"}
        assert it.delivery.arguments == {"text": "{{ receipt.uri }}"}
        await spool.record_delivered(it.delivery.id, Receipt(proof=""), now=NOW)
        assert spool.counters.delivered == 1


async def test_recording_a_delivery_twice_changes_nothing(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.put(message(), [order("api", Priority.NORMAL, order("nas"))], now=NOW)
        it = await begun(spool)
        await spool.record_delivered(it.delivery.id, Receipt(proof=""), now=NOW)
        before = spool.counters
        await spool.record_delivered(it.delivery.id, Receipt(proof=""), now=NOW)
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        await spool.record_deferred(it.delivery.id, Outcome.FAILED, "no", due_at=NOW, now=NOW)
        after = spool.counters
        assert (after.destinations, after.pending, after.dead) == (before.destinations, before.pending, before.dead)


async def test_a_deferred_delivery_is_due_when_told_and_remembers_why(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.put(message(), [order()], now=NOW)
        it = await begun(spool)
        await spool.record_deferred(it.delivery.id, Outcome.UNAVAILABLE, "503", due_at=NOW + 30, now=NOW + 1)
        assert await begin(spool, now=NOW + 29) is None
        again = await begun(spool, now=NOW + 30)
        assert (again.delivery.reason, again.delivery.attempts) == ("503", 2)
        detail = await detail_of(spool, it.item.id)
        assert [(one.outcome, one.reason) for one in detail.deliveries[0].attempts] == [
            (Outcome.UNAVAILABLE, "503"),
            (Outcome.STARTED, ""),
        ]


async def test_steps_are_there_at_the_next_try_and_an_intent_shows_as_none(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        await spool.put(message(), [order()], now=NOW)
        it = await begun(spool)
        await spool.store_step(it.delivery.id, "slot", {"url": "u", "n": [1, None]})
        await spool.store_intent(it.delivery.id, "upload")
    async with opened(settings) as spool:
        again = await begun(spool, now=NOW + 60)
        assert again.steps == {"slot": {"url": "u", "n": [1, None]}, "upload": None}
        await spool.store_step(it.delivery.id, "upload", {"etag": "e"})
        await spool.store_intent(it.delivery.id, "upload")  # a late intent does not undo what is known
        assert (await begun(spool, now=NOW + 120)).steps["upload"] == {"etag": "e"}


async def test_a_rewind_forgets_the_step_and_all_later_ones(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.put(message(), [order()], now=NOW)
        it = await begun(spool)
        for name in ("zero", "slot", "upload"):
            await spool.store_intent(it.delivery.id, name)
            await spool.store_step(it.delivery.id, name, {})
        await spool.record_deferred(it.delivery.id, Outcome.REWIND, "expired", due_at=NOW, now=NOW, forget_from="slot")
        again = await begun(spool)
        assert again.steps == {"zero": {}}
        await spool.record_deferred(
            it.delivery.id, Outcome.REWIND, "unknown", due_at=NOW, now=NOW, forget_from="never stored"
        )
        assert (await begun(spool)).steps == {"zero": {}}


async def test_a_rejected_delivery_is_dead_and_its_media_and_steps_are_kept(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [order()], now=NOW)
        it = await begun(spool)
        await spool.store_step(it.delivery.id, "slot", {"a": 1})
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "415", now=NOW)
        detail = await detail_of(spool, item.id)
        assert (detail.state, detail.has_content, detail.deliveries[0].delivery.reason) == (State.DEAD, True, "415")
        assert detail.deliveries[0].steps == {"slot": {"a": 1}}
        assert media_names(spool.folder) == [item.id]
        assert spool.counters.destinations["api"].dead == 1


async def test_a_proven_delivery_counts_even_if_it_was_given_up_meanwhile(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(b"picture", kind=Kind.MEDIA), [order()], now=NOW)
        it = await begun(spool)
        await spool.drop([item.id], now=NOW)
        assert spool.counters.destinations["api"].dead == 0
        await spool.record_delivered(it.delivery.id, Receipt(proof="late"), now=NOW)
        assert (await detail_of(spool, item.id)).state is State.DELIVERED
        assert spool.counters.destinations["api"].delivered == 1
        assert (spool.counters.delivered, spool.counters.dead) == (1, 0)
        assert adds_up(spool)


async def test_a_result_for_a_purged_delivery_is_logged_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.record_delivered(999, Receipt(proof=""), now=NOW)
        assert "delivery 999 is no longer in the spool" in caplog.text


async def test_of_very_many_attempts_the_first_and_the_last_are_kept(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(), [order()], now=NOW)
        for _ in range(80):
            await begun(spool, delay=lambda _: 0.0)
        detail = await detail_of(spool, item.id)
        numbers = [one.number for one in detail.deliveries[0].attempts]
        assert numbers == [*range(1, FIRST_KEPT + 1), *range(80 - LAST_KEPT + 1, 81)]


@pytest.mark.parametrize(
    ("deliveries", "state"),
    [
        (set(), State.UNCLAIMED),
        ({State.DELIVERED}, State.DELIVERED),
        ({State.DELIVERED, State.PENDING, State.DEAD}, State.PENDING),
        ({State.DELIVERED, State.EXPIRED}, State.EXPIRED),
        ({State.EVICTED, State.EXPIRED}, State.EVICTED),
        ({State.DROPPED, State.DELIVERED}, State.DROPPED),
        (set(State) - {State.PENDING}, State.DEAD),
    ],
)
def test_an_item_is_pending_while_anything_is_and_then_as_bad_as_its_worst(
    deliveries: set[State], state: State
) -> None:
    assert state_of(deliveries) is state
