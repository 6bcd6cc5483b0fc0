"""Events for the fleet: written in the very transaction that they tell of, kept until the broker has acknowledged them.

Promises: what is committed is told at least once, in order, unless more waits than is kept: then the oldest goes, and
the gap in the numbers shows it. An event's id stays the same however often it is sent. No counter of items counts them.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from relayd.clock import rfc3339
from relayd.model import Fields, State
from relayd.spool.change import Change
from relayd.spool.rows import fields_from, new_id, to_json

EVENTS = "events"
"""Subject of the counters of events: `reported` and `dropped`."""

SCHEMA = 1
LONGEST_TEXT = 1_000
LONGEST_RECEIPT = 8_192

_TYPES = {
    State.DELIVERED: "delivered",
    State.DEAD: "dead",
    State.EXPIRED: "dead",
    State.EVICTED: "evicted",
    State.DROPPED: "dropped",
}
"""What the fleet is told of a delivery that ended; an expired one is as dead as any, its `state` says the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One that waits to be published. `document` is what is published."""

    seq: int
    type: str
    document: Fields


def report(change: Change, type_name: str, fields: Fields, *, now: float) -> None:
    """Tell the fleet, if there is one that wants to know."""
    if not change.events_kept:
        return
    document = {"schema": SCHEMA, "id": new_id(now), "type": type_name, "at": rfc3339(now), **fields}
    seq = change.db.execute(
        "INSERT INTO events (at, type, document) VALUES (?, ?, ?)", (now, type_name, to_json(document))
    ).lastrowid
    gone = change.db.execute("DELETE FROM events WHERE seq <= ?", ((seq or 0) - change.events_kept,)).rowcount
    change.count("reported", 1, EVENTS)
    change.count("dropped", gone, EVENTS)
    change.has_events = True


def report_end(change: Change, delivery: int, state: State, *, now: float) -> None:
    """Tell how a delivery ended, as its row says by now."""
    if not change.events_kept or state not in _TYPES:
        return
    row = change.db.execute(
        "SELECT items.id AS item, items.name, items.source, items.size_bytes, deliveries.* FROM deliveries"
        " JOIN items ON items.seq = deliveries.item WHERE deliveries.id = ?",
        (delivery,),
    ).fetchone()
    report(change, _TYPES[state], _told(row, state), now=now)


def events_after(db: sqlite3.Connection, seq: int, limit: int) -> list[Event]:
    """Oldest first."""
    rows = db.execute("SELECT seq, type, document FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
    return [
        Event(seq=row["seq"], type=row["type"], document={**json.loads(row["document"]), "number": row["seq"]})
        for row in rows
    ]


def forget_events(change: Change, up_to: int) -> None:
    """The broker has these."""
    change.db.execute("DELETE FROM events WHERE seq <= ?", (up_to,))


def _told(row: sqlite3.Row, state: State) -> Fields:
    receipt = row["receipt"]
    return {
        "item": row["item"],
        "name": row["name"][:LONGEST_TEXT],
        "source": row["source"],
        "size": row["size_bytes"],
        "destination": row["destination"],
        "action": row["action"],
        "rule": row["rule"],
        "state": state.value,
        "attempts": row["attempts"],
        "reason": row["reason"][:LONGEST_TEXT],
        "receipt": None if receipt is None or len(receipt) > LONGEST_RECEIPT else dict(fields_from(receipt)),
    }
