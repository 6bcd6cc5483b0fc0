"""Heartbeats: who is late, and who is not waited for."""

from __future__ import annotations

import asyncio

import pytest

from relayd import clock, pulse


def test_a_loop_is_stuck_when_it_is_silent_longer_than_it_said_and_the_grace() -> None:
    with pulse.registry() as heartbeats, pulse.heart("worker"):
        pulse.beat(10.0)
        now = clock.monotonic()
        assert heartbeats.stuck(now + 10.0 + pulse.GRACE_SECONDS - 1.0) == {}
        assert heartbeats.stuck(now + 10.0 + pulse.GRACE_SECONDS + 1.0).keys() == {"worker"}
        pulse.beat(10.0)
        assert heartbeats.stuck(now + 10.0 + pulse.GRACE_SECONDS) == {}


def test_a_part_that_has_ended_or_never_beat_is_not_waited_for() -> None:
    with pulse.registry() as heartbeats:
        with pulse.heart("reporter"):
            pulse.beat(1.0, "events")
            pulse.beat(1.0, "presence")
            assert heartbeats.due.keys() == {"reporter: events", "reporter: presence"}
        assert heartbeats.due == {}


def test_a_part_whose_name_begins_another_ones_ends_alone() -> None:
    with pulse.registry() as heartbeats, pulse.heart("source a2"):
        pulse.beat(1.0)
        with pulse.heart("source a"):
            pulse.beat(1.0)
        assert heartbeats.due.keys() == {"source a2"}


async def test_each_task_beats_for_its_own_part() -> None:
    async def part(name: str) -> None:
        with pulse.heart(name):
            pulse.beat(1.0)
            await asyncio.sleep(0)
            pulse.beat(1.0, "again")
            await gate.wait()

    gate = asyncio.Event()
    with pulse.registry() as heartbeats:
        async with asyncio.TaskGroup() as tasks:
            for name in ("a", "b"):
                tasks.create_task(part(name))
            for _ in range(3):
                await asyncio.sleep(0)
            assert heartbeats.due.keys() == {"a", "a: again", "b", "b: again"}
            gate.set()


def test_where_nobody_keeps_a_registry_a_beat_is_nothing() -> None:
    pulse.beat(1.0)


@pytest.mark.parametrize("seconds", [0.0, 5.0])
def test_how_late_it_is_is_told(seconds: float) -> None:
    with pulse.registry() as heartbeats, pulse.heart("worker"):
        pulse.beat(0.0)
        late = heartbeats.stuck(heartbeats.due["worker"] + seconds + 0.5)["worker"]
        assert late == pytest.approx(seconds + 0.5)
