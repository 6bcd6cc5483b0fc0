"""What is published gives way to what is more urgent, and is hurried on by an emergency behind it."""

from __future__ import annotations

import asyncio
import os
import ssl

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from relayd import clock, traffic
from relayd.broker import Broker
from relayd.broker_paho import Events, PatientPaho
from relayd.broker_valve import Valve
from relayd.model import Kind, Priority
from relayd.traffic import TRICKLE_BYTES, Traffic
from tests.broker.conftest import broker_at, running
from tests.broker.mosquitto import Mosquitto
from tests.patience import PATIENT_SECONDS

LARGE = os.urandom(900_000)


async def publish(broker: Broker, road: Traffic, priority: Priority, payload: bytes = LARGE) -> float:
    """When the broker has it."""
    kind = Kind.MEDIA if len(payload) > 1000 else Kind.MESSAGE
    with road.carrying(priority, kind):
        await broker.publish("a/b", payload)
    return clock.monotonic()


async def test_a_large_message_goes_at_once_while_the_way_is_free(mosquitto: Mosquitto) -> None:
    async with running(broker_at(mosquitto.url)) as broker, asyncio.timeout(PATIENT_SECONDS):
        await publish(broker, Traffic(), Priority.BULK)


async def test_a_large_message_trickles_while_an_emergency_is_under_way_elsewhere_and_goes_on_after_it(
    mosquitto: Mosquitto,
) -> None:
    road = Traffic()
    async with running(broker_at(mosquitto.url)) as broker:
        with road.carrying(Priority.EMERGENCY):
            bulk = asyncio.create_task(publish(broker, road, Priority.BULK))
            done, _ = await asyncio.wait({bulk}, timeout=1.5 * traffic.TRICKLE_EVERY_SECONDS)
            assert not done
        async with asyncio.timeout(PATIENT_SECONDS):
            await bulk


async def test_an_emergency_for_the_same_broker_hurries_on_what_goes_before_it(mosquitto: Mosquitto) -> None:
    road = Traffic()
    async with running(broker_at(mosquitto.url)) as broker:
        with road.carrying(Priority.EMERGENCY, Kind.MESSAGE):
            bulk = asyncio.create_task(publish(broker, road, Priority.BULK))
            await asyncio.wait({bulk}, timeout=0.1)
            assert not bulk.done()
            async with asyncio.timeout(5):
                await publish(broker, road, Priority.EMERGENCY, b"panic")
                await bulk


async def test_a_connection_that_ends_while_a_message_waits_its_turn_ends_the_wait(mosquitto: Mosquitto) -> None:
    road = Traffic()
    async with running(broker_at(mosquitto.url)) as broker:
        with road.carrying(Priority.EMERGENCY):
            bulk = asyncio.create_task(publish(broker, road, Priority.BULK))
            await asyncio.wait({bulk}, timeout=0.1)
            mosquitto.kill()
            async with asyncio.timeout(PATIENT_SECONDS):
                with pytest.raises(Exception, match="the connection ended before the answer"):
                    await bulk
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "valve of a broker"]


async def test_without_a_delivery_everything_may_be_written() -> None:
    valve = Valve(lambda: 0, lambda: 0.0)
    with valve.sending():
        assert valve.take(10_000_000) == 10_000_000
        assert not valve.is_shut


async def test_at_its_turn_a_message_gets_a_trickle_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "TRICKLE_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(traffic, "LEAST_PIECE_BYTES", TRICKLE_BYTES)
    road, opened, written = Traffic(), asyncio.Event(), 0
    valve = Valve(lambda: written, lambda: 0.0)
    valve.opened = opened.set
    with road.carrying(Priority.EMERGENCY), road.carrying(Priority.BULK), valve.sending():
        assert valve.is_shut
        for _ in range(3):
            opened.clear()
            async with asyncio.timeout(PATIENT_SECONDS):
                await opened.wait()
            assert valve.take(1_000_000) == TRICKLE_BYTES
            written += TRICKLE_BYTES
            valve.wrote(TRICKLE_BYTES)
            assert valve.is_shut
    assert valve.take(1_000_000) == 1_000_000


def test_a_piece_that_tls_has_refused_is_offered_again_no_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[int] = []

    def refuse_first(self: mqtt.Client, buf: bytes) -> int:
        offered.append(len(buf))
        if len(offered) == 1:
            raise BlockingIOError from ssl.SSLWantWriteError()
        return len(buf)

    monkeypatch.setattr(mqtt.Client, "_sock_send", refuse_first)
    paho = PatientPaho(CallbackAPIVersion.VERSION2)
    paho.attach(Events(arrived=print, too_large=print, confirmed=print), 1000)
    shrinking = iter((5000, 100))
    monkeypatch.setattr(paho.valve, "take", lambda wanted: next(shrinking, wanted))
    with pytest.raises(BlockingIOError):
        paho._sock_send(bytes(9000))
    assert paho._sock_send(bytes(9000)) == 5000
    assert paho._sock_send(bytes(4000)) == 4000
