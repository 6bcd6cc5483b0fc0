"""What has happened outside gets into the table, however long the spool refuses.

Promises: until it is recorded the delivery stays out, so that nothing is done twice while the disk is full. The refusal
is said once, and `trouble` says it as long as it lasts.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence

from relayd.destinations.base import Step
from relayd.errors import SpoolError
from relayd.retry import BREAKER_FAILURES, Backoff
from relayd.spool import Spool

REFUSALS = (SpoolError, sqlite3.Error, OSError)
"""What the spool raises when it cannot take something now."""


class Recorder:
    """One worker's. Also where its attempts keep their steps: the result of one that has happened gets in, or the
    attempt does not go on."""

    def __init__(self, name: str, spool: Spool, backoff: Backoff, log: logging.Logger) -> None:
        self.trouble = ""
        """Why the spool refuses; empty while it does not."""
        self._name = name
        self._spool = spool
        self._backoff = backoff
        self._log = log

    async def surely(self, record: Callable[[], Awaitable[None]]) -> None:
        """Again and again, until it is in the table."""
        failures = 0
        while True:
            try:
                await record()
            except REFUSALS as error:
                failures += 1
                self.refused(error)
                await asyncio.sleep(self._backoff.ceiling_seconds(failures))
            else:
                self.trouble = ""
                return

    def refused(self, error: Exception) -> float:
        """The spool would not; how long to leave it alone, in seconds."""
        if not self.trouble:
            self._log.error("%s: the spool refuses: %s; nothing is lost, trying again", self._name, error)
        self.trouble = f"the spool refuses: {error}"
        return self._backoff.ceiling_seconds(BREAKER_FAILURES)

    # --- steps

    async def store_intent(self, delivery_id: int, name: str) -> None:
        """Nothing has happened yet, so this one may fail."""
        await self._spool.store_intent(delivery_id, name)

    async def store_step(self, delivery_id: int, name: str, result: Step) -> None:
        await self.surely(lambda: self._spool.store_step(delivery_id, name, result))

    async def tell(self, delivery_ids: Sequence[int], name: str, known: Step | None) -> None:
        await self.surely(lambda: self._spool.tell(delivery_ids, name, known))
