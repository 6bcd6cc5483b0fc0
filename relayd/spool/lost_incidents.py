"""Incidents that a damaged database has lost: made again of what their deliveries say.

Promises: whatever names an incident finds one, with the remote ids that receipts still prove, so what is owed in it
goes on to the same report; what waits there for something that cannot come any more ends.
"""

from __future__ import annotations

import sqlite3

from relayd.model import Fields
from relayd.spool import timekeeping, waiting
from relayd.spool.change import Change
from relayd.spool.rows import fields_from, names_from, to_json

KEY = "lost"
REASON = "it was lost with a damaged database: what is known of it comes from its deliveries"
_LOST = "FROM deliveries WHERE incident <> '' AND NOT EXISTS (SELECT 1 FROM incidents WHERE id = deliveries.incident)"


def lost(db: sqlite3.Connection) -> list[str]:
    """Ids that deliveries name, and that have no row."""
    return [row["incident"] for row in db.execute(f"SELECT DISTINCT incident {_LOST}")]


def restore(db: sqlite3.Connection, *, now: float) -> int:
    """Inside the caller's transaction: closed ones in place of those that were lost; how many. Counters are left to the
    caller."""
    missing = lost(db)
    for incident in missing:
        _restore(db, incident, now)
    return len(missing)


def settle(db: sqlite3.Connection, *, now: float) -> int:
    """Inside the caller's transaction: release or end what waits in vain; in how many incidents something did. Counters
    are left to the caller."""
    found = list(waiting.endless(db))
    pending = set(waiting.with_waiting(db)) if found else set()
    while pending:
        change = Change(db, times=timekeeping.read_now(db))
        change.touched = dict.fromkeys(pending, now)
        waiting.look_after(change)
        pending = change.unsettled
    return len(found)


def _restore(db: sqlite3.Connection, incident: str, now: float) -> None:
    rows = db.execute(
        "SELECT deliveries.*, items.id AS item_id FROM deliveries JOIN items ON items.seq = item WHERE incident = ?"
        " AND incident <> '' ORDER BY deliveries.id",
        (incident,),
    ).fetchall()
    remote: dict[str, Fields] = {}
    for row in rows:
        receipt = fields_from(row["receipt"] or "{}")
        given = {name: receipt[name] for name in names_from(row["opens"]) if receipt.get(name) is not None}
        if given:
            remote[row["destination"]] = {**given, **remote.get(row["destination"], {})}
    moments = [row["created_at"] for row in rows]
    first = next((row for row in rows if row["opens"]), rows[0])
    db.execute(
        "INSERT INTO incidents (id, key, rule, item, collect, opened_at, starts_at, ends_at, closed_at, close_reason,"
        " remote, closed_steady, has_claimed) VALUES (?, ?, ?, ?, '[]', ?, ?, ?, ?, ?, ?, ?, 1)",
        (
            incident,
            KEY,
            first["rule"],
            first["item_id"],
            *(min(moments), min(moments), max(moments), now),
            REASON,
            to_json(remote),
            timekeeping.read_now(db).steady(now),
        ),
    )
    db.executemany(
        "INSERT OR IGNORE INTO incident_items (incident, item) VALUES (?, ?)", [(incident, row["item"]) for row in rows]
    )
