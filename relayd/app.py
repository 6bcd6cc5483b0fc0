"""START HERE: loads the configuration, opens the spool, lets every part run in one TaskGroup until a signal ends it.

Promises: across a reload the spool stays open, and every part that did not change runs on (`parts`); a configuration
that cannot be used changes nothing. A spool that turns out to be damaged is salvaged on the way. SIGTERM ends all of it
within seconds: what was under way is due again at the next start.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from relayd import clock, config, last_good, leaving, pulse, routes, service, status, watching
from relayd.config import Loaded
from relayd.diagnosis import Diagnosis, Examiner, Views
from relayd.errors import ConfigError, SpoolError
from relayd.generation import Builder
from relayd.lookout import Lookout
from relayd.model import DestinationView, Device
from relayd.operations import Operations, Parts
from relayd.parts import RunningParts, keep_running
from relayd.settled import Settled
from relayd.spool import Spool, abilities
from relayd.threads import in_own_thread

log = logging.getLogger("relayd.app")

Serve = Callable[[Operations, Path], Coroutine[Any, Any, None]]
"""Serves the control API for ever, given the operations and the spool's folder. Given by the command line."""

DAMAGE_LOOK_SECONDS = 2.0
NOT_CONFIGURED = "it is not in the configuration any more; what is owed to it is kept: add it again, or drop the items"


async def run(files: Sequence[Path] | None, serve: Serve) -> None:
    """The daemon: until SIGTERM or SIGINT. Raises ConfigError or SpoolError when it cannot even start."""
    is_over = False
    while not is_over:
        loaded, refused = _load(files)
        async with service.patience("opening the spool"):
            spool = await Spool.open(loaded.config.spool, now=clock.now())
        try:
            lacking = await _lacking(spool)
            with pulse.registry() as heartbeats:
                await App(files, loaded, spool, serve, heartbeats, refused, lacking).run()
        finally:
            await spool.close()
        is_over = not spool.is_to_reopen


def _load(files: Sequence[Path] | None) -> tuple[Loaded, ConfigError | None]:
    """What the files say; if they are bad, what ran last, and why it is not what they say. Raises ConfigError."""
    try:
        return config.load(files), None
    except ConfigError as error:
        last = last_good.last(files)
        if last is None:
            raise
        log.warning("the files are bad: relayd starts with the last good configuration, of %s", clock.rfc3339(last.at))
        return last.loaded, error


async def _lacking(spool: Spool) -> tuple[str, ...]:
    """What the spool's disk cannot do and a person should know of, for the status; all of it is said in the log."""
    try:
        found = await in_own_thread("the spool's disk is tried", abilities.lacks, spool.folder)
    except SpoolError as error:
        log.warning("the spool's disk cannot be tried: %s", error)
        return ()
    for lack in found:
        log.log(logging.WARNING if lack.is_grave else logging.INFO, "the spool's disk: %s", lack)
    return tuple(f"spool: {lack}" for lack in found if lack.is_grave)


class App:
    """Everything that runs, over one open spool."""

    def __init__(
        self,
        files: Sequence[Path] | None,
        loaded: Loaded,
        spool: Spool,
        serve: Serve,
        heartbeats: pulse.Pulse,
        refused: ConfigError | None = None,
        lacking: Sequence[str] = (),
    ) -> None:
        """`refused`: why `loaded` is not what the files say. `lacking`: what the spool's disk cannot do."""
        self._refused = refused
        self._lacking = tuple(lacking)
        self._files = files
        self._settled = Settled(files, loaded, spool)
        self._spool = spool
        self._serve = serve
        self._heartbeats = heartbeats
        self._running: RunningParts | None = None
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._self = status.Running(
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
            loop.add_signal_handler(number, self._stop_in_time)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        self._spool.subscribe(self._hint)
        self._spool.fleet.subscribe(self._hint_of_events)
        await self._lookout.load()
        async with asyncio.TaskGroup() as tasks:
            builder = Builder(self._spool, self.operations, self._lookout, self._self.session)
            self._running = running = RunningParts(tasks, self._spool, builder, self._watch_files)
            permanent = [
                keep_running(tasks, "routes", self._watch_routes),
                keep_running(tasks, "service", lambda: service.report(self._heartbeats, self._spool, self._summary)),
                keep_running(tasks, "spool's health", self._watch_spool),
            ]
            try:
                await self._begin(running)
                permanent += [  # whoever asks before the parts stand would hear that there are none
                    keep_running(tasks, "control", lambda: self._serve(self.operations, self._spool.folder)),
                    keep_running(tasks, "lookout", self._lookout.run),
                ]
                self._announce()
                await self._reload_until_stop(running)
            finally:
                service.stopping()
                await running.end()
                for task in permanent:
                    task.cancel()
        log.info("stopped; items that wait in the spool: %d", self._spool.counters.pending)

    def _stop_in_time(self) -> None:
        leaving.at_the_latest(0)
        self._stop.set()

    async def snapshot(self) -> status.Status:
        """The status as of now, of whatever runs now."""
        views = self._views()
        return await status.snapshot(
            replace(self._self, device=device_of(self._settled.loaded)),
            self._settled.status(),
            self._spool,
            views,
            await self._diagnosis(views),
        )

    async def _diagnosis(self, views: Views | None = None) -> Diagnosis:
        """What is wrong now."""
        settled = self._settled
        found = await self._examiner.examine(views or self._views(), settled.refusal, settled.loaded.config.health)
        return replace(found, notes=(*settled.notes, *self._lacking, *found.notes))

    @property
    def _parts(self) -> Parts:
        return Parts() if self._running is None else self._running.parts

    def _views(self) -> Views:
        """How every part is doing, and destinations that are not in the configuration any more while something is owed
        to them."""
        views = self._parts.views()
        gone = {
            name: DestinationView(state="paused", reason=NOT_CONFIGURED, next_try_at=None, under_way=0)
            for name, counters in self._spool.counters.destinations.items()
            if counters.pending and name not in views.destinations
        }
        return replace(views, destinations={**views.destinations, **gone}) if gone else views

    # --- one configuration after another

    async def _reload_until_stop(self, running: RunningParts) -> None:
        while not self._stop.is_set():
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._stop, self._reload)]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()
            if self._reload.is_set() and not self._stop.is_set():
                self._reload.clear()
                with service.reloading():
                    await self._load_again(running)

    async def _begin(self, running: RunningParts) -> None:
        """With what was loaded; if it cannot be put to work, with what could be put to work last."""
        try:
            await running.change_to(self._settled.loaded)
        except ConfigError as error:
            last = last_good.last(self._files)
            if last is None or self._refused is not None or last.spool != self._settled.loaded.config.spool.path:
                raise
            await running.change_to(last.loaded)
            self._settled.loaded, self._refused = last.loaded, error
        if self._refused is None:
            await self._settled.keep()
        else:
            await self._settled.refuse(self._refused)

    async def _load_again(self, running: RunningParts) -> None:
        loaded = await self._settled.read_again()
        if loaded is None:
            return
        try:
            await running.change_to(loaded)
        except ConfigError as error:
            await self._settled.refuse(error)
            return
        await self._settled.accept(loaded)
        _settle_memory()

    def _announce(self) -> None:
        log.info("ready: %s", self._summary())
        _settle_memory()
        service.ready(self._summary())

    def _summary(self) -> str:
        return service.summary(self._parts.views(), self._spool.counters, self._settled.refusal)

    async def _watch_files(self) -> None:
        """Only where `[reload] watch` asks for it."""
        async for _ in watching.changes(self._files):
            log.info("the configuration's files have changed")
            self._reload.set()

    # --- hints

    def _hint(self, names: frozenset[str]) -> None:
        for name in names:
            worker = self._parts.workers.get(name)
            if worker is not None:
                worker.hint()

    def _hint_of_events(self) -> None:
        reporter = self._running and self._running.reporter
        if reporter:
            reporter.hint()

    async def _watch_routes(self) -> None:
        """The network changed: every destination that waits for it looks again within seconds."""
        async for _ in routes.changes():
            for worker in self._parts.workers.values():
                worker.nudge()
            for destination in self._parts.destinations.values():
                destination.nudge()
            for broker in self._parts.brokers.values():
                broker.nudge()

    async def _watch_spool(self) -> None:
        """A database that is damaged, or was, is salvaged by opening it anew: end everything for that."""
        while not self._spool.is_to_reopen:
            pulse.beat(DAMAGE_LOOK_SECONDS)
            await asyncio.sleep(DAMAGE_LOOK_SECONDS)
        if self._spool.is_damaged:
            log.error("the spool's database is damaged: closing it, to salvage it and go on")
        else:
            log.warning("there is room to salvage what was damaged: closing the spool for that")
        self._stop.set()


def device_of(loaded: Loaded) -> Device:
    """`[device]` as every room knows it."""
    return loaded.config.device.as_device()


def _settle_memory() -> None:
    """What is there now stays: the collector need not look at it again and again. What a reload left behind goes."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
