"""A damaged database: set aside, what can be read of it copied into a new one, and nothing on the disk removed.

Promises: it can be cut at any point and goes on at the next start. The damaged file stays as `spool.db.damaged-TIME`;
media that no row speaks for any more goes to salvaged/. Items whose deliveries were lost are dead with that reason, so
that people see them and their media is kept.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd import clock
from relayd.errors import SpoolError, SpoolFull
from relayd.files import size_in_words
from relayd.messages import Message, about
from relayd.model import State
from relayd.spool import counting, database, lists, lost_incidents, timekeeping
from relayd.spool.limits import UNCLAIMED, Disk
from relayd.spool.media import SpoolFolder
from relayd.spool.pages import Pages, empty_leaf
from relayd.spool.states import state_of

log = logging.getLogger("relayd.spool")

MARK = "repairing"
REBUILT = "spool.db.rebuilt"
ROWS_AT_ONCE = 1_000
"""In one transaction, so that the log of the new database stays small."""
LOST_NUMBERS = 10**9
"""Passed over where nobody knows any more which numbers were given."""
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
    (folder.root / f"{database.FILE_NAME}-shm").unlink(missing_ok=True)
    _clear_half_built(folder)
    _look_for_room(folder, aside)
    try:
        with contextlib.closing(database.connect(folder.root / REBUILT)) as db:
            database.bring_up_to_date(db)
            rows, broken = _copy(aside, db) if aside.exists() and aside.stat().st_size else ({}, ())
            _make_consistent(db, now=now)
            strays = _set_strays_aside(folder, db)
    except BaseException:
        _clear_half_built(folder)
        raise
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


def _clear_half_built(folder: SpoolFolder) -> None:
    for name in (REBUILT, f"{REBUILT}-wal", f"{REBUILT}-shm"):
        (folder.root / name).unlink(missing_ok=True)


def _look_for_room(folder: SpoolFolder, aside: Path) -> None:
    """The new database may become as large as the old one, and its log comes on top. Raises SpoolFull."""
    sizes = [path.stat().st_size for path in (aside, aside.with_name(f"{aside.name}-wal")) if path.exists()]
    needed_bytes = sum(sizes) + 2 * database.LARGEST_WAL_BYTES
    free_bytes = Disk.of(folder.root).free_bytes
    if sizes and free_bytes < needed_bytes and folder.release_headroom():
        free_bytes = Disk.of(folder.root).free_bytes
    if sizes and free_bytes < needed_bytes:
        raise SpoolFull(
            f"the damaged database {aside} cannot be salvaged: that needs {size_in_words(needed_bytes)} on its disk, "
            f"where {size_in_words(free_bytes)} are free; free some space and start relayd again"
        )


def mend_indexes(folder: SpoolFolder) -> bool:
    """If no more than pages of indexes is damaged: make those anew, in place and with hardly any room; whether it is
    whole now. What an index says is in its table, too, so nothing is lost."""
    path = folder.root / database.FILE_NAME
    if not path.exists() or not path.stat().st_size:
        return False
    try:
        with contextlib.closing(database.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with Pages(path) as pages:
            bad = pages.bad_leaves()
        if not bad:
            return False
        with path.open("r+b", buffering=0) as stream:
            for number in bad:
                os.pwrite(stream.fileno(), empty_leaf(), (number - 1) * database.PAGE_BYTES)
            os.fsync(stream.fileno())
        with contextlib.closing(database.connect(path)) as db:
            names = [row["name"] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")]
            for name in names:
                db.execute(f'REINDEX "{name}"')
            found = [row[0] for row in db.execute("PRAGMA integrity_check(10)")]
    except (sqlite3.Error, SpoolError, OSError) as error:
        log.warning("the indexes of %s cannot be made anew: %s", path, error)
        return False
    if found != ["ok"]:
        log.warning("%s has more than damaged indexes: %s", path, "; ".join(found))
        return False
    log.error("%d pages of indexes of %s were damaged, and made anew: nothing is lost", len(bad), path)
    return True


def _copy(aside: Path, db: sqlite3.Connection) -> tuple[dict[str, int], tuple[str, ...]]:
    """Every row that can be read; (how many per table, tables with unreadable places)."""
    copied: dict[str, int] = {}
    broken: list[str] = []
    db.execute("PRAGMA foreign_keys = OFF")
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as damaged, Pages(aside) as pages:
        for table in database.TABLES:
            reading = _Reading(damaged, pages, table)
            copied[table] = _copy_table(reading, db)
            if reading.hit_damage:
                broken.append(table)
        _never_use_again(damaged, db)
    db.execute("PRAGMA foreign_keys = ON")
    return copied, tuple(broken)


def _never_use_again(damaged: sqlite3.Connection, db: sqlite3.Connection) -> None:
    """Numbers that were given to what is lost: idempotency keys are made from some."""
    try:
        given = dict(damaged.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    except sqlite3.Error:
        given = {}
    for name in ("deliveries", "events", "commands"):
        last = db.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (name,)).fetchone()[0] or 0
        db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        following = max(last, given[name]) if name in given else last + LOST_NUMBERS
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, following))


def _copy_table(reading: _Reading, db: sqlite3.Connection) -> int:
    own = [row["name"] for row in db.execute(f'PRAGMA table_info("{reading.table}")')]
    count = 0
    rows = reading.rows(own)
    while portion := list(itertools.islice(rows, ROWS_AT_ONCE)):
        db.execute("BEGIN IMMEDIATE")
        for columns, row in portion:
            marks, names = ", ".join("?" * len(row)), ", ".join(columns)
            sql = f"INSERT OR IGNORE INTO {reading.table} ({names}) VALUES ({marks})"  # noqa: S608
            try:
                count += db.execute(sql, row).rowcount
            except sqlite3.Error as error:
                if database.spoils_the_group(error):
                    raise  # that is the new database, not the row
                reading.hit_damage = True
        db.execute("COMMIT")
    return count


class _Reading:
    """Reads a damaged table from its beginning, as far as SQLite does; then what else is on its pages."""

    def __init__(self, db: sqlite3.Connection, pages: Pages, table: str) -> None:
        self.table = table
        self.hit_damage = False
        self._db = db
        self._pages = pages

    def rows(self, wanted: list[str]) -> Iterator[tuple[list[str], tuple[object, ...]]]:
        """(columns, values); some come twice."""
        try:
            found = [row[1] for row in self._db.execute(f'PRAGMA table_info("{self.table}")')]
            columns = [name for name in wanted if name in found]
            if columns:
                for row in self._db.execute(f"SELECT {', '.join(columns)} FROM {self.table} NOT INDEXED"):  # noqa: S608
                    yield columns, row
                return
        except (sqlite3.Error, UnicodeDecodeError) as error:
            log.warning("the table %s is damaged: %s", self.table, error)
        self.hit_damage = True
        tree = self._pages.trees.get(self.table)
        if tree is not None:
            places = [place for place, name in enumerate(tree.columns) if name in wanted]
            columns = [tree.columns[place] for place in places]
            for row in self._pages.rows(self.table):
                yield columns, tuple(row[place] for place in places)


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
