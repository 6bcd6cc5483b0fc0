"""A camera whose clock is off by whole hours (another time zone, summer time) is off every time: what is known of that.

Promises: a difference counts once three captures that are apart say the same; one late upload never moves anything. No
capture is ever moved into the future. A recording that is behind by an hour says nothing: its name may tell when an
hour-long clip began.
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass, replace

from relayd import clock, incidents
from relayd.errors import SpoolError
from relayd.memory import Memory
from relayd.messages import about
from relayd.model import Capture, Fields, TimeFrom

log = logging.getLogger("relayd.sources")

WITNESSES = 3
APART_SECONDS = 300.0
"""From the first to the last of them: a burst that was uploaded late comes within less."""
HOUR_SECONDS = 3600
_KEY = "clock:"


@dataclass(slots=True)
class _Off:
    """How far the times of one kind are behind ours (negative) or ahead; 0: not at all. `count` captures in a row, from
    `first_at` to `last_at`, said `claimed_seconds` instead."""

    seconds: int = 0
    is_stored: bool = True
    claimed_seconds: int = 0
    count: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def hear(self, difference_seconds: int, moment: float) -> bool:
        """One more witness; True if that settles another difference than was known."""
        if difference_seconds == self.seconds:
            self.count = 0
            return False
        if not self.count or difference_seconds != self.claimed_seconds:
            self.claimed_seconds, self.count, self.first_at, self.last_at = difference_seconds, 1, moment, moment
            return False
        self.count += moment != self.last_at
        self.first_at, self.last_at = min(self.first_at, moment), max(self.last_at, moment)
        if self.count < WITNESSES or self.last_at - self.first_at < APART_SECONDS:
            return False
        self.seconds, self.is_stored, self.count = difference_seconds, False, 0
        return True


class CameraClock:
    """Of one source. `time_zone` is how its configuration says that names are meant: what was learned under another one
    is forgotten."""

    def __init__(self, source: str, memory: Memory, time_zone: str, zone: datetime.tzinfo | None) -> None:
        self._source = source
        self._memory = memory
        self._time_zone = time_zone
        self._zone = zone
        self._off = {TimeFrom.NAME: _Off(), TimeFrom.WRITTEN: _Off()}

    async def load(self) -> None:
        """Know again what was learned before a restart; where that cannot be read, it is learned anew."""
        try:
            facts = await self._memory.everything()
        except (SpoolError, OSError) as error:
            log.warning("source %s: how far its clock is off cannot be read: %s", self._source, error)
            return
        for kind, off in self._off.items():
            fact = facts.get(_KEY + kind, {})
            seconds = fact.get("seconds")
            if isinstance(seconds, int) and fact.get("time_zone") == self._time_zone:
                off.seconds = seconds

    async def store(self) -> None:
        """Remember what was learned since; after a failure it is tried again the next time."""
        for kind, off in self._off.items():
            if off.is_stored:
                continue
            fact: Fields | None = {"seconds": off.seconds, "time_zone": self._time_zone} if off.seconds else None
            try:
                await self._memory.remember(_KEY + kind, fact)
                off.is_stored = True
            except (SpoolError, OSError) as error:
                log.warning("source %s: how far its clock is off is not stored yet: %s", self._source, error)

    def corrected(self, capture: Capture) -> Capture:
        """The same capture, at the time by our clock. Learns from it."""
        off = self._off.get(_kind_of(capture.time_from))
        if off is None or capture.file is None:
            return capture
        now = clock.now()
        self._learn(capture, off, now)
        moment = capture.captured_at - off.seconds
        is_ours = incidents.agrees(capture.captured_at, now)
        if not off.seconds or is_ours or moment > now + incidents.AGREEING_SECONDS:
            return capture
        return replace(capture, captured_at=moment)

    def _learn(self, capture: Capture, off: _Off, now: float) -> None:
        written_at = capture.file.origin.mtime_ns / 1e9 if capture.file else now
        by = now if incidents.agrees(capture.captured_at, written_at) or written_at > now else written_at
        difference = incidents.zone_difference(capture.captured_at, by)
        if difference is None or (-HOUR_SECONDS <= difference < 0 and not capture.content_type.startswith("image/")):
            return
        if difference != off.seconds and clock.synchronization().is_synchronized is False:
            return  # it may be ours that is off
        before = self.reason
        if off.hear(difference, by):
            text = self.reason or f"no longer so: {before}"
            log.warning("source %s: %s", self._source, text, extra=about(source=self._source))

    @property
    def reason(self) -> str:
        """What is wrong, and what to do; empty where the clocks agree."""
        names = self._off[TimeFrom.NAME].seconds
        if names:
            return f"the times in its names are {_words(names)} ours, which is corrected: {self._remedy(names)}"
        written = self._off[TimeFrom.WRITTEN].seconds
        if written:
            remedy = "set the clock and the time zone of what writes them"
            return f"its files are dated {_words(written)} ours, which is corrected: {remedy}"
        return ""

    def _remedy(self, seconds: int) -> str:
        here = datetime.datetime.fromtimestamp(clock.now(), datetime.UTC).astimezone(self._zone).utcoffset()
        from_utc = round((here or datetime.timedelta()).total_seconds()) + seconds
        if from_utc == 0:
            return f'write time_zone = "UTC" in [source.{self._source}]'
        hours, rest = divmod(abs(from_utc), HOUR_SECONDS)
        place = f'"Etc/GMT{"-" if from_utc > 0 else "+"}{hours}"' if rest == 0 else "the zone of its clock"
        return f"set the camera's clock, or write time_zone = {place} in [source.{self._source}]"


def _kind_of(time_from: TimeFrom) -> TimeFrom:
    return TimeFrom.NAME if time_from is TimeFrom.PATTERN else time_from


def _words(seconds: int) -> str:
    hours, rest = divmod(abs(seconds), HOUR_SECONDS)
    length = f"{hours} h {rest // 60} min" if rest else f"{hours} h"
    return f"{length} {'behind' if seconds < 0 else 'ahead of'}"
