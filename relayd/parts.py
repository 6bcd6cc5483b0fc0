"""The parts at work, and how the next generation of them takes over.

Promises: a part that did not change runs on untouched. One that is replaced ends before its successor begins: a
destination gets a bounded time for what is under way, and what is cut then is pending again; a broker says goodbye
after everybody who uses it. A part that fails is logged with its traceback and started again, alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from relayd import clock, housekeeping, pulse
from relayd.config import Loaded
from relayd.generation import Builder, Generation, close
from relayd.intake import Intake
from relayd.operations import Parts
from relayd.plan import Key, broker_of, changed
from relayd.reporter import Reporter
from relayd.spool import Spool

log = logging.getLogger("relayd.parts")

FINISH_SECONDS = 10.0
"""How long deliveries that are under way may go on when their destination is changed or removed."""
RESTART_CAP_SECONDS = 60.0

Loop = Callable[[], Awaitable[None]]


class RunningParts:
    """What runs now. Everything runs in `tasks`; `watch` tells of changed files, where that is wanted."""

    def __init__(self, tasks: asyncio.TaskGroup, spool: Spool, builder: Builder, watch: Loop) -> None:
        self._tasks = tasks
        self.spool = spool
        self._builder = builder
        self._watch = watch
        self._generation: Generation | None = None
        self._intake: Intake | None = None
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._at_work: set[asyncio.Task[None]] = set()
        self._ending: dict[Key, asyncio.Task[None]] = {}

    @property
    def parts(self) -> Parts:
        """Sources, destinations, workers and brokers, by name."""
        return Parts() if self._generation is None else self._generation.parts

    @property
    def reporter(self) -> Reporter | None:
        return None if self._generation is None else self._generation.reporter

    @property
    def keys(self) -> frozenset[Key]:
        """Every part that runs, or is about to."""
        return frozenset(self._running)

    async def change_to(self, loaded: Loaded) -> None:
        """Let what this configuration asks for run, and end the rest. Raises ConfigError: then nothing has changed."""
        before = self._generation
        after = await self._builder.build(loaded, before)
        ended, begun = changed({} if before is None else before.plan, after.plan)
        self.spool.adopt(loaded.config.spool)
        self.spool.fleet.wants_events = loaded.config.fleet is not None
        if before is not None:
            self._leave(before, ended)
            self._end_all(before, after, ended)
        self._generation = after
        device = loaded.config.device.as_device()
        if self._intake is None:
            self._intake = Intake(self.spool, after.rules, device, self._builder.whereabouts)
        else:
            self._intake.use(after.rules, device)
        self._follow(after, {*ended, *begun})
        for key in begun:
            self._begin(key, after, self._intake)
        for name, broker in after.parts.brokers.items():
            if Key("broker", name) not in begun:
                broker.renew()

    async def end(self) -> None:
        """End everything, within seconds: what is under way is due again at the next start."""
        if self.reporter is not None:
            await self.reporter.end(says_stopped=True)
        for task in self._at_work:
            task.cancel()  # what is just being ended, too: its ending then has nothing to wait for
        await asyncio.gather(*self._at_work, *self._ending.values(), return_exceptions=True)
        await asyncio.gather(*(close(name, each) for name, each in self.parts.destinations.items()))

    # --- beginning

    def _begin(self, key: Key, generation: Generation, intake: Intake) -> None:
        loop = self._loop_of(key, generation, intake)
        if loop is not None:
            waited = partial(_in_turn, self._ending.get(key), loop)
            task = self._running[key] = keep_running(self._tasks, str(key), waited)
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)

    def _loop_of(self, key: Key, generation: Generation, intake: Intake) -> Loop | None:
        parts = generation.parts
        match key.kind:
            case "broker":
                return parts.brokers[key.name].run
            case "destination":
                return parts.workers[key.name].run
            case "source":
                return partial(parts.sources[key.name].serve, intake.put)
            case "incidents":
                return intake.collector.run
            case "upkeep":
                return parts.destinations[key.name].upkeep
            case "housekeeping":
                return partial(housekeeping.run, self.spool, generation.loaded.config.spool)
            case "watch":
                return self._watch
            case "fleet" if generation.reporter is not None:
                return generation.reporter.run
            case _:
                return None

    def _follow(self, after: Generation, changed_keys: set[Key]) -> None:
        """Learn the position from where it comes now."""
        if Key("location") not in changed_keys:
            return
        topic = after.loaded.config.device.location_topic
        if topic is None:
            self._builder.whereabouts.leave()
        else:
            self._builder.whereabouts.follow(after.parts.brokers[topic.broker], topic.topic)

    # --- ending

    def _leave(self, before: Generation, ended: Iterable[Key]) -> None:
        """Sources let go of brokers that stay. Where the broker goes too, they keep their place: what still comes is
        not acknowledged, and comes again over the next connection."""
        going = set(ended)
        for key in going:
            if key.kind == "source":
                used = broker_of(before.loaded.config.source.get(key.name))
                if Key("broker", used) not in going:
                    before.parts.sources[key.name].leave()

    def _end_all(self, before: Generation, after: Generation, ended: Iterable[Key]) -> None:
        going = {key: self._running.pop(key) for key in ended if key in self._running}
        endings: list[asyncio.Task[None]] = []
        for key in sorted(going, key=lambda each: each.kind == "broker"):  # those who use a broker go first
            end = self._end_of(key, going[key], before, after, endings)
            ending = self._tasks.create_task(_in_turn(self._ending.get(key), end), name=f"end {key}")
            self._ending[key] = ending
            ending.add_done_callback(partial(self._has_ended, key))
            if key.kind != "broker":
                endings.append(ending)

    def _end_of(
        self, key: Key, task: asyncio.Task[None], before: Generation, after: Generation, users: list[asyncio.Task[None]]
    ) -> Loop:
        match key.kind:
            case "broker":
                return partial(_after, users, task)
            case "destination":
                return partial(_finish, before.parts, key.name, task)
            case "fleet" if before.reporter is not None:
                return partial(_say_goodbye, before.reporter, task, has_left=_place(before) != _place(after))
            case _:
                return partial(_cancel, task)

    def _has_ended(self, key: Key, ending: asyncio.Task[None]) -> None:
        if self._ending.get(key) is ending:
            del self._ending[key]


async def _in_turn(before: asyncio.Task[None] | None, loop: Loop) -> None:
    """Only once the one before has ended."""
    if before is not None:
        await asyncio.wait({before})
    await loop()


async def _after(users: Sequence[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    try:
        if users:
            await asyncio.wait(users)
    finally:
        await _cancel(task)


async def _finish(parts: Parts, name: str, task: asyncio.Task[None]) -> None:
    """Let what is under way end, for a while."""
    worker = parts.workers[name]
    worker.finish()
    try:
        await asyncio.wait({task}, timeout=FINISH_SECONDS)
        cut = worker.view().under_way
        if cut:
            log.warning("destination %s: %d deliveries under way are cut; they are pending again", name, cut)
    finally:
        await _cancel(task)
        await close(name, parts.destinations[name])


async def _say_goodbye(reporter: Reporter, task: asyncio.Task[None], *, has_left: bool) -> None:
    try:
        await reporter.end(says_stopped=has_left)
    finally:
        await _cancel(task)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _place(generation: Generation) -> object:
    """Where this relay is seen by its fleet; None if it has none."""
    config = generation.loaded.config
    fleet = config.fleet
    return fleet and (fleet.topic, config.device.as_device().id, config.broker[fleet.broker])


def keep_running(tasks: asyncio.TaskGroup, name: str, part: Loop) -> asyncio.Task[None]:
    """Run a part for ever: when it fails, log why and start it again after a while, without disturbing the others.
    The watchdog looks after every part that beats."""

    async def forever() -> None:
        failures = 0
        while True:
            started = clock.monotonic()
            try:
                with pulse.heart(name):
                    await part()
            except Exception:
                failures = 1 if clock.monotonic() - started > RESTART_CAP_SECONDS else failures + 1
                wait = min(RESTART_CAP_SECONDS, 2.0 ** min(failures, 6))
                log.exception("%s failed; it starts again in %.0f s", name, wait)
                await asyncio.sleep(wait)
            else:
                return

    return tasks.create_task(forever(), name=name)
