"""MQTT as a destination, against a real mosquitto."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from relayd.broker import Broker
from relayd.destinations.base import Attempt
from relayd.destinations.publish import MqttConfig, Publish, PublishArguments
from relayd.errors import Rejected, TryAgain, Unavailable
from relayd.model import Delivery, Device, Item, Kind, Priority, State
from relayd.surroundings import Surroundings
from tests.broker.conftest import broker_at, collector, running, until
from tests.broker.mosquitto import Mosquitto


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()


@pytest.fixture
async def fleet(mosquitto: Mosquitto) -> AsyncIterator[Broker]:
    async with running(broker_at(mosquitto.url, max_packet="100KB")) as broker:
        yield broker


def publish(broker: Broker) -> Publish:
    config = MqttConfig.model_validate({"type": "mqtt", "broker": "fleet"})
    return Publish("out", config, Surroundings(brokers={"fleet": broker}))


class NoSteps:
    async def store_intent(self, delivery_id: int, name: str) -> None:
        raise AssertionError("publishing stores no steps")

    async def store_step(self, delivery_id: int, name: str, result: Any) -> None:
        raise AssertionError("publishing stores no steps")

    async def tell(self, delivery_ids: Any, name: str, known: Any) -> None:
        raise AssertionError("publishing tells nobody")


def attempt(
    content: bytes, *, kind: Kind = Kind.MESSAGE, came_on: str | None = "vehicle/panic", **more: Any
) -> Attempt:
    item = Item(
        id="01m82p5v8gf74hddfe",
        source="panic",
        name="panic",
        kind=kind,
        content_type="application/json",
        size_bytes=len(content),
        sha256="",
        md5="",
        captured_at=0.0,
        accepted_at=0.0,
        payload=content if kind is Kind.MESSAGE else None,
        topic=came_on,
    )
    delivery = Delivery(
        id=1,
        item_id=item.id,
        destination="out",
        action="publish",
        rule="r",
        priority=Priority.NORMAL,
        state=State.PENDING,
        attempts=1,
        created_at=0.0,
        due_at=0.0,
    )
    return Attempt(
        item=item,
        delivery=delivery,
        arguments=PublishArguments.model_validate(more).model_dump(mode="json"),
        device=Device(id="rig", name="rig"),
        open_media=lambda: open_file(content),
        store=NoSteps(),
        steps={},
    )


def open_file(payload: bytes) -> Any:
    descriptor = os.memfd_create("media")
    os.write(descriptor, payload)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return io.FileIO(descriptor, "rb")


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_message_goes_on_as_it_came_and_the_answer_is_the_proof(
    mosquitto: Mosquitto, fleet: Broker, qos: int
) -> None:
    got: list[Any] = []
    reader = broker_at(mosquitto.url, "reader")
    reader.subscribe(["#"], collector(got), name="test", qos=2)
    async with running(reader):
        receipt = await publish(fleet).deliver(attempt(b'{"pressed": true}', qos=qos))
        await until(lambda: got, "it arrived")
    assert (got[0].topic, got[0].payload, got[0].qos) == ("vehicle/panic", b'{"pressed": true}', qos)
    assert receipt.proof == f"{'PUBACK' if qos == 1 else 'PUBCOMP'} 0x00 from broker local"


async def test_topic_payload_and_retain_are_as_the_rule_says(mosquitto: Mosquitto, fleet: Broker) -> None:
    await publish(fleet).deliver(attempt(b"x", topic="a", payload="pressed in Ambulance 417", retain=True))
    got: list[Any] = []
    reader = broker_at(mosquitto.url, "reader")
    reader.subscribe(["a"], collector(got), name="test")
    async with running(reader):
        await until(lambda: got, "it is kept")
    assert (got[0].payload, got[0].is_retained) == (b"pressed in Ambulance 417", True)


async def test_that_nobody_subscribes_is_in_the_receipt(fleet: Broker) -> None:
    receipt = await publish(fleet).deliver(attempt(b"x"))
    assert "nobody subscribes" in receipt.proof


async def test_a_small_file_is_published_and_a_large_one_rejected(fleet: Broker) -> None:
    receipt = await publish(fleet).deliver(attempt(b"x" * 50_000, kind=Kind.MEDIA))
    assert "PUBACK" in receipt.proof
    with pytest.raises(Rejected, match="max_packet"):
        await publish(fleet).deliver(attempt(b"x" * 100_001, kind=Kind.MEDIA))


async def test_an_item_without_a_topic_needs_one_from_the_rule(fleet: Broker) -> None:
    with pytest.raises(Rejected, match="topic ="):
        await publish(fleet).deliver(attempt(b"x", came_on=None))


async def test_a_broker_that_is_away_makes_the_destination_wait(tmp_path: Path) -> None:
    async with running(broker_at("mqtt://127.0.0.1:9"), is_awaited=False) as broker:
        with pytest.raises(Unavailable):
            await publish(broker).deliver(attempt(b"x"))


async def test_a_refused_topic_is_tried_again_and_never_taken_for_delivered(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    acl.chmod(0o600)
    guarded = Mosquitto(tmp_path / "guarded", options=f"acl_file {acl}").start()
    try:
        async with running(broker_at(guarded.url)) as broker:
            with pytest.raises(TryAgain, match="0x87"):
                await publish(broker).deliver(attempt(b"x", topic="closed/a"))
    finally:
        guarded.kill()


def test_quality_zero_is_not_offered_since_it_proves_nothing() -> None:
    with pytest.raises(ValidationError):
        PublishArguments.model_validate({"qos": 0})
