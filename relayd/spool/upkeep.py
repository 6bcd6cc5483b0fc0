"""Operations that end or forget what nobody tried to deliver just now: retry, drop, expire, evict, purge.

Promises: each call does a bounded amount. What is expired, evicted or dropped leaves a row that says so; only `purge`
removes rows, and the counters still count them. Nothing undelivered goes for something less urgent than itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from relayd.model import Kind, State
from relayd.spool import database, incident_rows, tying, waiting
from relayd.spool.change import Change, destination_subject
from relayd.spool.limits import UNCLAIMED
from relayd.spool.missed import is_owed_a_reason
from relayd.spool.rows import NO_TROUBLE
from relayd.spool.states import free_content, move_delivery, set_item_state, settle

AT_ONCE = 500
"""Rows that one call changes at most: bounds how long it holds up the commits of others."""

CANDIDATES_AT_ONCE = 100_000
"""How far one call looks for something to evict."""

IDS_LOGGED = 5
"""How many ids one line of the log names."""

_BY_HAND = "dropped by hand"
_GIVEN_UP_WHOLE = (State.UNCLAIMED, State.DEAD, State.EXPIRED)
"""An item in one of these that owes nothing to anybody is dropped as a whole."""

_OPENS = (
    "SELECT 1 FROM deliveries JOIN incidents ON incidents.id = deliveries.incident"
    " WHERE deliveries.item = items.seq AND brings <> '' AND closed_at IS NULL"
)
"""What asked for the remote ids of an incident that is open: without it they would be asked for again."""

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
    """Let go of what no rule wanted and no incident claimed in time; and of what was delivered and stayed for that."""
    rows = change.db.execute(
        "SELECT seq, taken_steady, trouble FROM items INDEXED BY items_kept WHERE has_content = 1 AND priority = ?"
        " AND state = 'unclaimed' ORDER BY seq LIMIT ?",
        (UNCLAIMED, AT_ONCE),
    ).fetchall()
    old = _older(rows, change.times.steady(now) - keep_unclaimed)
    for row in old:
        let_go_unclaimed(change, row, now=now)
    return len(old) + _free_delivered(change, now, keep_unclaimed)


def let_go_unclaimed(change: Change, row: sqlite3.Row, *, now: float) -> None:
    """It leaves no row; only where rules could not be asked as they are written, or where it missed an incident that
    collects from its source, what is to be said of that stays to be read."""
    if row["trouble"] == NO_TROUBLE and not is_owed_a_reason(change.db, change.times, row["seq"]):
        _forget(change, row["seq"], State.UNCLAIMED)
        return
    free_content(change, row["seq"])
    change.db.execute(
        "UPDATE items SET ended_at = ?, ended_steady = ?, reason = 'no rule wanted it' WHERE seq = ?",
        (now, change.times.steady(now), row["seq"]),
    )


def _free_delivered(change: Change, now: float, keep_seconds: float) -> int:
    if not change.collected:
        return 0
    rows = change.db.execute(
        "SELECT seq, taken_steady FROM items INDEXED BY items_media WHERE kind = 'media' AND has_content = 1"
        " AND state = 'delivered' ORDER BY seq LIMIT ?",
        (AT_ONCE,),
    ).fetchall()
    old = _older(rows, change.times.steady(now) - keep_seconds)
    for row in old:
        free_content(change, row["seq"])
    return len(old)


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
            f" AND ended_steady <= ? AND NOT EXISTS ({_OPENS}) ORDER BY ended_steady LIMIT ?",
            (state, steady - keep, AT_ONCE - count),
        ).fetchall()
        for row in rows:
            _forget(change, row["seq"], state)
        count += len(rows)
    incident_rows.forget(change, now=now, keep_seconds=keep_dead)
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Room that is wanted. `priority` is the newcomer's; None when nobody waits for it, only a limit is exceeded."""

    bytes_wanted: int
    inodes_wanted: int
    priority: int | None
    when_full: str


def evict(change: Change, room: Room, *, now: float) -> int:
    """Make room, least urgent first and oldest first, or do nothing if there is not enough to gain. How many went.

    Bounded: a caller who still lacks room calls again.
    """
    chosen: list[sqlite3.Row] = []
    bytes_gained, inodes_gained = 0, 0
    for row in _evictable(change.db, room):
        chosen.append(row)
        bytes_gained += row["size_bytes"]
        inodes_gained += row["kind"] == Kind.MEDIA
        if bytes_gained >= room.bytes_wanted and inodes_gained >= room.inodes_wanted:
            break
        if len(chosen) >= CANDIDATES_AT_ONCE:
            break
    else:
        if room.priority is not None:
            return 0
    gone = chosen[:AT_ONCE]
    for row in gone:
        _evict_one(change, row, now)
    missed = [row["id"] for row in gone if row["state"] != State.DELIVERED and row["priority"] != UNCLAIMED]
    if missed:
        change.warn("%d items evicted for want of room, `relayd items --state evicted`: %s", len(missed), _some(missed))
    return len(gone)


def _evictable(db: sqlite3.Connection, room: Room) -> Iterator[sqlite3.Row]:
    """What may go for this newcomer, in the order in which it goes: delivered rests, unclaimed, then by urgency."""
    newcomer = 0 if room.priority is None else room.priority
    classes: list[tuple[int, State]] = [(priority, State.DELIVERED) for priority in range(UNCLAIMED, -1, -1)]
    for priority in range(UNCLAIMED, -1, -1):
        if priority >= newcomer:
            classes += [(priority, state) for state in (State.EXPIRED, State.EVICTED, State.DEAD)]
        if _may_go_undelivered(priority, room):
            classes.append((priority, State.UNCLAIMED if priority == UNCLAIMED else State.PENDING))
    for priority, state in classes:
        yield from db.execute(
            "SELECT seq, id, kind, size_bytes, state, priority, trouble FROM items INDEXED BY items_kept"  # noqa: S608
            " WHERE has_content = 1 AND priority = ? AND state = ?"
            f"{f' AND NOT EXISTS ({_OPENS})' if state is State.DELIVERED else ''} ORDER BY seq",
            (priority, state),
        )


def _may_go_undelivered(priority: int, room: Room) -> bool:
    if priority == UNCLAIMED:
        return True
    if room.when_full == "wait" or (room.priority is None and room.when_full == "evict-lower"):
        return False
    if room.priority is None:
        return priority > 0
    return priority > room.priority or (priority == room.priority and room.when_full == "evict-oldest")


def _evict_one(change: Change, row: sqlite3.Row, now: float) -> None:
    if row["state"] == State.DELIVERED:
        _forget(change, row["seq"], State.DELIVERED)
        return
    if row["state"] == State.UNCLAIMED:
        let_go_unclaimed(change, row, now=now)
        return
    reason = "evicted: no room in the spool"
    deliveries = change.db.execute(
        f"SELECT {_DELIVERY} FROM deliveries WHERE item = ? AND state = 'pending'",  # noqa: S608
        (row["seq"],),
    ).fetchall()
    for delivery in deliveries:
        move_delivery(change, delivery, State.EVICTED, reason=reason, now=now)
    if deliveries:
        settle(change, row["seq"], now=now)
    free_content(change, row["seq"])


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:IDS_LOGGED]) + (", …" if len(ids) > IDS_LOGGED else "")


def _forget(change: Change, item: int, state: State) -> None:
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


def give_back(change: Change) -> None:
    """Return some of the database's spare pages to the file system."""
    database.give_back(change.db)
