"""How a copy gets its name on a disk: written beside it, fsynced, read back, and named without replacing anything.

Promises: what is there is never overwritten, however many write at once and whatever the file system: the name is given
by `renameat2` without replacing, else by a link, else (FAT, some FUSE) over a reservation that only one can make. What
is returned lies there whole at that moment: the very file that was read back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relayd.destinations.base import Attempt
from relayd.errors import Rejected, TryAgain
from relayd.files import fsync_folder
from relayd.model import Kind

BLOCK_BYTES = 256 * 1024
SYNC_BYTES = 16 * 2**20
"""What is copied goes to the disk in such pieces, so that a slow disk can be told from one that hangs."""
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1
_UNABLE = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOTTY}
"""How a file system says that it does not know this way to give a name."""
_LIBC = ctypes.CDLL(None, use_errno=True)
_naming = threading.Lock()

GoOn = Callable[[], None]
"""Called between blocks; raises what ends the copy."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies under a name: `is_it` if it is a plain file with the content of the item."""

    is_it: bool


def with_id(name: str, item_id: str) -> str:
    """The neighbour of a name that is taken."""
    stem, dot, extension = name.rpartition(".")
    return f"{stem}-{item_id}{dot}{extension}" if dot and stem else f"{name}-{item_id}"


@contextlib.contextmanager
def folder_below(folder_fd: int, names: list[str], item_id: str) -> Iterator[tuple[int, list[str]]]:
    """The descriptor of the folder of these names below `folder_fd`, made where it is missing, and what it is called:
    a name that a file or a link has gives way to its neighbour."""
    current: int = os.open(".", _FOLDER, dir_fd=folder_fd)
    used: list[str] = []
    try:
        for name in names:
            inner, chosen = _entered(current, (name, with_id(name, item_id)))
            os.close(current)
            current = inner
            used.append(chosen)
        yield current, used
    finally:
        os.close(current)


def _entered(parent_fd: int, names: tuple[str, ...]) -> tuple[int, str]:
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o750, dir_fd=parent_fd)
        try:
            return os.open(name, _FOLDER, dir_fd=parent_fd), name
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
    raise Rejected(f"{names[0]} is there already and is no folder: remove it, then `relayd retry`")


def place(parent_fd: int, name: str, attempt: Attempt, go_on: GoOn) -> str:
    """Under which name the copy is now: this one, or its neighbour. Raises Rejected if both are taken by something
    else, TryAgain, OSError."""
    temporary = f".relayd-{attempt.item.id}-{attempt.delivery.id}.part"
    is_written = False
    try:
        for candidate in (name, with_id(name, attempt.item.id)):
            found = _look(parent_fd, candidate, attempt, go_on)
            if found is None:
                if not is_written:
                    _write(parent_fd, temporary, attempt, go_on)
                    is_written = True
                found = _named(parent_fd, temporary, candidate) or _look(parent_fd, candidate, attempt, go_on)
            if found is not None and found.is_it:
                return candidate
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent_fd)
        fsync_folder(parent_fd)
    raise Rejected(
        f"{with_id(name, attempt.item.id)} is there already with other content: remove it, then `relayd retry`"
    )


def _write(parent_fd: int, temporary: str, attempt: Attempt, go_on: GoOn) -> None:
    descriptor = os.open(temporary, NEW_FILE, 0o640, dir_fd=parent_fd)
    with os.fdopen(descriptor, "wb", buffering=0) as target:
        unsynced = 0
        for block in _content(attempt):
            go_on()
            _write_all(target.write, block)
            unsynced += len(block)
            if unsynced >= SYNC_BYTES:
                os.fdatasync(target.fileno())
                unsynced = 0
        os.fsync(target.fileno())
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found = _look(parent_fd, temporary, attempt, go_on)
    if found is None or not found.is_it:
        raise TryAgain("what was read back is not what was written: the disk may be failing")


def _content(attempt: Attempt) -> Iterator[bytes]:
    if attempt.item.kind is Kind.MESSAGE:
        yield attempt.item.payload or b""
        return
    with attempt.open_media() as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def _write_all(write: Callable[[memoryview], int | None], block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[write(rest) or 0 :]


def _look(parent_fd: int, name: str, attempt: Attempt, go_on: GoOn) -> _Found | None:
    """What is there, read from the disk where the kernel lets go of its pages; None if nothing is. Only what has the
    size of the item is read."""
    try:
        descriptor = os.open(name, _OLD_FILE, dir_fd=parent_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket or a pipe that nobody reads
            return _Found(is_it=False)
        raise
    digest = hashlib.sha256()
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size != attempt.item.size_bytes:
            return _Found(is_it=False)
        while block := os.read(descriptor, BLOCK_BYTES):
            go_on()
            digest.update(block)
    finally:
        os.close(descriptor)
    return _Found(is_it=digest.hexdigest() == attempt.item.sha256)


# --- giving the name


def _named(parent_fd: int, temporary: str, name: str) -> _Found | None:
    """Give the file that was read back its name; None if somebody took that a moment ago."""
    written = os.stat(temporary, dir_fd=parent_fd, follow_symlinks=False)
    for way in (_renamed_without_replacing, _linked, _renamed_over_a_reservation):
        try:
            way(parent_fd, temporary, name)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno not in _UNABLE or way is _renamed_over_a_reservation:
                raise
        else:
            break
    there = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if (there.st_size, stat.S_IFMT(there.st_mode)) != (written.st_size, stat.S_IFMT(written.st_mode)):
        raise TryAgain(f"{name} was replaced by something else at once")
    return _Found(is_it=True)


def _renamed_without_replacing(parent_fd: int, temporary: str, name: str) -> None:
    if _renameat2(parent_fd, temporary, name, _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _renameat2(parent_fd: int, temporary: str, name: str, flags: int) -> int:
    done: int = _LIBC.renameat2(parent_fd, os.fsencode(temporary), parent_fd, os.fsencode(name), flags)
    return done


def _linked(parent_fd: int, temporary: str, name: str) -> None:
    os.link(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
    os.unlink(temporary, dir_fd=parent_fd)


def _renamed_over_a_reservation(parent_fd: int, temporary: str, name: str) -> None:
    """A file of 0 bytes that only one can make holds the name until the copy takes its place: a power cut in between
    leaves it there, and the copy gets its neighbour's name."""
    with _naming:
        os.close(os.open(name, NEW_FILE | os.O_EXCL, 0o640, dir_fd=parent_fd))
        os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
