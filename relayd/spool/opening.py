"""How a spool is opened, whatever state a crash, a full disk or a bad one left it in.

Promises: afterwards there is a database of the newest shape that answers, owned by this process. A damaged one is kept
beside it and salvaged (`salvage.py`), later if there is no room now; a newer one is refused untouched.
"""

from __future__ import annotations

import logging
import sqlite3

from relayd.errors import SpoolDamaged, SpoolError, SpoolFull
from relayd.spool import database, salvage, timekeeping
from relayd.spool.engine import DAMAGE_MARK
from relayd.spool.media import SpoolFolder

log = logging.getLogger("relayd.spool")


def open_database(
    folder: SpoolFolder, *, now: float, wal_limit_bytes: int = database.LARGEST_WAL_BYTES
) -> sqlite3.Connection:
    """The writing connection; the folder is locked by the caller and stays so. Raises SpoolError, SpoolTooNew."""
    try:
        return _open(folder, wal_limit_bytes, now=now)
    except SpoolFull:
        if not folder.release_headroom():
            raise
        return _open(folder, wal_limit_bytes, now=now)


def _open(folder: SpoolFolder, wal_limit_bytes: int, *, now: float) -> sqlite3.Connection:
    path = folder.root / database.FILE_NAME
    try:
        folder.prepare()
        salvage.resume(folder, now=now)
        if _is_known_damaged(folder):
            _salvage(folder, now=now)
        (folder.root / DAMAGE_MARK).unlink(missing_ok=True)
        db = _connect(folder, wal_limit_bytes)
        if db is None:
            _salvage(folder, now=now)
            db = _connect(folder, wal_limit_bytes)
        if db is None:
            raise SpoolDamaged(
                f"{path} cannot be used, not even when made anew: look for disk errors in the kernel log"
            )
        timekeeping.resume(db, now=now)
        salvage.catch_up(folder, db, now=now)
        folder.clear_incoming()
    except sqlite3.Error as error:
        raise database.in_words(error, path) from error
    except OSError as error:
        if database.is_room_lacking(error):
            raise SpoolFull(f"the disk of {folder.root} is full: free some space and start relayd again") from error
        raise SpoolError(f"the spool {folder.root} cannot be opened: {error}") from error
    return db


def _salvage(folder: SpoolFolder, *, now: float) -> None:
    if not salvage.mend_indexes(folder):
        salvage.rebuild(folder, now=now)


def _is_known_damaged(folder: SpoolFolder) -> bool:
    """A mark of the last process says that it met damage; media or a log without a database, that it is gone."""
    path = folder.root / database.FILE_NAME
    if (folder.root / DAMAGE_MARK).exists():
        return True
    if path.exists() and path.stat().st_size:
        return False
    wal = path.with_name(f"{path.name}-wal")
    return not folder.is_empty() or (wal.exists() and wal.stat().st_size > 0)


def _connect(folder: SpoolFolder, wal_limit_bytes: int) -> sqlite3.Connection | None:
    """None: the file cannot be used as it is."""
    path = folder.root / database.FILE_NAME
    db: sqlite3.Connection | None = None
    try:
        db = database.connect(path, wal_limit_bytes)
        before, number = database.bring_up_to_date(db)
        database.probe(db)
    except (sqlite3.Error, SpoolError) as error:
        if db is not None:
            db.close()
        if database.is_damage(error):
            log.error("the database %s is damaged: %s", path, error)
            return None
        raise
    if before == 0:
        folder.sync(folder.root)
    elif before != number:
        log.info("the spool was brought from shape %d to shape %d", before, number)
    return db
