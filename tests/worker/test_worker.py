"""The way out: order, retries, pauses, probes and their limits, on a real spool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.destinations.base import Attempt
from relayd.errors import (
    LoginRefused,
    NotAllowed,
    NotReady,
    Rejected,
    Rewind,
    SpoolError,
    SpoolFull,
    TooLate,
    TryAgain,
    Unavailable,
    Unreachable,
)
from relayd.journal import Calm
from relayd.model import Order, Outcome, Priority, Receipt
from relayd.spool import Begun
from relayd.traffic import Traffic
from relayd.worker import BACKLOG_TURN, EMERGENCY_EVERY_SECONDS
from tests.patience import PATIENT_SECONDS
from tests.worker.stage import Played, Stage, order, stage

DONE = Receipt(proof="the test says so", fields={"id": 7})


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as made:
        yield made


async def accept(_: Attempt) -> Receipt:
    return DONE


async def test_what_is_urgent_goes_first_whatever_came_first(it: Stage) -> None:
    for priority in (Priority.BULK, Priority.NORMAL, Priority.HIGH, Priority.EMERGENCY):
        await it.put(priority.word, order("there", priority))
    there = Played("there", accept)
    it.start(there)
    await it.until(lambda: len(there.seen) == 4, "all delivered")
    assert there.seen == ["emergency", "high", "normal", "bulk"]


async def test_a_backlog_gets_its_share_however_much_urgent_work_there_is(it: Stage) -> None:
    for number in range(3):
        await it.put(f"bulk {number}", order("there", Priority.BULK))
    for _ in range(30):
        await it.put("high", order("there", Priority.HIGH))
    there = Played("there", accept)
    it.start(there)
    await it.until(lambda: len(there.seen) == 33, "all delivered")
    turns = [place for place, name in enumerate(there.seen, 1) if name.startswith("bulk")]
    assert turns == [BACKLOG_TURN, 2 * BACKLOG_TURN, 3 * BACKLOG_TURN]


async def test_an_emergency_waits_for_no_backlog(it: Stage) -> None:
    for number in range(2 * BACKLOG_TURN):
        await it.put(f"emergency {number}", order("there", Priority.EMERGENCY))
    await it.put("bulk", order("there", Priority.BULK))
    there = Played("there", accept)
    it.start(there)
    await it.until(lambda: len(there.seen) == 2 * BACKLOG_TURN + 1, "all delivered")
    assert there.seen[-1] == "bulk"


async def test_a_new_item_is_tried_at_once_and_not_at_the_next_look(it: Stage) -> None:
    there = Played("there", accept)
    it.start(there)
    before = clock.monotonic()
    item = await it.put("now")
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered")
    assert clock.monotonic() - before < 1.0
    assert await it.state(item) == "delivered"


async def test_no_more_than_the_configured_number_is_out_at_once(it: Stage) -> None:
    out, most, gate = 0, 0, asyncio.Event()

    async def slow(_: Attempt) -> Receipt:
        nonlocal out, most
        out += 1
        most = max(most, out)
        await gate.wait()
        out -= 1
        return DONE

    for number in range(10):
        await it.put(f"n{number}")
    there = Played("there", slow)
    it.start(there, concurrency=3)
    await it.until(lambda: out == 3, "three are out")
    gate.set()
    await it.until(lambda: it.spool.counters.delivered == 10, "all delivered")
    assert most == 3


async def test_what_is_urgent_starts_at_once_beside_uploads_that_fill_every_place_and_emergencies_beside_that(
    it: Stage,
) -> None:
    gate = asyncio.Event()

    async def slow_but_for_emergencies(attempt: Attempt) -> Receipt:
        if attempt.delivery.priority is not Priority.EMERGENCY:
            await gate.wait()
        return DONE

    for number in range(6):
        await it.put(f"bulk{number}", order("there", Priority.BULK))
    there = Played("there", slow_but_for_emergencies)
    worker = it.start(there, concurrency=2)
    await it.until(lambda: worker.view().under_way == 2, "both places are taken")
    for number in range(2):
        await it.put(f"high{number}", order("there", Priority.HIGH))
    await it.until(lambda: "high0" in there.seen, "it goes beside them")
    for number in range(3):
        await it.put(f"panic{number}", order("there", Priority.EMERGENCY))
    await it.until(lambda: it.spool.counters.delivered == 3, "the emergencies went")
    assert "high1" not in there.seen, "one is enough"
    assert worker.view().under_way == 3
    gate.set()
    await it.until(lambda: it.spool.counters.delivered == 11, "all went")


async def test_a_stream_of_urgent_deliveries_leaves_the_backlog_its_share(it: Stage) -> None:
    for number in range(30):
        await it.put(f"high{number}", order("there", Priority.HIGH))
    for number in range(3):
        await it.put(f"bulk{number}", order("there", Priority.BULK))
    there = Played("there", accept)
    it.start(there, concurrency=2)
    await it.until(lambda: it.spool.counters.delivered == 33, "all went")
    assert there.seen.index("bulk1") < 20


@pytest.mark.parametrize("goes_over_link", [True, False])
async def test_what_is_less_urgent_waits_for_an_emergency_elsewhere_unless_it_goes_another_way(
    it: Stage, monkeypatch: pytest.MonkeyPatch, goes_over_link: bool
) -> None:
    gate, road = asyncio.Event(), Traffic()

    async def long_one(attempt: Attempt) -> Receipt:
        await gate.wait()
        return DONE

    here, there = Played("here", long_one), Played("there", accept)
    monkeypatch.setattr(Played, "goes_over_link", goes_over_link)
    it.start(here, traffic=road)
    worker = it.start(there, traffic=road)
    await it.put("panic", order("here", Priority.EMERGENCY))
    await it.until(lambda: "panic" in here.seen, "the emergency is under way")
    await it.put("bulk", order("there", Priority.BULK))
    if goes_over_link:
        await it.until(lambda: worker.view().under_way == 1, "it waits its turn")
        assert there.seen == []
    else:
        await it.until(lambda: it.spool.counters.delivered == 1, "it went meanwhile")
    gate.set()
    await it.until(lambda: it.spool.counters.delivered == 2, "all went")


async def test_a_poison_item_backs_off_alone_and_never_holds_up_the_line(it: Stage) -> None:
    async def picky(attempt: Attempt) -> Receipt:
        if attempt.item.name == "poison":
            raise TryAgain("500")
        return DONE

    poison = await it.put("poison")
    others = [await it.put(f"n{number}") for number in range(20)]
    it.start(Played("there", picky))
    await it.until(lambda: it.spool.counters.delivered == 20, "all others delivered")
    assert await it.state(poison) == "pending"
    assert [await it.state(other) for other in others] == ["delivered"] * 20


async def test_an_item_survives_any_number_of_failed_tries_while_the_destination_is_away(it: Stage) -> None:
    tries = 0

    async def away_for_a_while(_: Attempt) -> Receipt:
        nonlocal tries
        tries += 1
        if tries <= 40:
            raise Unavailable("no route")
        return DONE

    item = await it.put("patient")
    it.start(Played("there", away_for_a_while), cap="20ms")
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered at last")
    detail = await it.spool.item(item.id)
    assert detail is not None
    assert detail.deliveries[0].delivery.attempts == 41


async def test_while_a_destination_is_away_one_small_urgent_item_probes_and_the_backlog_rests(it: Stage) -> None:
    is_away = True

    async def away(_: Attempt) -> Receipt:
        if is_away:
            raise Unavailable("no route")
        return DONE

    there = Played("there", away)
    for number in range(30):
        await it.put(f"bulk{number}", order("there", Priority.BULK), size_bytes=5_000)
    await it.put("small", order("there", Priority.HIGH), size_bytes=1)
    await it.put("large", order("there", Priority.HIGH), size_bytes=5_000)
    worker = it.start(there, concurrency=4, first="50ms", cap="50ms")
    await it.until(lambda: len(there.seen) >= 8, "several probes")
    assert worker.view().state == "waiting"
    assert worker.view().next_try_at is not None
    first, probes = there.seen[:4], there.seen[4:]
    assert {"small", "large"} <= set(first)
    assert not [name for name in probes if name.startswith("bulk")], "urgent items probe, bulk rests"
    is_away = False
    await it.until(lambda: it.spool.counters.delivered == 32, "everything goes once it is back")
    assert worker.view().state == "ok"


async def test_an_emergency_that_comes_during_a_pause_is_tried_at_once_and_nothing_else_is(it: Stage) -> None:
    is_away = True

    async def away(_: Attempt) -> Receipt:
        if is_away:
            raise Unavailable("503", retry_after_seconds=3600)
        return DONE

    there = Played("there", away)
    await it.put("first")
    worker = it.start(there, first="1h", cap="1h")
    await it.until(lambda: worker.view().state == "waiting", "it pauses")
    await it.put("normal")
    await it.put("high", order("there", Priority.HIGH))
    is_away = False
    await it.put("press", order("there", Priority.EMERGENCY))
    await it.until(lambda: it.spool.counters.delivered == 4, "the press ends the pause for all")
    assert there.seen[:2] == ["first", "press"]


async def test_an_emergency_that_comes_while_the_probe_hangs_does_not_wait_for_it(it: Stage) -> None:
    is_hung, tries = asyncio.Event(), 0

    async def hangs(attempt: Attempt) -> Receipt:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("no route")
        if attempt.item.name == "slow":
            is_hung.set()
            await asyncio.Event().wait()
        return DONE

    there = Played("there", hangs)
    await it.put("slow")
    it.start(there, first="1ms", cap="1ms")
    async with asyncio.timeout(PATIENT_SECONDS):
        await is_hung.wait()
    press = await it.put("press", order("there", Priority.EMERGENCY))
    await it.until(lambda: there.seen[-1] == "press", "the press goes beside the probe")

    async def is_delivered() -> bool:
        return await it.state(press) == "delivered"

    await it.until(is_delivered, "the press is delivered")


async def test_a_flood_of_emergencies_during_a_pause_is_no_storm_and_makes_the_pause_no_longer(
    it: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(attempt: Attempt) -> Receipt:
        raise Unavailable("no route", retry_after_seconds=3600 if attempt.item.name == "first" else None)

    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    there = Played("there", away)
    await it.put("first")
    worker = it.start(there, first="1h", cap="1h")
    await it.until(lambda: worker.view().state == "waiting", "it pauses")
    pause = worker._breaker.pause
    assert pause is not None
    until = pause.until
    for number in range(20):
        await it.put(f"press{number}", order("there", Priority.EMERGENCY))
    for tries in range(2, 6):
        now += EMERGENCY_EVERY_SECONDS
        worker.hint()
        await it.until(lambda: len(there.seen) >= tries, "one more for each second")  # noqa: B023
        assert len(there.seen) == tries
    assert worker._breaker.pause is pause
    assert pause.until == until


async def test_a_wake_up_that_the_spool_refuses_is_carried_out_later(
    it: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake, refusals = it.spool.wake, 2

    async def refuses_twice(name: str, **rest: Any) -> int:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise SpoolError("the disk is full")
        return await wake(name, **rest)

    is_away = True

    async def away(_: Attempt) -> Receipt:
        if is_away:
            raise TryAgain("500")
        return DONE

    await it.put("failed")
    there = Played("there", away)
    worker = it.start(there, first="1h", cap="1h")
    await it.until(lambda: len(there.seen) == 1 and not worker.view().under_way, "it failed by itself")
    is_away = False
    monkeypatch.setattr(it.spool, "wake", refuses_twice)
    monkeypatch.setattr(worker._recorder, "refused", lambda _: 0.01)
    worker.nudge(0.0)
    await it.until(lambda: it.spool.counters.delivered == 1, "it is woken once the spool takes it")
    assert not refusals


async def test_a_probe_that_fails_lets_another_item_probe_next(it: Stage) -> None:
    """An item that alone makes the server answer 503 must not be the only one that is ever tried again."""

    async def chokes(attempt: Attempt) -> Receipt:
        if attempt.item.name == "choke":
            raise Unavailable("503")
        return DONE

    await it.put("choke", size_bytes=1)
    await it.put("fine", size_bytes=100)
    it.start(Played("there", chokes))
    await it.until(lambda: it.spool.counters.delivered == 1, "the fine one gets through")


async def test_the_first_try_over_a_link_that_is_back_is_the_small_urgent_one(it: Stage) -> None:
    is_away = True

    async def away(_: Attempt) -> Receipt:
        if is_away:
            raise Unreachable("no route")
        return DONE

    there = Played("there", away)
    await it.put("picture", order("there", Priority.NORMAL), size_bytes=5_000)
    await it.put("press", order("there", Priority.HIGH), size_bytes=50)
    it.start(there, concurrency=1, first="20ms", cap="20ms")
    await it.until(lambda: len(there.seen) >= 6, "several probes")
    is_away = False
    await it.until(lambda: it.spool.counters.delivered == 2, "delivered")
    assert set(there.seen[:-1]) == {"press"}


async def test_the_pause_of_one_destination_is_not_noticed_by_another(it: Stage) -> None:
    async def dead(_: Attempt) -> Receipt:
        raise Unavailable("no route")

    async def hangs(_: Attempt) -> Receipt:
        await asyncio.Event().wait()
        return DONE

    for number in range(5):
        await it.put(f"n{number}", order("dead"), order("hangs"), order("well"))
    well = Played("well", accept)
    it.start(Played("dead", dead))
    it.start(Played("hangs", hangs))
    it.start(well)
    await it.until(lambda: it.spool.counters.destinations["well"].delivered == 5, "the well one got all")
    assert it.spool.counters.destinations["dead"].pending == 5


async def test_what_is_too_late_expires_untried_and_says_nothing_of_the_destination(
    it: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="relayd.worker")
    is_late = False

    async def away_until_it_is_too_late(_: Attempt) -> Receipt:
        if is_late:
            raise TooLate("20 s old")
        raise Unavailable("nobody there")

    there = Played("there", away_until_it_is_too_late)
    worker = it.start(there)
    item = await it.put("move the camera")
    await it.until(lambda: worker.view().state == "waiting", "it pauses")
    is_late = True
    await it.until(lambda: it.spool.counters.expired == 1, "it expires")
    assert await it.state(item) == "expired"
    await it.until(lambda: worker.view().state == "ok", "nothing is owed, so nothing is waited for")
    assert not worker.view().is_known
    assert "answers again" not in caplog.text
    assert "is expired for there" in caplog.text


async def test_an_emergency_whose_answers_were_lost_in_an_outage_goes_at_once_when_the_network_is_back(
    it: Stage,
) -> None:
    is_up = False

    async def broken_in_the_middle(_: Attempt) -> Receipt:
        if is_up:
            return DONE
        raise TryAgain("the connection broke before the answer came")

    for number in range(6):
        await it.put(f"{number}", order("there", Priority.EMERGENCY))
    there = Played("there", broken_in_the_middle)
    worker = it.start(there, concurrency=2, first="10m", cap="10m")
    await it.until(lambda: worker.view().state == "waiting", "paused after five failures in a row")
    is_up = True
    worker.nudge(0.1)
    await it.until(lambda: it.spool.counters.delivered == 6, "all delivered, long before their backoff ends")


@pytest.mark.parametrize(("outage", "expected"), [(0.0, 3), (30.0, 1)], ids=["long", "short"])
async def test_what_failed_in_a_long_outage_is_due_when_its_destination_answers_again(
    it: Stage, monkeypatch: pytest.MonkeyPatch, outage: float, expected: int
) -> None:
    monkeypatch.setattr("relayd.breaker.OUTAGE_SECONDS", outage)

    async def away(attempt: Attempt) -> Receipt:
        match len(there.seen):
            case 1 | 2:
                raise TryAgain("the connection broke before the answer came")
            case 3:
                raise Unavailable("no route", retry_after_seconds=0.05)
        return DONE

    for name in ("first", "second", "third"):
        await it.put(name)
    there = Played("there", away)
    it.start(there, first="10m", cap="10m")
    await it.until(lambda: it.spool.counters.delivered == expected, "what is due is delivered")
    assert there.seen[:4] == ["first", "second", "third", "third"]
    await it.put("fresh")
    await it.until(lambda: it.spool.counters.delivered == expected + 1, "and what comes later")
    assert len(there.seen) == 4 + expected


async def test_a_wake_up_leaves_alone_what_is_out_what_is_not_ready_and_what_is_due(it: Stage) -> None:
    """The refused one waits as long as it was told to; the one that is out is not begun a second time."""
    names = ["failed", "not ready", "untried"]
    items = {name: await it.put(name) for name in names}
    ids = {}
    for name, ending in (("failed", Outcome.FAILED), ("not ready", Outcome.NOT_READY)):
        begun = await it.spool.begin(
            "there", now=clock.now(), longest_backoff=60, delay=lambda _: 30.0, exclude=(), probe=False
        )
        assert begun is not None
        assert begun.item.id == items[name].id
        ids[name] = begun.delivery.id
        await it.spool.record_deferred(begun.delivery.id, ending, "so", due_at=clock.now() + 50, now=clock.now())
    out = await it.spool.begin(
        "there", now=clock.now(), longest_backoff=60, delay=lambda _: 30.0, exclude=(), probe=False
    )
    assert out is not None
    now = clock.now()
    assert await it.spool.wake("there", now=now, due_at=now + 5, exclude={out.delivery.id}) == 1
    detail = await it.spool.item(items["failed"].id)
    assert detail is not None
    assert detail.deliveries[0].delivery.due_at == pytest.approx(now + 5, abs=0.01)
    assert await it.spool.wake("there", now=now, due_at=now + 5, exclude={out.delivery.id}) == 0
    assert await it.spool.wake("elsewhere", now=now, due_at=now, exclude=()) == 0


async def test_a_nudge_ends_a_long_pause(it: Stage) -> None:
    is_away = True

    async def away(_: Attempt) -> Receipt:
        if is_away:
            raise Unavailable("503", retry_after_seconds=3600)
        return DONE

    await it.put("waits")
    worker = it.start(Played("there", away), cap="1h")
    await it.until(lambda: worker.view().state == "waiting", "it pauses")
    is_away = False
    worker.nudge(0.1)
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered after the nudge")


async def test_until_an_answer_or_a_pause_it_is_not_known_whether_the_destination_is_there(it: Stage) -> None:
    is_let = asyncio.Event()

    async def late(_: Attempt) -> Receipt:
        await is_let.wait()
        return DONE

    async def away(_: Attempt) -> Receipt:
        raise Unavailable("no route")

    await it.put("waits", order("late"), order("away"))
    slow, gone = it.start(Played("late", late)), it.start(Played("away", away))
    await it.until(lambda: slow.view().under_way == 1, "it is being tried")
    assert (slow.view().state, slow.view().is_known) == ("ok", False)
    is_let.set()
    await it.until(lambda: slow.view().is_known, "its answer is there")
    await it.until(lambda: gone.view().state == "waiting", "the other one pauses")
    assert gone.view().is_known


async def test_five_failures_in_a_row_pause_the_destination_even_if_each_is_its_own(it: Stage) -> None:
    found: list[str] = []

    async def broken(_: Attempt) -> Receipt:
        found.append(worker.view().state)
        raise TryAgain("500")

    for number in range(20):
        await it.put(f"n{number}")
    worker = it.start(Played("there", broken))
    await it.until(lambda: len(found) > 5, "the pause has ended, however short it was, and something probed")
    assert found[:6] == ["ok"] * 5 + ["waiting"]


async def test_a_look_for_what_is_urgent_alone_ends_no_pause(it: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, looked = asyncio.Event(), asyncio.Event()
    begin, next_due = it.spool.begin, it.spool.next_due

    async def begin_late(destination: str, **wanted: Any) -> Begun | None:
        if wanted["least_urgent"] is not Priority.BULK:
            looks.set()
            await it.until(lambda: not worker.view().under_way, "what was out fails during the look")
        return await begin(destination, **wanted)

    async def next_due_noted(destination: str, **wanted: Any) -> float | None:
        found = await next_due(destination, **wanted)
        if wanted["least_urgent"] is not Priority.BULK:
            looked.set()
        return found

    async def away(_: Attempt) -> Receipt:
        await looks.wait()
        raise Unavailable("503", retry_after_seconds=3600)

    monkeypatch.setattr(it.spool, "begin", begin_late)
    monkeypatch.setattr(it.spool, "next_due", next_due_noted)
    await it.put("owed")
    worker = it.start(Played("there", away), cap="1h")
    async with asyncio.timeout(PATIENT_SECONDS):
        await looked.wait()
    assert worker.view().state == "waiting"


async def test_a_refused_login_is_a_fault_that_keeps_the_items(it: Stage) -> None:
    async def refuse(_: Attempt) -> Receipt:
        raise LoginRefused("client_id or client_secret is wrong")

    item = await it.put("kept")
    worker = it.start(Played("there", refuse))
    await it.until(lambda: worker.view().state == "fault", "it is a fault")
    assert "client_secret" in worker.view().reason
    assert await it.state(item) == "pending"


async def test_a_right_that_is_missing_for_everything_is_a_fault_that_keeps_the_items(it: Stage) -> None:
    async def refuse(_: Attempt) -> Receipt:
        raise NotAllowed("broker local does not take a message under 'a/b': not authorized (0x87)")

    item = await it.put("kept")
    worker = it.start(Played("there", refuse))
    await it.until(lambda: worker.view().state == "fault", "it is a fault")
    assert "0x87" in worker.view().reason
    assert await it.state(item) == "pending"


async def test_a_rejected_item_is_dead_with_the_reason_and_the_next_one_goes(it: Stage) -> None:
    async def picky(attempt: Attempt) -> Receipt:
        if attempt.item.name == "wrong":
            raise Rejected("413 too large")
        return DONE

    wrong = await it.put("wrong")
    await it.put("right")
    worker = it.start(Played("there", picky))
    await it.until(lambda: it.spool.counters.delivered == 1, "the next one went")
    detail = await it.spool.item(wrong.id)
    assert detail is not None
    assert detail.state.value == "dead"
    assert detail.deliveries[0].delivery.reason == "413 too large"
    assert worker.view().state == "ok"


async def test_not_ready_waits_without_counting_as_a_failure(it: Stage) -> None:
    async def not_yet(attempt: Attempt) -> Receipt:
        if attempt.number < 8:
            raise NotReady("no report id yet", retry_after_seconds=0.01)
        return DONE

    await it.put("early")
    worker = it.start(Played("there", not_yet))
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered")
    assert worker.view().state == "ok"


async def test_not_ready_is_no_proof_that_the_destination_is_back(it: Stage) -> None:
    async def away(attempt: Attempt) -> Receipt:
        if attempt.item.name == "follower":
            raise NotReady("the first one is not there yet", retry_after_seconds=60)
        raise Unavailable("no route")

    await it.put("first", size_bytes=100)
    there = Played("there", away)
    worker = it.start(there)
    await it.until(lambda: worker.view().state == "waiting", "paused")
    await it.put("follower")
    await it.until(lambda: "follower" in there.seen, "the follower was the probe")
    tries = there.seen.count("first")
    await it.until(lambda: there.seen.count("first") > tries, "the first one was a probe again")
    assert worker.view().state == "waiting"
    assert worker.view().reason == "no route"
    assert there.seen.count("follower") == 1


async def test_a_delivery_sees_its_siblings_filled_in_and_tells_them(it: Stage) -> None:
    heard: list[tuple[str, object]] = []

    async def once_for_all(attempt: Attempt) -> Receipt:
        if attempt.recall("told") is None:
            others = [other async for other in attempt.siblings()]
            heard.extend((other.item.name, other.arguments) for other in others)
            await attempt.tell(others, "told", {"by": attempt.item.name})
        return DONE

    await it.put("first")
    await it.put("second", order("there", text="{{ item.name }}!"))
    await it.put("third", order("there", text="{{ receipt.id }}"))
    await it.put("elsewhere", order("elsewhere"))
    it.start(Played("there", once_for_all))
    await it.until(lambda: it.spool.counters.destinations["there"].pending == 0, "all ended")
    assert heard == [("second", {"text": "second!"}), ("third", None)]


async def test_rewind_forgets_the_step_and_what_came_after_it_only(it: Stage) -> None:
    made: list[str] = []

    async def steps(attempt: Attempt) -> Receipt:
        async def make(name: str) -> dict[str, object]:
            made.append(name)
            return {"of": attempt.number}

        await attempt.step("token", make, "token")  # type: ignore[arg-type]
        slot = await attempt.step("slot", make, "slot")  # type: ignore[arg-type]
        if slot["of"] == 1:
            raise Rewind("slot", "expired")
        return DONE

    await it.put("again")
    it.start(Played("there", steps))
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered")
    assert made == ["token", "slot", "slot"]


async def test_a_fault_of_the_code_backs_off_is_logged_once_with_its_traceback_and_recovers(
    it: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(attempt: Attempt) -> Receipt:
        if attempt.number < 4:
            raise KeyError("uri")
        return DONE

    await it.put("bug")
    with caplog.at_level(logging.ERROR, "relayd.worker"):
        it.start(Played("there", buggy))
        await it.until(lambda: it.spool.counters.delivered == 1, "delivered at last")
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_template_that_fails_when_tried_is_dead_with_the_reason_and_stops_nothing(it: Stage) -> None:
    broken = await it.put("broken", order("there", text="{{ payload.nothing.there }}"))
    await it.put("fine", order("there", text="{{ item.name }}"))
    it.start(Played("there", accept))
    await it.until(lambda: it.spool.counters.delivered == 1, "the fine one went")
    detail = await it.spool.item(broken.id)
    assert detail is not None
    assert detail.state.value == "dead"
    assert "text" in detail.deliveries[0].delivery.reason


async def test_arguments_reach_the_destination_filled_in(it: Stage) -> None:
    texts: list[object] = []

    async def read(attempt: Attempt) -> Receipt:
        texts.append(attempt.arguments["text"])
        return DONE

    await it.put("gate.jpg", order("there", text="{{ item.name }} from {{ device.id }}"))
    it.start(Played("there", read))
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered")
    assert texts == ["gate.jpg from t"]


async def test_a_follow_up_sees_the_receipt_and_is_owed_only_after_the_delivery(it: Stage) -> None:
    texts: list[object] = []

    async def read(attempt: Attempt) -> Receipt:
        texts.append(attempt.arguments["text"])
        return DONE

    follow_up = Order(
        destination="chat",
        action="post",
        priority=Priority.NORMAL,
        rule="r",
        arguments={"text": "got {{ receipt.id }}"},
    )
    first = Order(destination="there", action="post", priority=Priority.NORMAL, rule="r", then=(follow_up,))
    item = await it.put("parent", first)
    chat = Played("chat", read)
    it.start(chat)
    it.start(Played("there", accept))
    await it.until(lambda: it.spool.counters.delivered == 1, "both delivered")
    assert texts == ["got 7"]
    assert await it.state(item) == "delivered"


async def test_a_held_destination_starts_nothing_until_released(it: Stage) -> None:
    there = Played("there", accept)
    worker = it.start(there)
    worker.hold()
    item = await it.put("held")
    assert worker.view().state == "paused"
    await it.until(lambda: it.spool.counters.destinations["there"].pending == 1, "it is owed")
    worker.release()
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered after the release")
    assert await it.state(item) == "delivered"


async def test_a_delivery_whose_record_the_full_disk_refuses_is_recorded_later_and_not_done_twice(
    it: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = 3
    whole = it.spool.record_delivered

    async def full(delivery_id: int, receipt: Receipt, *, now: float) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise SpoolFull("no space left on device")
        await whole(delivery_id, receipt, now=now)

    monkeypatch.setattr(it.spool, "record_delivered", full)
    there = Played("there", accept)
    await it.put("once")
    it.start(there)
    await it.until(lambda: it.spool.counters.delivered == 1, "recorded at last")
    assert there.seen == ["once"]


async def test_stopping_in_mid_delivery_leaves_the_item_pending(it: Stage) -> None:
    started = asyncio.Event()

    async def hangs(_: Attempt) -> Receipt:
        started.set()
        await asyncio.Event().wait()
        return DONE

    item = await it.put("cut")
    it.start(Played("there", hangs))
    await started.wait()
    await it.end()
    assert await it.state(item) == "pending"


async def test_thousands_of_equal_failures_are_at_most_fifty_log_lines(it: Stage) -> None:
    tries = 0
    lines: list[str] = []

    async def broken(_: Attempt) -> Receipt:
        nonlocal tries
        tries += 1
        raise TryAgain("500 Internal Server Error")

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    kept = Kept(logging.INFO)
    kept.addFilter(Calm())
    logger = logging.getLogger("relayd.worker")
    logger.addHandler(kept)
    try:
        for number in range(100):
            await it.put(f"n{number}")
        it.start(Played("there", broken), concurrency=16, first="1ms", cap="1ms")
        await it.until(lambda: tries >= 1_500, "many tries failed")
    finally:
        logger.removeHandler(kept)
    assert len(lines) <= 50
