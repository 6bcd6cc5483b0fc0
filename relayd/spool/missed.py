"""Incidents that an item came close to without belonging to them: what a person asks about who looks for its picture.

Promises: a look at incidents of about the time at which it came, never at all of them; nothing is changed.
"""

from __future__ import annotations

import sqlite3

from relayd import incidents
from relayd.model import Incident
from relayd.spool.records import MissedIncident
from relayd.spool.rows import incident_from
from relayd.spool.timeline import Timeline

NEAR_SECONDS = 600.0
"""What came so long before an incident opened may have been meant for it."""
MOST_NAMED = 3


def missed_by(db: sqlite3.Connection, times: Timeline, seq: int) -> tuple[MissedIncident, ...]:
    """For media that belongs to none: those that were open when it came, or opened soon after; the newest first."""
    row = db.execute(
        "SELECT source, captured_at, accepted_at, taken_steady FROM items WHERE seq = ? AND kind = 'media'"
        " AND NOT EXISTS (SELECT 1 FROM incident_items WHERE item = items.seq)",
        (seq,),
    ).fetchone()
    if row is None:
        return ()
    arrived_at = times.arrival(row["taken_steady"], row["accepted_at"])
    found = db.execute(
        "SELECT * FROM incidents INDEXED BY incidents_span WHERE ends_at >= ? AND opened_at <= ? ORDER BY seq DESC"
        " LIMIT ?",
        (arrived_at, arrived_at + NEAR_SECONDS, MOST_NAMED),
    )
    told = (_missed(incident_from(one), row["source"], row["captured_at"], arrived_at) for one in found)
    return tuple(one for one in told if one is not None)


def is_owed_a_reason(db: sqlite3.Connection, times: Timeline, seq: int) -> bool:
    """Whether it came from a source of an incident that was open then: somebody will ask why it is not in it."""
    return any(one.was_open and one.is_collected for one in missed_by(db, times, seq))


def _missed(incident: Incident, source: str, captured_at: float, arrived_at: float) -> MissedIncident | None:
    why = incidents.why_missed(incident, source, captured_at, arrived_at)
    if why is None:
        return None
    return MissedIncident(
        incident=incident,
        why=why,
        was_open=incident.opened_at <= arrived_at,
        is_collected=source in incident.collect,
    )
