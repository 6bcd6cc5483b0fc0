"""Where the states of deliveries and items change; nowhere else does.

Promises: whatever changes a state also changes the counters and tells the fleet, in the same transaction; an item's
state always follows from its deliveries by the rule of `model.State`. Media goes when nobody is owed. What others of
its incident may wait for is named in `Change.touched`, for `waiting` to look after.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from relayd.incidents import bare, remote_names
from relayd.model import JSON, Fields, Kind, Order, Priority, State
from relayd.spool.change import KEPT_BYTES, Change, destination_subject
from relayd.spool.limits import on_disk
from relayd.spool.missed import is_owed_a_reason
from relayd.spool.outbox import report_end
from relayd.spool.rows import NO_TROUBLE, names_to_column, orders_to_json, priority_of, to_json

_WORST_FIRST = (State.DEAD, State.EVICTED, State.EXPIRED, State.DROPPED, State.DELIVERED)

MESSAGE_LANE, MEDIA_LANE, LAST_LANE = 0, 1, 2
"""Order inside a priority: messages of incidents, their media (the newest first), and everything else."""
LANES = (MESSAGE_LANE, MEDIA_LANE, LAST_LANE)


def state_of(deliveries: Collection[State]) -> State:
    """The state of an item whose deliveries are in these states. Without any it is unclaimed."""
    if not deliveries:
        return State.UNCLAIMED
    if State.PENDING in deliveries:
        return State.PENDING
    return next(state for state in _WORST_FIRST if state in deliveries)


def create_deliveries(
    change: Change, item: int, orders: Sequence[Order], *, parent_receipt: Fields | None = None, now: float
) -> None:
    """Owe these for an item that is pending, or becomes so. Those that need remote ids not known yet wait for them."""
    if not orders:
        return
    row = change.db.execute("SELECT kind, held FROM items WHERE seq = ?", (item,)).fetchone()
    steady, due_at = change.times.steady(now), change.times.due(now)
    known = {order.incident: known_of(change.db, order.incident) for order in orders if order.needs}
    for order in orders:
        is_waiting = order.needs and order.incident
        waits_for = unmet(order.needs, known[order.incident]) if is_waiting else set()
        brings = brought_by(order) if order.incident else frozenset()
        if waits_for or brings:
            change.touched[order.incident] = now
        change.db.execute(
            "INSERT INTO deliveries (item, destination, action, rule, priority, state, created_at, owed_since, due_at,"
            " arguments, follow_ups, parent_receipt, incident, waits_for, opens, lane, brings, held)"
            " VALUES (?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                item,
                order.destination,
                order.action,
                order.rule,
                int(order.priority),
                now,
                steady,
                due_at,
                to_json(dict(order.arguments)),
                orders_to_json(order.then),
                to_json(dict(parent_receipt or {})),
                order.incident,
                names_to_column(waits_for),
                names_to_column(order.opens),
                _lane(order, row["kind"]),
                names_to_column(brings),
                int(row["held"] and order.priority > Priority.HIGH),
            ),
        )
        change.count("pending", 1, destination_subject(order.destination))
        change.hints.add(order.destination)


def add_deliveries(
    change: Change, item: int, orders: Sequence[Order], *, parent_receipt: Fields | None = None, now: float
) -> None:
    """The same for an item that may be owed to others already, or may have ended: it is as urgent as the most urgent.
    `settle` comes after it."""
    if orders:
        create_deliveries(change, item, orders, parent_receipt=parent_receipt, now=now)
        change.db.execute(
            "UPDATE items SET priority = ?1 WHERE seq = ?2 AND priority > ?1", (priority_of(orders), item)
        )


def move_delivery(change: Change, row: sqlite3.Row, state: State, *, reason: str, now: float) -> None:
    """Bring one delivery (a row with its id) into another state. Its own state is read anew: what happened to another
    delivery of the same incident may have moved this one, too. What was dropped waits for nothing any more."""
    row = change.db.execute(
        "SELECT id, destination, state, incident, brings FROM deliveries WHERE id = ?", (row["id"],)
    ).fetchone()
    change.db.execute(
        "UPDATE deliveries SET state = ?1, reason = ?2, ended_at = ?3,"
        " waits_for = CASE ?1 WHEN 'dropped' THEN '' ELSE waits_for END WHERE id = ?4",
        (state, reason, None if state is State.PENDING else now, row["id"]),
    )
    subject = destination_subject(row["destination"])
    change.count(row["state"], -1, subject)
    change.count(state, 1, subject)
    report_end(change, row["id"], state, now=now)
    if row["incident"] and row["brings"]:
        change.touched[row["incident"]] = now


def settle(change: Change, item: int, *, now: float) -> State:
    """Recompute an item's state after its deliveries changed, and free its media when nobody is owed."""
    rows = change.db.execute("SELECT DISTINCT state FROM deliveries WHERE item = ?", (item,))
    state = state_of({State(row["state"]) for row in rows})
    return set_item_state(change, item, state, now=now)


def set_item_state(change: Change, item: int, state: State, *, reason: str = "", now: float) -> State:
    """For `settle`, and for items that have no deliveries to follow from."""
    row = change.db.execute(
        "SELECT state, kind, source, size_bytes, has_content FROM items WHERE seq = ?", (item,)
    ).fetchone()
    if row["state"] != state:
        change.db.execute(
            "UPDATE items SET state = ?, reason = ?, ended_at = ?, ended_steady = ? WHERE seq = ?",
            (state, reason, *_ended(change, state, now), item),
        )
        change.count(row["state"], -1)
        change.count(state, 1)
        if row["kind"] == Kind.MEDIA and row["has_content"]:
            is_kept = int(state is State.DELIVERED) - int(row["state"] == State.DELIVERED)
            change.count(KEPT_BYTES, is_kept * on_disk(row["size_bytes"]))
    is_wanted = change.keeps_content or row["source"] in change.collected
    if state is State.DELIVERED and row["kind"] == Kind.MEDIA and not is_wanted:
        free_content(change, item)
    return state


def _ended(change: Change, state: State, now: float) -> tuple[float | None, float | None]:
    """When, by the wall clock and in steady time."""
    return (None, None) if state in (State.PENDING, State.UNCLAIMED) else (now, change.times.steady(now))


def free_content(change: Change, item: int) -> int:
    """Let go of an item's media or payload; how many bytes that gives back."""
    row = change.db.execute(
        "SELECT id, kind, state, size_bytes, has_content FROM items WHERE seq = ?", (item,)
    ).fetchone()
    if not row["has_content"]:
        return 0
    change.db.execute("UPDATE items SET has_content = 0, payload = NULL WHERE seq = ?", (item,))
    size_bytes: int = row["size_bytes"]
    change.count("bytes", -size_bytes)
    if row["kind"] == Kind.MEDIA:
        change.count("media_bytes", -on_disk(size_bytes))
        if row["state"] == State.DELIVERED:
            change.count(KEPT_BYTES, -on_disk(size_bytes))
        change.freed.append(row["id"])
    return size_bytes


OPENS = (
    "SELECT 1 FROM deliveries JOIN incidents ON incidents.id = deliveries.incident"
    " WHERE deliveries.item = items.seq AND brings <> '' AND closed_at IS NULL"
)
"""What asked for the remote ids of an incident that is open: without it they would be asked for again."""


def forget(change: Change, item: int, state: State) -> None:
    """Remove an ended item's rows; the counters keep counting it."""
    free_content(change, item)
    rows = change.db.execute(
        "SELECT destination, state, count(*) AS number FROM deliveries WHERE item = ? GROUP BY destination, state",
        (item,),
    ).fetchall()
    for row in rows:
        subject = destination_subject(row["destination"])
        if row["state"] == State.DELIVERED:
            change.count("purged.delivered", row["number"], subject)
        else:
            change.count(row["state"], -row["number"], subject)
    change.db.execute("DELETE FROM items WHERE seq = ?", (item,))
    change.count("stored", -1)
    change.count(f"purged.{state}")


def let_go_unclaimed(change: Change, row: sqlite3.Row, *, now: float) -> None:
    """It leaves no row; only where rules could not be asked as they are written, or where it missed an incident that
    collects from its source, what is to be said of that stays to be read."""
    if row["trouble"] == NO_TROUBLE and not is_owed_a_reason(change.db, change.times, row["seq"]):
        forget(change, row["seq"], State.UNCLAIMED)
        return
    free_content(change, row["seq"])
    change.db.execute(
        "UPDATE items SET ended_at = ?, ended_steady = ?, reason = 'no rule wanted it' WHERE seq = ?",
        (now, change.times.steady(now), row["seq"]),
    )


def known_of(db: sqlite3.Connection, incident: str) -> frozenset[str]:
    """The needs that the remote ids of an incident meet by now."""
    return remote_names(remote_of(db, incident)) if incident else frozenset()


def remote_of(db: sqlite3.Connection, incident: str) -> dict[str, Mapping[str, JSON]]:
    """Destination → what it calls this incident."""
    row = db.execute("SELECT remote FROM incidents WHERE id = ?", (incident,)).fetchone()
    return {} if row is None else json.loads(row["remote"])


def unmet(needs: Iterable[str], known: Collection[str]) -> set[str]:
    return {need for need in needs if bare(need) not in known}


def brought_by(order: Order) -> frozenset[str]:
    """The needs that what it orders, or what follows that, would meet."""
    own = remote_names({order.destination: dict.fromkeys(order.opens)})
    return own | frozenset().union(*map(brought_by, order.then))


def _lane(order: Order, kind: str) -> int:
    if not order.incident or order.priority is Priority.BULK:
        return LAST_LANE
    return MESSAGE_LANE if kind == Kind.MESSAGE else MEDIA_LANE
