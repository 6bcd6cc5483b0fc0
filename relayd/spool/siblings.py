"""What else one destination is owed by the same action: a delivery may look at it, and tell it what was done for it.

Promises: oldest first, in the order in which they were ordered; a page at a time, so memory is flat; a bound on how
many are looked at. What is told is one commit, whatever the number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from relayd.model import Delivery
from relayd.spool import timekeeping
from relayd.spool.change import Change
from relayd.spool.delivering import incident_of, steps_of, store_step
from relayd.spool.records import Begun, Step
from relayd.spool.rows import ITEM_COLUMNS, delivery_from, item_from
from relayd.spool.timeline import Timeline

MOST = 10_000
PAGE = 50


def ids(db: sqlite3.Connection, delivery: Delivery) -> list[int]:
    """The ids of the other pending deliveries of its destination and action, oldest first, at most `MOST`."""
    rows = db.execute(
        "SELECT id FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND waits_for = '' AND held = 0"
        " AND destination = ? AND action = ?"
        " AND id <> ? ORDER BY id LIMIT ?",
        (delivery.destination, delivery.action, delivery.id, MOST),
    )
    return [row["id"] for row in rows]


def page(db: sqlite3.Connection, wanted: Sequence[int]) -> list[Begun]:
    """Those of these deliveries that are still pending, in the order of their ids."""
    marks = ",".join("?" * len(wanted))
    rows = db.execute(
        f"SELECT * FROM deliveries WHERE id IN ({marks}) AND state = 'pending' ORDER BY id",  # noqa: S608
        tuple(wanted),
    ).fetchall()
    times = timekeeping.read_now(db)
    return [_begun(db, row, times) for row in rows]


def tell(change: Change, deliveries: Sequence[int], name: str, known: Step | None, *, now: float) -> None:
    """Store a step of each of these deliveries, unless `known` is None, and make them due now."""
    due_at = change.times.due(now)
    for delivery in deliveries:
        if known is not None:
            store_step(change, delivery, name, known)
        row = change.db.execute(
            "UPDATE deliveries SET due_at = min(due_at, ?) WHERE id = ? AND state = 'pending' RETURNING destination",
            (due_at, delivery),
        ).fetchone()
        if row is not None:
            change.hints.add(row["destination"])


def _begun(db: sqlite3.Connection, row: sqlite3.Row, times: Timeline) -> Begun:
    item_row = db.execute(
        f"SELECT {ITEM_COLUMNS}, items.payload FROM items WHERE seq = ?",  # noqa: S608
        (row["item"],),
    ).fetchone()
    return Begun(
        item=item_from(item_row, item_row["payload"]),
        delivery=delivery_from(row, item_row["id"], times),
        steps=steps_of(db, row["id"]),
        incident=incident_of(db, row["incident"]),
    )
