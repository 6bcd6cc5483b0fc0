"""`relayd spool move DIR`: the whole spool of a stopped relay to another folder, on whatever disk.

Promises: killed at any step, either the old folder or the new one is the whole spool, and opens; the other one says
where it is and how to go on. Every file is on the disk and read back before the switch, which is one rename: of the
mark `moved-to` in the old folder. Nothing of the old folder goes before that, and nothing that is not a spool's.

    moved-to         in the old folder: it is over here, the spool is there
    moving-from      in the new folder, until the move is over
    spool.db.moving  the database in the new folder, before the switch
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from relayd import smallfiles
from relayd.errors import SpoolError
from relayd.files import fsync_folder, printable, size_in_words
from relayd.spool import database, salvage
from relayd.spool.media import SpoolFolder
from relayd.spool.records import Report

MOVED, FROM, MOVING = "moved-to", "moving-from", "spool.db.moving"
BLOCK_BYTES = 1024 * 1024
SPARE_BYTES = 16_000_000
"""What has to be left on the new disk, for the database to go on."""
_STAYS = {"lock", "headroom", "incoming", "relayd.sock", "last-good.json", "spool.db-wal", "spool.db-shm", "lost+found"}
_OF_A_SPOOL = {"spool.db", "media", "salvaged", FROM, MOVING, *_STAYS}

Progress = Callable[[int, int], None]
"""Bytes copied, of how many."""


def move(source: Path, target: Path, progress: Progress = lambda done, total: None) -> Report:
    """Raises SpoolLocked while a relay runs, SpoolError where it cannot be done: then nothing has changed."""
    folder = SpoolFolder(source)
    if not source.is_dir():
        raise SpoolError(f"there is no spool at {source}")
    folder.lock()
    there = SpoolFolder(target)
    try:
        if _target_of(source) != target:
            if not (source / database.FILE_NAME).exists():
                raise SpoolError(f"there is no spool at {source}")
            if salvage.waiting(folder):
                raise SpoolError(
                    salvage.why_waiting(folder) or "a damaged database is still to be salvaged: start relayd"
                )
            _look_at(source, target)
            _make(target)
            there.lock()
            _flush(source)
            _copy_all(source, target, progress)
            smallfiles.put(source / MOVED, os.fsencode(target), mode=0o600)  # the switch
        _finish(target)
        kept = _clear(source)
    except OSError as error:
        where = printable(str(error.filename or target))
        raise SpoolError(f"the spool cannot be moved to {target}: {where}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise SpoolError(f"{source}: {error}: run `relayd spool repair` first") from error
    finally:
        there.unlock()
        folder.unlock()
    with contextlib.suppress(OSError):  # not empty, or its parent is somebody else's
        source.rmdir()
    done = (f"moved from {source} to {target}", *(f"left in {source}: {name}" for name in kept))
    return Report(is_good=True, problems=(), done=done, numbers={})


def settle(root: Path) -> None:
    """Before a spool is opened: end a move that was cut off after its switch. Raises SpoolError if it is elsewhere."""
    moved_to = _target_of(root)
    if moved_to is not None:
        raise SpoolError(f'the spool was moved from {root} to {moved_to}: set [spool] path = "{moved_to}"')
    if not (root / FROM).exists():
        return
    source = Path(os.fsdecode((root / FROM).read_bytes()))
    moved_to = _target_of(source)
    is_here = moved_to is not None and moved_to.resolve() == root.resolve()
    if not (root / database.FILE_NAME).exists() and not is_here:
        raise SpoolError(
            f"the move of the spool {source} to {root} was cut off: run `relayd spool move {root}` again, "
            f'or go on with [spool] path = "{source}"'
        )
    _finish(root)


def owed(root: Path) -> int:
    """How many items of the spool there are not delivered; 0 where there is none, or none that can be read."""
    if not (root / database.FILE_NAME).exists() or (root / MOVED).exists():
        return 0
    try:
        with contextlib.closing(database.connect_reader(root / database.FILE_NAME)) as db:
            row = db.execute("SELECT count(DISTINCT item) FROM deliveries WHERE state = 'pending'").fetchone()
    except (sqlite3.Error, SpoolError):
        return 0
    return int(row[0])


# --- before the switch


def _look_at(source: Path, target: Path) -> None:
    """Whether it can be done at all. Raises SpoolError."""
    here, there = source.resolve(), target.resolve()
    if here == there:
        raise SpoolError(f"the spool is at {target} already")
    if here in there.parents or there in here.parents:
        raise SpoolError(f"{target} and {source} lie one in the other: choose a folder beside it")
    if target.is_dir():
        names = {path.name for path in target.iterdir() if path not in _halves(target)} - {"lost+found", "lock"}
        is_ours = names <= _OF_A_SPOOL and (_is_begun_by(source, target) or _has_no_items(target))
        if names and not is_ours:
            raise SpoolError(f"{target} is not empty: choose a new folder")
    near = next(path for path in (target, *target.parents) if path.is_dir())
    if not os.access(near, os.W_OK | os.X_OK, effective_ids=True):
        raise SpoolError(
            f"the spool's owner may not write to {near}: make the folder for it, "
            f"`install -d -o {source.owner()} -g {source.group()} -m 0700 {target}`"
        )
    found = os.statvfs(near)
    needed, free = sum(size for _, size in _files(source)) + SPARE_BYTES, found.f_bavail * found.f_frsize
    if needed > free:
        raise SpoolError(f"{target} has room for {size_in_words(free)}, the spool needs {size_in_words(needed)}")


def _halves(folder: Path) -> list[Path]:
    """What a small file was while it was written, when the power went."""
    return list(folder.glob(".relayd-*.part"))


def _is_begun_by(source: Path, target: Path) -> bool:
    """An earlier move of the same spool was cut off."""
    with contextlib.suppress(FileNotFoundError):
        return Path(os.fsdecode((target / FROM).read_bytes())) == source and not (target / database.FILE_NAME).exists()
    return False


def _has_no_items(target: Path) -> bool:
    """A relay was started with this path, and has taken nothing yet."""
    try:
        with contextlib.closing(database.connect_reader(target / database.FILE_NAME)) as db:
            return db.execute("SELECT 1 FROM items LIMIT 1").fetchone() is None
    except (sqlite3.Error, SpoolError):
        return False


def _flush(source: Path) -> None:
    """All of the database into its one file."""
    with contextlib.closing(sqlite3.connect(source / database.FILE_NAME)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _files(source: Path) -> Iterator[tuple[Path, int]]:
    """What moves, below the folder."""
    for name in (database.FILE_NAME, "media", "salvaged"):
        place = source / name
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(source), path.stat().st_size


def _copy_all(source: Path, target: Path, progress: Progress) -> None:
    smallfiles.put(target / FROM, os.fsencode(source), mode=0o600)
    for name in sorted(_OF_A_SPOOL - {FROM, "lost+found", "lock"}):  # of a move that was cut off, or of an empty spool
        _remove(target / name)
    for half in _halves(target):
        _remove(half)
    SpoolFolder(target).prepare()
    files = list(_files(source))
    total, done = sum(size for _, size in files), 0
    folders = {target}
    for path, size in files:
        place = target / (MOVING if path.name == database.FILE_NAME else path)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.update(each for each in (place.parent, *place.parent.parents) if target in (each, *each.parents))
        _copy(source / path, place)
        done += size
        progress(done, total)
    for folder in folders:
        _sync(folder)


def _copy(source: Path, target: Path) -> None:
    """On the disk, and read back. Raises SpoolError if it is not the same."""
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with source.open("rb") as stream, os.fdopen(descriptor, "wb") as copy:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
        os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with target.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != digest.hexdigest():
            raise SpoolError(f"{target}: what was read back is not what was written: the disk may be failing")


def _make(target: Path) -> None:
    missing = [path for path in (target, *target.parents) if not path.exists()]
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


# --- after it


def _target_of(source: Path) -> Path | None:
    """Where the spool has gone; None if it is still here."""
    try:
        return Path(os.fsdecode((source / MOVED).read_bytes()))
    except FileNotFoundError:
        return None


def _finish(target: Path) -> None:
    """The new folder is the spool. May be done again."""
    if (target / MOVING).exists():
        (target / MOVING).rename(target / database.FILE_NAME)
        _sync(target)
    smallfiles.remove(target / FROM)


def _clear(source: Path) -> list[str]:
    """The old folder is none any more: the mark goes last. What is not a spool's stays, by its name."""
    for name in sorted(_OF_A_SPOOL - {"lost+found", "lock", "last-good.json"}):
        _remove(source / name)
    for half in _halves(source):
        _remove(half)
    _sync(source)
    smallfiles.remove(source / MOVED)
    (source / "lock").unlink(missing_ok=True)
    return sorted(path.name for path in source.iterdir() if path.name != "last-good.json")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync_folder(descriptor)
    finally:
        os.close(descriptor)
