"""Keeps the spool within its limits: expire, evict, purge, sweep stray files.

Promises: each turn does a bounded amount of work, and a turn with nothing to do writes nothing. What it removes is gone
for a reason that `relayd why` can tell: too old (`give_up_after`), kept long enough (`keep_…`), or no room. Ages are in
steady time: no clock that is set makes anything older.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable

from relayd import clock, pulse
from relayd.errors import SpoolError
from relayd.spool import Spool, SpoolConfig

log = logging.getLogger("relayd.housekeeping")

TURN_SECONDS = 30.0
"""How often to look; also how long a full disk may go unnoticed by anything but a put."""

MIN_ATTEMPTS = 3
"""A delivery tried fewer times never expires: it had no chance yet."""

REMEMBER_SECONDS = 3600.0
"""How often steady time is noted while nothing else is written: so much of it is forgotten at a power cut."""


async def run(spool: Spool, config: SpoolConfig) -> None:
    """Tidy up for ever. Ends by cancellation."""
    noted = clock.monotonic()
    while True:
        pulse.beat(TURN_SECONDS)
        try:
            await tidy(spool, config)
            if clock.monotonic() - noted >= REMEMBER_SECONDS:
                await spool.note_time()
                noted = clock.monotonic()
        except (SpoolError, sqlite3.Error, OSError) as error:
            log.error("cannot tidy up the spool: %s; trying again in %.0f s", error, TURN_SECONDS)
        await asyncio.sleep(TURN_SECONDS)


async def tidy(spool: Spool, config: SpoolConfig) -> None:
    """One turn: every kind of tidying until it finds nothing more to do."""
    now = clock.now()
    chores: list[tuple[str, Callable[[], Awaitable[int]]]] = [
        (
            "deliveries given up as too old",
            lambda: spool.expire(now=now, give_up_after=config.give_up_after, min_attempts=MIN_ATTEMPTS),
        ),
        (
            "unclaimed items let go",
            lambda: spool.expire_unclaimed(now=now, keep_unclaimed=config.keep_unclaimed),
        ),
        (
            "contents of delivered items let go",
            lambda: spool.free_delivered(
                now=now, keep_content=config.keep_content, keep_unclaimed=config.keep_unclaimed
            ),
        ),
        (
            "finished items forgotten",
            lambda: spool.purge(now=now, keep_delivered=config.keep_delivered, keep_dead=config.keep_dead),
        ),
        (
            "leftovers of damage removed",
            lambda: spool.prune_leftovers(now=now, keep_dead=config.keep_dead),
        ),
        ("items let go for want of room", lambda: spool.evict_if_needed(now=now)),
    ]
    for words, chore in chores:
        done = await _all_of(chore)
        if done:
            log.info("%d %s", done, words)


async def _all_of(chore: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while done := await chore():
        total += done
        pulse.beat(TURN_SECONDS)
        await asyncio.sleep(0)
    return total
