"""Making room: what goes when the spool, or the disk, is full, in which order, and what that really gives back.

Promises: the content of what was delivered goes first, then records of what has ended, then what nobody wanted, then
by urgency and age; nothing undelivered goes for something less urgent than itself. What is gained is measured, in
pages of the database that are really free and blocks of files: nothing goes that cannot give what is still wanted,
and if a batch gains nothing, it is undone and no other is tried. `plan` only looks, and keeps no commit waiting;
`let_go` does a bounded amount.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from relayd.model import Kind, State
from relayd.spool import database
from relayd.spool.change import Change
from relayd.spool.limits import UNCLAIMED, on_disk
from relayd.spool.states import OPENS, forget, free_content, let_go_unclaimed, move_delivery, settle

AT_ONCE = 200
"""Items that one commit lets go at most: bounds how long others wait for theirs."""
MOST_PLANNED = 100_000
"""How far one look goes."""
FEWEST_PLANNED = 1_000
"""How many are planned at least if there are so many: what a row gives back is known only afterwards."""
TOMBSTONE_BYTES = 256
"""What the row of an item and of its delivery take, at the least."""
IDS_LOGGED = 5
"""How many ids one line of the log names."""

_REASON = "evicted: no room in the spool"
_ENDED = (State.DELIVERED, State.DROPPED, State.UNCLAIMED, State.EVICTED, State.EXPIRED, State.DEAD)
"""Whose records go, in this order."""
_COLUMNS = "seq, id, kind, size_bytes, state, priority, has_content, ended_at, trouble"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Room that is wanted; of `bytes_wanted`, `media_wanted` can only come from files. `priority` is the newcomer's;
    None when nobody waits for it, only a limit is exceeded. `is_spare`: nothing but the content of what was delivered
    goes for it."""

    bytes_wanted: int
    inodes_wanted: int
    priority: int | None
    when_full: str
    media_wanted: int = 0
    is_spare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What came of it."""

    items: int = 0
    page_bytes: int = 0
    media_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Gain) -> Gain:
        return Gain(
            items=self.items + other.items,
            page_bytes=self.page_bytes + other.page_bytes,
            media_bytes=self.media_bytes + other.media_bytes,
            inodes=self.inodes + other.inodes,
        )

    def is_enough(self, room: Room) -> bool:
        return (
            self.page_bytes + self.media_bytes >= room.bytes_wanted
            and self.media_bytes >= room.media_wanted
            and self.inodes >= room.inodes_wanted
        )

    def left_of(self, room: Room) -> Room:
        """What is still wanted after this."""
        return Room(
            bytes_wanted=max(0, room.bytes_wanted - self.page_bytes - self.media_bytes),
            media_wanted=max(0, room.media_wanted - self.media_bytes),
            inodes_wanted=max(0, room.inodes_wanted - self.inodes),
            priority=room.priority,
            when_full=room.when_full,
            is_spare=room.is_spare,
        )

    def helps(self, room: Room) -> bool:
        """Whether it is a part of what is wanted: a message gives back no file."""
        bytes_gained = self.page_bytes + self.media_bytes
        return bool(
            (bytes_gained and room.bytes_wanted > room.media_wanted)
            or (self.media_bytes and room.media_wanted)
            or (self.inodes and room.inodes_wanted)
        )

    @property
    def is_nothing(self) -> bool:
        return self.page_bytes + self.media_bytes <= 0 and not self.inodes


class GainedNothing(Exception):
    """Everything that this operation did is to be undone."""


def plan(db: sqlite3.Connection, room: Room) -> list[int]:
    """What may go for this, in the order in which it goes; empty if all of it would not be enough."""
    chosen: list[int] = []
    expected = Gain()
    for row in _candidates(db, room):
        gained = _expected(row)
        if not gained.helps(room):
            continue
        chosen.append(row["seq"])
        expected += gained
        is_enough = expected.is_enough(room)
        if is_enough and (room.media_wanted or room.inodes_wanted or len(chosen) >= FEWEST_PLANNED):
            return chosen
        if len(chosen) >= MOST_PLANNED:
            return chosen
    is_asked = room.priority is None
    return chosen if is_asked or expected.is_enough(room) else []


def let_go(change: Change, room: Room, planned: Sequence[int], *, now: float) -> Gain:
    """Let these go until there is enough, as far as they still may. Raises GainedNothing."""
    gain, missed = Gain(), []
    before = database.size_of(change.db).live_bytes
    for seq in planned:
        row = change.db.execute(f"SELECT {_COLUMNS} FROM items WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
        if row is None or not _may_go(row, room) or not _expected(row).helps(gain.left_of(room)):
            continue
        freed = _let_one_go(change, row, now)
        gain = replace(gain + freed, page_bytes=before - database.size_of(change.db).live_bytes)
        if row["has_content"] and row["state"] == State.PENDING:
            missed.append(row["id"])
        if gain.is_enough(room):
            break
    if gain.items and gain.is_nothing:
        raise GainedNothing
    if missed:
        change.warn("%d items evicted for want of room, `relayd items --state evicted`: %s", len(missed), _some(missed))
    return gain


def _candidates(db: sqlite3.Connection, room: Room) -> Iterator[sqlite3.Row]:
    """Contents of what was delivered, records, what nobody wanted; then dead ones and living ones by urgency."""
    for priority in range(UNCLAIMED, -1, -1):
        yield from _with_content(db, priority, State.DELIVERED, " AND kind = 'media'")
    if room.is_spare:
        return
    if room.bytes_wanted > room.media_wanted:
        for state in _ENDED:
            yield from _records(db, state)
    yield from _with_content(db, UNCLAIMED, State.UNCLAIMED)
    newcomer = 0 if room.priority is None else room.priority
    for priority in range(UNCLAIMED, -1, -1):
        if priority >= newcomer:
            for state in (State.EXPIRED, State.EVICTED, State.DEAD):
                yield from _with_content(db, priority, state)
        if _may_go_undelivered(priority, room):
            yield from _with_content(db, priority, State.PENDING)


def _with_content(db: sqlite3.Connection, priority: int, state: State, which: str = "") -> sqlite3.Cursor:
    return db.execute(
        f"SELECT {_COLUMNS} FROM items INDEXED BY items_kept WHERE has_content = 1 AND priority = ? AND state = ?"  # noqa: S608
        f"{which} ORDER BY seq",
        (priority, state),
    )


def _records(db: sqlite3.Connection, state: State) -> sqlite3.Cursor:
    """Rows of what has ended, oldest first; a message that was delivered is no more than its record."""
    rest = "(has_content = 0 OR kind = 'message')" if state is State.DELIVERED else "has_content = 0"
    return db.execute(
        f"SELECT {_COLUMNS} FROM items INDEXED BY items_ended WHERE state = ? AND ended_steady IS NOT NULL AND {rest}"  # noqa: S608
        f" AND NOT EXISTS ({OPENS}) ORDER BY ended_steady",
        (state,),
    )


def _expected(row: sqlite3.Row) -> Gain:
    if row["has_content"] and row["kind"] == Kind.MEDIA:
        return Gain(items=1, media_bytes=on_disk(row["size_bytes"]), inodes=1)
    return Gain(items=1, page_bytes=TOMBSTONE_BYTES + (row["size_bytes"] if row["has_content"] else 0))


def _may_go(row: sqlite3.Row, room: Room) -> bool:
    """Looked at again: what was planned may have changed since."""
    if room.is_spare and row["state"] != State.DELIVERED:
        return False
    if row["state"] in (State.DELIVERED, State.UNCLAIMED) or not row["has_content"]:
        return bool(row["state"] != State.PENDING)
    if row["state"] == State.PENDING:
        return _may_go_undelivered(row["priority"], room)
    return bool(row["priority"] >= (0 if room.priority is None else room.priority))


def _may_go_undelivered(priority: int, room: Room) -> bool:
    if priority == UNCLAIMED:
        return False
    if room.when_full == "wait" or (room.priority is None and room.when_full == "evict-lower"):
        return False
    if room.priority is None:
        return priority > 0
    return priority > room.priority or (priority == room.priority and room.when_full == "evict-oldest")


def _let_one_go(change: Change, row: sqlite3.Row, now: float) -> Gain:
    is_media = row["has_content"] and row["kind"] == Kind.MEDIA
    gain = Gain(items=1, media_bytes=on_disk(row["size_bytes"]) if is_media else 0, inodes=int(is_media))
    state = State(row["state"])
    if state is State.DELIVERED and is_media:
        free_content(change, row["seq"])
    elif not row["has_content"] or state is State.DELIVERED:
        forget(change, row["seq"], state)
    elif state is State.UNCLAIMED:
        let_go_unclaimed(change, row, now=now)
    else:
        _evict(change, row, now)
    return gain


def _evict(change: Change, row: sqlite3.Row, now: float) -> None:
    """A record stays that says so, until its room is wanted, too. Of a small message the record is most of it, so that
    goes at once: only the counters, the log and the fleet are told."""
    deliveries = change.db.execute(
        "SELECT id FROM deliveries WHERE item = ? AND state = 'pending'", (row["seq"],)
    ).fetchall()
    for delivery in deliveries:
        move_delivery(change, delivery, State.EVICTED, reason=_REASON, now=now)
    state = settle(change, row["seq"], now=now)
    free_content(change, row["seq"])
    if row["kind"] == Kind.MESSAGE and row["size_bytes"] < database.PAGE_BYTES:
        forget(change, row["seq"], state)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:IDS_LOGGED]) + (", …" if len(ids) > IDS_LOGGED else "")
