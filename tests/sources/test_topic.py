"""MQTT topics as a source: a real mosquitto, a real spool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relayd import clock, rules
from relayd.broker import Broker
from relayd.errors import SpoolFull
from relayd.intake import Intake
from relayd.model import Capture, Device, Item, Kind
from relayd.rule_config import RuleConfig
from relayd.sources.topic import TopicSource
from relayd.sources.topic_config import TopicConfig
from relayd.spool import Spool, SpoolConfig
from relayd.surroundings import Surroundings
from tests.broker.conftest import broker_at, running, until
from tests.broker.mosquitto import Mosquitto
from tests.patience import PATIENT_SECONDS

RULE = RuleConfig.model_validate({"name": "all", "from": ["panic"], "deliver": [{"to": "desk", "action": "send"}]})
"""Somebody wants all of it: else it would leave no row."""


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = await Spool.open(SpoolConfig.model_validate({"path": tmp_path / "spool", "min_free": "1MB"}), now=1e9)
    yield opened
    await opened.close()


class Taking:
    """A source that runs over a spool; `items` are those it was given back, in order."""

    def __init__(self, broker: Broker, spool: Spool, **settings: Any) -> None:
        config = TopicConfig.model_validate({"type": "mqtt", "broker": "local", "topics": ("a/#",), **settings})
        self.surroundings = Surroundings(brokers={"local": broker})
        self.source = TopicSource("panic", config, spool, self.surroundings)
        self.items: list[Item] = []
        self.is_full = False
        self._intake = Intake(spool, rules.compile_rules([RULE]), Device(id="rig", name="rig"))

    async def put(self, capture: Capture) -> Item:
        if self.is_full:
            raise SpoolFull("no room")
        item = await self._intake.put(capture)
        self.items.append(item)
        return item

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.source.run(self.put))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def taking(mosquitto: Mosquitto, spool: Spool, **settings: Any) -> AsyncIterator[tuple[Taking, Broker]]:
    broker = broker_at(mosquitto.url)
    made = Taking(broker, spool, **settings)
    async with made.run(), running(broker):
        yield made, broker


async def test_a_message_becomes_an_item_with_its_topic_payload_and_type(mosquitto: Mosquitto, spool: Spool) -> None:
    async with taking(mosquitto, spool) as (made, broker):
        for payload in (b'{"pressed": true}', b"{bad", b"\xff\xfe", b"", b"NaN", b"[" * 100_000):
            await broker.publish("a/b", payload)
        await until(lambda: len(made.items) == 6, "taken")
        assert [item.content_type for item in made.items] == [
            "application/json",
            "text/plain",
            "application/octet-stream",
            "text/plain",
            "text/plain",
            "text/plain",
        ]
        assert made.items[0].payload == b'{"pressed": true}'
        assert (made.items[0].topic, made.items[0].kind, made.items[0].source) == ("a/b", Kind.MESSAGE, "panic")
        assert made.source.view().state == "ok"
        assert spool.counters.items == 6


async def test_an_image_becomes_media_by_its_first_bytes(mosquitto: Mosquitto, spool: Spool) -> None:
    picture = (Path(__file__).parents[1] / "media" / "frame.jpg").read_bytes()
    settings = {"kind": "media", "topic_pattern": "a/{camera}/snapshot"}
    async with taking(mosquitto, spool, **settings) as (made, broker):
        await broker.publish("a/gate-3/snapshot", picture)
        await until(lambda: made.items, "taken")
        item = made.items[0]
        assert (item.kind, item.content_type, item.name) == (Kind.MEDIA, "image/jpeg", "snapshot.jpg")
        assert item.attributes == {"camera": "gate-3"}
        with spool.open_media(item.id) as stream:
            assert stream.read() == picture


async def test_while_the_spool_is_full_messages_stay_at_the_broker(mosquitto: Mosquitto, spool: Spool) -> None:
    broker = broker_at(mosquitto.url)
    made = Taking(broker, spool)
    made.is_full = True
    async with made.run(), running(broker), running(broker_at(mosquitto.url, "other")) as other:
        for number in range(20):
            await other.publish("a/b", b"%d" % number)
        await until(lambda: "no room" in broker.view().reason, "the reason is shown")
        assert made.source.view().state == "waiting"
        made.is_full = False
        await until(lambda: spool.counters.items == len(made.items) == 20, "all are taken once there is room")
        assert sorted(int(item.payload or b"") for item in made.items) == list(range(20))


async def test_a_message_that_was_stored_but_not_acknowledged_is_the_same_item_again(
    mosquitto: Mosquitto, spool: Spool
) -> None:
    broker = broker_at(mosquitto.url)
    made = Taking(broker, spool)
    whole_put = made.put
    is_cut = False

    async def stored_but_cut(capture: Capture) -> Item:
        nonlocal is_cut
        item = await whole_put(capture)
        if not is_cut:
            is_cut = True
            raise SpoolFull("the connection broke right after the commit")
        return item

    made.put = stored_but_cut  # type: ignore[method-assign]
    async with made.run(), running(broker), running(broker_at(mosquitto.url, "other")) as other:
        for _ in range(3):
            await other.publish("a/b", b"pressed")
        await until(lambda: len(made.items) >= 4, "what was not acknowledged came again")
        await until(lambda: len({item.id for item in made.items}) == 3, "three messages are three items")
        assert spool.counters.items == 3


async def test_equal_messages_that_are_not_repeats_are_items_of_their_own(mosquitto: Mosquitto, spool: Spool) -> None:
    async with taking(mosquitto, spool) as (made, broker):
        for _ in range(50):
            await broker.publish("a/b", b"pressed")
        await until(lambda: len(made.items) == 50, "taken")
        assert len({item.id for item in made.items}) == 50


async def test_the_ledger_forgets_what_the_broker_has_seen(mosquitto: Mosquitto, spool: Spool) -> None:
    async with taking(mosquitto, spool) as (made, broker):
        await broker.publish("a/b", b"1")
        await until(lambda: made.items, "taken")
        assert len(await spool.known("panic", b"", 10)) == 1

        async def is_empty() -> bool:
            return not await spool.known("panic", b"", 10)

        async with asyncio.timeout(PATIENT_SECONDS):
            while not await is_empty():  # noqa: ASYNC110 - a look into the database
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(("policy", "first", "second"), [("ignore", 0, 0), ("take", 1, 2), ("once", 1, 1)])
async def test_what_the_broker_kept_is_taken_as_configured(
    mosquitto: Mosquitto, spool: Spool, policy: str, first: int, second: int
) -> None:
    async with running(broker_at(mosquitto.url, "other")) as other:
        await other.publish("a/kept", b"old", retain=True)
    for expected in (first, second):
        async with taking(mosquitto, spool, retained=policy) as (made, broker):
            await broker.publish("a/fresh", b"new")
            await until(partial(_has_fresh, made), "taken")
            kept = [item async for item in stored(spool) if item == "a/kept"]
            assert len(kept) == expected


def _has_fresh(made: Taking) -> bool:
    return any(item.topic == "a/fresh" for item in made.items)


async def stored(spool: Spool) -> AsyncIterator[str | None]:
    for summary in await spool.items():
        yield summary.item.topic


async def test_messages_in_between_are_thinned_out_per_topic(mosquitto: Mosquitto, spool: Spool) -> None:
    async with taking(mosquitto, spool, min_interval="1h") as (made, broker):
        for number in range(5):
            await broker.publish("a/one", b"%d" % number)
            await broker.publish("a/two", b"%d" % number)
        await broker.publish("a/three", b"")
        await until(lambda: len(made.items) == 3, "taken")
        assert {item.payload for item in made.items} == {b"0", b""}


async def test_a_message_that_the_spool_refused_is_not_thinned_out_when_it_comes_again(
    mosquitto: Mosquitto, spool: Spool
) -> None:
    broker = broker_at(mosquitto.url)
    made = Taking(broker, spool, min_interval="60s")
    made.is_full = True
    async with made.run(), running(broker), running(broker_at(mosquitto.url, "other")) as other:
        await other.publish("a/b", b"pressed")
        await until(lambda: "no room" in broker.view().reason, "refused")
        made.is_full = False
        await until(lambda: made.items, "taken once there is room")


async def test_too_large_a_message_is_refused_said_and_not_asked_for_again(mosquitto: Mosquitto, spool: Spool) -> None:
    async with taking(mosquitto, spool, max_message="1KB", max_topic="20B") as (made, broker):
        await broker.publish("a/b", b"x" * 1001)
        await broker.publish("a/" + "b" * 30, b"x")
        await broker.publish("a/b", b"x")
        await until(lambda: made.items, "the small one is taken")
        assert len(made.items) == 1
        view = made.source.view()
        assert view.state == "fault"
        assert view.reason.startswith("2 messages were refused")


async def test_a_flood_is_slowed_down_and_nothing_is_lost(mosquitto: Mosquitto, spool: Spool) -> None:
    async with taking(mosquitto, spool, max_per_second=100) as (made, broker):
        started = clock.monotonic()
        await asyncio.gather(*(broker.publish("a/b", b"%d" % number) for number in range(250)))
        await until(lambda: len(made.items) == 250, "all are taken")
        assert clock.monotonic() - started > 1.2


async def test_connections_that_break_do_not_use_up_the_pace(mosquitto: Mosquitto, spool: Spool) -> None:
    broker = broker_at(mosquitto.url)
    made = Taking(broker, spool, max_per_second=20)
    async with made.run(), running(broker), running(broker_at(mosquitto.url, "other")) as other:
        await asyncio.gather(*(other.publish("a/b", b"%d" % number) for number in range(120)))
        for _ in range(3):
            await until(lambda: broker.is_connected, "connected")
            await asyncio.sleep(0.2)
            connection = broker._connection
            assert connection is not None
            connection[0].close()
            await until(lambda before=connection: broker._connection is not before, "broken")  # type: ignore[misc]
        await until(lambda: spool.counters.items == 120, "all are taken at the configured pace", 18)


async def test_silence_is_a_fault(mosquitto: Mosquitto, spool: Spool) -> None:
    async with taking(mosquitto, spool, expect_every="200ms") as (made, broker):
        await until(lambda: made.source.view().state == "fault", "silence is noticed")
        assert "expected one every" in made.source.view().reason
        await broker.publish("a/b", b"")
        await until(lambda: made.items, "taken")
        assert made.source.view().state == "ok"


async def test_two_sources_of_one_topic_each_get_it(mosquitto: Mosquitto, spool: Spool) -> None:
    broker = broker_at(mosquitto.url)
    one, two = Taking(broker, spool), Taking(broker, spool, topics=("a/b",))
    two.source.name = "second"
    async with one.run(), two.run(), running(broker):
        await broker.publish("a/b", b"")
        await until(lambda: one.items and two.items, "both have it")
        assert (len(one.items), len(two.items)) == (1, 1)


async def test_a_position_of_endless_digits_is_ignored_and_does_not_end_the_connection(
    mosquitto: Mosquitto, spool: Spool
) -> None:
    broker = broker_at(mosquitto.url)
    made = Taking(broker, spool)
    made.surroundings.whereabouts.follow(broker, "a/gps")
    async with made.run(), running(broker):
        connection = broker._connection
        await broker.publish("a/gps", b'{"latitude": ' + b"9" * 400 + b', "longitude": 1}')
        await broker.publish("a/b", b"")
        await until(lambda: len(made.items) == 2, "both are taken")
        assert broker._connection is connection
        assert made.surroundings.whereabouts.ignored == 1


async def test_the_newest_fix_is_stamped_on_what_comes_after_it(mosquitto: Mosquitto, spool: Spool) -> None:
    broker = broker_at(mosquitto.url)
    made = Taking(broker, spool)
    place = made.surroundings.whereabouts
    place.follow(broker, "vehicle/gps")
    made._intake = Intake(spool, rules.compile_rules([RULE]), Device(id="rig", name="rig"), place)
    async with made.run(), running(broker):
        await broker.publish("vehicle/gps", b"no position")
        fix = {"latitude": 55.4, "longitude": 10.4, "accuracy": 4}
        await broker.publish("vehicle/gps", json.dumps(fix).encode())
        await until(lambda: place.at(clock.now()), "the fix is known")
        await broker.publish("a/b", b"")
        await until(lambda: made.items, "taken")
        found = made.items[0].location
        assert found is not None
        assert (found.latitude, found.longitude, found.accuracy_meters) == (55.4, 10.4, 4.0)
        assert found.age_seconds is not None
        assert 0 <= found.age_seconds < 5
        assert place.ignored == 1
