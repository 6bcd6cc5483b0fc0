"""Where steady time is kept, and what follows the wall clock when that is set: the spans of incidents.

Promises: the writer looks at the clock before each commit, so whatever a commit decides it decides by the clock as it
is. What was read since this start of the machine follows it, also if it was set while relayd did not run. What an
earlier start left is compared with the clock of today only where that can be believed, so no incident stays open for
years, and no press is taken for part of one that may be long over. Following costs the same however much waits:
ages and waits are in steady time (see `timeline.py`), which nothing moves.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, replace

from relayd import clock
from relayd.clock import Stamp
from relayd.model import Incident
from relayd.spool import picking
from relayd.spool.change import CLOCK, Change
from relayd.spool.rows import incident_from, to_json
from relayd.spool.timeline import Timeline

NOTE = "clock:timeline"
REACHED = (CLOCK, "steady_ms")
"""The counter that says how far steady time had got at the last commit that noted it."""
WRONG_CLOCK = "the clock that it was opened by was wrong"


def resume(db: sqlite3.Connection, *, now: float) -> None:
    """When the spool is opened: steady time goes on, or begins. Writes only after a restart of the machine."""
    before = read(db)
    if before is None:
        _begin(db, now)
        return
    times = before.followed(clock.stamp())
    if times.base_seconds != before.base_seconds:  # else the writer follows, and what was read by the clock with it
        _note(db, _lifted(db, times))


def read(db: sqlite3.Connection) -> Timeline | None:
    """As noted; None in a spool in which steady time has not begun."""
    row = db.execute("SELECT value FROM notes WHERE key = ?", (NOTE,)).fetchone()
    if row is None:
        return None
    noted = Timeline(**json.loads(row["value"]))
    reached = db.execute("SELECT value FROM counters WHERE subject = ? AND name = ?", REACHED).fetchone()
    seen = noted.seen_steady if reached is None else max(noted.seen_steady, reached["value"] / 1000)
    return replace(noted, seen_steady=seen)


def read_now(db: sqlite3.Connection) -> Timeline:
    """The same by the clock as it is set now, for who only looks."""
    noted = read(db)
    return Timeline() if noted is None else noted.followed(clock.stamp())


def follow(change: Change) -> None:
    """First thing in each commit: if the clock was set, what was read from it before moves along."""
    stamp = clock.stamp()
    times = change.times.followed(stamp)
    if times is change.times:
        return
    if times.base_seconds == change.times.base_seconds:
        change.warn("the clock was set by %+.0f s", times.offset_seconds - change.times.offset_seconds)
    else:
        times = _lifted(change.db, times)
    change.times = times
    _note(change.db, times)
    rows = change.db.execute("SELECT * FROM incidents WHERE boot = ?", (stamp.boot,)).fetchall()
    for row in rows:
        incident = following(incident_from(row), row, stamp)
        change.db.execute(
            "UPDATE incidents SET opened_at = ?, starts_at = ?, ends_at = ?, closed_at = ?, clock_offset = ?,"
            " has_claimed = has_claimed AND closed_at IS NOT NULL WHERE id = ?",
            (
                *(incident.opened_at, incident.starts_at, incident.ends_at, incident.closed_at),
                stamp.offset_seconds,
                incident.id,
            ),
        )
    change.has_incidents |= bool(rows)


def following(incident: Incident, row: sqlite3.Row, stamp: Stamp) -> Incident:
    """An incident (and its row) in the times of the clock as it is set now."""
    by = stamp.stepped_seconds(Stamp(boot=row["boot"], offset_seconds=row["clock_offset"]))
    return replace(
        incident,
        opened_at=incident.opened_at + by,
        starts_at=incident.starts_at + by,
        ends_at=incident.ends_at + by,
        closed_at=None if incident.closed_at is None else incident.closed_at + by,
    )


def why_over(incident: Incident, boot: str, *, now: float) -> str | None:
    """Why nothing may join it any more, in words; None if it may. After a restart of the machine only a clock that is
    synchronized can tell that its time is not over: rather one report too many than none."""
    if incident.ends_at < now:
        return "its time is over"
    if boot == clock.stamp().boot:
        return None
    if not clock.synchronization().is_synchronized:
        return "the machine was restarted, and its clock is not synchronized yet: its time may be over"
    return None if incident.starts_at <= now else WRONG_CLOCK


def _begin(db: sqlite3.Connection, now: float) -> None:
    """A new spool, one of an older version, or one whose notes were lost: whatever stamps it has are of clocks of which
    nothing is known, so every age counts from now, and nothing waits."""
    stamp = clock.stamp()
    db.execute("BEGIN IMMEDIATE")
    db.execute("UPDATE items SET taken_steady = ? WHERE has_content = 1", (now,))
    db.execute("UPDATE items SET ended_steady = ? WHERE ended_at IS NOT NULL", (now,))
    db.execute("UPDATE incidents SET closed_steady = ? WHERE closed_at IS NOT NULL", (now,))
    db.execute("UPDATE deliveries SET owed_since = ? WHERE state = 'pending'", (now,))
    db.execute("UPDATE deliveries SET due_at = ?1 WHERE state = 'pending' AND due_at > ?1", (now,))
    _note(
        db,
        Timeline(
            boot=stamp.boot,
            offset_seconds=stamp.offset_seconds,
            base_seconds=stamp.offset_seconds,
            seen_steady=clock.now(),
        ),
    )
    db.execute("COMMIT")


def _lifted(db: sqlite3.Connection, times: Timeline) -> Timeline:
    return times.lifted(picking.last_due(db))


def _note(db: sqlite3.Connection, times: Timeline) -> None:
    db.execute("INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", (NOTE, to_json(asdict(times))))
