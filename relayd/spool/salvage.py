"""A damaged database: set aside, what can be read of it copied into a new one, and nothing on the disk removed.

Promises: it can be cut at any point and goes on at the next start. The damaged file stays as `spool.db.damaged-TIME`;
media that no row speaks for any more goes to salvaged/. Where the disk has no room for a second database, the spool
begins empty and the damaged one waits: a later start adds what it holds (`catch_up`). Items whose deliveries were lost
are dead with that reason, so that people see them and their media is kept.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd import clock, smallfiles
from relayd.errors import SpoolError
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
WAITING = "unsalvaged"
"""A file of this name lists the damaged databases, one a line, for which there was no room."""
NOTE = "salvaged:"
"""With a name: what that database held is in this one by now."""
_SMALL = ("ledger", "counters", "notes", "commands", "incidents")
"""Tables that an empty spool begins with all the same: what was taken, what is paused, what is open."""
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
    if (folder.root / database.FILE_NAME).exists():
        mark.unlink()  # cut before it began (found damaged again) or after it was done
        return None
    return _finish(folder, aside if _is_ours(name) else folder.root / f"{database.FILE_NAME}.damaged", now=now)


def _finish(folder: SpoolFolder, aside: Path, *, now: float) -> Salvaged:
    path = folder.root / database.FILE_NAME
    wal = folder.root / f"{database.FILE_NAME}-wal"
    if wal.exists():
        wal.rename(aside.with_name(f"{aside.name}-wal"))
    (folder.root / f"{database.FILE_NAME}-shm").unlink(missing_ok=True)
    _clear_half_built(folder)
    lacking = _lacking_room(folder, aside, copies=1)
    _set_waiting(folder, aside.name, is_waiting=bool(lacking))
    try:
        with contextlib.closing(database.connect(folder.root / REBUILT)) as db:
            database.bring_up_to_date(db)
            rows, broken = _copy(aside, db, _SMALL if lacking else database.TABLES)
            with _one_transaction(db):
                _make_consistent(db, now=now)
            strays = _set_strays_aside(folder, db)
    except BaseException:
        _clear_half_built(folder)
        raise
    (folder.root / REBUILT).rename(path)
    folder.sync(folder.root)
    (folder.root / MARK).unlink()
    if lacking:
        log.error("the spool was damaged and begins empty: %s", lacking, extra=about(Message.SPOOL_SALVAGED))
        return Salvaged(aside=aside, rows=rows, strays=strays, broken_tables=broken)
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


def catch_up(folder: SpoolFolder, db: sqlite3.Connection, *, now: float) -> None:
    """Add what waits to be salvaged to a spool that began empty, as far as there is room. What is in it keeps its
    place: what comes is older."""
    for name in waiting(folder):
        lacking = _lacking_room(folder, folder.root / name, copies=2)
        if lacking:
            log.error("%s", lacking)
            return
        if db.execute("SELECT 1 FROM notes WHERE key = ?", (NOTE + name,)).fetchone() is None:
            db.execute("PRAGMA foreign_keys = OFF")
            try:
                with _one_transaction(db):
                    rows = _add(folder.root / name, db, now=now)
            except sqlite3.Error as error:
                log.error("%s cannot be salvaged yet: %s", name, error)
                return
            finally:
                db.execute("PRAGMA foreign_keys = ON")
            log.error("%d items and %d deliveries of %s salvaged", rows["items"], rows["deliveries"], name)
        _bring_media_back(folder, db)
        _set_waiting(folder, name, is_waiting=False)
        db.execute("DELETE FROM notes WHERE key = ?", (NOTE + name,))


def waiting(folder: SpoolFolder) -> list[str]:
    """Names of the damaged databases that are still to be salvaged, the oldest first."""
    try:
        names = (folder.root / WAITING).read_text(encoding="ascii", errors="replace").split()
    except FileNotFoundError:
        return []
    return [name for name in names if _is_ours(name) and (folder.root / name).exists()]


def why_waiting(folder: SpoolFolder) -> str:
    """What the first of them waits for, in words; empty if there is none, or if it waits only for the next start."""
    names = waiting(folder)
    return _lacking_room(folder, folder.root / names[0], copies=2) if names else ""


def _set_waiting(folder: SpoolFolder, name: str, *, is_waiting: bool) -> None:
    names = waiting(folder)
    wanted = [one for one in names if one != name] + [name] * is_waiting
    if wanted:
        smallfiles.put(folder.root / WAITING, "\n".join(wanted).encode("ascii"), mode=0o600)
    else:
        smallfiles.remove(folder.root / WAITING)


def _is_ours(name: str) -> bool:
    return name.startswith(f"{database.FILE_NAME}.damaged-") and "/" not in name


def _add(aside: Path, db: sqlite3.Connection, *, now: float) -> dict[str, int]:
    """Inside the caller's transaction."""
    with Pages(aside) as pages:
        highest = _highest(pages, "items", "seq")
    for table, column in (("items", "seq"), ("deliveries", "item"), ("incident_items", "item")):
        # Twice, so that no number is the old one of another row meanwhile.
        db.execute(f"UPDATE {table} SET {column} = -{column} - ?", (highest,))  # noqa: S608
        db.execute(f"UPDATE {table} SET {column} = -{column}")  # noqa: S608
    rows, _ = _copy(aside, db, database.TABLES)
    times = timekeeping.read_now(db)
    steady = times.steady(now)
    db.execute("UPDATE items SET taken_steady = min(taken_steady, ?) WHERE seq <= ?", (steady, highest))
    db.execute("UPDATE deliveries SET owed_since = min(owed_since, ?) WHERE item <= ?", (steady, highest))
    db.execute(
        "UPDATE deliveries SET due_at = min(due_at, ?) WHERE state = 'pending' AND item <= ?", (times.due(now), highest)
    )
    _make_consistent(db, now=now)
    db.execute("INSERT INTO notes (key, value) VALUES (?, '')", (NOTE + aside.name,))
    return rows


def _bring_media_back(folder: SpoolFolder, db: sqlite3.Connection) -> None:
    if not folder.salvaged.is_dir():
        return
    names = (entry.name for entry in folder.salvaged.iterdir())
    while batch := list(itertools.islice(names, ROWS_AT_ONCE)):
        for item_id in lists.kept_media(db, batch):
            folder.bring_back(item_id)


def _lacking_room(folder: SpoolFolder, aside: Path, *, copies: int) -> str:
    """Why it cannot be salvaged now, in words; else empty. The new database may become as large as the old one, and its
    log comes on top."""
    sizes = [path.stat().st_size for path in (aside, aside.with_name(f"{aside.name}-wal")) if path.exists()]
    needed_bytes = copies * sum(sizes) + 2 * database.LARGEST_WAL_BYTES
    free_bytes = Disk.of(folder.root).free_bytes
    if not sizes or free_bytes >= needed_bytes:
        return ""
    return (
        f"what the damaged database {aside} holds waits to be salvaged: that needs {size_in_words(needed_bytes)} free "
        f"on its disk, and there are {size_in_words(free_bytes)}; free some space, relayd goes on by itself"
    )


def _highest(pages: Pages, table: str, column: str) -> int:
    if table not in pages.trees:
        return 0
    place = pages.trees[table].columns.index(column)
    return max((row[place] for row in pages.rows(table) if isinstance(row[place], int)), default=0)


@contextlib.contextmanager
def _one_transaction(db: sqlite3.Connection) -> Iterator[None]:
    """One that is open already goes on."""
    is_inside = db.in_transaction
    if is_inside:
        yield
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


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


def _copy(aside: Path, db: sqlite3.Connection, tables: Collection[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Every row that can be read; (how many per table, tables with unreadable places)."""
    copied: dict[str, int] = dict.fromkeys(database.TABLES, 0)
    broken: list[str] = []
    if not aside.exists() or not aside.stat().st_size:
        return copied, ()
    db.execute("PRAGMA foreign_keys = OFF")
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as damaged, Pages(aside) as pages:
        for table in tables:
            reading = _Reading(damaged, pages, table)
            copied[table] = _copy_table(reading, db)
            if reading.hit_damage:
                broken.append(table)
        _never_use_again(damaged, pages, db)
    db.execute("PRAGMA foreign_keys = ON")
    return copied, tuple(broken)


def _never_use_again(damaged: sqlite3.Connection, pages: Pages, db: sqlite3.Connection) -> None:
    """Numbers that were given to what is lost: idempotency keys are made from some."""
    try:
        given = dict(damaged.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    except sqlite3.Error:
        given = {}
    for name, key in (("deliveries", "id"), ("events", "seq"), ("commands", "seq")):
        last = db.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (name,)).fetchone()[0] or 0
        db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        following = given[name] if name in given else _highest(pages, name, key) + LOST_NUMBERS
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, max(last, following)))


def _copy_table(reading: _Reading, db: sqlite3.Connection) -> int:
    own = [row["name"] for row in db.execute(f'PRAGMA table_info("{reading.table}")')]
    count = 0
    rows = reading.rows(own)
    while portion := list(itertools.islice(rows, ROWS_AT_ONCE)):
        with _one_transaction(db):
            count += _insert(reading, portion, db)
    return count


def _insert(reading: _Reading, portion: list[tuple[list[str], tuple[object, ...]]], db: sqlite3.Connection) -> int:
    count = 0
    for columns, row in portion:
        marks, names = ", ".join("?" * len(row)), ", ".join(columns)
        sql = f"INSERT OR IGNORE INTO {reading.table} ({names}) VALUES ({marks})"  # noqa: S608
        try:
            count += db.execute(sql, row).rowcount
        except sqlite3.Error as error:
            if database.spoils_the_group(error):
                raise  # that is the new database, not the row
            reading.hit_damage = True
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
    """Inside the caller's transaction: no orphans, states that follow from the deliveries, counters that add up."""
    db.execute("DELETE FROM deliveries WHERE item NOT IN (SELECT seq FROM items)")
    db.execute("DELETE FROM attempts WHERE delivery NOT IN (SELECT id FROM deliveries)")
    db.execute("DELETE FROM steps WHERE delivery NOT IN (SELECT id FROM deliveries)")
    db.execute("DELETE FROM incident_items WHERE item NOT IN (SELECT seq FROM items)")
    db.execute("DELETE FROM incident_items WHERE incident NOT IN (SELECT id FROM incidents)")
    lost_incidents.restore(db, now=now)
    correct_states(db, now=now)
    lost_incidents.settle(db, now=now)
    counting.correct(db)


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
