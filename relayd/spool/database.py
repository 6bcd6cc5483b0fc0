"""The database file: opened with the settings that durability hangs on, brought to the newest shape.

Promises: WAL and `synchronous=FULL`, so what is committed survives a power cut; a newer spool is refused untouched; an
error of the database leaves here as a SpoolError that says what an operator can do.
"""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from relayd.errors import SpoolDamaged, SpoolError, SpoolFull, SpoolTooNew, SpoolUnwritable

FILE_NAME = "spool.db"
TABLES = (
    "items",
    "deliveries",
    "attempts",
    "steps",
    "ledger",
    "counters",
    "notes",
    "events",
    "commands",
    "incidents",
    "incident_items",
)
APPLICATION_ID = 0x72656C79
SYNCHRONOUS = "FULL"
LARGEST_WAL_BYTES = 4 * 2**20

PAGE_BYTES = 4096
SPARE_PAGES_KEPT = 256
VACUUM_PAGES = 512
"""Given back in one transaction at most; it goes through the write-ahead log."""
DISK_REMEDY = "look for disk errors in the kernel log (`journalctl -k`); relayd goes on once it can be written"
READ_ONLY_REMEDY = f"it may have been remounted after an error: {DISK_REMEDY}"
SPARE_BYTES = 2**20
"""With less than this free, an I/O error is taken for want of room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """Takes a spool from `number - 1` to `number`."""

    number: int
    sql: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSize:
    """What the database holds, and its pages that wait to be used again."""

    live_bytes: int
    free_bytes: int


def connect(path: Path, wal_limit_bytes: int = LARGEST_WAL_BYTES) -> sqlite3.Connection:
    """The one connection that writes. Creates the file if it is not there.

    Raises sqlite3.Error, and before anything is written SpoolTooNew, or SpoolDamaged for what is not ours.

    The write-ahead log is copied into the database when it reaches its limit, and cut back to it after a burst.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=5.0)
    try:
        db.row_factory = sqlite3.Row
        if db.execute("PRAGMA page_count").fetchone()[0] == 0:
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        else:
            vet(db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA wal_autocheckpoint = {wal_limit_bytes // PAGE_BYTES}")
        db.execute(f"PRAGMA journal_size_limit = {wal_limit_bytes}")
        db.execute("PRAGMA cache_size = -4096")
        db.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        db.close()
        raise
    return db


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only look. It never checkpoints, so there is one writer at any time."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=5.0
    )
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA query_only = ON")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA cache_size = -2048")
    return db


def newest_schema() -> str:
    return resources.files("relayd.spool").joinpath("schema.sql").read_text(encoding="utf-8")


def migrations() -> tuple[Migration, ...]:
    """Those shipped with this version, in order."""
    folder = resources.files("relayd.spool").joinpath("migrations")
    found = []
    for entry in folder.iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match is not None:
            found.append(Migration(number=int(match[1]), sql=entry.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.number))


def bring_up_to_date(
    db: sqlite3.Connection, schema: str | None = None, steps: Sequence[Migration] | None = None
) -> tuple[int, int]:
    """Make a new database, or migrate an older one; returns (number before, number now), 0 for a new one.

    Each step is one transaction: a crash in the middle leaves the number before.
    """
    steps = migrations() if steps is None else steps
    newest = _newest(steps)
    before = number_of(db)
    if before == 0:
        sql = newest_schema() if schema is None else schema
        _run(db, f"{sql}\nPRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {newest};")
    for step in steps:
        if 0 < before < step.number:
            _run(db, f"{step.sql}\nPRAGMA user_version = {step.number};")
    return before, newest


def _newest(steps: Sequence[Migration]) -> int:
    return max((step.number for step in steps), default=1)


def vet(db: sqlite3.Connection) -> bool:
    """Only looks: is this ours? True if it is of the newest shape, False if older. Raises SpoolTooNew, SpoolDamaged."""
    names = {row["name"] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    number, newest = number_of(db), _newest(migrations())
    application: int = db.execute("PRAGMA application_id").fetchone()[0]
    if names and (application != APPLICATION_ID or "items" not in names):
        raise SpoolDamaged(f"the database is no spool of relayd (application {application}, shape {number})")
    if number > newest:
        raise SpoolTooNew(
            f"this spool has the shape {number} of a newer relayd, this version knows shapes up to {newest}: "
            "install the newer version again, or give this one another spool.path"
        )
    if names and number == 0:
        raise SpoolDamaged("the database has no number of its shape")
    return number == newest


def number_of(db: sqlite3.Connection) -> int:
    """The number of the last migration; 0 for a new database."""
    number: int = db.execute("PRAGMA user_version").fetchone()[0]
    return number


def probe(db: sqlite3.Connection) -> None:
    """Touch every table and index once; raises sqlite3.DatabaseError where the file is cut off or overwritten.

    Not a proof of health, which would cost a pass over the whole file (`relayd spool check` does that).
    """
    for name in TABLES:
        db.execute(f"SELECT * FROM {name} LIMIT 1").fetchone()  # noqa: S608
    for ascending in ("ASC", "DESC"):
        db.execute(f"SELECT seq, state FROM items ORDER BY seq {ascending} LIMIT 1").fetchone()  # noqa: S608
        db.execute(f"SELECT id, state FROM deliveries ORDER BY id {ascending} LIMIT 1").fetchone()  # noqa: S608


def size_of(db: sqlite3.Connection) -> DatabaseSize:
    """As of now, also within a transaction."""
    pages: int = db.execute("PRAGMA page_count").fetchone()[0]
    spare: int = db.execute("PRAGMA freelist_count").fetchone()[0]
    return DatabaseSize(live_bytes=(pages - spare) * PAGE_BYTES, free_bytes=spare * PAGE_BYTES)


def give_back(db: sqlite3.Connection) -> int:
    """Return some spare pages to the file system, and say how many; a few stay, since the next burst needs them."""
    spare: int = db.execute("PRAGMA freelist_count").fetchone()[0]
    pages = max(0, min(spare - SPARE_PAGES_KEPT, VACUUM_PAGES))
    for _ in range(pages):
        db.execute("PRAGMA incremental_vacuum(1)")  # one at a time: sqlite3 runs only the first step of this pragma
    return pages


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 if the error did not come from SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_damage(error: sqlite3.Error | SpoolError) -> bool:
    if isinstance(error, SpoolError):
        return isinstance(error, SpoolDamaged)
    return primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def spoils_the_group(error: sqlite3.Error) -> bool:
    """Whether the whole transaction is lost with it, not only the one operation."""
    return is_damage(error) or primary_code(error) in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_READONLY,
    )


def is_disk_full(error: sqlite3.Error, path: Path) -> bool:
    """Some ways of running out of space arrive as I/O errors: a failing sync, a shared-memory file that cannot grow."""
    if primary_code(error) == sqlite3.SQLITE_FULL:
        return True
    return primary_code(error) == sqlite3.SQLITE_IOERR and shutil.disk_usage(path.parent).free < SPARE_BYTES


def is_room_lacking(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def in_words(error: sqlite3.Error, path: Path) -> SpoolError:
    """What the operator should read."""
    code = primary_code(error)
    if is_damage(error):
        return SpoolDamaged(f"{path} is damaged ({error}): stop relayd and run `relayd spool repair`")
    if is_disk_full(error, path):
        return SpoolFull(f"the disk of {path} is full: free some space, relayd goes on by itself")
    if code == sqlite3.SQLITE_IOERR:
        return SpoolUnwritable(f"{path} cannot be read or written ({error}): {DISK_REMEDY}")
    if code == sqlite3.SQLITE_READONLY:
        return SpoolUnwritable(f"{path} is read-only ({error}): {READ_ONLY_REMEDY}")
    if code == sqlite3.SQLITE_CANTOPEN:
        return SpoolError(f"{path} cannot be opened ({error}): check the owner and the rights of its folder")
    return SpoolError(f"{path}: {error}")


def _run(db: sqlite3.Connection, sql: str) -> None:
    try:
        db.executescript(f"BEGIN IMMEDIATE;\n{sql}\nCOMMIT;")
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise
