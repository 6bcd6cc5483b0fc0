"""Operations that end or forget what nobody tried to deliver just now: retry, drop, expire, purge.

Promises: each call does a bounded amount. What is expired, evicted or dropped leaves a row that says so; only `purge`
removes rows, and the counters still count them. Nothing undelivered goes for something less urgent than itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from relayd.model import State
from relayd.spool import database, incident_rows, tying, waiting
from relayd.spool.change import Change
from relayd.spool.limits import UNCLAIMED
from relayd.spool.states import OPENS, forget, free_content, let_go_unclaimed, move_delivery, set_item_state, settle

AT_ONCE = 500
"""Rows that one call changes at most: bounds how long it holds up the commits of others."""

_BY_HAND = "dropped by hand"
_GIVEN_UP_WHOLE = (State.UNCLAIMED, State.DEAD, State.EXPIRED)
"""An item in one of these that owes nothing to anybody is dropped as a whole."""

_DELIVERY = "id, item, destination, state"
_FAILED = (
    "deliveries.id, item, destination, incident, waits_for, deliveries.state, has_content FROM deliveries"
    " JOIN items ON items.seq = item WHERE deliveries.state IN ('dead', 'expired', 'evicted')"
)


def retry_items(change: Change, item_ids: Sequence[str], destinations: Collection[str], *, now: float) -> int:
    """Make failed deliveries of these few items due again, where the content is still there; their steps stay."""
    rows = change.db.execute(
        f"SELECT {_FAILED} AND items.id IN ({','.join('?' * len(item_ids))})",
        item_ids,
    ).fetchall()
    return _revive(change, [row for row in rows if row["destination"] in destinations], now)


def retry_all(change: Change, destination: str, after: int, *, now: float) -> tuple[int, int | None]:
    """The same for all of a destination with an id above `after`: (how many, where to go on, None at the end)."""
    rows = change.db.execute(
        f"SELECT {_FAILED} AND destination = ? AND deliveries.id > ? ORDER BY deliveries.id LIMIT ?",
        (destination, after, AT_ONCE),
    ).fetchall()
    return _revive(change, rows, now), rows[-1]["id"] if len(rows) == AT_ONCE else None


def _revive(change: Change, rows: Sequence[sqlite3.Row], now: float) -> int:
    """How many are pending again. What waits for a remote id comes back by itself, if that can come."""
    able = [row for row in rows if row["has_content"]]
    due_at, owed_since = change.times.due(now), change.times.steady(now)
    for row in able:
        if row["waits_for"]:
            change.touched[row["incident"]] = now
            continue
        if tying.is_replaced(change.db, row["id"]):
            continue  # asked for again since then, or by one of these a moment ago
        move_delivery(change, row, State.PENDING, reason="to be tried again, by hand", now=now)
        change.db.execute(
            "UPDATE deliveries SET due_at = ?, owed_since = ? WHERE id = ?", (due_at, owed_since, row["id"])
        )
        change.hints.add(row["destination"])
    waiting.look_after(change)
    for item in {row["item"] for row in able}:
        settle(change, item, now=now)
    return sum(_is_pending(change, row["id"]) for row in able)


def _is_pending(change: Change, delivery: int) -> bool:
    row = change.db.execute("SELECT state FROM deliveries WHERE id = ?", (delivery,)).fetchone()
    return bool(row["state"] == State.PENDING)


def drop(change: Change, item_ids: Sequence[str], *, now: float) -> int:
    """Give items up by hand: what is still owed of them is dropped, and their content goes. How many had something."""
    count = 0
    for item_id in item_ids:
        item = change.db.execute("SELECT seq, state FROM items WHERE id = ?", (item_id,)).fetchone()
        if item is None or item["state"] in (State.DELIVERED, State.EVICTED):
            continue
        rows = change.db.execute(
            f"SELECT {_DELIVERY} FROM deliveries WHERE item = ? AND state IN ('pending', 'dead', 'expired')",  # noqa: S608
            (item["seq"],),
        ).fetchall()
        for row in rows:
            move_delivery(change, row, State.DROPPED, reason=_BY_HAND, now=now)
        is_ending = bool(rows) or item["state"] in _GIVEN_UP_WHOLE
        if rows:
            settle(change, item["seq"], now=now)
        elif is_ending:
            set_item_state(change, item["seq"], State.DROPPED, reason=_BY_HAND, now=now)
        freed = free_content(change, item["seq"])
        count += int(is_ending or freed > 0)
    return count


def expire(change: Change, *, now: float, give_up_after: float, min_attempts: int) -> int:
    """End deliveries that were tried often enough for too long, in steady time."""
    rows = change.db.execute(
        f"SELECT {_DELIVERY}, attempts FROM deliveries INDEXED BY deliveries_old"  # noqa: S608
        " WHERE state = 'pending' AND attempts >= 3 AND attempts >= ? AND owed_since <= ?"
        " ORDER BY owed_since LIMIT ?",
        (min_attempts, change.times.steady(now) - give_up_after, AT_ONCE),
    ).fetchall()
    for row in rows:
        reason = f"given up after {give_up_after / 86400:g} days and {row['attempts']} attempts"
        move_delivery(change, row, State.EXPIRED, reason=reason, now=now)
    for item in {row["item"] for row in rows}:
        settle(change, item, now=now)
    return len(rows)


def expire_unclaimed(change: Change, *, now: float, keep_unclaimed: float) -> int:
    """Let go of what no rule wanted and no incident claimed in time."""
    rows = change.db.execute(
        "SELECT seq, taken_steady, trouble FROM items INDEXED BY items_kept WHERE has_content = 1 AND priority = ?"
        " AND state = 'unclaimed' ORDER BY seq LIMIT ?",
        (UNCLAIMED, AT_ONCE),
    ).fetchall()
    old = _older(rows, change.times.steady(now) - keep_unclaimed)
    for row in old:
        let_go_unclaimed(change, row, now=now)
    return len(old)


def free_delivered(change: Change, *, now: float, keep_content: float, keep_unclaimed: float) -> int:
    """Let go of media that was delivered so long ago; where incidents collect, not before it is too old for one."""
    steady = change.times.steady(now)
    marks = ", ".join("?" * len(change.collected))
    rows = change.db.execute(
        "SELECT seq FROM items INDEXED BY items_delivered WHERE state = 'delivered' AND kind = 'media'"  # noqa: S608
        f" AND has_content = 1 AND ended_steady <= ? AND (taken_steady <= ? OR source NOT IN ({marks}))"
        " ORDER BY ended_steady LIMIT ?",
        (steady - keep_content, steady - keep_unclaimed, *change.collected, AT_ONCE),
    ).fetchall()
    for row in rows:
        free_content(change, row["seq"])
    return len(rows)


def _older(rows: Sequence[sqlite3.Row], taken_before: float) -> list[sqlite3.Row]:
    """Steady time never goes back, so rows in order of acceptance are in order of age: none that is old is behind more
    than a page of young ones."""
    return [row for row in rows if row["taken_steady"] <= taken_before]


def purge(change: Change, *, now: float, keep_delivered: float, keep_dead: float) -> int:
    """Forget items that ended long enough ago; the ledger and the counters still know them."""
    count = 0
    steady = change.times.steady(now)
    for state in State:
        if state is State.PENDING:
            continue
        keep = keep_delivered if state is State.DELIVERED else keep_dead
        rows = change.db.execute(
            "SELECT seq FROM items INDEXED BY items_ended WHERE state = ? AND ended_steady IS NOT NULL"  # noqa: S608
            f" AND ended_steady <= ? AND NOT EXISTS ({OPENS}) ORDER BY ended_steady LIMIT ?",
            (state, steady - keep, AT_ONCE - count),
        ).fetchall()
        for row in rows:
            forget(change, row["seq"], state)
        count += len(rows)
    incident_rows.forget(change, now=now, keep_seconds=keep_dead)
    return count


def give_back(change: Change) -> int:
    """Return some of the database's spare pages to the file system; how many."""
    return database.give_back(change.db)
