"""Which delivery is next.

Promises: a few seeks in an index, whatever the backlog. The most urgent goes first, and nobody starves: every so many
deliveries one turn goes round among all who have something due.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from relayd.model import Outcome, Priority
from relayd.spool.states import MEDIA_LANE

PROBE_CANDIDATES = 64
FEW_DUE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a worker asks for, `now` as `due_at` has it. A delivery is due when its time has come, or when that is so
    far off that nothing but a fault can have set it. Nothing less urgent than `least_urgent` is looked at. With
    `untried_emergency` nothing but an emergency that was never tried is looked for, due or not.

    `backlog_turn`, if it is not 0, is the number of a turn that goes to what others would keep from its own: only
    emergencies go before. Every second one is for the least urgent, the others are for the rest in rotation: each lane,
    and the oldest of the media of incidents."""

    destination: str
    now: float
    longest_backoff: float
    exclude: Collection[int]
    probe: bool = False
    least_urgent: Priority = Priority.BULK
    backlog_turn: int = 0
    untried_emergency: bool = False


@dataclass(frozen=True, slots=True)
class _Way:
    """Where to look for the next one."""

    priority: int
    lane: int
    is_oldest_first: bool = False


def pick(db: sqlite3.Connection, wanted: Wanted) -> sqlite3.Row | None:
    """The row of the delivery to try next: most urgent class first; within it what incidents say, the newest of what
    they show, then the rest, longest due first. A probe is the smallest of the emergencies, else of what is high, due
    or backing off by itself, else of the most urgent that is due."""
    if wanted.untried_emergency:
        return _untried_emergency(db, wanted)
    if wanted.probe:
        return _urgent_probe(db, wanted) or _smallest(db, _first_of(db, wanted, _urgent_first(db, wanted)))
    ways = _in_turn(list(_urgent_first(db, wanted)), wanted.backlog_turn) if wanted.backlog_turn else None
    return next(iter(_first_of(db, wanted, ways or _urgent_first(db, wanted))), None)


def next_due(db: sqlite3.Connection, wanted: Wanted) -> float | None:
    """When `begin` will have something, None if nothing is owed. Not later than `now` if it has something already."""
    moments = []
    for way in _urgent_first(db, wanted):
        if _first_due(db, wanted, way):
            return wanted.now
        later = _waiting(db, wanted, way, len(wanted.exclude) + 1)
        moments += [row["due_at"] for row in later if row["id"] not in wanted.exclude]
    return min(moments, default=None)


def last_due(db: sqlite3.Connection) -> float | None:
    """The latest `due_at` of all that waits for nothing else; a seek for each class of each destination."""
    moments: list[float] = []
    last = ("", -1, -1)
    while True:
        row = db.execute(
            "SELECT destination, priority, lane FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending'"
            " AND waits_for = '' AND held = 0 AND (destination, priority, lane, due_at) > (?, ?, ?, 9e999)"
            " ORDER BY destination, priority, lane LIMIT 1",
            last,
        ).fetchone()
        if row is None:
            return max(moments, default=None)
        last = (row["destination"], row["priority"], row["lane"])
        moments.append(
            db.execute(
                "SELECT due_at FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND waits_for = ''"
                " AND held = 0 AND destination = ? AND priority = ? AND lane = ? ORDER BY due_at DESC LIMIT 1",
                last,
            ).fetchone()["due_at"]
        )


def _untried_emergency(db: sqlite3.Connection, wanted: Wanted) -> sqlite3.Row | None:
    """The oldest; a seek in an index that holds nothing else."""
    rows = db.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_untried WHERE state = 'pending' AND waits_for = '' AND held = 0"
        " AND priority = 0 AND attempts = 0 AND destination = ? ORDER BY id LIMIT ?",
        (wanted.destination, len(wanted.exclude) + 1),
    )
    return next((row for row in rows if row["id"] not in wanted.exclude), None)


def _urgent_probe(db: sqlite3.Connection, wanted: Wanted) -> sqlite3.Row | None:
    """What is urgent does not sit out a backoff of its own while the destination pauses, but for what was told how long
    to wait: the bigger and less urgent would go before it."""
    for priority in (Priority.EMERGENCY, Priority.HIGH):
        found: list[sqlite3.Row] = []
        for way in _urgent_first(db, wanted):
            if way.priority == priority:
                waiting = _waiting(db, wanted, way, PROBE_CANDIDATES + len(wanted.exclude))
                found += _first_due(db, wanted, way) + [row for row in waiting if _backs_off(db, row)]
        smallest = _smallest(db, [row for row in found if row["id"] not in wanted.exclude])
        if smallest is not None:
            return smallest
    return None


def _backs_off(db: sqlite3.Connection, row: sqlite3.Row) -> bool:
    last = db.execute(
        "SELECT outcome FROM attempts WHERE delivery = ? AND number = ?", (row["id"], row["attempts"])
    ).fetchone()
    return last is not None and last["outcome"] != Outcome.NOT_READY


def _in_turn(ways: Sequence[_Way], turn: int) -> list[_Way]:
    """In which order they are looked at on a turn of the backlog."""
    ways = [each for way in ways for each in _both_ends(way)]
    emergencies = [way for way in ways if way.priority == Priority.EMERGENCY]
    return _rotated(emergencies, turn) + _rotated([way for way in ways if way not in emergencies], turn)


def _both_ends(way: _Way) -> list[_Way]:
    return [way, _Way(way.priority, way.lane, is_oldest_first=True)] if way.lane == MEDIA_LANE else [way]


def _rotated(ways: list[_Way], turn: int) -> list[_Way]:
    least_urgent = [way for way in reversed(ways) if way.priority == ways[-1].priority]
    others = [way for way in reversed(ways[1:]) if turn % 2 == 0 or way not in least_urgent]
    first = least_urgent if turn % 2 else others
    start = turn // 2 % max(len(first), 1)
    rest = [way for way in (*others, *ways) if way not in first]
    return first[start:] + first[:start] + rest


def _urgent_first(db: sqlite3.Connection, wanted: Wanted) -> Iterator[_Way]:
    """Every priority and lane in which something is owed; a seek for each: from one to the next by a time later than
    all, else SQLite would read through the whole lane."""
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
        yield _Way(priority, lane)


def _first_of(db: sqlite3.Connection, wanted: Wanted, ways: Iterable[_Way]) -> list[sqlite3.Row]:
    """What is due at the first of these where anything is."""
    return next((due for way in ways if (due := _first_due(db, wanted, way))), [])


def _first_due(db: sqlite3.Connection, wanted: Wanted, way: _Way) -> list[sqlite3.Row]:
    """Up to as many as are asked for; two seeks."""
    count = PROBE_CANDIDATES if wanted.probe else 1
    found: list[sqlite3.Row] = []
    for condition, moment in (("<=", wanted.now), (">", wanted.now + wanted.longest_backoff)):
        among = (wanted.destination, way.priority, moment, count + len(wanted.exclude))
        is_newest_first = way.lane == MEDIA_LANE and not way.is_oldest_first
        rows = _newest_due(db, condition, among) if is_newest_first else _longest_due(db, condition, way.lane, among)
        found += [row for row in rows if row["id"] not in wanted.exclude]
        if len(found) >= count:
            break
    return found[:count]


def _waiting(db: sqlite3.Connection, wanted: Wanted, way: _Way, count: int) -> list[sqlite3.Row]:
    """What is due next, or already."""
    return db.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_due WHERE state = 'pending' AND waits_for = '' AND held = 0"
        " AND destination = ? AND priority = ? AND lane = ? ORDER BY due_at LIMIT ?",
        (wanted.destination, way.priority, way.lane, count),
    ).fetchall()


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


def _smallest(db: sqlite3.Connection, rows: Collection[sqlite3.Row]) -> sqlite3.Row | None:
    def size_bytes(row: sqlite3.Row) -> int:
        size: int = db.execute("SELECT size_bytes FROM items WHERE seq = ?", (row["item"],)).fetchone()[0]
        return size

    return min(rows, key=size_bytes, default=None)
