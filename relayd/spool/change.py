"""One operation inside the writer's transaction: its rows, what they add to the counters, and what follows the commit.

Promises: counters are written in the very transaction that they count; files are removed and workers hinted only after
the commit. A change that is rolled back leaves nothing.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from relayd.spool.records import DestinationCounters, SourceCounters
from relayd.spool.timeline import Timeline

Key = tuple[str, str]
"""(subject, name) of a counter."""

SPOOL = ""
INCIDENTS = "incidents"
CLOCK = "clock"
KEPT_BYTES = "kept_media_bytes"
"""Counts the media of what was delivered, in whole blocks: it gives way to whatever else comes."""


def source_subject(name: str) -> str:
    return f"source:{name}"


def destination_subject(name: str) -> str:
    return f"destination:{name}"


@dataclass(slots=True)
class Change:
    """What an operation is given. `freed` are ids of items whose media goes after the commit; `events_kept` is how many
    events for the fleet may wait, 0 if nobody wants any. `collected` are the sources that incidents collect from: their
    media stays for a while after it was delivered; with `keeps_content` all media does. `touched` are incidents in
    which what others wait for came or went, and when; `unsettled` are those that were not looked after to the end.
    `times` turns the wall clock into steady time, in which every age and wait is kept."""

    db: sqlite3.Connection
    events_kept: int = 0
    collected: frozenset[str] = frozenset()
    keeps_content: bool = False
    times: Timeline = field(default_factory=Timeline)
    has_events: bool = False
    has_incidents: bool = False
    touched: dict[str, float] = field(default_factory=dict)
    unsettled: set[str] = field(default_factory=set)
    counted: dict[Key, int] = field(default_factory=dict)
    marked: dict[Key, int] = field(default_factory=dict)
    hints: set[str] = field(default_factory=set)
    freed: list[str] = field(default_factory=list)
    lines: list[tuple[int, str, tuple[Any, ...]]] = field(default_factory=list)

    def count(self, name: str, by: int = 1, subject: str = SPOOL) -> None:
        """Add to a counter."""
        key = (subject, name)
        self.counted[key] = self.counted.get(key, 0) + by

    def mark(self, name: str, moment: float, subject: str) -> None:
        """Remember a moment; `name` ends in `_ms`."""
        self.marked[subject, name] = round(moment * 1000)

    def note_time(self) -> None:
        """Remember how far steady time has got: it goes on from there after a power cut."""
        self.mark("steady_ms", self.times.reached(), CLOCK)

    def warn(self, text: str, *words: Any) -> None:
        """Log this once the change is committed."""
        self.lines.append((logging.WARNING, text, words))

    def say(self, text: str, *words: Any) -> None:
        """The same for what is as it should be."""
        self.lines.append((logging.INFO, text, words))

    def absorb(self, other: Change) -> None:
        """Take over a finished operation of the same group."""
        for key, by in other.counted.items():
            self.counted[key] = self.counted.get(key, 0) + by
        self.marked |= other.marked
        self.hints |= other.hints
        self.freed += other.freed
        self.lines += other.lines
        self.has_events |= other.has_events
        self.has_incidents |= other.has_incidents
        self.unsettled |= other.unsettled

    def write_counters(self) -> None:
        """Last thing before the commit."""
        self.db.executemany(
            "INSERT INTO counters (subject, name, value) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [(*key, by) for key, by in self.counted.items() if by],
        )
        self.db.executemany(
            "INSERT INTO counters (subject, name, value) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = excluded.value",
            [(*key, value) for key, value in self.marked.items()],
        )


class Tally:
    """The counters in memory: loaded once, then kept in step with every commit."""

    def __init__(self) -> None:
        self._values: dict[Key, int] = {}

    def load(self, db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT subject, name, value FROM counters")
        self._values = {(subject, name): value for subject, name, value in rows}

    def follow(self, change: Change) -> None:
        """A change is committed."""
        for key, by in change.counted.items():
            self._values[key] = self._values.get(key, 0) + by
        self._values |= change.marked

    def value(self, name: str, subject: str = SPOOL) -> int:
        return self._values.get((subject, name), 0)

    def sources(self) -> dict[str, SourceCounters]:
        return {
            name: SourceCounters(
                captured=self.value("captured", subject),
                repeated=self.value("repeated", subject),
                quarantined=self.value("quarantined", subject),
                last_at=self._moment("last_at_ms", subject),
            )
            for name, subject in self._subjects("source:")
        }

    def destinations(self) -> dict[str, DestinationCounters]:
        return {
            name: DestinationCounters(
                pending=self.value("pending", subject),
                delivered=self.value("delivered", subject),
                dead=self.value("dead", subject),
                evicted=self.value("evicted", subject),
                expired=self.value("expired", subject),
                dropped=self.value("dropped", subject),
                bytes_sent=self.value("bytes_sent", subject),
                last_success_at=self._moment("last_success_at_ms", subject),
            )
            for name, subject in self._subjects("destination:")
        }

    def _subjects(self, prefix: str) -> list[tuple[str, str]]:
        subjects = sorted({subject for subject, _ in self._values if subject.startswith(prefix)})
        return [(subject.removeprefix(prefix), subject) for subject in subjects]

    def _moment(self, name: str, subject: str) -> float | None:
        value = self._values.get((subject, name))
        return None if value is None else value / 1000
