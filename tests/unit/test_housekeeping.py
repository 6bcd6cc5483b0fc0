"""Tidying up, and the doubt in a clock that nobody vouches for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relayd import clock, housekeeping
from relayd.housekeeping import BOOT_LEAP_SECONDS, ClockDoubt
from relayd.model import Capture, Kind
from relayd.spool import SpoolConfig
from tests.worker.stage import Stage, order, stage

DAY = 86_400.0
NOW = 1_800_000_000.0


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as made:
        yield made


def test_a_synchronized_clock_is_believed_whatever_it_says() -> None:
    doubt = ClockDoubt(str(NOW))
    assert doubt.believes(NOW + 1000 * DAY, 1.0, True)


def test_a_clock_that_boots_years_ahead_is_not_believed_until_it_is_synchronized() -> None:
    doubt = ClockDoubt(str(NOW))
    assert not doubt.believes(NOW + 5000 * DAY, 1.0, False)
    assert not doubt.believes(NOW + 5000 * DAY + 60, 61.0, False)
    assert doubt.believes(NOW + 60, 61.0, False), "it was set right again"
    assert doubt.believes(NOW + 9000 * DAY, 62.0, True), "somebody vouches for it"


def test_a_clock_that_leaps_while_running_is_not_believed() -> None:
    doubt = ClockDoubt(None)
    assert doubt.believes(NOW, 1.0, False)
    assert doubt.believes(NOW + 30, 31.0, None)
    assert not doubt.believes(NOW + 2 * DAY, 61.0, False)


def test_a_site_without_time_servers_still_gives_up_what_is_too_old() -> None:
    doubt = ClockDoubt(str(NOW))
    assert doubt.believes(NOW + BOOT_LEAP_SECONDS - 60, 1.0, False), "it was off for some days"
    assert doubt.believes(NOW + BOOT_LEAP_SECONDS + 40 * DAY, 40 * DAY, False), "it ran for weeks"


def test_a_site_that_was_off_for_weeks_and_has_no_time_server_is_believed_after_a_day() -> None:
    doubt = ClockDoubt(str(NOW))
    assert not doubt.believes(NOW + 60 * DAY, 1.0, False)
    assert not doubt.believes(NOW + 60.5 * DAY, 0.5 * DAY, False)
    assert doubt.believes(NOW + 61.1 * DAY, 1.1 * DAY, False)


def test_a_clock_behind_makes_nothing_look_old_and_is_believed() -> None:
    assert ClockDoubt(str(NOW)).believes(0.0, 1.0, False)


def test_the_time_is_noted_once_an_hour_and_not_more() -> None:
    doubt = ClockDoubt(None)
    assert doubt.is_worth_noting(NOW)
    assert not doubt.is_worth_noting(NOW + 1800)
    assert doubt.is_worth_noting(NOW + 3700)


async def test_nothing_is_given_up_by_age_while_the_clock_is_in_doubt(it: Stage) -> None:
    config = SpoolConfig.model_validate({"path": "/nowhere", "keep_unclaimed": "1ms"})
    nobody_wants = Capture(
        source="test",
        name="note",
        kind=Kind.MEDIA,
        content_type="image/jpeg",
        captured_at=clock.now(),
        payload=b"x",
    )
    unclaimed = await it.spool.put(nobody_wants, (), now=clock.now() - 100 * DAY)
    await housekeeping.tidy(it.spool, config, may_give_up=False)
    assert await it.state(unclaimed) == "unclaimed"
    await housekeeping.tidy(it.spool, config)
    assert await it.state(unclaimed) == "gone"
    kept = await it.put("owed", order("there"))
    await housekeeping.tidy(it.spool, config)
    assert await it.state(kept) == "pending"
