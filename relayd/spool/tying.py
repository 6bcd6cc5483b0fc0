"""Ties items to incidents: open, join, collect, close; and what rules order for an item because it belongs to one.

Promises: which incidents an item belongs to, and what is owed for it there, is decided in the transaction that stores
the item, so no order of arrival makes a difference. Nothing is ordered twice for the same item, and what opens an
incident at a destination is ordered once, however many items join it. What was there before is for `claiming`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from relayd.model import Incident, Item, Opening, Order
from relayd.rules import likeness
from relayd.spool import incident_rows
from relayd.spool.change import Change
from relayd.spool.rows import (
    ITEM_COLUMNS,
    delivery_from,
    fields_from,
    names_from,
    names_to_column,
    orders_from_json,
    trouble_from,
    trouble_to_json,
)
from relayd.spool.states import brought_by, create_deliveries
from relayd.spool.timeline import Timeline


class Ties(Protocol):
    """What the rules say; pure, called in the writer's thread."""

    def openings(self, item: Item) -> tuple[Opening, ...]: ...

    def orders(self, item: Item, belongs_to: Sequence[Incident]) -> tuple[Order, ...]: ...


def tie(change: Change, seq: int, item: Item, ties: Ties, *, now: float) -> tuple[Order, ...]:
    """For an item that was just stored: open or join its incidents, and owe what the rules order in them."""
    openings = ties.openings(item)
    found = []
    for opening in openings:
        if opening.closes:
            incident = incident_rows.open_under(change, opening.key)
        else:
            incident = incident_rows.open_or_join(change, opening, item, now)
            if incident is None:
                _tell_refused(change, seq, opening)
        found += [] if incident is None else [incident]
    found += incident_rows.covering(change.db, item)
    incident_rows.note_clock(change, item)
    belongs_to = list({incident.id: incident for incident in found}.values())
    for incident in belongs_to:
        belong(change, incident, seq)
    orders = tuple(
        order for order in ties.orders(item, belongs_to) if not (order.opens and is_ordered(change.db, order))
    )
    create_deliveries(change, seq, orders, now=now)
    for opening in openings:
        over = incident_rows.open_under(change, opening.key) if opening.closes else None
        if over is not None:
            incident_rows.end(change, over, f"closed by rule {opening.rule!r}", now=now)
    return orders


def _tell_refused(change: Change, seq: int, opening: Opening) -> None:
    """What the rule orders is owed all the same, outside of an incident."""
    said = f"rule {opening.rule!r}: no incident is opened, {opening.most_open} of it are open already (most_open)"
    row = change.db.execute(f"SELECT {ITEM_COLUMNS} FROM items WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
    trouble = trouble_to_json((*trouble_from(row), said))
    change.db.execute("UPDATE items SET trouble = ? WHERE seq = ?", (trouble, seq))


def belong(change: Change, incident: Incident, seq: int) -> None:
    """From now on, if it did not."""
    change.db.execute("INSERT OR IGNORE INTO incident_items (incident, item) VALUES (?, ?)", (incident.id, seq))


def is_ordered(db: sqlite3.Connection, order: Order) -> bool:
    """Whether the incident has this opening delivery already, and it is not given up."""
    there = db.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_bringing WHERE incident = ? AND incident <> ''"
        " AND brings <> '' AND brings = ? AND state IN ('pending', 'delivered')",
        (order.incident, names_to_column(brought_by(order))),
    )
    return any(_is_alike(row, order) for row in there)


def is_replaced(db: sqlite3.Connection, delivery: int) -> bool:
    """Whether what this one was to open at a destination was asked for again after it was given up: not twice."""
    row = db.execute("SELECT * FROM deliveries WHERE id = ? AND opens <> ''", (delivery,)).fetchone()
    if row is None or not row["incident"]:
        return False
    given_up = delivery_from(row, "", Timeline())
    return is_ordered(
        db,
        Order(
            destination=given_up.destination,
            action=given_up.action,
            priority=given_up.priority,
            rule=given_up.rule,
            arguments=given_up.arguments,
            then=given_up.then,
            incident=given_up.incident,
            opens=names_from(row["opens"]),
            is_tied=True,
        ),
    )


def missing(change: Change, seq: int, orders: Sequence[Order]) -> list[Order]:
    """Those that the item was not given yet."""
    there = change.db.execute("SELECT * FROM deliveries WHERE item = ?", (seq,)).fetchall()
    return [order for order in orders if not any(_is_alike(row, order) for row in there)]


def _is_alike(row: sqlite3.Row, order: Order) -> bool:
    """Whether this delivery came from such an order."""
    ordered = replace(
        order,
        destination=row["destination"],
        action=row["action"],
        arguments=fields_from(row["arguments"]),
        incident=row["incident"],
        then=orders_from_json(row["follow_ups"]),
    )
    return likeness(ordered) == likeness(order)
