"""Operations of the way out: pick and charge, keep steps, record how it ended.

Promises: picking is a seek in an index, whatever the backlog; a charge is committed before the try, so a crash leaves a
delivery that is simply due later. Recording an end twice changes nothing; a proven delivery counts even if it was given
up meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from relayd.model import Incident, Kind, Outcome, Priority, Receipt, State
from relayd.spool.change import Change, destination_subject
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
    MEDIA_LANE,
    add_deliveries,
    free_content,
    move_delivery,
    settle,
)
from relayd.spool.tying import is_ordered
from relayd.spool.waiting import give_remote

PROBE_CANDIDATES = 64
WOKEN = (Outcome.FAILED, Outcome.REWIND, Outcome.STARTED)
"""How the last try of a delivery ended that need not wait any longer when its destination may be back."""

FEW_DUE = 64
FIRST_KEPT, LAST_KEPT = 5, 50
"""How many attempts of a delivery are kept in detail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a worker asks for, `now` as `due_at` has it. A delivery is due when its time has come, or when that is so
    far off that nothing but a fault can have set it. Nothing less urgent than `least_urgent` is looked at. On the
    `backlog_turn` only an emergency goes before the least urgent. With `untried_emergency` nothing but an emergency
    that was never tried is looked for, due or not."""

    destination: str
    now: float
    longest_backoff: float
    exclude: Collection[int]
    probe: bool = False
    least_urgent: Priority = Priority.BULK
    backlog_turn: bool = False
    untried_emergency: bool = False


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


def pick(db: sqlite3.Connection, wanted: Wanted) -> sqlite3.Row | None:
    """The row of the delivery to try next: most urgent class first; within it what incidents say, the newest of what
    they show, then the rest, longest due first."""
    if wanted.untried_emergency:
        return _untried_emergency(db, wanted)
    for priority, lane in _lanes(db, wanted):
        due = _first_due(db, wanted, priority, lane)
        if due:
            return _smallest(db, due) if wanted.probe else due[0]
    return None


def _untried_emergency(db: sqlite3.Connection, wanted: Wanted) -> sqlite3.Row | None:
    """The oldest; a seek in an index that holds nothing else."""
    rows = db.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_untried WHERE state = 'pending' AND waits_for = '' AND held = 0"
        " AND priority = 0 AND attempts = 0 AND destination = ? ORDER BY id LIMIT ?",
        (wanted.destination, len(wanted.exclude) + 1),
    )
    return next((row for row in rows if row["id"] not in wanted.exclude), None)


def next_due(db: sqlite3.Connection, wanted: Wanted) -> float | None:
    """When `begin` will have something, None if nothing is owed. Not later than `now` if it has something already."""
    moments = []
    for priority, lane in _lanes(db, wanted):
        if _first_due(db, wanted, priority, lane):
            return wanted.now
        later = db.execute(
            "SELECT id, due_at FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND waits_for = ''"
            " AND held = 0 AND destination = ? AND priority = ? AND lane = ? ORDER BY due_at LIMIT ?",
            (wanted.destination, priority, lane, len(wanted.exclude) + 1),
        )
        moments += [row["due_at"] for row in later if row["id"] not in wanted.exclude]
    return min(moments, default=None)


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


def _lanes(db: sqlite3.Connection, wanted: Wanted) -> Iterator[tuple[int, int]]:
    """Every priority and lane in which something is owed, in the order in which they are looked at; a seek for each."""
    found = _urgent_first(db, wanted)
    if wanted.backlog_turn:  # the least urgent first, but in each the lanes as ever
        found = iter(sorted(found, key=lambda each: (each[0] != Priority.EMERGENCY, -each[0], each[1])))
    return found


def _urgent_first(db: sqlite3.Connection, wanted: Wanted) -> Iterator[tuple[int, int]]:
    """From each to the next by a time later than all, else SQLite would read through the whole lane."""
    priority = lane = -1
    while True:
        row = db.execute(
            "SELECT priority, lane FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND waits_for = ''"
            " AND held = 0 AND destination = ? AND (priority, lane, due_at) > (?, ?, 9e999)"
            " ORDER BY priority, lane LIMIT 1",
            (wanted.destination, priority, lane),
        ).fetchone()
        if row is None or row["priority"] > wanted.least_urgent:
            return
        priority, lane = row["priority"], row["lane"]
        yield priority, lane


def _first_due(db: sqlite3.Connection, wanted: Wanted, priority: int, lane: int) -> list[sqlite3.Row]:
    """Up to as many as are asked for; two seeks."""
    count = PROBE_CANDIDATES if wanted.probe else 1
    found: list[sqlite3.Row] = []
    for condition, moment in (("<=", wanted.now), (">", wanted.now + wanted.longest_backoff)):
        among = (wanted.destination, priority, moment, count + len(wanted.exclude))
        rows = _newest_due(db, condition, among) if lane == MEDIA_LANE else _longest_due(db, condition, lane, among)
        found += [row for row in rows if row["id"] not in wanted.exclude]
        if len(found) >= count:
            break
    return found[:count]


def _longest_due(
    db: sqlite3.Connection, condition: str, lane: int, among: tuple[str, int, float, int]
) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND waits_for = '' AND held = 0"  # noqa: S608
        f" AND destination = ? AND priority = ? AND lane = {lane} AND due_at {condition} ? ORDER BY due_at LIMIT ?",
        among,
    ).fetchall()


def _newest_due(db: sqlite3.Connection, condition: str, among: tuple[str, int, float, int]) -> list[sqlite3.Row]:
    """Of the media of incidents. Where few are due, all of them are read and the newest chosen; only where many are are
    those looked through that back off and are newer."""
    count = among[3]
    few = max(FEW_DUE, count)
    due = _longest_due(db, condition, MEDIA_LANE, (*among[:3], few))
    if len(due) < few:
        return sorted(due, key=lambda row: -row["item"])[:count]
    return db.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_newest WHERE state = 'pending' AND waits_for = '' AND held = 0"  # noqa: S608
        f" AND destination = ? AND priority = ? AND lane = {MEDIA_LANE} AND due_at {condition} ?"
        " ORDER BY item DESC LIMIT ?",
        among,
    ).fetchall()


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers)


def _smallest(db: sqlite3.Connection, due: list[sqlite3.Row]) -> sqlite3.Row:
    def size_bytes(row: sqlite3.Row) -> int:
        size: int = db.execute("SELECT size_bytes FROM items WHERE seq = ?", (row["item"],)).fetchone()[0]
        return size

    return min(due, key=size_bytes)


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
