"""`check --online`: everything the configuration names is tried once, from the disk to the login.

Promises: nothing is sent, stored or taken; every try ends within `LONGEST_SECONDS`; what fails is a finding with its
remedy, never an exception.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from relayd import clock, destinations, sources
from relayd.config.sections import Config, brokers_of
from relayd.errors import RelaydError, SpoolError
from relayd.files import size_in_words
from relayd.model import Finding, Held, Known, Origin, Priority
from relayd.sources.topic_config import TopicConfig
from relayd.spool.abilities import lacks
from relayd.spool.limits import Disk, Need, SpoolConfig, Used, shortage
from relayd.surroundings import Surroundings

LONGEST_SECONDS = 90.0


async def try_everything(config: Config) -> AsyncIterator[Finding]:
    """One finding after another: clock, disk, sources, destinations."""
    yield _clock()
    yield try_spool(config.spool)
    for finding in try_abilities(config.spool):
        yield finding
    surroundings = surroundings_of(config)
    for name in surroundings.brokers:
        for finding in await try_broker(config, name, surroundings):
            yield finding
    for name in config.source:
        for finding in await try_source(config, name, surroundings):
            yield finding
    for name in config.destination:
        for finding in await try_destination(config, name, surroundings):
            yield finding


def surroundings_of(config: Config) -> Surroundings:
    """What the parts that are tried share."""
    return Surroundings(device=config.device.as_device(), brokers=brokers_of(config), sections=config.destination)


async def try_broker(config: Config, name: str, surroundings: Surroundings) -> list[Finding]:
    """Up to the rights that this configuration needs there."""
    check = surroundings.brokers[name].check(_wanted_topics(config, name), _reported_topics(config, name))
    return await _tried(f"broker {name}", check)


async def try_source(config: Config, name: str, surroundings: Surroundings) -> list[Finding]:
    """One source that is built."""
    source = sources.build(name, config.source[name], _NothingKnown(), surroundings)
    return await _tried(f"source {name}", source.check())


async def try_destination(config: Config, name: str, surroundings: Surroundings) -> list[Finding]:
    """One destination that is built."""
    destination = destinations.build(name, config.destination[name], surroundings)
    try:
        return await _tried(f"destination {name}", destination.check())
    finally:
        await destination.close()


async def words_at(config: Config, name: str, surroundings: Surroundings) -> Mapping[str, Sequence[str]]:
    """Argument → what the destination knows to choose from; nothing where it cannot be asked."""
    destination = destinations.build(name, config.destination[name], surroundings)
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            return await destination.words()
    except (RelaydError, OSError):  # TimeoutError is one
        return {}
    finally:
        await destination.close()


def _wanted_topics(config: Config, broker: str) -> list[str]:
    """What the relay subscribes to at a broker."""
    found = [
        topic
        for source in config.source.values()
        if isinstance(source, TopicConfig) and source.broker == broker
        for topic in source.topics
    ]
    place = config.device.location_topic
    if place is not None and place.broker == broker:
        found.append(place.topic)
    return [*found, *(f"{base}/command/+" for base in _fleet_base(config, broker))]


def _reported_topics(config: Config, broker: str) -> list[str]:
    """A topic of ours that may be tried at the broker that watches the fleet: nobody waits for this answer."""
    return [f"{base}/response/check" for base in _fleet_base(config, broker)]


def _fleet_base(config: Config, broker: str) -> list[str]:
    """Where the fleet sees this relay, if it is at this broker."""
    fleet = config.fleet
    if fleet is None or fleet.broker != broker:
        return []
    return [f"{fleet.topic}/{config.device.as_device().id}"]


async def _tried(subject: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(LONGEST_SECONDS):
            return await check
    except TimeoutError:
        return [_failed(subject, f"no answer within {LONGEST_SECONDS:.0f} s", "look at the network and try again")]
    except (RelaydError, OSError) as error:
        return [_failed(subject, str(error), "")]


def _clock() -> Finding:
    found = clock.synchronization()
    now = clock.rfc3339(clock.now())
    if found.is_synchronized is None:
        return Finding(
            subject="clock", is_good=True, text=f"it is {now}; the kernel does not say whether that is right"
        )
    if not found.is_synchronized:
        remedy = "start a time service (systemd-timesyncd, chrony): logins and upload addresses need the right time"
        return _failed("clock", f"it is {now}, but the clock is not synchronized", remedy)
    return Finding(subject="clock", is_good=True, text=f"synchronized, it is {now}")


def try_spool(config: SpoolConfig) -> Finding:
    """The spool's folder, or where it would be made."""
    place = _existing(config.path)
    try:
        disk = Disk.of(place)
        is_writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError as error:
        return _failed("spool", f"{place}: {error.strerror}", "choose another spool.path")
    if not is_writable:
        remedy = "run this as the user of the service, or give that user the folder"
        return _failed("spool", f"{_shown(place, config)} cannot be written to", remedy)
    short = shortage(
        config, disk, used=Used(), claimed=Need(), need=Need(size_bytes=1, inodes=1), priority=Priority.NORMAL
    )
    if short is not None:
        return _failed(
            "spool", f"no room in {place}: {short.text}", "free space, or make the limits in [spool] smaller"
        )
    text = f"{_shown(place, config)}, {size_in_words(disk.free_bytes)} are free"
    return Finding(subject="spool", is_good=True, text=text)


def try_abilities(config: SpoolConfig) -> list[Finding]:
    """What the file system there cannot do, one sentence each; nothing where nothing can be made."""
    try:
        found = lacks(_existing(config.path))
    except SpoolError:  # that is said already
        return []
    return [Finding(subject="spool", is_good=not lack.is_grave, text=lack.text, remedy=lack.remedy) for lack in found]


def _existing(place: Path) -> Path:
    """The folder, or the one in which it would be made."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _shown(place: Path, config: SpoolConfig) -> str:
    return str(place) if place == config.path else f"{config.path} (to be made in {place})"


def _failed(subject: str, text: str, remedy: str) -> Finding:
    return Finding(subject=subject, is_good=False, text=text, remedy=remedy)


class _NothingKnown:
    """The ledger of a source that only looks: it remembers nothing, and has nothing to remember."""

    async def known(self, source: str, after: bytes, limit: int) -> list[Known]:
        return []

    async def quarantine(self, source: str, origin: Origin, reason: str) -> None:
        return

    def forget(self, source: str, paths: Iterable[bytes]) -> None:
        return

    async def held(self, source: str) -> list[Held]:
        return []

    async def release(self, item_ids: Sequence[str]) -> None:
        return

    def vouch_for(self, item_ids: Collection[str]) -> None:
        return

    async def unshare(self, item_id: str) -> None:
        return
