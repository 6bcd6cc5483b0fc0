"""A wall clock that is set makes nothing old, and lets nothing wait."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from relayd import clock, housekeeping
from relayd.model import Kind, Order, Outcome, Priority, State
from relayd.spool import Spool, database
from tests.spool.rig import DAY, NOW, Machine, begin, begun, config, message, opened, order, to_first_shape

YEARS = 60 * 365 * DAY


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


async def put(spool: Spool, *orders: Order, kind: Kind = Kind.MESSAGE) -> str:
    return (await spool.put(message(kind=kind), orders, now=clock.now())).id


async def state_of(spool: Spool, item: str) -> State | None:
    detail = await spool.item(item)
    return None if detail is None else detail.state


async def fail(spool: Spool, times: int, *, after: float = 0.0) -> None:
    for _ in range(times):
        it = await begun(spool, now=clock.now(), delay=lambda _: 0.0)
        due_at = clock.now() + after
        await spool.record_deferred(it.delivery.id, Outcome.FAILED, "no", due_at=due_at, now=clock.now())


@pytest.mark.parametrize("step", [60 * DAY, YEARS, -60 * DAY])
async def test_a_press_after_months_in_a_garage_is_not_given_up_when_the_clock_is_set(
    tmp_path: Path, machine: Machine, step: float
) -> None:
    settings = config(tmp_path)
    async with opened(settings, now=machine.now) as spool:
        await housekeeping.tidy(spool, settings)
    machine.machine_restarts(NOW)
    async with opened(settings, now=machine.now) as spool:
        item = await put(spool, order(priority=Priority.EMERGENCY))
        await fail(spool, 3)
        machine.passes(35)
        machine.clock_is_set(step)
        machine.is_synchronized = True
        await housekeeping.tidy(spool, settings)
        assert await state_of(spool, item) is State.PENDING


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_what_died_a_minute_ago_is_kept_when_the_clock_is_set(
    tmp_path: Path, machine: Machine, is_restarted: bool
) -> None:
    settings = config(tmp_path)
    async with opened(settings, now=machine.now) as spool:
        item = await put(spool, order(), kind=Kind.MEDIA)
        it = await begun(spool, now=machine.now)
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=machine.now)
        machine.passes(60)
        machine.clock_is_set(60 * DAY)
        if is_restarted:
            machine.machine_restarts(machine.now + 60 * DAY)
    async with opened(settings, now=machine.now) as spool:
        await housekeeping.tidy(spool, settings)
        assert await state_of(spool, item) is State.DEAD
        machine.passes(31 * DAY)
        await housekeeping.tidy(spool, settings)
        assert await state_of(spool, item) is None


@pytest.mark.parametrize("step", [-1.0, -60.0, -DAY, -YEARS])
async def test_what_is_due_is_due_when_the_clock_was_set_back(tmp_path: Path, machine: Machine, step: float) -> None:
    machine.now += YEARS
    async with opened(config(tmp_path), now=machine.now) as spool:
        item = await put(spool, order())
        await fail(spool, 1, after=5)
        machine.passes(7)
        machine.clock_is_set(step)
        assert (await begun(spool, now=machine.now)).item.id == item


@pytest.mark.parametrize("step", [60.0, DAY, YEARS])
async def test_what_waits_goes_on_waiting_when_the_clock_was_set_forward(
    tmp_path: Path, machine: Machine, step: float
) -> None:
    async with opened(config(tmp_path), now=machine.now) as spool:
        item = await put(spool, order())
        await fail(spool, 1, after=300)
        machine.clock_is_set(step)
        assert await begin(spool, now=machine.now) is None
        due_at = await spool.next_due("api", now=machine.now, longest_backoff=300, exclude=())
        assert due_at == pytest.approx(machine.now + 300)
        detail = await spool.item(item)
        assert detail is not None
        assert detail.deliveries[0].delivery.due_at == pytest.approx(machine.now + 300)


async def test_what_was_taken_under_a_clock_a_day_ahead_has_its_turn_before_what_came_later(
    tmp_path: Path, machine: Machine
) -> None:
    async with opened(config(tmp_path), now=machine.now) as spool:
        machine.clock_is_set(DAY)
        early = [await put(spool, order()) for _ in range(3)]
        machine.clock_is_set(-DAY)
        machine.passes(1)
        late = [await put(spool, order()) for _ in range(3)]
        assert [(await begun(spool, now=machine.now)).item.id for _ in range(6)] == early + late


async def test_after_a_restart_of_the_machine_everything_is_due(tmp_path: Path, machine: Machine) -> None:
    settings = config(tmp_path)
    async with opened(settings, now=machine.now) as spool:
        item = await put(spool, order())
        await fail(spool, 1, after=300)
        assert await begin(spool, now=machine.now) is None
    machine.machine_restarts(10.0)
    async with opened(settings, now=machine.now) as spool:
        assert (await begun(spool, now=machine.now)).item.id == item


async def test_what_reads_the_clock_just_before_it_is_set_is_as_old_as_it_is(tmp_path: Path, machine: Machine) -> None:
    settings = config(tmp_path)
    async with opened(settings, now=machine.now) as spool:
        before = machine.now
        machine.clock_is_set(60 * DAY)
        item = (await spool.put(message(), [order()], now=before)).id
        assert (await begun(spool, now=before, delay=lambda _: 0.0)).item.id == item
        await fail(spool, 3)
        await housekeeping.tidy(spool, settings)
        detail = await spool.item(item)
        assert detail is not None
        assert detail.state is State.PENDING
        assert detail.item.accepted_at == pytest.approx(machine.now)


async def test_what_nobody_wanted_is_kept_for_its_time_whatever_the_clock_says(
    tmp_path: Path, machine: Machine
) -> None:
    settings = config(tmp_path, keep_unclaimed="10m")
    async with opened(settings, now=machine.now, collected=["panic"]) as spool:
        machine.clock_is_set(DAY)
        ahead = [await put(spool) for _ in range(3)]
        machine.clock_is_set(-DAY)
        machine.passes(300)
        later = await put(spool)
        machine.passes(301)
        await housekeeping.tidy(spool, settings)
        assert {await state_of(spool, item) for item in ahead} == {None}
        assert await state_of(spool, later) is State.UNCLAIMED


async def test_ages_in_a_spool_of_an_older_version_count_from_the_upgrade(tmp_path: Path, machine: Machine) -> None:
    settings = config(tmp_path)
    async with opened(settings, now=machine.now) as spool:
        item = await put(spool, order())
        await fail(spool, 3)
    with contextlib.closing(database.connect(settings.path / database.FILE_NAME)) as db:
        db.execute("UPDATE deliveries SET owed_since = 100, due_at = due_at + 1e6")
        db.execute("DELETE FROM notes WHERE key = 'clock:timeline'")
        to_first_shape(db)
    async with opened(settings, now=machine.now) as spool:
        await housekeeping.tidy(spool, settings)
        assert await state_of(spool, item) is State.PENDING
        assert (await begun(spool, now=machine.now)).item.id == item


async def test_time_in_which_nothing_happens_is_noted_now_and_then(tmp_path: Path, machine: Machine) -> None:
    settings = config(tmp_path)
    async with opened(settings, now=machine.now) as spool:
        item = await put(spool, order())
        await fail(spool, 3)
        machine.passes(40 * DAY)
        await spool.note_time()
    machine.machine_restarts(10.0)
    async with opened(settings, now=machine.now) as spool:
        await housekeeping.tidy(spool, settings)
        assert await state_of(spool, item) is State.EXPIRED
