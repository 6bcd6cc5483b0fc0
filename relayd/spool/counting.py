"""What the counters should say, counted from the rows; for `spool check` and for a repair.

Promises: what can be counted is; what happened to items that are purged by now can only be remembered, and is taken
from the counters themselves.
"""

from __future__ import annotations

import sqlite3

from relayd.model import State
from relayd.spool.change import INCIDENTS, KEPT_BYTES, SPOOL, Key, destination_subject, source_subject
from relayd.spool.limits import BLOCK_BYTES


def recount(db: sqlite3.Connection) -> dict[Key, int]:
    """Every counter that rows can prove."""
    counted = _spool(db)
    for subject in _subjects(db, "destination:"):
        counted |= dict.fromkeys(((subject, state.value) for state in State), 0)
        counted[subject, State.DELIVERED] = _remembered(db, subject, "purged.delivered")
    for row in db.execute("SELECT destination, state, count(*) AS number FROM deliveries GROUP BY destination, state"):
        key = (destination_subject(row["destination"]), row["state"])
        counted[key] = counted.get(key, 0) + row["number"]
    for subject in _subjects(db, "source:"):
        counted[subject, "quarantined"] = 0
    for row in db.execute("SELECT source, count(*) AS number FROM ledger WHERE reason IS NOT NULL GROUP BY source"):
        counted[source_subject(row["source"]), "quarantined"] = row["number"]
    counted[INCIDENTS, "open"] = db.execute("SELECT count(*) FROM incidents WHERE closed_at IS NULL").fetchone()[0]
    return counted


def differences(db: sqlite3.Connection) -> list[tuple[Key, int, int]]:
    """(counter, what it says, what the rows say) for those that are wrong."""
    said = {(row["subject"], row["name"]): row["value"] for row in db.execute("SELECT * FROM counters")}
    return [(key, said.get(key, 0), value) for key, value in recount(db).items() if said.get(key, 0) != value]


def correct(db: sqlite3.Connection) -> int:
    """Set wrong counters right, inside the caller's transaction; how many were wrong."""
    wrong = differences(db)
    db.executemany(
        "INSERT OR REPLACE INTO counters (subject, name, value) VALUES (?, ?, ?)",
        [(*key, value) for key, _, value in wrong],
    )
    return len(wrong)


def _spool(db: sqlite3.Connection) -> dict[Key, int]:
    purged = {state: _remembered(db, SPOOL, f"purged.{state}") for state in State}
    counted: dict[Key, int] = {(SPOOL, state): purged[state] for state in State}
    stored = 0
    for row in db.execute("SELECT state, count(*) AS number FROM items GROUP BY state"):
        counted[SPOOL, row["state"]] += row["number"]
        stored += row["number"]
    counted[SPOOL, "stored"] = stored
    counted[SPOOL, "accepted"] = stored + sum(purged.values())
    sums = db.execute(
        "SELECT coalesce(sum(size_bytes), 0), coalesce(sum((size_bytes + ?1 - 1) / ?1 * ?1)"
        " FILTER (WHERE kind = 'media'), 0), coalesce(sum((size_bytes + ?1 - 1) / ?1 * ?1)"
        " FILTER (WHERE kind = 'media' AND state = 'delivered'), 0) FROM items WHERE has_content = 1",
        (BLOCK_BYTES,),
    ).fetchone()
    counted[SPOOL, "bytes"], counted[SPOOL, "media_bytes"], counted[SPOOL, KEPT_BYTES] = sums
    return counted


def _subjects(db: sqlite3.Connection, prefix: str) -> list[str]:
    rows = db.execute("SELECT DISTINCT subject FROM counters WHERE substr(subject, 1, ?) = ?", (len(prefix), prefix))
    return [row["subject"] for row in rows]


def _remembered(db: sqlite3.Connection, subject: str, name: str) -> int:
    row = db.execute("SELECT value FROM counters WHERE subject = ? AND name = ?", (subject, name)).fetchone()
    return 0 if row is None else row["value"]
