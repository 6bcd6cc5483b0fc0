"""Letting go of originals whose writers are done with them: the late half of taking files.

Promises: what is held is looked after until it is let go, whatever becomes of it, and the ledger hears of both. What
changed is given back to be looked at; what cannot be removed is said, and no longer holds anything up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from relayd import clock, files
from relayd.errors import RelaydError
from relayd.sources.base import Ledger
from relayd.sources.folder_file import FileDesk
from relayd.sources.folder_linger import Again, Change, Linger, Taken, let_go
from relayd.sources.folder_threads import Threads

log = logging.getLogger("relayd.sources")

AT_ONCE = 256
SHORTEST_TURN_SECONDS, LONGEST_TURN_SECONDS = 0.02, 1.0
VOUCH_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heirs:
    """Who hears what became of a file: `changed` looks at it again, `left` remembers that it is gone from the folder,
    `stuck` that it cannot be removed."""

    changed: Callable[[bytes], None]
    left: Callable[[Taken], None]
    stuck: Callable[[Taken, OSError], None]


class Releaser:
    """Lives as long as its folder stays open."""

    def __init__(
        self, source: str, linger: Linger, *, desk: FileDesk, threads: Threads, ledger: Ledger, heirs: Heirs, keep: bool
    ) -> None:
        self._source = source
        self._linger = linger
        self._desk = desk
        self._threads = threads
        self._ledger = ledger
        self._heirs = heirs
        self._keep = keep
        self._vouched_at = clock.monotonic()

    async def run(self) -> None:
        """For ever."""
        turn_seconds = min(LONGEST_TURN_SECONDS, max(SHORTEST_TURN_SECONDS, self._linger.seconds / 8))
        while True:
            try:
                await self.turn()
            except (RelaydError, OSError) as error:
                log.warning("source %s: what was taken cannot be let go yet: %s", self._source, error)
            await asyncio.sleep(turn_seconds)

    async def turn(self) -> None:
        """Let go of what is due."""
        if clock.monotonic() - self._vouched_at > VOUCH_EVERY_SECONDS:
            self._vouched_at = clock.monotonic()
            self._ledger.vouch_for(self._linger.item_ids())
        due = self._linger.due(AT_ONCE)
        if not due:
            return
        missing = [taken for taken in due if taken.is_missing]
        there = [taken for taken in due if not taken.is_missing]
        results = await self._threads.run("what was taken is let go", let_go, self._desk, there, self._keep)
        released = [taken for taken, result in results if self._is_released(taken, result)]
        for taken in (*missing, *released):
            self._linger.drop(taken)
        for taken in missing:
            self._heirs.left(taken)
        if missing or released:
            await self._ledger.release([taken.item_id for taken in (*missing, *released)])

    def _is_released(self, taken: Taken, result: Again | OSError) -> bool:
        """Whether nothing more has to be waited for."""
        if isinstance(result, OSError):
            self._heirs.stuck(taken, result)
            return True
        match result.change:
            case Change.NONE:
                return True
            case Change.LEFT:
                self._heirs.left(taken)
                return True
            case Change.GONE:
                self._linger.miss(taken)
            case Change.WRITER | Change.YOUNG:
                taken.changed_ns = result.changed_ns if result.change is Change.YOUNG else taken.changed_ns
                self._linger.put_off(taken)
            case Change.TIMES | Change.CONTENT | Change.REPLACED:
                self._linger.put_off(taken)
                log.debug("source %s: %s: %s", self._source, files.printable(taken.origin.path), result.change.value)
                self._heirs.changed(taken.origin.path)
        return False
