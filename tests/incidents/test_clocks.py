"""Clocks that are wrong, set, or begin at 1970 after a power cut: no incident for ever, no press without a report."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.errors import SpoolFull
from relayd.spool import Spool, check
from relayd.spool.incident_file import IncidentFile
from tests.incidents.rig import MEDIA, PRESS, Scene
from tests.spool.rig import NOW, adds_up, config, opened

HOUR = 3600.0


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        yield spool
        assert adds_up(spool)
    report = check(settings.path)
    assert report.is_good, report.problems


@pytest.fixture
def scene(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(spool, monkeypatch)


async def is_reported(scene: Scene, press: Any) -> bool:
    return await scene.actions(press) == ["room report pending"]


@pytest.mark.parametrize("clock_says", [10.0, NOW + 60], ids=["1970", "the time of the last shutdown"])
async def test_a_press_after_a_restart_is_reported_though_the_clock_cannot_tell_how_long_ago_the_last_one_was(
    scene: Scene, clock_says: float
) -> None:
    await scene.press()
    scene.passes(60)
    scene.machine_restarts(clock_says)
    await scene.look()
    assert await is_reported(scene, await scene.press())
    scene.passes(20)
    scene.clock_is_set(NOW + 8 * HOUR - scene.now)
    assert not await is_reported(scene, await scene.press())
    assert await scene.actions(await scene.photo()) == ["room image pending"]
    scene.passes(601)
    await scene.look()
    assert scene.spool.counters.open_incidents == 0


async def test_an_incident_of_before_a_power_cut_is_not_moved_by_the_clock_of_today(scene: Scene) -> None:
    await scene.press()
    scene.machine_restarts(10.0)
    await scene.look()
    scene.passes(20)
    scene.clock_is_set(NOW + 8 * HOUR)
    await scene.look()
    assert scene.spool.counters.open_incidents == 0
    assert (await scene.incident()).incident.ends_at == NOW + 600


async def test_after_a_restart_with_a_clock_that_knows_the_time_a_press_joins_as_before(scene: Scene) -> None:
    await scene.press()
    scene.machine_restarts(NOW + 60)
    scene.is_synchronized = True
    assert not await is_reported(scene, await scene.press())
    scene.passes(600)
    assert not await is_reported(scene, await scene.press())
    assert scene.spool.counters.open_incidents == 1


async def test_an_incident_that_a_wrong_clock_opened_years_ahead_closes_once_a_right_one_says_so(scene: Scene) -> None:
    scene.clock_is_set(8 * 365 * 24 * HOUR)
    await scene.press()
    scene.machine_restarts(NOW)
    await scene.look()
    assert scene.spool.counters.open_incidents == 1
    scene.is_synchronized = True
    await scene.look()
    assert (await scene.incident()).incident.close_reason == "the clock that it was opened by was wrong"


@pytest.mark.parametrize("step", [50 * 365 * 24 * HOUR, 2 * HOUR, -2 * HOUR])
async def test_a_clock_that_is_set_while_relayd_does_not_run_neither_ends_an_incident_nor_keeps_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    async with opened(config(tmp_path)) as spool:
        scene = Scene(spool, monkeypatch, now=NOW - step)
        before = await scene.photo("before.jpg")
        scene.passes(5)
        await scene.press()
        await scene.look()
    scene.passes(20)
    scene.clock_is_set(step)
    async with opened(config(tmp_path)) as spool:
        scene.use(spool)
        await scene.look()
        assert await scene.actions(before) == ["room image pending"]
        assert not await is_reported(scene, await scene.press())
        assert await scene.actions(await scene.photo()) == ["room image pending"]
        scene.passes(601)
        await scene.look()
        assert spool.counters.open_incidents == 0


@pytest.mark.parametrize("step", [56 * 365 * 24 * HOUR, 5 * HOUR, -5 * HOUR])
async def test_media_that_is_owed_to_another_keeps_its_place_before_the_press_when_the_clock_is_set(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    archive = {"name": "archive", "from": ["front"], "deliver": [{"to": "nas", "action": "copy"}]}
    scene = Scene(spool, monkeypatch, PRESS, MEDIA, archive, now=NOW - step)
    await scene.look()
    photo = await scene.photo()
    scene.passes(20)
    scene.clock_is_set(step)
    await scene.press()
    await scene.look()
    assert sorted(await scene.actions(photo)) == ["nas copy pending", "room image pending"]


async def test_a_step_that_a_full_disk_kept_from_being_noted_is_followed_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.press()
    scene.clock_is_set(5 * HOUR)
    with monkeypatch.context() as patch:

        async def full(*_: Any) -> None:
            raise SpoolFull("the disk is full")

        patch.setattr(IncidentFile, "follow", full)
        with pytest.raises(SpoolFull):
            await scene.look()
    await scene.look()
    assert (await scene.incident()).incident.ends_at == scene.now + 600
    assert scene.spool.counters.open_incidents == 1
