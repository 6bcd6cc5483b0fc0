"""A source that a person paused takes nothing and has nothing open, until it is resumed; nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from relayd import rules
from relayd.broker import Broker
from relayd.intake import Intake
from relayd.model import Device
from relayd.rule_config import RuleConfig
from relayd.sources.base import Source
from relayd.sources.folder import FolderSource
from relayd.sources.topic import TopicSource
from relayd.sources.topic_config import TopicConfig
from relayd.spool import Spool, SpoolConfig
from relayd.surroundings import Surroundings
from tests.broker.conftest import broker_at
from tests.broker.conftest import running as broker_running
from tests.broker.mosquitto import Mosquitto
from tests.sources.rig import Store, config_for, drop, until

RULE = RuleConfig.model_validate(
    {"name": "all", "from": ["flood", "panic"], "deliver": [{"to": "desk", "action": "send"}]}
)
"""Somebody wants all of it: else it would leave no row."""


@contextlib.asynccontextmanager
async def serving(source: Source, put: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(source.serve(put))
    try:
        yield
    finally:
        failed = task.done()
        task.cancel()
        await asyncio.wait({task})
        assert not failed


def opened_below(folder: Path) -> list[str]:
    """What this process has open at or below it, and every inotify."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(descriptor.readlink()))
    return [link for link in links if link.startswith(str(folder)) or "inotify" in link]


async def test_a_paused_folder_has_nothing_open_and_its_files_wait_until_it_is_resumed(
    folder: Path, store: Store
) -> None:
    (folder / "sub").mkdir()
    source = FolderSource("camera", config_for(folder, recursive=True), store)
    async with serving(source, store.put):
        drop(folder, "before.jpg")
        await until(lambda: store.names == ["before.jpg"], "taken")
        assert opened_below(folder)
        source.hold()
        assert await source.has_let_go()
        assert opened_below(folder) == []
        view = source.view()
        assert (view.state, view.reason.startswith("paused by hand, `relayd resume camera`")) == ("paused", True)
        waits = drop(folder, "meanwhile.jpg")
        assert "paused by hand" in str(await source.why(str(waits)))
        source.release()
        await until(lambda: store.names == ["before.jpg", "meanwhile.jpg"], "taken once resumed")
        await until(lambda: source.view().state == "ok", "at work")


async def test_a_folder_paused_from_the_start_is_not_opened(folder: Path, store: Store) -> None:
    source = FolderSource("camera", config_for(folder), store)
    source.hold()
    async with serving(source, store.put):
        drop(folder, "waits.jpg")
        assert await source.has_let_go()
        assert opened_below(folder) == []
        source.release()
        await until(lambda: store.names == ["waits.jpg"], "taken once resumed")


async def test_a_pause_in_the_middle_of_a_hand_over_loses_and_repeats_nothing(folder: Path, store: Store) -> None:
    store.gate = asyncio.Event()
    source = FolderSource("camera", config_for(folder), store)
    async with serving(source, store.put):
        drop(folder, "one.jpg")
        await until(lambda: store.items, "it is stored, and not yet cleared away")
        source.hold()
        store.gate.set()
        assert await source.has_let_go()
        source.release()
        await until(lambda: not os.listdir(folder), "cleared away")
        assert store.names == ["one.jpg"]


async def test_a_source_that_was_paused_for_long_is_not_called_silent(folder: Path, store: Store) -> None:
    source = FolderSource("camera", config_for(folder, expect_every="1h"), store)
    source.silence._heard_at -= 7200
    async with serving(source, store.put):
        await until(lambda: source.view().state == "fault", "silent")
        source.hold()
        assert source.view().state == "paused"
        source.release()
        await until(lambda: source.view().state == "ok", "it may bring something from now on")


async def test_a_paused_topic_is_unsubscribed_and_its_neighbour_on_the_broker_goes_on(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "mosquitto").start()
    spool = await Spool.open(SpoolConfig.model_validate({"path": tmp_path / "spool", "min_free": "1MB"}), now=1e9)
    try:
        broker = broker_at(mosquitto.url)
        flood, panic = topic_source("flood", broker, spool), topic_source("panic", broker, spool)
        put = Intake(spool, rules.compile_rules([RULE]), Device(id="rig", name="rig")).put
        async with serving(flood, put), serving(panic, put), broker_running(broker):
            await publish_until(broker, "flood/1", spool, "flood", 1)
            flood.hold()
            assert await flood.has_let_go()
            await until(lambda: not grants(broker, "flood/#"), "the broker is told")
            assert "unsubscribed" in flood.view().reason
            await broker.publish("flood/2", b"lost")
            await publish_until(broker, "panic/1", spool, "panic", 1)
            assert captured(spool, "flood") == 1
            flood.release()
            await until(lambda: grants(broker, "flood/#"), "asked for again")
            await publish_until(broker, "flood/3", spool, "flood", 2)
            assert {item.item.topic for item in await spool.items(source="flood")} == {"flood/1", "flood/3"}
    finally:
        await spool.close()
        mosquitto.kill()


def topic_source(name: str, broker: Broker, spool: Spool) -> TopicSource:
    config = TopicConfig.model_validate({"type": "mqtt", "broker": "local", "topics": (f"{name}/#",)})
    return TopicSource(name, config, spool, Surroundings(brokers={"local": broker}))


def grants(broker: Broker, pattern: str) -> bool:
    return pattern in broker._grants._asked


def captured(spool: Spool, name: str) -> int:
    return spool.counters.sources[name].captured if name in spool.counters.sources else 0


async def publish_until(broker: Broker, topic: str, spool: Spool, name: str, number: int) -> None:
    """Published once."""
    await until(lambda: broker.is_connected, "connected")
    await broker.publish(topic, b"pressed")
    await until(lambda: captured(spool, name) == number, f"{topic} is taken")
