"""What `why` says of media that belongs to no incident: one true thing, and the incident that it missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relayd import listing
from relayd.model import Item
from relayd.spool import Spool, check
from tests.incidents.rig import MEDIA, PRESS, Scene
from tests.spool.rig import adds_up, config, opened

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
    return Scene(spool, monkeypatch, PRESS, MEDIA)


async def why(scene: Scene, item: Item) -> str:
    detail = await scene.spool.item(item.id)
    assert detail is not None
    return listing.paragraph(detail, lambda destination: None, now=scene.now)


async def an_old_one_comes(scene: Scene) -> Item:
    """While an incident is open, of a camera whose clock was right."""
    await scene.photo("now.jpg")
    scene.passes(600)
    await scene.press()
    await scene.photo("right.jpg")
    scene.passes(10)
    return await scene.photo("old.jpg", ago=1300)


async def test_why_names_the_open_incident_that_was_missed_and_why(scene: Scene) -> None:
    told = await why(scene, await an_old_one_comes(scene))
    incident = (await scene.incident()).incident
    assert f"Incident {incident.id} (panic-A) was open when it came, but by its own time" in told
    assert "it was captured 20 min before that begins, and its camera's clock was right." in told
    assert "kept for a while" in told
    assert "no longer kept" not in told


async def test_why_still_says_so_when_the_content_is_gone(scene: Scene) -> None:
    old = await an_old_one_comes(scene)
    scene.passes(601)
    await scene.spool.expire_unclaimed(now=scene.now, keep_unclaimed=600)
    told = await why(scene, old)
    assert "No rule wanted it, and no incident claimed it in time, so its content is no longer kept." in told
    assert "kept for a while" not in told
    assert told.count("no longer kept") == 1
    assert told.count("o rule wanted it") == 1
    assert "it was captured 20 min before that begins" in told
    scene.passes(3 * 86_400)
    await scene.spool.purge(now=scene.now, keep_delivered=86_400, keep_dead=86_400)
    assert await scene.spool.item(old.id) is None


async def test_a_source_that_the_incident_does_not_collect_from_is_named_and_leaves_no_trace(scene: Scene) -> None:
    await scene.press()
    back = await scene.photo("back.jpg", source="back")
    assert "was open when it came, but it collects from front, not from back." in await why(scene, back)
    scene.passes(601)
    await scene.spool.expire_unclaimed(now=scene.now, keep_unclaimed=600)
    assert await scene.spool.item(back.id) is None


async def test_what_came_shortly_before_an_incident_is_told_which_one_began_too_late(scene: Scene) -> None:
    early = await scene.photo("early.jpg")
    scene.passes(180)
    await scene.press()
    await scene.look()
    told = await why(scene, early)
    assert "opened 3 min after it came, but by its own time" in told
    assert "it was captured 2 min before that begins." in told.replace("120 s", "2 min")


async def test_what_belongs_to_an_incident_and_what_came_long_ago_missed_none(scene: Scene) -> None:
    alone = await scene.photo("alone.jpg")
    scene.passes(2 * HOUR)
    await scene.press()
    for item in (alone, await scene.photo("in.jpg")):
        detail = await scene.spool.item(item.id)
        assert detail is not None
        assert detail.missed == ()
