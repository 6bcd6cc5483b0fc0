"""Where the states of deliveries and items change; nowhere else does.

Promises: whatever changes a state also changes the counters and tells the fleet, in the same transaction; an item's
state always follows from its deliveries by the rule of `model.State`. Media goes when nobody is owed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from relayd.model import Fields, Kind, Order, State
from relayd.spool.change import Change, destination_subject
from relayd.spool.limits import on_disk
from relayd.spool.outbox import report_end
from relayd.spool.rows import orders_to_json, priority_of, to_json

_WORST_FIRST = (State.DEAD, State.EVICTED, State.EXPIRED, State.DELIVERED)


def state_of(deliveries: Collection[State]) -> State:
    """The state of an item whose deliveries are in these states. Without any it is kept unclaimed: pending."""
    if not deliveries or State.PENDING in deliveries:
        return State.PENDING
    return next(state for state in _WORST_FIRST if state in deliveries)


def create_deliveries(
    change: Change, item: int, orders: Sequence[Order], *, parent_receipt: Fields | None = None, now: float
) -> None:
    """Owe these for an item; it becomes, or stays, pending."""
    for order in orders:
        change.db.execute(
            "INSERT INTO deliveries (item, destination, action, rule, priority, state, created_at, owed_since, due_at,"
            " arguments, follow_ups, parent_receipt) VALUES (?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?)",
            (
                item,
                order.destination,
                order.action,
                order.rule,
                int(order.priority),
                now,
                now,
                now,
                to_json(dict(order.arguments)),
                orders_to_json(order.then),
                to_json(dict(parent_receipt or {})),
            ),
        )
        change.count("pending", 1, destination_subject(order.destination))
        change.hints.add(order.destination)
    if orders:
        change.db.execute(
            "UPDATE items SET priority = ?1 WHERE seq = ?2 AND priority > ?1", (priority_of(orders), item)
        )


def move_delivery(
    change: Change, row: sqlite3.Row, state: State, *, reason: str, now: float, was_dropped: bool = False
) -> None:
    """Bring one delivery (a row with id, destination, state, dropped) into another state."""
    change.db.execute(
        "UPDATE deliveries SET state = ?, reason = ?, ended_at = ?, dropped = ? WHERE id = ?",
        (state, reason, None if state is State.PENDING else now, int(was_dropped), row["id"]),
    )
    subject = destination_subject(row["destination"])
    if not row["dropped"]:
        change.count(row["state"], -1, subject)
    if not was_dropped:
        change.count(state, 1, subject)
    report_end(change, row["id"], state, now=now)


def settle(change: Change, item: int, *, now: float) -> State:
    """Recompute an item's state after its deliveries changed, and free its media when nobody is owed."""
    rows = change.db.execute("SELECT DISTINCT state FROM deliveries WHERE item = ?", (item,))
    state = state_of({State(row["state"]) for row in rows})
    return set_item_state(change, item, state, now=now)


def set_item_state(change: Change, item: int, state: State, *, reason: str = "", now: float) -> State:
    """For `settle`, and for items that have no deliveries to follow from."""
    row = change.db.execute("SELECT state, kind FROM items WHERE seq = ?", (item,)).fetchone()
    if row["state"] != state:
        change.db.execute(
            "UPDATE items SET state = ?, reason = ?, ended_at = ? WHERE seq = ?",
            (state, reason, None if state is State.PENDING else now, item),
        )
        change.count(row["state"], -1)
        change.count(state, 1)
    if state is State.DELIVERED and row["kind"] == Kind.MEDIA:
        free_content(change, item)
    return state


def free_content(change: Change, item: int) -> int:
    """Let go of an item's media or payload; how many bytes that gives back."""
    row = change.db.execute("SELECT id, kind, size_bytes, has_content FROM items WHERE seq = ?", (item,)).fetchone()
    if not row["has_content"]:
        return 0
    change.db.execute("UPDATE items SET has_content = 0, payload = NULL WHERE seq = ?", (item,))
    size_bytes: int = row["size_bytes"]
    change.count("bytes", -size_bytes)
    if row["kind"] == Kind.MEDIA:
        change.count("media_bytes", -on_disk(size_bytes))
        change.freed.append(row["id"])
    return size_bytes
