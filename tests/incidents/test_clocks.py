"""Clocks that are wrong, set, or begin at 1970 after a power cut: no incident for ever, no press without a report."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd import housekeeping
from relayd.errors import SpoolFull
from relayd.spool import Spool, check, claiming
from relayd.spool.change import Change
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

        def full(_: Change) -> None:
            error = sqlite3.OperationalError("the disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        patch.setattr(scene.spool._engine.writer, "_follow", full)
        with pytest.raises(SpoolFull):
            await scene.look()
    await scene.look()
    assert (await scene.incident()).incident.ends_at == scene.now + 600
    assert scene.spool.counters.open_incidents == 1


@pytest.mark.parametrize("step", [2 * HOUR, -2 * HOUR, 60 * 24 * HOUR, 59 * 365 * 24 * HOUR])
@pytest.mark.parametrize("tidies_first", [True, False])
async def test_footage_of_seconds_ago_is_claimed_when_the_clock_is_set_between_it_and_the_press(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: float, tidies_first: bool
) -> None:
    scene = Scene(spool, monkeypatch, now=NOW)
    photo = await scene.photo()
    scene.passes(5)
    scene.clock_is_set(step)
    if tidies_first:
        await housekeeping.tidy(spool, config(tmp_path))
    await scene.press()
    await scene.look()
    await housekeeping.tidy(spool, config(tmp_path))
    assert await scene.actions(photo) == ["room image pending"]


@pytest.mark.parametrize("off", [-HOUR, HOUR, 8 * HOUR, 37 * 60, 3 * 24 * HOUR])
async def test_what_comes_during_an_incident_belongs_to_it_though_its_camera_has_another_time(
    scene: Scene, off: float
) -> None:
    await scene.press()
    scene.passes(20)
    assert await scene.actions(await scene.photo(ago=off)) == ["room image pending"]


@pytest.mark.parametrize("off", [-HOUR, HOUR, 2 * HOUR])
async def test_a_camera_that_goes_to_summer_time_is_not_taken_for_one_that_sends_old_pictures(
    scene: Scene, off: float
) -> None:
    await scene.photo("right.jpg")
    scene.passes(2 * HOUR)
    await scene.press()
    scene.passes(20)
    assert await scene.actions(await scene.photo(ago=off + 5)) == ["room image pending"]


async def test_what_a_camera_sends_late_whose_clock_is_right_does_not_belong_to_an_incident_after_it(
    scene: Scene,
) -> None:
    await scene.photo("right.jpg")
    scene.passes(2 * HOUR)
    await scene.press()
    scene.passes(20)
    assert await scene.actions(await scene.photo(ago=1.5 * HOUR)) == []


async def test_a_late_picture_of_an_incident_that_is_over_finds_it_though_the_clock_was_set(scene: Scene) -> None:
    await scene.press()
    scene.passes(601)
    await scene.look()
    scene.clock_is_set(60 * 24 * HOUR)
    await scene.look()
    assert await scene.actions(await scene.photo(ago=300)) == ["room image pending"]


async def test_a_long_claim_goes_on_where_the_page_before_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "CLAIMED_AT_ONCE", 3)
    monkeypatch.setattr(claiming, "LOOKED_AT_ONCE", 4)
    photos = [await scene.photo(f"{number}.jpg") for number in range(11)]
    await scene.press()
    incident = (await scene.incident()).incident.id
    page, counts, starts = None, [], []
    while True:
        count, page = await scene.spool.incidents.claim(
            incident, scene.intake.collector.rules, now=scene.now, page=page
        )
        counts.append(count)
        if page is None:
            break
        starts.append(page.before)
    assert sum(counts) == len(photos)
    assert starts == sorted(set(starts), reverse=True)
    assert await scene.spool.incidents.claiming() == []
    assert {action for photo in photos for action in await scene.actions(photo)} == {"room image pending"}


async def test_a_claim_begins_anew_when_the_incident_has_grown_meanwhile(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = {**PRESS, "name": "wider", "when": "payload.button == 'A'"}
    wider["incident"] = {"key": "panic-A", "collect": ["front", "rear"], "before": "60s", "after": "10m"}
    narrow = {**PRESS, "name": "narrow", "when": "payload.button == 'B'"}
    narrow["incident"] = {"key": "panic-A", "collect": ["front"], "before": "60s", "after": "10m"}
    media = {**MEDIA, "from": ["front", "rear"]}
    monkeypatch.setattr(claiming, "CLAIMED_AT_ONCE", 2)
    scene = Scene(spool, monkeypatch, narrow, wider, media)
    for number in range(3):
        await scene.photo(f"{number}.jpg")
    rear = await scene.photo("rear.jpg", source="rear")
    await scene.press("B")
    incident, rules = (await scene.incident()).incident.id, scene.intake.collector.rules
    _, page = await spool.incidents.claim(incident, rules, now=scene.now)
    assert page is not None
    await scene.press("A")
    while page is not None:
        _, page = await spool.incidents.claim(incident, rules, now=scene.now, page=page)
    assert await scene.actions(rear) == ["room image pending"]
