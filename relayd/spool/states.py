"""Where the states of deliveries and items change; nowhere else does.

Promises: whatever changes a state also changes the counters and tells the fleet, in the same transaction; an item's
state always follows from its deliveries by the rule of `model.State`. Media goes when nobody is owed. A delivery that
waits for a remote id of its incident is released with the receipt that brings it, and ends when none can come any more.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence

from relayd.incidents import bare, is_dispensable, remote_names
from relayd.model import JSON, Fields, Kind, Order, Priority, State
from relayd.spool.change import Change, destination_subject
from relayd.spool.limits import on_disk
from relayd.spool.outbox import report_end
from relayd.spool.rows import names_from, names_to_column, orders_from_json, orders_to_json, priority_of, to_json

_WORST_FIRST = (State.DEAD, State.EVICTED, State.EXPIRED, State.DELIVERED)
_NEVER = (State.DEAD, State.EXPIRED, State.EVICTED)

MESSAGE_LANE, MEDIA_LANE, LAST_LANE = 0, 1, 2
"""Order inside a priority: messages of incidents, their media (the newest first), and everything else."""
LANES = (MESSAGE_LANE, MEDIA_LANE, LAST_LANE)


def state_of(deliveries: Collection[State]) -> State:
    """The state of an item whose deliveries are in these states. Without any it is kept unclaimed: pending."""
    if not deliveries or State.PENDING in deliveries:
        return State.PENDING
    return next(state for state in _WORST_FIRST if state in deliveries)


def create_deliveries(
    change: Change, item: int, orders: Sequence[Order], *, parent_receipt: Fields | None = None, now: float
) -> None:
    """Owe these for an item; it becomes, or stays, pending. Those that need remote ids not known yet wait for them."""
    if not orders:
        return
    kind = change.db.execute("SELECT kind FROM items WHERE seq = ?", (item,)).fetchone()["kind"]
    known = {order.incident: _known(change, order.incident) for order in orders if order.needs}
    for order in orders:
        is_waiting = order.needs and order.incident
        waits_for = _unmet(order.needs, known[order.incident]) if is_waiting else set()
        change.db.execute(
            "INSERT INTO deliveries (item, destination, action, rule, priority, state, created_at, owed_since, due_at,"
            " arguments, follow_ups, parent_receipt, incident, waits_for, opens, lane)"
            " VALUES (?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                order.incident,
                names_to_column(waits_for),
                names_to_column(order.opens),
                _lane(order, kind),
            ),
        )
        change.count("pending", 1, destination_subject(order.destination))
        change.hints.add(order.destination)
    change.db.execute("UPDATE items SET priority = ?1 WHERE seq = ?2 AND priority > ?1", (priority_of(orders), item))
    for incident in {order.incident for order in orders if order.incident}:
        if any(order.opens for order in orders if order.incident == incident):
            _wake(change, incident, now=now)
        bereave(change, incident, now=now)


def move_delivery(
    change: Change, row: sqlite3.Row, state: State, *, reason: str, now: float, was_dropped: bool = False
) -> None:
    """Bring one delivery (a row with its id) into another state. Its own state is read anew: what happened to another
    delivery of the same incident may have moved this one, too."""
    row = change.db.execute(
        "SELECT id, destination, state, dropped FROM deliveries WHERE id = ?", (row["id"],)
    ).fetchone()
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
    if state is not State.DELIVERED:
        _tell_incident(change, row["id"], state, now=now)


def settle(change: Change, item: int, *, now: float) -> State:
    """Recompute an item's state after its deliveries changed, and free its media when nobody is owed."""
    rows = change.db.execute("SELECT DISTINCT state FROM deliveries WHERE item = ?", (item,))
    state = state_of({State(row["state"]) for row in rows})
    return set_item_state(change, item, state, now=now)


def set_item_state(change: Change, item: int, state: State, *, reason: str = "", now: float) -> State:
    """For `settle`, and for items that have no deliveries to follow from."""
    row = change.db.execute("SELECT state, kind, source FROM items WHERE seq = ?", (item,)).fetchone()
    if row["state"] != state:
        change.db.execute(
            "UPDATE items SET state = ?, reason = ?, ended_at = ? WHERE seq = ?",
            (state, reason, None if state is State.PENDING else now, item),
        )
        change.count(row["state"], -1)
        change.count(state, 1)
    if state is State.DELIVERED and row["kind"] == Kind.MEDIA and row["source"] not in change.collected:
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


# --- deliveries that wait for their incident


def give_remote(change: Change, row: sqlite3.Row, receipt: Fields, *, now: float) -> bool:
    """A delivery (a whole row) was proven: what its receipt calls the incident is known from now on; the first one
    counts. Releases what waited for it. False: it was not to bring anything."""
    names = names_from(row["opens"])
    if not row["incident"] or not names:
        return False
    remote = _remote(change, row["incident"])
    given: dict[str, JSON] = {name: receipt[name] for name in names if receipt.get(name) is not None}
    remote[row["destination"]] = {**given, **remote.get(row["destination"], {})}
    change.db.execute("UPDATE incidents SET remote = ? WHERE id = ?", (to_json(remote), row["incident"]))
    known = remote_names(remote)
    for waiting in _waiting(change, row["incident"]):
        _wait_for(change, waiting, _unmet(names_from(waiting["waits_for"]), known), now=now)
    return True


def bereave(change: Change, incident: str, *, now: float) -> None:
    """End what waits for a remote id that nothing in the incident can bring any more: what would have brought it has
    ended without, or the incident is closed. What can do without it goes on at once."""
    waiting = _waiting(change, incident)
    if not waiting:
        return
    row = change.db.execute("SELECT closed_at FROM incidents WHERE id = ?", (incident,)).fetchone()
    is_closed = row is None or row["closed_at"] is not None
    orphans = []
    for delivery in waiting:
        needs = names_from(delivery["waits_for"])
        lacking = {need for need in needs if not _may_come(change, incident, bare(need))}
        if spared := {need for need in lacking if is_dispensable(need)}:
            _wait_for(change, delivery, set(needs) - spared, now=now)
        reasons = [_why_never(change, incident, need, is_closed=is_closed) for need in sorted(lacking - spared)]
        reason = next((reason for reason in reasons if reason), None)
        if reason is not None:
            orphans.append((delivery, reason))
    for delivery, reason in orphans:
        move_delivery(change, delivery, State.DEAD, reason=reason, now=now)
    for item in {delivery["item"] for delivery, _ in orphans}:
        settle(change, item, now=now)


def _tell_incident(change: Change, delivery: int, state: State, *, now: float) -> None:
    """What opens an incident at a destination ended without, or is to be tried again: others depend on it."""
    row = change.db.execute(
        "SELECT incident, destination, opens, follow_ups FROM deliveries WHERE id = ?", (delivery,)
    ).fetchone()
    if not row["incident"] or not _brings(row):
        return
    if state is State.PENDING:
        _wake(change, row["incident"], now=now)
    else:
        bereave(change, row["incident"], now=now)


def _wake(change: Change, incident: str, *, now: float) -> None:
    """What died because its remote id could not come waits for it again."""
    rows = change.db.execute(
        "SELECT deliveries.id, item, destination, deliveries.state, dropped FROM deliveries"
        " JOIN items ON items.seq = item WHERE incident = ? AND incident <> '' AND waits_for <> ''"
        " AND deliveries.state IN ('dead', 'expired', 'evicted') AND dropped = 0 AND has_content = 1",
        (incident,),
    ).fetchall()
    for row in rows:
        move_delivery(change, row, State.PENDING, reason="", now=now)
        change.db.execute("UPDATE deliveries SET due_at = ?1, owed_since = ?1 WHERE id = ?2", (now, row["id"]))
    for item in {row["item"] for row in rows}:
        settle(change, item, now=now)


def _waiting(change: Change, incident: str) -> list[sqlite3.Row]:
    return change.db.execute(
        "SELECT id, item, destination, state, dropped, waits_for FROM deliveries"
        " WHERE incident = ? AND incident <> '' AND waits_for <> '' AND state = 'pending' ORDER BY id",
        (incident,),
    ).fetchall()


def _wait_for(change: Change, row: sqlite3.Row, needs: Collection[str], *, now: float) -> None:
    """These are what a waiting delivery still lacks; without any it is due."""
    change.db.execute(
        "UPDATE deliveries SET waits_for = ?, due_at = ?, reason = '' WHERE id = ?",
        (names_to_column(needs), now, row["id"]),
    )
    if not needs:
        change.hints.add(row["destination"])


def _unmet(needs: Iterable[str], known: Collection[str]) -> set[str]:
    return {need for need in needs if bare(need) not in known}


def _may_come(change: Change, incident: str, need: str) -> bool:
    rows = change.db.execute(
        "SELECT destination, opens, follow_ups, waits_for FROM deliveries"
        " WHERE incident = ? AND incident <> '' AND state = 'pending' AND (opens <> '' OR follow_ups <> '[]')",
        (incident,),
    )
    return any(need in _brings(row) and need not in map(bare, names_from(row["waits_for"])) for row in rows)


def _why_never(change: Change, incident: str, need: str, *, is_closed: bool) -> str | None:
    """In words, or None while it may still come."""
    ended = change.db.execute(
        "SELECT items.id AS item_id, destination, action, opens, follow_ups, deliveries.state, deliveries.reason"
        " FROM deliveries JOIN items ON items.seq = item WHERE incident = ? AND incident <> ''"
        " AND deliveries.state <> 'pending' AND (opens <> '' OR follow_ups <> '[]') ORDER BY deliveries.id DESC",
        (incident,),
    ).fetchall()
    name = need.rpartition(".")[2]
    for row in ended:
        if need not in _brings(row):
            continue
        if row["state"] == State.DELIVERED:
            return f"the {row['action']} to {row['destination']} gave no {name}"
        return (
            f"there is no {name} for it: the {row['action']} to {row['destination']} is {row['state']}"
            f" ({row['reason']}); `relayd retry {row['item_id']}` tries that again, and this with it"
        )
    if is_closed:
        return f"there is no {name} for it: incident {incident} is closed, and nothing in it asked for one"
    return None


def _brings(row: sqlite3.Row) -> frozenset[str]:
    """The needs that this delivery, or what follows it, would meet."""
    own = remote_names({row["destination"]: dict.fromkeys(names_from(row["opens"]))})
    return own | frozenset().union(*map(_brought_by, orders_from_json(row["follow_ups"])))


def _brought_by(order: Order) -> frozenset[str]:
    own = remote_names({order.destination: dict.fromkeys(order.opens)})
    return own | frozenset().union(*map(_brought_by, order.then))


def _known(change: Change, incident: str) -> frozenset[str]:
    return remote_names(_remote(change, incident)) if incident else frozenset()


def _remote(change: Change, incident: str) -> dict[str, Mapping[str, JSON]]:
    row = change.db.execute("SELECT remote FROM incidents WHERE id = ?", (incident,)).fetchone()
    return {} if row is None else json.loads(row["remote"])


def _lane(order: Order, kind: str) -> int:
    if not order.incident or order.priority is Priority.BULK:
        return LAST_LANE
    return MESSAGE_LANE if kind == Kind.MESSAGE else MEDIA_LANE
