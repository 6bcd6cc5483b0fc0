"""Events in the spool: written with what they tell of, kept in order and within bounds, counted apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relayd.model import Outcome, Priority, Receipt, State
from relayd.spool import Spool, check
from relayd.spool.salvage import rebuild
from tests.spool.rig import NOW, adds_up, begun, config, message, opened, order

DAY = 86_400.0


async def told(spool: Spool, after: int = 0) -> list[dict[str, Any]]:
    return [dict(event.document) for event in await spool.fleet.events(after, 1000)]


async def test_a_delivery_is_told_with_its_receipt_in_the_commit_that_records_it(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        spool.fleet.wants_events = True
        item = await spool.put(message(b"{}"), [order()], now=NOW)
        it = await begun(spool)
        await spool.record_delivered(it.delivery.id, Receipt(proof="ETag", fields={"uri": "u"}), now=NOW + 1)
        await spool.record_delivered(it.delivery.id, Receipt(proof="ETag", fields={"uri": "u"}), now=NOW + 2)
        (event,) = await told(spool)
        assert event.pop("id")
        assert event == {
            "schema": 1,
            "number": 1,
            "type": "delivered",
            "at": "2027-01-15T08:00:01.000Z",
            "item": item.id,
            "name": "vehicle/panic",
            "source": "panic",
            "size": 2,
            "destination": "api",
            "action": "upload",
            "rule": "test",
            "state": "delivered",
            "attempts": 1,
            "reason": "ETag",
            "receipt": {"uri": "u"},
        }


async def test_what_ends_badly_is_told_as_dead_or_evicted_with_the_reason(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="1MB")) as spool:
        spool.fleet.wants_events = True
        for to in ("rejects", "expires"):
            await spool.put(message(), [order(to)], now=NOW)
        it = await begun(spool, "rejects")
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "400: no", now=NOW)
        for number in range(3):
            await begun(spool, "expires", now=NOW + number * 1000)
        assert await spool.expire(now=NOW + 40 * DAY, give_up_after=30 * DAY) == 1
        bulk = await spool.put(message(b"x" * 300_000), [order("bulk", Priority.BULK)], now=NOW)
        for _ in range(2):
            await spool.put(message(b"x" * 300_000), [order("urgent", Priority.EMERGENCY)], now=NOW)
        events = await told(spool)
        assert [(event["type"], event["state"], event["destination"], event["reason"]) for event in events] == [
            ("dead", "dead", "rejects", "400: no"),
            ("dead", "expired", "expires", "given up after 30 days and 3 attempts"),
            ("evicted", "evicted", "bulk", "evicted: no room in the spool"),
        ]
        assert events[2]["item"] == bulk.id
        assert adds_up(spool)


async def test_without_a_fleet_nothing_is_written(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.put(message(), [order()], now=NOW)
        await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof=""), now=NOW)
        await spool.fleet.report([("config_reloaded", {})], now=NOW)
        assert await told(spool) == []


async def test_events_survive_a_restart_and_keep_their_id_until_they_are_known_to_have_arrived(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        spool.fleet.wants_events = True
        for number in range(3):
            await spool.fleet.report([("fault_raised", {"number_of_test": number})], now=NOW)
        before = await told(spool)
    async with opened(settings) as spool:
        assert await told(spool) == before
        assert await told(spool, after=before[0]["number"]) == before[1:]
        spool.fleet.forget_events(before[1]["number"])
    async with opened(settings) as spool:
        assert await told(spool) == before[2:]
        spool.fleet.forget_events(before[2]["number"])
    async with opened(settings) as spool:
        spool.fleet.wants_events = True
        await spool.fleet.report([("fault_cleared", {})], now=NOW)
        assert [event["number"] for event in await told(spool)] == [4]


async def test_when_too_many_wait_the_oldest_go_and_the_numbers_show_the_gap(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="1MB")) as spool:
        spool.fleet.wants_events = True
        most = spool._engine.config.events_kept
        await spool.fleet.report([("fault_raised", {})] * (most + 7), now=NOW)
        events = await told(spool)
        assert [event["number"] for event in events] == list(range(8, most + 8))
        assert spool.fleet.events_dropped == 7


async def test_events_are_hinted_after_the_commit_and_leave_the_counters_of_items_alone(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        spool.fleet.wants_events = True
        hints: list[int] = []
        spool.fleet.subscribe(lambda: hints.append(1))
        await spool.put(message(), [order()], now=NOW)
        assert hints == []
        before = spool.counters
        await spool.fleet.report([("config_reloaded", {})], now=NOW, notes={"faults": "{}"})
        assert hints == [1]
        assert await spool.note("faults") == "{}"
        after = spool.counters
        assert (after.items, after.pending, after.sources, after.destinations) == (
            before.items,
            before.pending,
            before.sources,
            before.destinations,
        )
    assert check(settings.path).is_good


async def test_a_command_is_remembered_before_it_runs_and_its_answer_after(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        assert await spool.fleet.begin_command("a", "retry", now=NOW) is None
        assert await spool.fleet.begin_command("b", "retry", now=NOW) is None
        await spool.fleet.finish_command("b", {"ok": True}, {"ok": False})
        await spool.fleet.begin_command("c", "status", now=NOW)
        await spool.fleet.finish_command("c", {"result": "x" * 70_000}, {"too": "long"})
    async with opened(settings) as spool:
        begun_before = await spool.fleet.begin_command("a", "retry", now=NOW + 9)
        assert begun_before is not None
        assert (begun_before.name, begun_before.at, begun_before.answer) == ("retry", NOW, None)
        done = await spool.fleet.begin_command("b", "retry", now=NOW + 9)
        assert done is not None
        assert done.answer == {"ok": True}
        long = await spool.fleet.begin_command("c", "status", now=NOW + 9)
        assert long is not None
        assert long.answer == {"too": "long"}


async def test_the_oldest_commands_are_forgotten(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="1MB")) as spool:
        for number in range(11):
            await spool.fleet.begin_command(str(number), "flush", now=NOW)
        assert await spool.fleet.begin_command("10", "flush", now=NOW) is not None
        assert await spool.fleet.begin_command("0", "flush", now=NOW) is None


async def test_events_and_commands_come_through_a_rebuild_of_a_damaged_database(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        spool.fleet.wants_events = True
        await spool.fleet.report([("fault_raised", {})], now=NOW)
        await spool.fleet.begin_command("a", "retry", now=NOW)
        before = await told(spool)
        folder = spool._engine.folder
    rebuild(folder, now=NOW)
    async with opened(settings) as spool:
        assert await told(spool) == before
        assert await spool.fleet.begin_command("a", "retry", now=NOW) is not None
