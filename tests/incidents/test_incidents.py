"""Incidents: what opens them, what belongs to them, what waits for them; on a real spool, through the intake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd import listing
from relayd.model import DestinationView, Priority, State
from relayd.spool import Spool, check
from tests.incidents.rig import CLEAR, IMAGE, MEDIA, PRESS, REPORT, Scene
from tests.spool.rig import adds_up, config, opened


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


async def report_id(scene: Scene, number: int = 7) -> None:
    """The control room makes the report."""
    begun = await scene.next()
    assert begun is not None
    assert begun.delivery.action == "report"
    await scene.deliver(begun, report_id=number)


async def reason(scene: Scene, item: Any) -> str:
    return (await scene.deliveries(item))[0].delivery.reason


# --- opening, joining, closing


async def test_a_press_opens_an_incident_and_orders_its_report_in_the_same_commit(scene: Scene) -> None:
    press = await scene.press()
    assert await scene.actions(press) == ["room report pending"]
    found = await scene.incident()
    assert (found.incident.key, found.incident.rule, found.opened_by) == ("panic-A", "panic", press.id)
    assert (found.incident.starts_at, found.incident.ends_at) == (scene.now - 60, scene.now + 600)
    assert (await scene.deliveries(press))[0].delivery.incident == found.incident.id
    assert scene.spool.counters.open_incidents == 1


async def test_a_second_press_within_the_window_joins_the_first_and_makes_no_second_report(scene: Scene) -> None:
    await scene.press()
    scene.passes(300)
    second = await scene.press()
    assert await scene.actions(second) == []
    assert scene.spool.counters.open_incidents == 1
    assert (await scene.incident()).incident.ends_at == scene.now + 600


async def test_a_press_after_the_window_opens_another_one(scene: Scene) -> None:
    await scene.press()
    scene.passes(601)
    second = await scene.press()
    assert await scene.actions(second) == ["room report pending"]
    assert [one.incident.close_reason for one in await scene.spool.incidents.page()] == ["", "its time is over"]


async def test_another_key_is_another_incident(scene: Scene) -> None:
    await scene.press("A")
    other = await scene.press("B")
    assert await scene.actions(other) == ["room report pending"]
    assert scene.spool.counters.open_incidents == 2


async def test_a_press_after_a_refused_report_asks_for_a_new_one_and_wakes_what_waited(scene: Scene) -> None:
    await scene.press()
    photo = await scene.photo()
    begun = await scene.next()
    assert begun is not None
    await scene.refuse(begun)
    assert await scene.actions(photo) == ["room image dead"]
    second = await scene.press()
    assert await scene.actions(second) == ["room report pending"]
    assert await scene.actions(photo) == ["room image pending"]


async def test_retrying_everything_makes_no_second_report_where_a_later_press_asked_again(scene: Scene) -> None:
    first = await scene.press()
    begun = await scene.next()
    assert begun is not None
    await scene.refuse(begun)
    second = await scene.press()
    await scene.spool.retry(None, None, now=scene.now)
    assert await scene.actions(first) == ["room report dead"]
    assert await scene.actions(second) == ["room report pending"]


async def test_an_incident_closes_by_time_and_a_late_press_is_not_needed_for_it(scene: Scene) -> None:
    await scene.press()
    scene.passes(601)
    await scene.look()
    assert scene.spool.counters.open_incidents == 0
    assert (await scene.incident()).incident.close_reason == "its time is over"


async def test_a_message_closes_the_incident_it_belongs_to(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"to": "room", "action": "message", "text": "released"}
    scene = Scene(spool, monkeypatch, PRESS, MEDIA, CLEAR | {"deliver": [said]})
    await scene.press()
    clear = await scene.press(pressed=False)
    found = await scene.incident()
    assert found.incident.close_reason == "closed by rule 'all clear'"
    assert await scene.actions(clear) == ["room message pending"]
    assert (await scene.deliveries(clear))[0].delivery.incident == found.incident.id
    scene.passes(1)
    assert await scene.actions(await scene.photo()) == []


async def test_closing_what_is_not_open_orders_nothing_that_needs_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch, PRESS, CLEAR | {"deliver": [{"to": "room", "action": "message", "text": "x"}]})
    assert await scene.actions(await scene.press(pressed=False)) == []


async def test_a_key_that_cannot_be_filled_in_is_told_and_keeps_the_report_from_nobody(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch, PRESS | {"incident": {"key": "{{ payload.nothing }}"}})
    press = await scene.press()
    assert await scene.actions(press) == ["room report pending"]
    detail = await spool.item(press.id)
    assert detail is not None
    assert "no incident is opened, its key cannot be filled in" in detail.trouble[0]


# --- what belongs to it


@pytest.mark.parametrize("when", ["before the press", "after the press", "after the report"])
async def test_media_belongs_to_the_incident_whenever_it_comes(scene: Scene, when: str) -> None:
    photo = await scene.photo() if when == "before the press" else None
    scene.passes(5)
    await scene.press()
    photo = await scene.photo() if when == "after the press" else photo
    await scene.look()
    await report_id(scene)
    photo = photo or await scene.photo()
    assert await scene.actions(photo) == ["room image pending"]
    begun = await scene.next()
    assert begun is not None
    assert (begun.item.id, begun.delivery.action) == (photo.id, "image")
    assert begun.incident is not None
    assert begun.incident.remote == {"room": {"report_id": 7}}


async def test_what_was_captured_too_early_or_elsewhere_is_left_alone(scene: Scene) -> None:
    early = await scene.photo("early.jpg", ago=100)
    elsewhere = await scene.photo("back.jpg", source="back")
    scene.passes(61)
    await scene.press()
    await scene.look()
    assert await scene.actions(early) == []
    assert await scene.spool.item(elsewhere.id) is None, "no incident can claim it, so it leaves no row"


async def test_media_that_a_camera_sends_after_the_incident_closed_belongs_to_it_by_its_own_time(scene: Scene) -> None:
    await scene.press()
    await report_id(scene)
    scene.passes(7200)
    await scene.look()
    assert scene.spool.counters.open_incidents == 0
    assert await scene.actions(await scene.photo(ago=7000)) == ["room image pending"]
    assert await scene.actions(await scene.photo("later.jpg", ago=600)) == []


async def test_media_of_a_camera_whose_clock_is_wrong_belongs_by_when_it_came(scene: Scene) -> None:
    before = await scene.photo("before.jpg", ago=scene.now)
    scene.passes(5)
    await scene.press()
    await scene.look()
    assert await scene.actions(before) == ["room image pending"]
    assert await scene.actions(await scene.photo("after.jpg", ago=scene.now)) == ["room image pending"]


async def test_an_item_of_two_incidents_goes_to_both_and_what_has_nothing_to_do_with_them_goes_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = MEDIA | {"deliver": [IMAGE, {"to": "nas", "action": "copy"}]}
    scene = Scene(spool, monkeypatch, PRESS, media)
    photo = await scene.photo()
    await scene.press("A")
    await scene.press("B")
    await scene.look()
    actions = await scene.actions(photo)
    assert sorted(actions) == ["nas copy pending", "room image pending", "room image pending"]
    found = await scene.deliveries(photo)
    assert len({one.delivery.incident for one in found if one.delivery.action == "image"}) == 2


async def test_what_a_rule_ordered_before_the_incident_is_not_ordered_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"name": "archive", "from": ["front"], "deliver": [{"to": "nas", "action": "copy"}]}
    scene = Scene(spool, monkeypatch, PRESS, MEDIA, everything)
    photo = await scene.photo()
    await scene.press()
    await scene.look()
    await scene.look()
    assert sorted(await scene.actions(photo)) == ["nas copy pending", "room image pending"]


async def test_media_that_was_delivered_elsewhere_can_still_be_claimed_for_a_while(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"name": "archive", "from": ["front"], "deliver": [{"to": "nas", "action": "copy"}]}
    scene = Scene(spool, monkeypatch, PRESS, MEDIA, everything)
    old = await scene.photo("old.jpg")
    scene.passes(100)
    photo = await scene.photo()
    for _ in range(2):
        begun = await scene.next("nas")
        assert begun is not None
        await scene.deliver(begun)
    scene.passes(5)
    await scene.press()
    await scene.look()
    assert await scene.actions(photo) == ["nas copy delivered", "room image pending"]
    detail = await spool.item(old.id)
    assert detail is not None
    assert detail.has_content  # until keep_unclaimed is over
    await spool.free_delivered(now=scene.now + 500, keep_content=0, keep_unclaimed=600)
    detail = await spool.item(old.id)
    assert detail is not None
    assert (detail.has_content, detail.state) == (False, State.DELIVERED)


async def test_a_crash_between_the_press_and_the_claim_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(config(tmp_path)) as spool:
        scene = Scene(spool, monkeypatch)
        photos = [await scene.photo(f"{number}.jpg") for number in range(120)]
        await scene.press()
    async with opened(config(tmp_path)) as spool:
        scene.use(spool)
        assert await scene.actions(photos[0]) == []
        await scene.look()
        for photo in photos:
            assert await scene.actions(photo) == ["room image pending"]
        assert spool.counters.open_incidents == 1


# --- waiting for a remote id


async def test_what_needs_the_report_waits_for_it_without_a_try_and_says_so(scene: Scene) -> None:
    await scene.press()
    photo = await scene.photo()
    begun = await scene.next()
    assert begun is not None
    assert await scene.next() is None or begun.delivery.action == "report"
    found = (await scene.deliveries(photo))[0].delivery
    assert (found.attempts, found.waits_for) == (0, ("room.report_id",))
    detail = await scene.spool.item(photo.id)
    assert detail is not None
    view = DestinationView(state="ok", reason="", next_try_at=None, under_way=0)
    text = listing.paragraph(detail, lambda _: view, now=scene.now)
    assert f"waits for the report_id from room of incident {found.incident}" in text


async def test_what_waits_dies_with_the_report_and_comes_back_with_it(scene: Scene) -> None:
    press = await scene.press()
    photo = await scene.photo()
    begun = await scene.next()
    assert begun is not None
    await scene.refuse(begun)
    assert await scene.actions(photo) == ["room image dead"]
    assert f"the report to room is dead (no such category); `relayd retry {press.id}`" in await reason(scene, photo)
    late = await scene.photo("late.jpg")
    assert await scene.actions(late) == ["room image dead"]
    await scene.spool.retry([press.id], None, now=scene.now)
    await report_id(scene)
    assert [(await scene.actions(one))[0] for one in (photo, late)] == ["room image pending"] * 2
    assert [one.delivery.waits_for for one in await scene.deliveries(photo)] == [()]


async def test_a_retry_of_what_waits_in_vain_says_again_why(scene: Scene) -> None:
    await scene.press()
    photo = await scene.photo()
    begun = await scene.next()
    assert begun is not None
    await scene.refuse(begun)
    await scene.spool.retry([photo.id], None, now=scene.now)
    assert await scene.actions(photo) == ["room image dead"]
    assert "the report to room is dead" in await reason(scene, photo)


async def test_what_nothing_was_ever_asked_for_dies_when_the_incident_closes(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch, PRESS | {"deliver": []}, MEDIA)
    await scene.press()
    photo = await scene.photo()
    assert await scene.actions(photo) == ["room image pending"]
    scene.passes(601)
    await scene.look()
    assert await scene.actions(photo) == ["room image dead"]
    assert "is closed, and nothing in it asked for one" in await reason(scene, photo)


async def test_a_text_that_speaks_of_a_remote_id_waits_for_it_unless_it_has_a_default(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = [
        REPORT,
        {"to": "video", "action": "sms", "phone_number": "1", "notes": "report {{ incident.report_id }}"},
        {"to": "hook", "action": "post", "text": "{{ incident.report_id | default('none yet') }}"},
    ]
    scene = Scene(spool, monkeypatch, PRESS | {"deliver": deliver})
    await scene.press()
    assert await scene.next("video") is None
    assert await scene.next("hook") is not None
    await report_id(scene)
    begun = await scene.next("video")
    assert begun is not None
    assert begun.incident is not None
    assert begun.incident.remote["room"]["report_id"] == 7


async def test_a_follow_up_may_open_what_others_wait_for(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    sms = {"to": "video", "action": "sms", "phone_number": "1"}
    scene = Scene(
        spool,
        monkeypatch,
        PRESS | {"deliver": [REPORT | {"then": [sms]}]},
        MEDIA | {"deliver": [{"to": "video", "action": "media"}]},
    )
    await scene.press()
    photo = await scene.photo()
    await report_id(scene)
    assert await scene.actions(photo) == ["video media pending"]
    begun = await scene.next("video")
    assert begun is not None
    assert begun.delivery.action == "sms"
    await scene.deliver(begun, stream_id=12)
    begun = await scene.next("video")
    assert begun is not None
    assert begun.item.id == photo.id


async def test_what_opens_a_stream_and_has_a_follow_up_gives_the_stream_to_who_waits(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"to": "room", "action": "message", "text": "stream {{ receipt.stream_id }}"}
    sms = {"to": "video", "action": "sms", "phone_number": "1", "then": [said]}
    scene = Scene(
        spool,
        monkeypatch,
        PRESS | {"deliver": [REPORT, sms]},
        MEDIA | {"deliver": [{"to": "video", "action": "media"}]},
    )
    press = await scene.press()
    photo = await scene.photo()
    begun = await scene.next("video")
    assert begun is not None
    await scene.deliver(begun, stream_id=12)
    assert await scene.actions(photo) == ["video media pending"]
    assert await scene.actions(press) == ["room report pending", "video sms delivered", "room message pending"]
    begun = await scene.next("video")
    assert begun is not None
    assert begun.item.id == photo.id


async def test_the_first_report_counts_and_a_second_one_changes_no_image(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = REPORT | {"category": "Accident"}
    scene = Scene(spool, monkeypatch, PRESS | {"deliver": [REPORT, other]}, MEDIA)
    await scene.press()
    await report_id(scene, 7)
    await report_id(scene, 8)
    assert (await scene.incident()).incident.remote == {"room": {"report_id": 7}}


async def test_an_image_outside_an_incident_is_not_ordered_at_all(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = {"name": "images", "from": ["front"], "deliver": [IMAGE]}
    scene = Scene(spool, monkeypatch, PRESS, always)
    photo = await scene.photo()
    assert await scene.actions(photo) == []
    await scene.press()
    await scene.look()
    assert await scene.actions(photo) == ["room image pending"]


# --- order


async def test_in_an_incident_messages_go_first_then_the_newest_media_then_the_rest(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules: list[dict[str, Any]] = [
        PRESS | {"priority": "high", "deliver": [{"to": "nas", "action": "copy"}]},
        {"name": "all", "from": ["front", "back"], "priority": "high", "deliver": [{"to": "nas", "action": "copy"}]},
    ]
    scene = Scene(spool, monkeypatch, *rules)
    names = []
    for number in range(3):
        await scene.photo(f"back-{number}", source="back")
    await scene.press()
    for number in range(3):
        await scene.photo(f"front-{number}")
    out: set[int] = set()
    while (
        begun := await scene.spool.begin(
            "nas", now=scene.now, longest_backoff=300, delay=lambda _: 60.0, exclude=out, probe=False
        )
    ) is not None:
        out.add(begun.delivery.id)
        names.append(begun.item.name)
    assert names == ["panic", "front-2", "front-1", "front-0", "back-0", "back-1", "back-2"]


async def test_bulk_is_oldest_first_in_an_incident_too(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(spool, monkeypatch, PRESS, MEDIA | {"priority": "bulk", "deliver": [{"to": "nas", "action": "copy"}]})
    await scene.press()
    for number in range(3):
        await scene.photo(f"{number}")
    begun = await scene.next("nas")
    assert begun is not None
    assert (begun.item.name, begun.delivery.priority) == ("0", Priority.BULK)


# --- clocks


@pytest.mark.parametrize("step", [56 * 365 * 86_400.0, 50_000.0, -50_000.0])
async def test_a_clock_that_is_set_while_an_incident_is_open_neither_ends_it_nor_loses_its_footage(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    scene = Scene(spool, monkeypatch, now=1_800_000_000.0 - step)
    before = await scene.photo("before.jpg")
    scene.passes(20)
    scene.clock_is_set(step)
    await scene.press()
    await scene.look()
    assert await scene.actions(before) == ["room image pending"]
    scene.clock_is_set(-step)
    scene.passes(20)
    assert await scene.actions(await scene.photo("between.jpg")) == ["room image pending"]
    scene.clock_is_set(step)
    assert await scene.actions(await scene.press()) == []
    assert await scene.actions(await scene.photo("after.jpg")) == ["room image pending"]
    assert scene.spool.counters.open_incidents == 1


# --- events and purging


async def test_the_fleet_is_told_when_an_incident_opens_and_closes(scene: Scene) -> None:
    scene.spool.fleet.wants_events = True
    press = await scene.press()
    scene.passes(601)
    await scene.look()
    told = [event.document for event in await scene.spool.fleet.events(0, 10)]
    opening, closing = (one for one in told if str(one["type"]).startswith("incident"))
    assert (opening["type"], opening["key"], opening["item"]) == ("incident_opened", "panic-A", press.id)
    assert (closing["type"], closing["reason"], closing["items"]) == ("incident_closed", "its time is over", 1)
    assert closing["incident"] == opening["incident"]


async def test_a_closed_incident_is_forgotten_with_its_last_item(scene: Scene) -> None:
    await scene.press()
    await report_id(scene)
    scene.passes(601)
    await scene.look()
    later = scene.now + 40 * 86_400
    await scene.spool.purge(now=later, keep_delivered=86_400, keep_dead=30 * 86_400)
    await scene.spool.purge(now=later, keep_delivered=86_400, keep_dead=30 * 86_400)
    assert await scene.spool.incidents.page() == []
