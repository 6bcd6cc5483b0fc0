"""Times follow the clock that they were read from: when it is set, the spans of incidents and the arrival of media move
along.

Promises: what was read since this start of the machine follows the clock, also if it was set while relayd did not run;
following twice changes nothing. What an earlier start left is compared with the clock of today only where that can be
believed, so no incident stays open for years, and no press is taken for part of one that may be long over.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

from relayd import clock
from relayd.clock import Stamp
from relayd.model import Incident
from relayd.spool.change import Change
from relayd.spool.rows import incident_from, to_json

ARRIVALS_NOTE = "clock:arrivals"
WRONG_CLOCK = "the clock that it was opened by was wrong"


def follow(change: Change, stamp: Stamp) -> None:
    """The clock says `stamp` now: what was read from it before it was set moves along."""
    rows = change.db.execute(
        "SELECT * FROM incidents WHERE closed_at IS NULL AND boot = ? AND abs(clock_offset - ?) >= ?",
        (stamp.boot, stamp.offset_seconds, Stamp.SMALLEST_SECONDS),
    ).fetchall()
    for row in rows:
        incident = following(incident_from(row), row, stamp)
        change.db.execute(
            "UPDATE incidents SET opened_at = ?, starts_at = ?, ends_at = ?, clock_offset = ?, has_claimed = 0"
            " WHERE id = ?",
            (incident.opened_at, incident.starts_at, incident.ends_at, stamp.offset_seconds, incident.id),
        )
    noted = change.db.execute("SELECT value FROM notes WHERE key = ?", (ARRIVALS_NOTE,)).fetchone()
    before = None if noted is None else Stamp(**json.loads(noted["value"]))
    if before is not None and stamp.stepped_seconds(before):
        _move_arrivals(change, before, stamp)
    if before is None or before.boot != stamp.boot or stamp.stepped_seconds(before):
        change.db.execute(
            "INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)",
            (ARRIVALS_NOTE, to_json({"boot": stamp.boot, "offset_seconds": stamp.offset_seconds})),
        )


def following(incident: Incident, row: sqlite3.Row, stamp: Stamp) -> Incident:
    """An incident (and its row) in the times of the clock as it is set now."""
    by = stamp.stepped_seconds(Stamp(boot=row["boot"], offset_seconds=row["clock_offset"]))
    return replace(
        incident,
        opened_at=incident.opened_at + by,
        starts_at=incident.starts_at + by,
        ends_at=incident.ends_at + by,
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


def _move_arrivals(change: Change, before: Stamp, stamp: Stamp) -> None:
    """Of media, and of what nobody wanted yet: what an incident may still claim."""
    by = stamp.stepped_seconds(before)
    since, until = before.offset_seconds, before.offset_seconds + clock.since_boot() + Stamp.SMALLEST_SECONDS
    media = "items INDEXED BY items_media", "kind = 'media' AND has_content = 1"
    unclaimed = (
        "items INDEXED BY items_kept",
        "has_content = 1 AND priority = 4 AND state = 'unclaimed' AND kind <> 'media'",
    )
    for what, which in (media, unclaimed):
        change.db.execute(
            f"UPDATE {what} SET accepted_at = accepted_at + ? WHERE {which} AND accepted_at BETWEEN ? AND ?",  # noqa: S608
            (by, since, until),
        )
