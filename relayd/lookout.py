"""The relay's eye on itself: looks every second at what is wrong, and keeps which faults stand.

Promises: what stands is stored before anybody is told of it, so a restart goes on where the last one ended. There is
one lookout; whoever tells of faults (the fleet's reporter, the source `relayd`) keeps for itself what it has told, in
the very commit of the telling, and makes up the difference.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from relayd import clock, pulse
from relayd.diagnosis import Diagnosis
from relayd.errors import SpoolError
from relayd.faults import FaultWatch, HealthConfig, Standing, from_document, to_document
from relayd.messages import Message, about
from relayd.spool import Spool

log = logging.getLogger("relayd.lookout")

LOOK_EVERY_SECONDS = 1.0
_MESSAGES = {
    "source": Message.SOURCE_BROKE,
    "broker": Message.BROKER_REFUSED,
    "spool": Message.SPOOL_FULL,
    "clock": Message.CLOCK_ADRIFT,
}
"""Which faults have an explanation of their own, by the kind of part. Of a destination its worker tells."""
STANDING_NOTE = "health:standing"
"""Part → [reason, since] of every fault that stands."""


class Lookout:
    """One relay's. `load` it, then `run` it; `examine` says what is wrong now."""

    def __init__(
        self, spool: Spool, examine: Callable[[], Awaitable[Diagnosis]], settings: Callable[[], HealthConfig]
    ) -> None:
        self._spool = spool
        self._examine = examine
        self._settings = settings
        self._watch = FaultWatch({})
        self._is_stored = True
        self.standing: Mapping[str, Standing] = {}
        """Every fault that has lasted, by part; replaced, not changed, once it is stored."""
        self.news = asyncio.Event()
        """Set at the next change, then replaced by another: take it before you look at `standing`, wait on it after."""

    async def load(self) -> None:
        """Know again what stood before the restart."""
        self.standing = from_document(json.loads(await self._spool.note(STANDING_NOTE) or "{}"))
        self._watch = FaultWatch(self.standing)

    async def run(self) -> None:
        """For ever."""
        while True:
            pulse.beat(LOOK_EVERY_SECONDS)
            await self.look()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def look(self) -> None:
        """Once."""
        found = await self._examine()
        has_changed = self._watch.look(
            found.faults,
            found.unknown,
            at=clock.monotonic(),
            now=clock.now(),
            gone_for_seconds=self._settings().whole_after,
        )
        if has_changed or not self._is_stored:
            await self._store()
        if has_changed:
            before, self.standing = self.standing, dict(self._watch.standing)
            self._log(before)
            self.news.set()
            self.news = asyncio.Event()

    async def _store(self) -> None:
        """A spool that refuses is a fault to be told of, not a reason to be silent: it is stored at another look."""
        document = to_document(self._watch.standing)
        was_stored, self._is_stored = self._is_stored, True
        try:
            await self._spool.set_note(STANDING_NOTE, json.dumps(document) if document else None)
        except SpoolError as error:
            self._is_stored = False
            if was_stored:
                log.warning("which faults stand cannot be stored, so a restart may tell them again: %s", error)

    def _log(self, before: Mapping[str, Standing]) -> None:
        for part, fault in self.standing.items():
            if part not in before:
                log.warning("%s broke: %s", part, fault.reason, extra=_about(part))
        for part, fault in before.items():
            if part not in self.standing:
                log.info("%s is whole again; it was: %s", part, fault.reason, extra=_about(part))


def _about(part: str) -> dict[str, Any]:
    kind, _, name = part.partition(" ")
    return about(_MESSAGES.get(kind), **{kind: name} if name else {})
