"""START HERE: builds every part from the configuration, runs them in one TaskGroup, one line per part.

Promises: a part that fails is logged with its traceback and started again, alone; the spool stays open across a reload,
and a configuration that cannot be used changes nothing. A spool that turns out to be damaged is salvaged on the way.
SIGTERM ends everything within seconds: what was under way is due again at the next start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from relayd import __version__, clock, config, destinations, housekeeping, routes, rules, sources, status, systemd
from relayd.broker import Broker
from relayd.config import Loaded
from relayd.config.sections import brokers_of, wires_of
from relayd.diagnosis import Diagnosis, Examiner, Views
from relayd.intake import Intake
from relayd.location import Whereabouts
from relayd.lookout import Lookout
from relayd.memory import Notes
from relayd.model import DestinationView, Device
from relayd.operations import Operations, Parts, paused_note
from relayd.reporter import Reporter
from relayd.rule_config import OWN_HEALTH
from relayd.settled import Settled
from relayd.sources.base import Source
from relayd.sources.own_health import OwnHealth
from relayd.spool import Spool
from relayd.surroundings import Surroundings
from relayd.traffic import Traffic
from relayd.worker import Worker

log = logging.getLogger("relayd.app")

Serve = Callable[[Operations, Path], Coroutine[Any, Any, None]]
"""Serves the control API for ever, given the operations and the spool's folder. Given by the command line."""

RESTART_CAP_SECONDS = 60.0
DAMAGE_LOOK_SECONDS = 2.0


async def run(files: Sequence[Path] | None, serve: Serve) -> None:
    """The daemon: until SIGTERM or SIGINT. Raises ConfigError or SpoolError when it cannot even start."""
    is_over = False
    while not is_over:
        loaded = config.load(files)
        spool = await Spool.open(loaded.config.spool, now=clock.now())
        try:
            await App(files, loaded, spool, serve).run()
        finally:
            await spool.close()
        is_over = not spool.is_damaged


class App:
    """Everything that runs, over one open spool."""

    def __init__(self, files: Sequence[Path] | None, loaded: Loaded, spool: Spool, serve: Serve) -> None:
        self._settled = Settled(files, loaded, spool)
        self._spool = spool
        self._serve = serve
        self._parts = Parts()
        self._whereabouts = Whereabouts()
        self._reporter: Reporter | None = None
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._are_built = asyncio.Event()
        self._running = status.Running(
            device=device_of(loaded),
            session=uuid.uuid4().hex,
            started_at=clock.now(),
            started_monotonic=clock.monotonic(),
        )
        self.operations = Operations(spool, lambda: self._parts, self.snapshot)
        self._lookout = Lookout(spool, self._diagnosis, lambda: self._settled.loaded.config.health)
        self._examiner = Examiner(spool, lambda part: part in self._lookout.standing)

    async def run(self) -> None:
        """Until a signal says stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        self._spool.subscribe(self._hint)
        self._spool.fleet.subscribe(self._hint_of_events)
        await self._lookout.load()
        async with asyncio.TaskGroup() as tasks:
            permanent = [
                keep_running(tasks, "control", lambda: self._serve(self.operations, self._spool.folder)),
                keep_running(
                    tasks, "housekeeping", lambda: housekeeping.run(self._spool, self._settled.loaded.config.spool)
                ),
                keep_running(tasks, "routes", self._watch_routes),
                keep_running(tasks, "watchdog", self._watchdog),
                keep_running(tasks, "lookout", self._look_out),
                keep_running(tasks, "spool's health", self._watch_spool),
            ]
            await self._generations()
            for task in permanent:
                task.cancel()
        systemd.notify("STOPPING=1")
        log.info("stopped; %d items wait in the spool", self._spool.counters.pending)

    async def snapshot(self) -> status.Status:
        """The status as of now, of whatever runs now."""
        views = self._parts.views()
        return await status.snapshot(
            replace(self._running, device=device_of(self._settled.loaded)),
            self._settled.status(),
            self._spool,
            views,
            await self._diagnosis(views),
        )

    async def _diagnosis(self, views: Views | None = None) -> Diagnosis:
        """What is wrong now."""
        settled = self._settled
        return await self._examiner.examine(
            views or self._parts.views(), settled.status().error, settled.loaded.config.health
        )

    # --- one configuration after another

    async def _generations(self) -> None:
        """Run the parts of the present configuration; after an accepted reload, those of the next."""
        while not self._stop.is_set():
            self._parts = await self._build()
            self._are_built.set()
            try:
                async with asyncio.TaskGroup() as tasks:
                    running = self._start(tasks)
                    self._announce()
                    place = place_in_fleet(self._settled.loaded)
                    await self._until_stop_or_new_configuration()
                    if self._reporter:
                        has_left = self._stop.is_set() or place_in_fleet(self._settled.loaded) != place
                        await self._reporter.end(says_stopped=has_left)
                    for task in running:
                        task.cancel()
            finally:
                for destination in self._parts.destinations.values():
                    await destination.close()

    async def _build(self) -> Parts:
        """Every source, destination and worker of the present configuration, not yet running."""
        loaded, spool = self._settled.loaded, self._spool
        device = device_of(loaded)
        brokers = brokers_of(loaded.config)
        surroundings = Surroundings(
            device=device, brokers=brokers, sections=loaded.config.destination, memory=partial(Notes, spool)
        )
        self._whereabouts = surroundings.whereabouts
        topic = loaded.config.device.location_topic
        if topic is not None:
            self._whereabouts.follow(brokers[topic.broker], topic.topic)
        self._reporter = self._report_to_fleet(brokers)
        built = {
            name: destinations.build(name, section, surroundings)
            for name, section in loaded.config.destination.items()
            if not destinations.is_planned(section.type)
        }
        traffic = Traffic()
        workers = {
            name: Worker(
                destination,
                loaded.config.destination[name],
                spool,
                device,
                is_held=await spool.note(paused_note(name)) is not None,
                traffic=traffic,
            )
            for name, destination in built.items()
        }
        idle = {
            name: DestinationView(
                state="fault",
                reason=f"relayd {__version__} cannot deliver to type {section.type!r} yet; its deliveries are kept",
                next_try_at=None,
                under_way=0,
            )
            for name, section in loaded.config.destination.items()
            if name not in built
        }
        return Parts(
            brokers=brokers,
            sources=self._build_sources(surroundings),
            destinations=built,
            workers=workers,
            idle=idle,
            reporter=self._reporter,
        )

    def _build_sources(self, surroundings: Surroundings) -> dict[str, Source]:
        """The configured ones, and the relay itself if a rule takes from it."""
        loaded, counters = self._settled.loaded, self._spool.counters
        built = {
            name: sources.build(name, section, self._spool, surroundings)
            for name, section in loaded.config.source.items()
            if not sources.is_planned(section.type)
        }
        for name, source in built.items():
            if name in counters.sources:
                source.silence.resume(counters.sources[name].last_at)
        if rules.compile_rules(loaded.config.rule).takes_from(OWN_HEALTH):
            built[OWN_HEALTH] = OwnHealth(self._spool, self._lookout)
        return built

    def _report_to_fleet(self, brokers: Mapping[str, Broker]) -> Reporter | None:
        fleet = self._settled.loaded.config.fleet
        self._spool.fleet.wants_events = fleet is not None
        if fleet is None:
            return None
        device, session = device_of(self._settled.loaded), self._running.session
        return Reporter(fleet, brokers[fleet.broker], self._spool, self.operations, self._lookout, device, session)

    def _start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        book = rules.compile_rules(self._settled.loaded.config.rule, wires_of(self._settled.loaded.config))
        intake = Intake(self._spool, book, device_of(self._settled.loaded), self._whereabouts)
        return [
            *(keep_running(tasks, f"broker {name}", broker.run) for name, broker in self._parts.brokers.items()),
            *(keep_running(tasks, f"destination {name}", worker.run) for name, worker in self._parts.workers.items()),
            *(keep_running(tasks, f"upkeep of {name}", it.upkeep) for name, it in self._parts.destinations.items()),
            *(
                keep_running(tasks, f"source {name}", partial(source.run, intake.put))
                for name, source in self._parts.sources.items()
            ),
            keep_running(tasks, "incidents", intake.collector.run),
            *([keep_running(tasks, "fleet", self._reporter.run)] if self._reporter else ()),
        ]

    def _announce(self) -> None:
        counters = self._spool.counters
        text = (
            f"{len(self._parts.sources)} sources, {len(self._parts.workers)} destinations, "
            f"{counters.pending} items wait in the spool"
        )
        log.info("ready: %s", text)
        gc.collect()
        gc.freeze()
        systemd.notify("READY=1", f"STATUS={text}")

    async def _until_stop_or_new_configuration(self) -> None:
        while not self._stop.is_set():
            stop = asyncio.ensure_future(self._stop.wait())
            reload = asyncio.ensure_future(self._reload.wait())
            await asyncio.wait({stop, reload}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            reload.cancel()
            if self._reload.is_set():
                self._reload.clear()
                if await self._settled.read_again():
                    return

    # --- hints

    def _hint(self, names: frozenset[str]) -> None:
        for name in names:
            worker = self._parts.workers.get(name)
            if worker is not None:
                worker.hint()

    def _hint_of_events(self) -> None:
        if self._reporter is not None:
            self._reporter.hint()

    async def _watch_routes(self) -> None:
        """The network changed: every destination that waits for it looks again within seconds."""
        async for _ in routes.changes():
            for worker in self._parts.workers.values():
                worker.nudge()
            for destination in self._parts.destinations.values():
                destination.nudge()
            for broker in self._parts.brokers.values():
                broker.nudge()

    async def _look_out(self) -> None:
        """Not before the first parts are there: a relay without parts would be a whole one."""
        await self._are_built.wait()
        await self._lookout.run()

    async def _watch_spool(self) -> None:
        """A database that turned out to be damaged is salvaged by opening it anew: end everything for that."""
        while not self._spool.is_damaged:  # noqa: ASYNC110 - found in threads, and rare
            await asyncio.sleep(DAMAGE_LOOK_SECONDS)
        log.error("the spool's database is damaged: closing it, to salvage it and go on")
        self._stop.set()

    async def _watchdog(self) -> None:
        """Tell systemd that the loop turns and the spool answers, three times as often as it insists."""
        period = systemd.watchdog_seconds()
        while period is not None:
            await self._spool.note("watchdog")
            systemd.notify("WATCHDOG=1")
            await asyncio.sleep(period / 3)


def device_of(loaded: Loaded) -> Device:
    """`[device]` as every room knows it."""
    return loaded.config.device.as_device()


def place_in_fleet(loaded: Loaded) -> object:
    """Where this relay is seen by its fleet; None if it has none."""
    fleet = loaded.config.fleet
    return fleet and (fleet.topic, device_of(loaded).id, loaded.config.broker[fleet.broker])


def keep_running(tasks: asyncio.TaskGroup, name: str, part: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Run a part for ever: when it fails, log why and start it again after a while, without disturbing the others."""

    async def forever() -> None:
        failures = 0
        while True:
            started = clock.monotonic()
            try:
                await part()
            except Exception:
                failures = 1 if clock.monotonic() - started > RESTART_CAP_SECONDS else failures + 1
                wait = min(RESTART_CAP_SECONDS, 2.0 ** min(failures, 6))
                log.exception("%s failed; it starts again in %.0f s", name, wait)
                await asyncio.sleep(wait)
            else:
                return

    return tasks.create_task(forever(), name=name)
