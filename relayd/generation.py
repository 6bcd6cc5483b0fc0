"""What one configuration makes of the one before: the parts that did not change, and new ones for those that did.

Promises: `build` makes everything or nothing: a part that cannot be built is a ConfigError at the line of its section,
and whatever was made on the way is undone. Nothing runs yet; between the first part and the last nothing is awaited, so
no message is routed to a part that may never run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from relayd import destinations, sources
from relayd.config import Loaded
from relayd.config.sections import one_broker, wires_of
from relayd.destinations.base import Destination
from relayd.errors import ConfigError, SpoolError
from relayd.location import Whereabouts
from relayd.lookout import Lookout
from relayd.memory import Notes
from relayd.operations import Operations, Parts
from relayd.pausing import Pausable, paused_note
from relayd.plan import OWN, Key, Plan, broker_of, changed, plan_of
from relayd.reporter import Reporter
from relayd.rules import RuleBook, compile_rules
from relayd.sources.base import Source
from relayd.sources.own_health import OwnHealth
from relayd.spool import Spool
from relayd.surroundings import Surroundings
from relayd.traffic import Traffic
from relayd.worker import Worker

log = logging.getLogger("relayd.generation")

CLOSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Everything that runs under one configuration."""

    loaded: Loaded
    plan: Plan
    parts: Parts
    rules: RuleBook
    reporter: Reporter | None


class Builder:
    """Makes one generation after the other. What all of them share: where the device is, and who gives way to whom."""

    def __init__(self, spool: Spool, operations: Operations, lookout: Lookout, session: str) -> None:
        self.whereabouts = Whereabouts()
        self._spool = spool
        self._operations = operations
        self._lookout = lookout
        self._session = session
        self._traffic = Traffic()
        self._surroundings = partial(Surroundings, whereabouts=self.whereabouts, memory=partial(Notes, spool))

    async def build(self, loaded: Loaded, before: Generation | None) -> Generation:
        """The next generation. Raises ConfigError, and then nothing has changed. Nothing else runs between the building
        of its parts and the return."""
        try:
            held = await self._held(loaded, before)
        except SpoolError as error:
            if before is None:  # nothing runs yet: the start fails, and is tried again
                raise
            raise ConfigError([loaded.problem(("spool",), f"cannot be put to work: {error}")]) from error
        plan = plan_of(loaded.config)
        new = frozenset(plan if before is None else changed(before.plan, plan)[1])
        work = _Work(loaded, plan, new, Parts() if before is None else before.parts, self._surroundings)
        try:
            parts = work.parts(self._spool, self._traffic, self._lookout, held)
            reporter = self._reporter(work, before)
            parts = replace(parts, reporter=reporter)
            book = compile_rules(loaded.config.rule, wires_of(loaded.config))
        except Exception as error:
            refusal = work.in_words(error)
            await work.undo()
            raise refusal from error
        return Generation(loaded=loaded, plan=plan, parts=parts, rules=book, reporter=reporter)

    async def _held(self, loaded: Loaded, before: Generation | None) -> frozenset[Key]:
        """The destinations and sources that a person paused, of those that do not run yet."""
        parts = Parts() if before is None else before.parts
        present: Mapping[Pausable, Collection[str]] = {"destination": parts.workers, "source": parts.sources}
        plan = plan_of(loaded.config)
        new = [(kind, key.name) for kind in present for key in plan if key.kind == kind]
        new = [(kind, name) for kind, name in new if name not in present[kind]]
        return frozenset([Key(kind, name) for kind, name in new if await self._spool.note(paused_note(name, kind))])

    def _reporter(self, work: _Work, before: Generation | None) -> Reporter | None:
        fleet = work.config.fleet
        if fleet is None:
            return None
        if before is not None and not work.begins(Key("fleet")):
            return before.reporter
        return Reporter(
            fleet, work.brokers[fleet.broker], self._spool, self._operations, self._lookout, work.device, self._session
        )


class _Work:
    """The building of one generation, as far as it has come."""

    def __init__(
        self, loaded: Loaded, plan: Plan, new: Collection[Key], before: Parts, around: Callable[..., Surroundings]
    ) -> None:
        self.config = loaded.config
        self.device = loaded.config.device.as_device()
        self._loaded = loaded
        self._plan = plan
        self._new = new
        self._before = before
        self._at = Key("housekeeping")
        self.brokers = {
            name: one_broker(self.config, name) if self.begins(Key("broker", name)) else before.brokers[name]
            for name in self.config.broker
        }
        self._surroundings = around(device=self.device, brokers=self.brokers, sections=loaded.config.destination)
        self._sources: dict[str, Source] = {}
        self._destinations: dict[str, Destination] = {}

    def begins(self, key: Key) -> bool:
        """Whether this part is a new one; it is the one at work from now on."""
        self._at = key
        return key in self._new

    def parts(self, spool: Spool, traffic: Traffic, lookout: Lookout, held: Collection[Key]) -> Parts:
        for name, section in self.config.destination.items():
            if self.begins(Key("destination", name)):
                self._destinations[name] = destinations.build(name, section, self._surroundings)
        built = {
            name: self._destinations.get(name) or self._before.destinations[name] for name in self.config.destination
        }
        workers = {
            name: Worker(
                destination,
                self.config.destination[name],
                spool,
                self.device,
                is_held=self._is_held(name, held),
                traffic=traffic,
            )
            if self.begins(Key("destination", name))
            else self._before.workers[name]
            for name, destination in built.items()
        }
        for name, source in self.config.source.items():  # last: from here on topics are subscribed to
            if self.begins(Key("source", name)):
                built_source = self._sources[name] = sources.build(name, source, spool, self._surroundings)
                if name in spool.counters.sources:
                    built_source.silence.resume(spool.counters.sources[name].last_at)
        if self.begins(OWN):
            self._sources[OWN.name] = OwnHealth(spool, lookout)
        for name, source_built in self._sources.items():
            if self._is_source_held(name, held):
                source_built.hold()
        return Parts(
            brokers=self.brokers,
            sources={
                key.name: self._sources.get(key.name) or self._before.sources[key.name]
                for key in self._plan
                if key.kind == "source"
            },
            destinations=built,
            workers=workers,
        )

    def _is_held(self, name: str, held: Collection[Key]) -> bool:
        """A pause by hand outlives the change of a destination, whatever the notes said a moment ago."""
        present = self._before.workers.get(name)
        return Key("destination", name) in held if present is None else present.view().state == "paused"

    def _is_source_held(self, name: str, held: Collection[Key]) -> bool:
        present = self._before.sources.get(name)
        return Key("source", name) in held if present is None else present.is_held

    async def undo(self) -> None:
        """Leave brokers that stay, at once; then close what was opened."""
        for name, source in self._sources.items():
            if Key("broker", broker_of(self.config.source.get(name))) not in self._new:
                source.leave()
        for name, destination in self._destinations.items():
            await close(name, destination)

    def in_words(self, error: Exception) -> ConfigError:
        """Why it is refused, at the line of the section that could not be built."""
        if isinstance(error, ConfigError):
            return error
        where = tuple(part for part in self._at if part)
        text = f"cannot be put to work: {type(error).__name__}: {error}"
        return ConfigError([self._loaded.problem(where, text)])


async def close(name: str, destination: Destination) -> None:
    """Close its connections, whatever happens; takes a second at most."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await destination.close()
    except Exception:
        log.exception("destination %s could not be closed", name)
