"""A damaged database: set aside, what can be read of it copied into a new one, and nothing on the disk removed.

Promises: it can be cut at any point and goes on at the next start. The damaged file stays as `spool.db.damaged-TIME`;
media that no row speaks for any more goes to salvaged/. Items whose deliveries were lost are dead with that reason, so
that people see them and their media is kept.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd import clock
from relayd.messages import Message, about
from relayd.model import State
from relayd.spool import counting, database, lists, lost_incidents, timekeeping
from relayd.spool.limits import UNCLAIMED
from relayd.spool.media import SpoolFolder
from relayd.spool.states import state_of

log = logging.getLogger("relayd.spool")

MARK = "repairing"
REBUILT = "spool.db.rebuilt"
GAP_PROBES = 100_000
"""How many single rows are tried between two damaged places."""

_KEYS = {
    "items": ("seq",),
    "deliveries": ("id",),
    "attempts": ("delivery", "number"),
    "steps": ("delivery", "name"),
    "ledger": ("source", "path"),
    "counters": ("subject", "name"),
    "notes": ("key",),
    "events": ("seq",),
    "commands": ("seq",),
    "incidents": ("seq",),
    "incident_items": ("incident", "item"),
}
_LOST = "what was owed of it was lost with a damaged database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Salvaged:
    """What came through. `aside` is the damaged file, None if there was none."""

    aside: Path | None
    rows: dict[str, int]
    strays: int
    broken_tables: tuple[str, ...]


def rebuild(folder: SpoolFolder, *, now: float) -> Salvaged:
    """Set the database aside, if there is one, and make a new one of what it holds."""
    stamp = clock.rfc3339(now).replace(":", "").replace(".", "")
    path = folder.root / database.FILE_NAME
    aside = folder.root / f"{database.FILE_NAME}.damaged-{stamp}"
    mark = folder.root / MARK
    mark.write_text(aside.name, encoding="ascii")
    folder.sync(folder.root)
    if path.exists():
        path.rename(aside)
    return _finish(folder, aside, now=now)


def resume(folder: SpoolFolder, *, now: float) -> Salvaged | None:
    """Go on with a `rebuild` that was cut."""
    mark = folder.root / MARK
    if not mark.exists():
        return None
    name = mark.read_text(encoding="ascii", errors="replace")
    aside = folder.root / name
    is_ours = name.startswith(f"{database.FILE_NAME}.damaged-") and "/" not in name
    if (folder.root / database.FILE_NAME).exists():
        mark.unlink()  # cut before it began (found damaged again) or after it was done
        return None
    return _finish(folder, aside if is_ours else folder.root / f"{database.FILE_NAME}.damaged", now=now)


def _finish(folder: SpoolFolder, aside: Path, *, now: float) -> Salvaged:
    path = folder.root / database.FILE_NAME
    wal = folder.root / f"{database.FILE_NAME}-wal"
    if wal.exists():
        wal.rename(aside.with_name(f"{aside.name}-wal"))
    for name in (f"{database.FILE_NAME}-shm", REBUILT, f"{REBUILT}-wal", f"{REBUILT}-shm"):
        (folder.root / name).unlink(missing_ok=True)
    db = database.connect(folder.root / REBUILT)
    try:
        database.bring_up_to_date(db)
        rows, broken = _copy(aside, db) if aside.exists() and aside.stat().st_size else ({}, ())
        _make_consistent(db, now=now)
        strays = _set_strays_aside(folder, db)
    finally:
        db.close()
    (folder.root / REBUILT).rename(path)
    folder.sync(folder.root)
    (folder.root / MARK).unlink()
    done = Salvaged(aside=aside if aside.exists() else None, rows=rows, strays=strays, broken_tables=broken)
    log.error(
        "the spool was damaged: %d items and %d deliveries salvaged, %d media files without a row are kept in %s, %s",
        rows.get("items", 0),
        rows.get("deliveries", 0),
        strays,
        folder.salvaged,
        "the database was gone" if done.aside is None else f"the damaged database is kept as {aside.name}",
        extra=about(Message.SPOOL_SALVAGED),
    )
    return done


def _copy(aside: Path, db: sqlite3.Connection) -> tuple[dict[str, int], tuple[str, ...]]:
    """Every row that can be read; (how many per table, tables with unreadable places)."""
    copied: dict[str, int] = {}
    broken: list[str] = []
    damaged = sqlite3.connect(aside, isolation_level=None)
    try:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("BEGIN IMMEDIATE")
        for table, keys in _KEYS.items():
            reading = _Reading(damaged, table, keys)
            copied[table] = _copy_table(reading, db)
            if reading.hit_damage:
                broken.append(table)
        db.execute("COMMIT")
        db.execute("PRAGMA foreign_keys = ON")
    finally:
        damaged.close()
    return copied, tuple(broken)


def _copy_table(reading: _Reading, db: sqlite3.Connection) -> int:
    own = [row["name"] for row in db.execute(f'PRAGMA table_info("{reading.table}")')]
    count = 0
    for row in reading.rows(own):
        marks = ", ".join("?" * len(row))
        names = ", ".join(reading.columns)
        try:
            db.execute(f"INSERT INTO {reading.table} ({names}) VALUES ({marks})", row)  # noqa: S608
        except sqlite3.Error:
            reading.hit_damage = True
        else:
            count += 1
    return count


class _Reading:
    """Reads a damaged table from both ends, and what it can of the middle."""

    def __init__(self, db: sqlite3.Connection, table: str, keys: tuple[str, ...]) -> None:
        self.table = table
        self.hit_damage = False
        self.columns: list[str] = []
        self._db = db
        self._keys = keys

    def rows(self, wanted: list[str]) -> Iterator[tuple[object, ...]]:
        try:
            found = [row[1] for row in self._db.execute(f'PRAGMA table_info("{self.table}")')]
        except sqlite3.Error:
            found = []
        self.columns = [name for name in wanted if name in found]
        if not self.columns or not set(self._keys) <= set(self.columns):
            self.hit_damage = True
            return
        key_places = [self.columns.index(key) for key in self._keys]
        last: tuple[object, ...] | None = None
        for row in self._run("ASC"):
            last = tuple(row[place] for place in key_places)
            yield row
        if not self.hit_damage:
            return
        first: tuple[object, ...] | None = None
        for row in self._run("DESC"):
            key = tuple(row[place] for place in key_places)
            if key == last:
                return
            first = key
            yield row
        if len(self._keys) == 1 and isinstance(first, tuple) and isinstance(first[0], int):
            start = last[0] if last is not None and isinstance(last[0], int) else 0
            yield from self._gap(start + 1, first[0])

    def _run(self, direction: str) -> Iterator[tuple[object, ...]]:
        order = ", ".join(f"{key} {direction}" for key in self._keys)
        try:
            cursor = self._db.execute(f"SELECT {', '.join(self.columns)} FROM {self.table} ORDER BY {order}")  # noqa: S608
            while (row := cursor.fetchone()) is not None:
                yield row
        except (sqlite3.Error, UnicodeDecodeError):
            self.hit_damage = True

    def _gap(self, start: int, end: int) -> Iterator[tuple[object, ...]]:
        for number in range(start, min(end, start + GAP_PROBES)):
            try:
                row = self._db.execute(
                    f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE {self._keys[0]} = ?",  # noqa: S608
                    (number,),
                ).fetchone()
            except (sqlite3.Error, UnicodeDecodeError):
                continue
            if row is not None:
                yield row


def _make_consistent(db: sqlite3.Connection, *, now: float) -> None:
    """No orphans, states that follow from the deliveries, counters that add up."""
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM deliveries WHERE item NOT IN (SELECT seq FROM items)")
    db.execute("DELETE FROM attempts WHERE delivery NOT IN (SELECT id FROM deliveries)")
    db.execute("DELETE FROM steps WHERE delivery NOT IN (SELECT id FROM deliveries)")
    db.execute("DELETE FROM incident_items WHERE item NOT IN (SELECT seq FROM items)")
    db.execute("DELETE FROM incident_items WHERE incident NOT IN (SELECT id FROM incidents)")
    lost_incidents.restore(db, now=now)
    correct_states(db, now=now)
    lost_incidents.settle(db, now=now)
    counting.correct(db)
    db.execute("COMMIT")


def correct_states(db: sqlite3.Connection, *, now: float) -> int:
    """Inside the caller's transaction: items whose state does not follow from their deliveries; how many there were."""
    count = 0
    for row in db.execute("SELECT seq, state, priority FROM items").fetchall():
        found = {State(one[0]) for one in db.execute("SELECT state FROM deliveries WHERE item = ?", (row["seq"],))}
        if not found and row["state"] == State.PENDING:
            is_unclaimed = row["priority"] == UNCLAIMED
            _set_state(db, row["seq"], *((State.UNCLAIMED, "") if is_unclaimed else (State.DEAD, _LOST)), now)
            count += 1
        elif found and state_of(found) != row["state"]:
            _set_state(db, row["seq"], state_of(found), "", now)
            count += 1
    return count


def _set_state(db: sqlite3.Connection, item: int, state: State, reason: str, now: float) -> None:
    steady = timekeeping.read_now(db).steady(now)
    db.execute(
        "UPDATE items SET state = ?, reason = ?, ended_at = ?, ended_steady = ? WHERE seq = ?",
        (state, reason, *((None, None) if state in (State.PENDING, State.UNCLAIMED) else (now, steady)), item),
    )


def _set_strays_aside(folder: SpoolFolder, db: sqlite3.Connection) -> int:
    count = 0
    for names in folder.names():
        kept = lists.kept_media(db, names)
        for name in names:
            if name not in kept:
                folder.set_aside(name)
                count += 1
    return count
