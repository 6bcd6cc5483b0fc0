"""The broker stand-in: what clients that others wrote see of it, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from relayd.errors import Unavailable
from relayd.sandbox.mqtt import Broker
from relayd.sandbox.mqtt_packets import Kind, Malformed, Packet, packed, read
from relayd.sandbox.server import Sandbox
from tests.broker.conftest import broker_at, collector, running, until
from tests.patience import PATIENT_SECONDS
from tests.sandbox.peers import get, post

HELLO = b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a"


@asynccontextmanager
async def serving() -> AsyncIterator[Broker]:
    broker = Broker()
    await broker.start()
    try:
        yield broker
    finally:
        await broker.close()


def client(broker: Broker, name: str = "button", *, is_kept: bool = False) -> aiomqtt.Client:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600 if is_kept else 0
    return aiomqtt.Client(
        "127.0.0.1",
        broker.port,
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=not is_kept,
        properties=properties,
    )


async def talk(broker: Broker, *packets: bytes) -> bytes:
    """What the broker says until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", broker.port)
    try:
        writer.write(b"".join(packets))
        async with asyncio.timeout(PATIENT_SECONDS):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_message_reaches_every_client_that_subscribed_and_no_other(qos: int) -> None:
    async with serving() as broker, client(broker) as button, client(broker, "a") as one, client(broker, "b") as other:
        await one.subscribe("vehicle/+/panic", qos=1)
        await other.subscribe("vehicle/gps", qos=1)
        await button.publish("vehicle/12/panic", b'{"pressed": true}', qos=qos)
        await button.publish("vehicle/gps", b"{}", qos=qos)
        first, second = await anext(one.messages), await anext(other.messages)
    assert (str(first.topic), first.payload, first.qos) == ("vehicle/12/panic", b'{"pressed": true}', qos)
    assert str(second.topic) == "vehicle/gps"
    assert [each.topic for each in broker.messages] == ["vehicle/12/panic", "vehicle/gps"]


async def test_what_comes_while_a_client_is_away_waits_for_it_once() -> None:
    async with serving() as broker:
        async with client(broker, "relay", is_kept=True) as relay:
            await relay.subscribe("vehicle/panic", qos=1)
        message = broker.publish("vehicle/panic", b"1")
        assert message.acknowledged == {"relay": None}
        async with client(broker, "relay", is_kept=True) as relay:
            taken = await anext(relay.messages)
            await until(lambda: message.acknowledged["relay"], "acknowledged")
        assert taken.payload == b"1"
        async with client(broker, "relay", is_kept=True) as relay:
            broker.publish("vehicle/panic", b"2")
            assert (await anext(relay.messages)).payload == b"2"


async def test_a_client_without_a_session_is_forgotten() -> None:
    async with serving() as broker:
        async with client(broker, "visitor") as visitor:
            await visitor.subscribe("a", qos=1)
        await until(lambda: broker.publish("a", b"").acknowledged == {}, "forgotten")


async def test_the_relay_gets_a_message_again_until_it_has_taken_it() -> None:
    async with serving() as broker:
        refusing, got = broker_at(broker.url), list[Any]()

        async def refuse(message: object) -> None:
            raise Unavailable("the disk is full")

        refusing.subscribe(["vehicle/panic"], refuse, name="test")
        async with running(refusing):
            assert refusing.version == "5"
            message = broker.publish("vehicle/panic", b"help")
            await until(lambda: not refusing.is_connected, "it is not taken")
        assert message.acknowledged == {"relayd-test": None}
        taking = broker_at(broker.url)
        taking.subscribe(["vehicle/panic"], collector(got), name="test")
        async with running(taking):
            await until(lambda: message.acknowledged["relayd-test"], "acknowledged")
        assert [(each.payload, each.is_redelivery) for each in got] == [(b"help", True)]


async def test_the_same_client_id_puts_the_former_out() -> None:
    async with serving() as broker, client(broker, "relay") as former, client(broker, "relay") as later:
        with pytest.raises(aiomqtt.MqttError):
            await anext(former.messages)
        await later.subscribe("a", qos=1)
        broker.publish("a", b"for the later one")
        assert (await anext(later.messages)).payload == b"for the later one"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (HELLO.replace(b"\x05\x02", b"\x04\x02"), 0x84),
        (HELLO.replace(b"\x05\x02", b"\x05\xc2"), 0x83),
        (HELLO.replace(b"\x05\x02", b"\x05\x26"), 0x83),
    ],
    ids=["another version", "a login", "a will that is retained"],
)
async def test_what_is_not_played_is_refused_with_a_reason(change: bytes, code: int) -> None:
    async with serving() as broker:
        assert await talk(broker, packed(Kind.CONNECT, change)) == bytes((0x20, 3, 0, code, 0))


@pytest.mark.parametrize(
    "packet",
    [
        packed(Kind.PUBLISH, b"\x00\x01a\x00\x01\x00x", flags=4),
        packed(Kind.PUBLISH, b"\x00\x01a\x00x", flags=1),
        packed(Kind.PUBLISH, b"\x00\x01#\x00x"),
        packed(Kind.PUBACK, b"\x00\x07"),
        packed(Kind.SUBSCRIBE, b"\x00\x01\x00", flags=2),
        packed(Kind.SUBSCRIBE, b"\x00\x01\x00\x00\x03a/#/b\x01", flags=2),
        packed(Kind.SUBSCRIBE, b"\x00\x01\x02\x0b\x01\x00\x01a\x01", flags=2),
        packed(Kind.SUBSCRIBE, b"\x00\x01\x00\x00\x01a\x01"),
        packed(Kind.CONNECT, HELLO),
        packed(Kind.PINGRESP),
        b"\x50\x02\x00\x01",
        b"\x30\xff\xff\xff\xff\x7f",
        b"\x30\xff\xff\xff\x7f",
    ],
    ids=lambda packet: packet[:4].hex(),
)
async def test_what_is_malformed_or_out_of_place_ends_the_connection(packet: bytes) -> None:
    async with serving() as broker:
        said = await talk(broker, packed(Kind.CONNECT, HELLO), packet)
        assert said.startswith(b"\x20")
        assert said.endswith(b"\x24\x01\x25\x00\x29\x00\x2a\x00")
        assert broker.messages == []


@given(st.binary(max_size=64))
async def test_whatever_the_bytes_they_are_a_packet_or_malformed(data: bytes) -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    try:
        packet = await read(stream)
        if packet is not None:
            packet.text()
            packet.properties()
    except Malformed:
        return
    assert packet is None or isinstance(packet, Packet)


async def test_the_button_of_the_sandbox_is_pressed_by_its_control_address() -> None:
    async with Sandbox(mqtt_port=0) as sandbox:
        assert sandbox.broker is not None
        async with client(sandbox.broker, "relay") as relay:
            await relay.subscribe("vehicle/panic", qos=1)
            wish = {"topic": "vehicle/panic", "payload": {"pressed": True}}
            answer = await post(f"{sandbox.url}/_sandbox/mqtt", json.dumps(wish).encode(), "application/json")
            assert json.loads(str((await anext(relay.messages)).payload, "utf-8")) == {"pressed": True}
        assert answer.json["acknowledged"] == {"relay": None}
        (message,) = (await get(f"{sandbox.url}/_sandbox/records")).json["mqtt"]["messages"]
        assert (message["topic"], message["payload"]) == ("vehicle/panic", '{"pressed": true}')
    async with Sandbox() as sandbox:
        answer = await post(f"{sandbox.url}/_sandbox/mqtt", json.dumps(wish).encode(), "application/json")
        assert (answer.status, "--mqtt" in answer.json["error"]) == (400, True)
