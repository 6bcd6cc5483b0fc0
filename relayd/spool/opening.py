"""How a spool is opened, whatever state a crash, a full disk or a bad one left it in.

Promises: afterwards there is a database of the newest shape that answers, owned by this process. A damaged one is kept
beside it and salvaged (`salvage.py`); a newer one is refused untouched.
"""

from __future__ import annotations

import logging
import sqlite3

from relayd.errors import SpoolError, SpoolFull
from relayd.spool import database, salvage
from relayd.spool.engine import DAMAGE_MARK
from relayd.spool.media import SpoolFolder

log = logging.getLogger("relayd.spool")


def open_database(folder: SpoolFolder, *, now: float) -> sqlite3.Connection:
    """The writing connection; the folder is locked by the caller and stays so. Raises SpoolError, SpoolTooNew."""
    try:
        return _open(folder, now=now)
    except SpoolFull:
        if not folder.release_headroom():
            raise
        return _open(folder, now=now)


def _open(folder: SpoolFolder, *, now: float) -> sqlite3.Connection:
    path = folder.root / database.FILE_NAME
    try:
        folder.prepare()
        salvage.resume(folder, now=now)
        _repair_where_known(folder, now=now)
        try:
            return _connect(folder)
        except sqlite3.DatabaseError as error:
            if not database.is_damage(error):
                raise
            log.error("the database %s is damaged: %s", path, error)
        salvage.rebuild(folder, now=now)
        return _connect(folder)
    except sqlite3.Error as error:
        raise database.in_words(error, path) from error
    except OSError as error:
        if database.is_room_lacking(error):
            raise SpoolFull(f"the disk of {folder.root} is full: free some space and start relayd again") from error
        raise SpoolError(f"the spool {folder.root} cannot be opened: {error}") from error


def _repair_where_known(folder: SpoolFolder, *, now: float) -> None:
    """A mark of the last process says that it met damage; media without a database says that the database is gone."""
    path = folder.root / database.FILE_NAME
    mark = folder.root / DAMAGE_MARK
    is_gone = not path.exists() or path.stat().st_size == 0
    wal = path.with_name(f"{path.name}-wal")
    is_young = is_gone and folder.is_empty() and not (wal.exists() and path.exists())
    if mark.exists() or (is_gone and not is_young):
        salvage.rebuild(folder, now=now)
    mark.unlink(missing_ok=True)


def _connect(folder: SpoolFolder) -> sqlite3.Connection:
    db = database.connect(folder.root / database.FILE_NAME)
    try:
        before, number = database.bring_up_to_date(db)
        database.probe(db)
        if before == 0:
            folder.sync(folder.root)
        elif before != number:
            log.info("the spool was brought from shape %d to shape %d", before, number)
    except BaseException:
        db.close()
        raise
    return db
