"""What waits for a remote id, and what brings one: nothing waits for ever, nothing is asked for twice, however many."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.operations import Operations, Parts
from relayd.spool import Spool, check, waiting
from relayd.spool.change import Change
from tests.incidents.rig import CLEAR, DEVICE, IMAGE, MEDIA, PRESS, REPORT, Scene, book
from tests.spool.rig import DAY, adds_up, config, make_way, opened

SMS: dict[str, Any] = {"to": "video", "action": "sms", "phone_number": "1"}
STREAM: dict[str, Any] = MEDIA | {"deliver": [{"to": "video", "action": "media"}]}


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        yield spool
        assert adds_up(spool)
    report = check(settings.path)
    assert report.is_good, report.problems


async def no_snapshot() -> Any:
    raise AssertionError("nobody asked for the status")


async def reasons(scene: Scene, item: Any) -> list[str]:
    return [one.delivery.reason for one in await scene.deliveries(item)]


async def all_actions(scene: Scene, items: list[Any]) -> list[str]:
    return [action for item in items for action in await scene.actions(item)]


async def answered(scene: Scene, destination: str = "room", **receipt: Any) -> None:
    begun = await scene.next(destination)
    assert begun is not None
    await scene.deliver(begun, **receipt)


async def refused(scene: Scene) -> None:
    begun = await scene.next()
    assert begun is not None
    assert begun.delivery.action == "report"
    await scene.refuse(begun)


# --- nothing waits for ever


async def test_what_waits_in_a_circle_ends_with_the_incident_and_says_so(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = REPORT | {"description": "{{ incident.stream_id }}"}
    sms = SMS | {"notes": "{{ incident.report_id }}"}
    scene = Scene(spool, monkeypatch, PRESS | {"deliver": [report, sms]})
    press = await scene.press()
    assert await scene.next() is None
    scene.passes(601)
    await scene.look()
    assert await scene.actions(press) == ["room report dead", "video sms dead"]
    assert "waits for this in turn" in (await reasons(scene, press))[0]


async def test_an_answer_that_comes_after_its_report_was_dropped_brings_back_what_waited_for_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch)
    press = await scene.press()
    photo = await scene.photo()
    begun = await scene.next()
    assert begun is not None
    await spool.drop([press.id], now=scene.now)
    assert await scene.actions(photo) == ["room image dead"]
    assert "its content is no longer kept" in (await reasons(scene, photo))[0]
    await scene.deliver(begun, report_id=7)
    assert await scene.actions(photo) == ["room image pending"]
    begun = await scene.next()
    assert begun is not None
    assert begun.item.id == photo.id


async def test_what_an_older_version_left_dead_though_its_report_is_there_comes_back_by_hand(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch)
    await scene.press()
    photo = await scene.photo()
    await refused(scene)

    def as_before(change: Change) -> None:
        change.db.execute("""UPDATE incidents SET remote = '{"room":{"report_id":7}}'""")

    await spool._write(as_before)
    assert await spool.retry([photo.id], None, now=scene.now) == 1
    assert await scene.next() is not None


async def test_a_retry_counts_only_what_is_owed_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(spool, monkeypatch)
    await scene.press()
    photo = await scene.photo()
    await refused(scene)
    assert await spool.retry([photo.id], None, now=scene.now) == 0


async def test_a_refusal_ends_a_long_chain_of_what_would_have_come_of_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image would open a stream: all of them bring what others wait for, and wait themselves."""
    chain = MEDIA | {"deliver": [IMAGE | {"then": [SMS]}, {"to": "video", "action": "media"}]}
    scene = Scene(spool, monkeypatch, PRESS, chain)
    press = await scene.press()
    photos = [await scene.photo(f"{number}.jpg") for number in range(300)]
    await refused(scene)
    await scene.look()
    for photo in photos[::50]:
        assert await scene.actions(photo) == ["room image dead", "video media dead"]
    await spool.retry([press.id], None, now=scene.now)
    await scene.look()
    for photo in photos[::50]:
        assert await scene.actions(photo) == ["room image pending", "video media pending"]


async def test_what_is_too_much_for_one_commit_goes_on_in_the_next(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MOVED_AT_ONCE", 3)
    scene = Scene(spool, monkeypatch)
    press = await scene.press()
    photos = [await scene.photo(f"{number}.jpg") for number in range(10)]
    await refused(scene)
    assert spool.counters.destinations["room"].dead == 4
    await scene.look()
    assert spool.counters.destinations["room"].dead == 11
    await spool.retry([press.id], None, now=scene.now)
    await scene.look()
    assert spool.counters.destinations["room"].pending == 11
    await answered(scene, report_id=7)
    await scene.look()
    assert [one.delivery.waits_for for photo in photos for one in await scene.deliveries(photo)] == [()] * 10


async def test_what_was_too_much_for_one_commit_goes_on_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MOVED_AT_ONCE", 3)
    async with opened(config(tmp_path)) as spool:
        scene = Scene(spool, monkeypatch)
        await scene.press()
        for number in range(10):
            await scene.photo(f"{number}.jpg")
        await refused(scene)
    async with opened(config(tmp_path)) as spool:
        await spool.incidents.settle_all(now=scene.now)
        assert spool.counters.destinations["room"].dead == 11


# --- what it costs


async def test_a_photo_costs_the_same_however_many_wait_for_the_report(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch)
    await scene.press()

    async def statements_for_one_more() -> int:
        seen: list[str] = []
        spool._engine.writer._db.set_trace_callback(seen.append)
        await scene.photo()
        spool._engine.writer._db.set_trace_callback(None)
        return len(seen)

    await scene.photo()
    few = await statements_for_one_more()
    for _ in range(200):
        await scene.photo()
    assert abs(await statements_for_one_more() - few) <= 2


# --- nothing is asked for twice


async def test_media_that_was_there_before_opens_once_what_a_rule_for_media_opens(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch, PRESS | {"deliver": []}, MEDIA | {"deliver": [SMS]})
    photos = [await scene.photo(f"{number}.jpg") for number in range(3)]
    await scene.press()
    await scene.look()
    photos.append(await scene.photo("late.jpg"))
    assert await all_actions(scene, photos) == ["video sms pending"]


async def test_a_follow_up_that_opens_is_asked_for_once_however_many_presses_it_follows(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch, PRESS | {"deliver": [{"to": "hook", "action": "post", "then": [REPORT]}]}, MEDIA)
    presses = [await scene.press(), await scene.press()]
    photo = await scene.photo()
    await answered(scene, "hook")
    await answered(scene, "hook")
    found = await all_actions(scene, presses)
    assert found.count("room report pending") == 1
    await answered(scene, report_id=7)
    assert (await scene.deliveries(photo))[0].delivery.waits_for == ()


async def test_retrying_everything_makes_one_report_of_many_that_were_refused(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch)
    presses = []
    for _ in range(3):
        presses.append(await scene.press())
        await refused(scene)
    assert await spool.retry(None, None, now=scene.now) == 1
    found = await all_actions(scene, presses)
    assert sorted(found) == ["room report dead", "room report dead", "room report pending"]


@pytest.mark.parametrize("goes", ["by age", "for room"])
async def test_the_report_of_a_long_incident_stays_on_record_and_is_not_made_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, goes: str
) -> None:
    scene = Scene(spool, monkeypatch, PRESS | {"incident": {"key": "one", "after": "2d"}})
    await scene.press()
    await answered(scene, report_id=7)
    scene.passes(1.5 * DAY)
    if goes == "by age":
        await spool.purge(now=scene.now, keep_delivered=DAY, keep_dead=30 * DAY)
    else:
        await make_way(spool, now=scene.now, bytes_wanted=1)
    assert await scene.actions(await scene.press()) == []
    scene.passes(3 * DAY)
    await scene.look()
    await spool.purge(now=scene.now, keep_delivered=DAY, keep_dead=30 * DAY)
    assert await scene.actions(await scene.press()) == ["room report pending"]


async def test_two_rules_that_close_the_same_incident_close_it_once(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch, PRESS, CLEAR, CLEAR | {"name": "all clear, too"})
    await scene.press()
    await scene.press(pressed=False)
    assert spool.counters.open_incidents == 0


# --- strange keys, rules that change, texts that name a destination


async def test_more_keys_than_a_rule_may_have_open_are_reported_outside_of_an_incident_and_say_so(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"key": "panic-{{ payload.button }}", "collect": ["front"], "most_open": 3}
    scene = Scene(spool, monkeypatch, PRESS | {"incident": key}, MEDIA)
    presses = [await scene.press(str(number)) for number in range(5)]
    assert await all_actions(scene, presses) == ["room report pending"] * 5
    assert spool.counters.open_incidents == 3
    detail = await spool.item(presses[4].id)
    assert detail is not None
    assert "3 of it are open already (most_open)" in detail.trouble[0]
    operations = Operations(spool, Parts, no_snapshot)
    assert "could not do all that they say: rule 'panic'" in (await operations.why(presses[4].id))["text"]
    joined = await scene.press("1")
    assert await scene.actions(joined) == []


async def test_long_keys_that_differ_at_their_end_are_two_incidents(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch, PRESS)
    presses = [await scene.press("x" * 40_000 + end) for end in "12"]
    assert await all_actions(scene, presses) == ["room report pending"] * 2
    assert await scene.actions(await scene.press("x" * 40_000 + "1")) == []
    assert all(len(one.incident.key) == 200 for one in await spool.incidents.page())


async def test_an_open_incident_is_served_to_its_end_though_no_rule_opens_any_more(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(spool, monkeypatch)
    await scene.press()
    scene.intake.use(book(MEDIA), DEVICE)
    photo = await scene.photo()
    assert await scene.actions(photo) == ["room image pending"]


async def test_a_text_that_names_a_destination_waits_for_what_that_one_calls_the_incident(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["{{ incident.remote['room'].report_id }}", "{{ incident.remote.room.report_id | default('none yet') }}"]
    posts = [{"to": "hook", "action": "post", "text": text} for text in texts]
    scene = Scene(spool, monkeypatch, PRESS | {"deliver": [REPORT, *posts]})
    press = await scene.press()
    assert [one.delivery.waits_for for one in await scene.deliveries(press)] == [(), ("room.report_id",), ()]
    await answered(scene, report_id=7)
    assert [one.delivery.waits_for for one in await scene.deliveries(press)] == [(), (), ()]


# --- what people are told


async def test_a_retry_says_of_each_delivery_that_it_leaves_why(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(spool, monkeypatch)
    operations = Operations(spool, Parts, no_snapshot)
    press, photo = await scene.press(), await scene.photo()
    await refused(scene)
    (left,) = (await operations.retry([photo.id], None))["left"]
    assert (left["item"], left["action"], left["state"]) == (photo.id, "image", "dead")
    assert f"`relayd retry {press.id}` tries that again" in left["why"]
    assert "comes back by itself" in (await operations.why(photo.id))["text"]
    await scene.press()
    result = await operations.retry([press.id, photo.id], None)
    assert result["retried"] == 0
    assert [one["item"] for one in result["left"]] == [press.id]
    assert "was asked for again since then" in result["left"][0]["why"]
    assert "tries again" not in (await operations.why(press.id))["text"]
    await spool.drop([press.id], now=scene.now)
    (left,) = (await operations.retry([press.id], None))["left"]
    assert "a person dropped it" in left["why"]
