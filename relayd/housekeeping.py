"""Keeps the spool within its limits: expire, evict, purge, sweep stray files.

Promises: each turn does a bounded amount of work, and a turn with nothing to do writes nothing. What it removes is gone
for a reason that `relayd why` can tell: too old (`give_up_after`), kept long enough (`keep_…`), or no room.
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
"""A delivery tried fewer times never expires: with a wrong clock everything would look old."""


BOOT_LEAP_SECONDS = 7 * 86_400.0
"""A clock that nobody vouches for and that is this far past the last time we knew was set wrong at boot, as far as we
can tell: nothing is given up by it."""

RUNNING_LEAP_SECONDS = 3600.0
"""The same for a clock that leaps forward while we look."""

DOUBT_SECONDS = 86_400.0
"""A site without time servers that was off for weeks is believed after a day: nobody else will set its clock."""

REMEMBER_SECONDS = 3600.0
LAST_TIME_NOTE = "clock:last"


async def run(spool: Spool, config: SpoolConfig) -> None:
    """Tidy up for ever. Ends by cancellation."""
    doubt = ClockDoubt(await spool.note(LAST_TIME_NOTE))
    while True:
        pulse.beat(TURN_SECONDS)
        try:
            is_believable = doubt.believes(clock.now(), clock.monotonic(), clock.synchronization().is_synchronized)
            await tidy(spool, config, may_give_up=is_believable)
            if is_believable and doubt.is_worth_noting(clock.now()):
                await spool.set_note(LAST_TIME_NOTE, str(round(clock.now())))
        except (SpoolError, sqlite3.Error, OSError) as error:
            log.error("cannot tidy up the spool: %s; trying again in %.0f s", error, TURN_SECONDS)
        await asyncio.sleep(TURN_SECONDS)


class ClockDoubt:
    """Whether the wall clock can be believed for giving things up by their age: pure, fed with what was read.

    A synchronized clock is believed. Another one is, as long as it goes on from the last time that was believed: `last`
    is that time as noted before the restart (text of Unix seconds), afterwards it runs along with the monotonic clock.
    """

    def __init__(self, last: str | None) -> None:
        self._noted = float(last) if last is not None else None
        self._anchor: tuple[float, float] | None = None
        self._tolerance_seconds = BOOT_LEAP_SECONDS

    def believes(self, now: float, monotonic: float, is_synchronized: bool | None) -> bool:
        """Look at the clocks. `now` is Unix seconds."""
        if self._anchor is None:
            self._anchor = (now if self._noted is None else self._noted, monotonic)
        expected = self._anchor[0] + monotonic - self._anchor[1]
        is_steady_for_long = monotonic - self._anchor[1] > DOUBT_SECONDS
        if is_synchronized or now - expected <= self._tolerance_seconds or is_steady_for_long:
            self._anchor, self._tolerance_seconds = (now, monotonic), RUNNING_LEAP_SECONDS
            return True
        return False

    def is_worth_noting(self, now: float) -> bool:
        """Whether the noted time is old enough to be written anew; then it counts as noted."""
        if self._noted is not None and abs(now - self._noted) < REMEMBER_SECONDS:
            return False
        self._noted = now
        return True


async def tidy(spool: Spool, config: SpoolConfig, *, may_give_up: bool = True) -> None:
    """One turn: every kind of tidying until it finds nothing more to do. Without `may_give_up` nothing ends by age."""
    now = clock.now()
    by_age: list[tuple[str, Callable[[], Awaitable[int]]]] = [
        (
            "deliveries given up as too old",
            lambda: spool.expire(now=now, give_up_after=config.give_up_after, min_attempts=MIN_ATTEMPTS),
        ),
        (
            "unclaimed items let go",
            lambda: spool.expire_unclaimed(now=now, keep_unclaimed=config.keep_unclaimed),
        ),
        (
            "finished items forgotten",
            lambda: spool.purge(now=now, keep_delivered=config.keep_delivered, keep_dead=config.keep_dead),
        ),
    ]
    chores: list[tuple[str, Callable[[], Awaitable[int]]]] = [
        *(by_age if may_give_up else ()),
        ("items evicted for want of room", lambda: spool.evict_if_needed(now=now)),
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
