"""Operations of the way out: charge what was picked, keep steps, record how it ended.

Promises: a charge is committed before the try, so a crash leaves a
delivery that is simply due later. Recording an end twice changes nothing; a proven delivery counts even if it was given
up meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from relayd.model import Incident, Kind, Outcome, Priority, Receipt, State
from relayd.spool.change import Change, destination_subject
from relayd.spool.picking import Wanted, pick
from relayd.spool.records import Begun, Step
from relayd.spool.rows import (
    ITEM_COLUMNS,
    delivery_from,
    incident_from,
    item_from,
    orders_from_json,
    step_from,
    to_json,
)
from relayd.spool.states import (
    LANES,
    add_deliveries,
    free_content,
    move_delivery,
    settle,
)
from relayd.spool.tying import is_ordered
from relayd.spool.waiting import give_remote

WOKEN = (Outcome.FAILED, Outcome.REWIND, Outcome.STARTED)
"""How the last try of a delivery ended that need not wait any longer when its destination may be back."""

FIRST_KEPT, LAST_KEPT = 5, 50
"""How many attempts of a delivery are kept in detail."""


def begin(
    change: Change,
    wanted: Wanted,
    delay: Callable[[int], float],
    trouble_with: Callable[[str, int], str | None],
) -> Begun | None:
    """Charge the most urgent delivery that is due; here `wanted.now` is by the wall clock. Those whose media is damaged
    or gone die on the way."""
    now = change.times.today(wanted.now)
    wanted = replace(wanted, now=change.times.due(now))
    while (row := pick(change.db, wanted)) is not None:
        item_row = change.db.execute(
            f"SELECT {ITEM_COLUMNS}, items.payload FROM items WHERE seq = ?",  # noqa: S608
            (row["item"],),
        ).fetchone()
        if item_row["kind"] == Kind.MEDIA and item_row["has_content"]:
            trouble = trouble_with(item_row["id"], item_row["size_bytes"])
            if trouble is not None:
                lose(change, item_row, trouble, now=now)
                continue
        return _charge(change, row, item_row, now, delay)
    return None


def wake(change: Change, *, destination: str, now: float, due_at: float, exclude: Collection[int]) -> int:
    """What failed for a reason of its own, or was cut, is due at `due_at` if it would be later. What waits because it
    was told how long (an item that is not ready) goes on waiting. A few seeks: what is due already is not looked at."""
    due_at = change.times.due(now) + max(0.0, due_at - now)
    rows = change.db.execute(
        "SELECT id FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND waits_for = '' AND held = 0"  # noqa: S608
        f" AND destination = ? AND priority IN ({_listed(Priority)}) AND lane IN ({_listed(LANES)}) AND due_at > ?"
        " AND (SELECT outcome FROM attempts WHERE delivery = deliveries.id AND number = deliveries.attempts)"
        f" IN ({', '.join(repr(str(outcome)) for outcome in WOKEN)})",
        (destination, due_at),
    ).fetchall()
    woken = [(due_at, row["id"]) for row in rows if row["id"] not in exclude]
    change.db.executemany("UPDATE deliveries SET due_at = ? WHERE id = ?", woken)
    return len(woken)


def lose(change: Change, item_row: sqlite3.Row, trouble: str, *, now: float) -> None:
    """The media of an item is not there any more: what is still owed of it can never be sent."""
    rows = change.db.execute(
        "SELECT id, destination, state FROM deliveries WHERE item = ? AND state = 'pending'",
        (item_row["seq"],),
    ).fetchall()
    for row in rows:
        move_delivery(change, row, State.DEAD, reason=trouble, now=now)
    settle(change, item_row["seq"], now=now)
    free_content(change, item_row["seq"])
    change.warn("item %s is lost to %d deliveries: %s", item_row["id"], len(rows), trouble)


def record_delivered(change: Change, delivery: int, receipt: Receipt, *, now: float) -> None:
    row = _delivery(change, delivery, Outcome.DELIVERED, receipt.proof, now)
    if row is None or row["state"] == State.DELIVERED:
        return
    change.db.execute(
        "UPDATE deliveries SET receipt = ?, proof = ? WHERE id = ?",
        (to_json(dict(receipt.fields)), receipt.proof, delivery),
    )
    move_delivery(change, row, State.DELIVERED, reason=receipt.proof, now=now)
    change.db.execute("DELETE FROM steps WHERE delivery = ?", (delivery,))
    size_bytes = change.db.execute("SELECT size_bytes FROM items WHERE seq = ?", (row["item"],)).fetchone()[0]
    subject = destination_subject(row["destination"])
    change.count("bytes_sent", size_bytes, subject)
    change.mark("last_success_at_ms", now, subject)
    follow_ups = orders_from_json(row["follow_ups"])
    owed = [order for order in follow_ups if not (order.opens and is_ordered(change.db, order))]
    add_deliveries(change, row["item"], owed, parent_receipt=receipt.fields, now=now)
    give_remote(change, row, receipt.fields, now=now)
    settle(change, row["item"], now=now)


def record_deferred(
    change: Change,
    delivery: int,
    outcome: Outcome,
    reason: str,
    *,
    due_at: float,
    now: float,
    forget_from: str | None,
) -> None:
    row = _delivery(change, delivery, outcome, reason, now)
    if row is None or row["state"] != State.PENDING:
        return
    later = change.times.due(now) + due_at - now
    change.db.execute("UPDATE deliveries SET due_at = ?, reason = ? WHERE id = ?", (later, reason, delivery))
    if forget_from is not None:
        change.db.execute(
            "DELETE FROM steps WHERE delivery = ?1 AND position >="
            " (SELECT position FROM steps WHERE delivery = ?1 AND name = ?2)",
            (delivery, forget_from),
        )
    change.hints.add(row["destination"])


def record_ended(change: Change, delivery: int, state: State, outcome: Outcome, reason: str, *, now: float) -> None:
    row = _delivery(change, delivery, outcome, reason, now)
    if row is None or row["state"] != State.PENDING:
        return
    move_delivery(change, row, state, reason=reason, now=now)
    settle(change, row["item"], now=now)


def store_step(change: Change, delivery: int, name: str, result: Step | None) -> None:
    """With None: the intent. A result takes the place of its intent. Nothing is kept of a delivery that was purged."""
    if change.db.execute("SELECT 1 FROM deliveries WHERE id = ?", (delivery,)).fetchone() is None:
        return
    change.db.execute(
        "INSERT INTO steps (delivery, name, position, result)"
        " SELECT ?1, ?2, coalesce(max(position), 0) + 1, ?3 FROM steps WHERE delivery = ?1"
        " ON CONFLICT DO UPDATE SET result = coalesce(excluded.result, result)",
        (delivery, name, None if result is None else to_json(result)),
    )


def steps_of(db: sqlite3.Connection, delivery: int) -> dict[str, Step | None]:
    rows = db.execute("SELECT name, result FROM steps WHERE delivery = ? ORDER BY position", (delivery,))
    return {row["name"]: step_from(row["result"]) for row in rows}


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers)


def _charge(
    change: Change, row: sqlite3.Row, item_row: sqlite3.Row, now: float, delay: Callable[[int], float]
) -> Begun:
    number = row["attempts"] + 1
    due_at = change.times.due(now) + delay(number)
    change.db.execute("UPDATE deliveries SET attempts = ?, due_at = ? WHERE id = ?", (number, due_at, row["id"]))
    change.db.execute(
        "INSERT OR REPLACE INTO attempts (delivery, number, started_at, outcome) VALUES (?, ?, ?, ?)",
        (row["id"], number, now, Outcome.STARTED),
    )
    if number - LAST_KEPT > FIRST_KEPT:
        change.db.execute("DELETE FROM attempts WHERE delivery = ? AND number = ?", (row["id"], number - LAST_KEPT))
    charged = change.db.execute("SELECT * FROM deliveries WHERE id = ?", (row["id"],)).fetchone()
    return Begun(
        item=item_from(item_row, item_row["payload"]),
        delivery=delivery_from(charged, item_row["id"], change.times),
        steps=steps_of(change.db, row["id"]),
        incident=incident_of(change.db, charged["incident"]),
    )


def incident_of(db: sqlite3.Connection, incident_id: str) -> Incident | None:
    """The incident that a delivery names; None if it names none."""
    if not incident_id:
        return None
    row = db.execute("SELECT * FROM incidents WHERE id = ?", (incident_id,)).fetchone()
    return None if row is None else incident_from(row)


def _delivery(change: Change, delivery: int, outcome: Outcome, reason: str, now: float) -> sqlite3.Row | None:
    """The row, its newest attempt ended; None, with a warning, if it was purged meanwhile."""
    row: sqlite3.Row | None = change.db.execute("SELECT * FROM deliveries WHERE id = ?", (delivery,)).fetchone()
    if row is None:
        change.warn("delivery %d is no longer in the spool, its result (%s) is not kept", delivery, outcome)
        return None
    change.db.execute(
        "UPDATE attempts SET ended_at = ?, outcome = ?, reason = ? WHERE delivery = ? AND number = ?",
        (now, outcome, reason, delivery, row["attempts"]),
    )
    return row
