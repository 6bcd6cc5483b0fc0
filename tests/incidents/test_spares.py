"""What a destination can do without: the stream of the device stands in where no incident brings one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from relayd import config, destinations
from relayd.config.preview import item_of_file, preview
from relayd.destinations.incidentshare_models import IncidentShareConfig
from relayd.incidents import bare, dispensable, is_dispensable
from relayd.rule_config import RuleConfig
from relayd.rules import compile_rules
from relayd.spool import Spool, check
from tests.incidents.rig import MEDIA, PRESS, Scene
from tests.spool.rig import adds_up, opened
from tests.spool.rig import config as spool_config

SECTION: dict[str, Any] = {
    "type": "incidentshare",
    "url": "https://acme.incidentshare.com",
    "client_id": "x",
    "client_secret": {"env": "X"},
}
SMS = {"to": "video", "action": "sms", "phone_number": "1"}
TO_STREAM = {**MEDIA, "when": None, "deliver": [{"to": "video", "action": "media"}]}
CONFIG = """
[source.front]
type = "folder"
path = "{folder}"
[destination.video]
type = "incidentshare"
url = "https://acme.incidentshare.com"
client_id = "x"
client_secret = {{ env = "X" }}
{option}
[[rule]]
name = "media"
from = ["front"]
deliver = [ {{ to = "video", action = "media" }} ]
"""


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    settings = spool_config(tmp_path)
    async with opened(settings) as spool:
        yield spool
        assert adds_up(spool)
    report = check(settings.path)
    assert report.is_good, report.problems


def scene_of(spool: Spool, patch: pytest.MonkeyPatch, deliver: list[Mapping[str, Any]], **options: Any) -> Scene:
    """A vehicle whose photos go to a stream, and whose button asks for `deliver`."""
    scene = Scene(spool, patch)
    wires = {"video": destinations.wired(IncidentShareConfig.model_validate({**SECTION, **options}))}
    rules = [RuleConfig.model_validate(rule) for rule in ({**PRESS, "deliver": deliver}, TO_STREAM)]
    scene.rules = compile_rules(rules, wires)
    scene.use(spool)
    return scene


async def tried(scene: Scene) -> list[tuple[str, str]]:
    """What `video` is tried for now: action and incident."""
    found = []
    while (begun := await scene.next("video")) is not None:
        found.append((begun.delivery.action, "in an incident" if begun.delivery.incident else "outside"))
        await scene.deliver(begun)
    return found


async def test_outside_of_an_incident_media_goes_to_the_stream_of_the_device_and_without_one_nowhere(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = scene_of(spool, monkeypatch, [])
    assert await without.actions(await without.photo()) == []
    scene = scene_of(spool, monkeypatch, [], stream_id="vehicle-12")
    assert await scene.actions(await scene.photo()) == ["video media pending"]
    assert await tried(scene) == [("media", "outside")]


async def test_in_an_incident_media_waits_for_the_link_that_was_asked_for(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(spool, monkeypatch, [SMS], stream_id="vehicle-12")
    await scene.press()
    photo = await scene.photo()
    begun = await scene.next("video")
    assert begun is not None
    assert begun.delivery.action == "sms"
    assert await scene.next("video") is None
    (waiting,) = await scene.deliveries(photo)
    assert waiting.delivery.waits_for == ("video.stream_id?",)
    await scene.deliver(begun, stream_id="rk-1")
    begun = await scene.next("video")
    assert begun is not None
    assert begun.incident is not None
    assert begun.incident.remote == {"video": {"stream_id": "rk-1"}}


async def test_in_an_incident_that_asks_for_no_link_media_waits_for_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(spool, monkeypatch, [], stream_id="vehicle-12")
    await scene.press()
    await scene.photo()
    assert await tried(scene) == [("media", "in an incident")]


@pytest.mark.parametrize("ends", ["refused", "delivered without a stream"])
async def test_media_goes_on_when_the_link_that_it_waited_for_brought_no_stream(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    scene = scene_of(spool, monkeypatch, [SMS], stream_id="vehicle-12")
    await scene.press()
    photo = await scene.photo()
    begun = await scene.next("video")
    assert begun is not None
    if ends == "refused":
        await scene.refuse(begun)
    else:
        await scene.deliver(begun, stream_id=None)
    assert await tried(scene) == [("media", "in an incident")]
    assert await scene.actions(photo) == ["video media delivered"]


async def test_without_a_stream_of_the_device_media_dies_with_the_link(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(spool, monkeypatch, [SMS])
    await scene.press()
    photo = await scene.photo()
    begun = await scene.next("video")
    assert begun is not None
    await scene.refuse(begun)
    assert await scene.actions(photo) == ["video media dead"]


def test_check_and_explain_know_the_spare(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"\xff\xd8")
    for option, notices, deliveries in (("", 1, 0), ('stream_id = "vehicle-12"', 0, 1)):
        place = tmp_path / "relayd.toml"
        place.write_text(CONFIG.format(folder=tmp_path, option=option))
        loaded = config.load([place])
        assert sum("needs the stream_id of an incident" in notice for notice in loaded.notices) == notices
        told = preview(loaded.config, *item_of_file(loaded.config, photo, None))
        assert [one["waits_for"] for one in told["deliveries"]] == [[]] * deliveries
        told = preview(loaded.config, *item_of_file(loaded.config, photo, None), in_incident=True)
        assert [one["waits_for"] for one in told["deliveries"]] == [["video.stream_id"]]


def test_a_need_says_whether_it_can_be_done_without() -> None:
    assert is_dispensable(dispensable("stream_id"))
    assert not is_dispensable("stream_id")
    assert bare(dispensable("stream_id")) == bare("stream_id") == "stream_id"
