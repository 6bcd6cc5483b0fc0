"""The spool's folder: who owns it, where media lies, and how it gets there and goes away.

Promises: media is on the disk under its final name, name included, when `stage` returns; nothing outside this folder is
touched. What this room removes belongs to no row, or to one that no longer owes it to anybody.

    lock        held by the process that owns the spool, with its pid
    media/x/ID  content of item ID; x is the last letter of its id
    incoming/   content on its way in; worth nothing after a crash
    salvaged/   content whose row was lost with a damaged database; goes as dead items do
    headroom    space for the database to go on working on a full disk
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

from relayd import files
from relayd.errors import Rejected, SpoolError, SpoolFull, SpoolLocked, SpoolUnwritable, Unsettled
from relayd.files import Staged
from relayd.model import Capture
from relayd.spool import database
from relayd.spool.rows import is_id

log = logging.getLogger("relayd.spool")

SHELVES = "0123456789abcdefghjkmnpqrstvwxyz"
NAMES_AT_ONCE = 500


class SpoolFolder:
    """One spool on disk. Every call blocks: not in the loop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.media = root / "media"
        self.incoming = root / "incoming"
        self.salvaged = root / "salvaged"
        self._headroom = root / "headroom"
        self._lock_fd: int | None = None
        self.linked: set[str] = set()
        """Items whose file was seen to have a second name: whoever has that can still write to it."""

    # --- owning it

    def lock(self) -> None:
        """Own this folder until `unlock` or death. Raises SpoolLocked, or SpoolError if it cannot be made or used."""
        try:
            self._make_root()
            lock_fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise SpoolError(
                f"the spool folder {self.root} cannot be used: {error.strerror}; check spool.path, its owner and rights"
            ) from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(lock_fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock_fd)
            raise SpoolLocked(
                f"the spool {self.root} belongs to the running process {owner}: stop it first, or give this one "
                "another spool.path"
            ) from error
        self._lock_fd = lock_fd
        with contextlib.suppress(OSError):  # the pid is for people; a full disk must not keep us from owning the lock
            os.ftruncate(lock_fd, 0)
            os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _make_root(self) -> None:
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in missing:
            self.sync(folder.parent)

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def prepare(self) -> None:
        """Make the folders that are missing, durably."""
        if not (self.media / SHELVES[-1]).is_dir():
            self.media.mkdir(mode=0o700, exist_ok=True)
            for shelf in SHELVES:
                (self.media / shelf).mkdir(mode=0o700, exist_ok=True)
            self.sync(self.media)
        self.incoming.mkdir(mode=0o700, exist_ok=True)
        self.sync(self.root)

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        with _opened(folder) as folder_fd:
            files.fsync_folder(folder_fd)

    # --- content

    def path_of(self, item_id: str) -> Path:
        return self.media / item_id[-1] / item_id

    def stage(self, capture: Capture, source_fd: int | None, item_id: str, size_limit: int) -> Staged:
        """Bring the content in: on the disk, under its final name. Nothing stays behind on failure.

        Raises SpoolFull when the disk has no room, Quarantined over the limit, Unsettled when somebody writes to it.
        """
        with _opened(self.incoming) as incoming_fd, _opened(self.media / item_id[-1]) as shelf_fd:
            try:
                if capture.file is not None and source_fd is not None:
                    staged = files.link_or_copy(
                        source_fd,
                        incoming_fd,
                        item_id,
                        may_link=capture.file.is_finished,
                        size_limit=size_limit,
                        origin=capture.file.origin,
                    )
                else:
                    staged = files.write_bytes(capture.payload or b"", incoming_fd, item_id)
                self._shelve(item_id, incoming_fd, shelf_fd)
            except OSError as error:
                raise _refused(error, self.root) from error
        return staged

    def open_media(self, item_id: str) -> FileIO:
        """Unbuffered, read-only, at offset 0. Raises Rejected if it is gone."""
        try:
            return self.path_of(item_id).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise Rejected(f"the spooled file of item {item_id} is gone: run `relayd spool check`") from error

    def trouble_with(self, item_id: str, size_bytes: int) -> str | None:
        """Why the media of an item is not what was accepted, as far as a look at its size can tell; None if it is, or
        if the disk will not say: then whoever reads it hears that, and nothing else waits for it."""
        try:
            found = self.path_of(item_id).lstat()
        except FileNotFoundError:
            return "the spooled file is gone"
        except OSError as error:
            log.warning("cannot look at the media of %s: %s", item_id, error.strerror)
            return None
        if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
            return f"the spooled file has {found.st_size} bytes instead of {size_bytes}"
        if found.st_nlink > 1:
            self.linked.add(item_id)
        return None

    def completes(self, earlier_id: str, item_id: str) -> bool:
        """Whether one item goes on where the other ends, or fills in what was zeros: most of its blocks are there."""
        try:
            with self.open_media(earlier_id) as earlier, self.open_media(item_id) as item:
                return files.is_continued(earlier.fileno(), item.fileno())
        except (Rejected, OSError):
            return False

    def discard(self, item_ids: Iterable[str]) -> None:
        """Remove media that nobody is owed. What cannot be removed is a stray, and swept later."""
        for item_id in item_ids:
            try:
                self.path_of(item_id).unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot remove the media of %s: %s", item_id, error.strerror)

    def unshare(self, item_id: str, sha256: str) -> None:
        """Replace a hard link by a copy of its own. Raises Unsettled if it is no longer what was accepted."""
        with (
            _opened(self.incoming) as incoming_fd,
            _opened(self.media / item_id[-1]) as shelf_fd,
            self.open_media(item_id) as media,
        ):
            if os.fstat(media.fileno()).st_nlink == 1:
                return
            try:
                staged = files.link_or_copy(
                    media.fileno(), incoming_fd, item_id, may_link=False, size_limit=os.fstat(media.fileno()).st_size
                )
                if staged.sha256 != sha256:
                    os.unlink(item_id, dir_fd=incoming_fd)
                    raise Unsettled(f"the file was written to after item {item_id} was accepted")
                self._shelve(item_id, incoming_fd, shelf_fd)
            except OSError as error:
                raise _refused(error, self.root) from error

    def digest(self, item_id: str) -> str:
        """SHA-256 of the media as it is now."""
        with self.open_media(item_id) as media:
            return hashlib.file_digest(media, "sha256").hexdigest()

    def names(self) -> Iterator[list[str]]:
        """All names in media/, shelf by shelf, some hundreds at a time."""
        for shelf in SHELVES:
            batch: list[str] = []
            with os.scandir(self.media / shelf) as entries:
                for entry in entries:
                    batch.append(entry.name)
                    if len(batch) == NAMES_AT_ONCE:
                        yield batch
                        batch = []
            if batch:
                yield batch

    def is_empty(self) -> bool:
        """Whether there is no media at all."""
        return not self.media.is_dir() or next(self.names(), None) is None

    def clear_incoming(self) -> int:
        """Remove what was on its way in when the last process ended."""
        count = 0
        with os.scandir(self.incoming) as entries:
            for entry in entries:
                (self.incoming / entry.name).unlink()
                count += 1
        return count

    def set_aside(self, item_id: str) -> None:
        """Keep a file whose row was lost."""
        self.salvaged.mkdir(mode=0o700, exist_ok=True)
        self.path_of(item_id).rename(self.salvaged / item_id)

    def bring_back(self, item_id: str) -> None:
        """Its row was found after all."""
        (self.salvaged / item_id).rename(self.path_of(item_id))

    # --- headroom

    def keep_headroom(self, size_bytes: int, floor_bytes: int) -> bool:
        """Take hold of the headroom, unless that would leave less than `floor_bytes` free. True if it is there."""
        try:
            if self._headroom.exists() and self._headroom.stat().st_size >= size_bytes:
                return True
            found = os.statvfs(self.root)
            if found.f_bavail * found.f_frsize < floor_bytes + 2 * size_bytes:
                return False
            headroom_fd = os.open(self._headroom, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(headroom_fd, 0, size_bytes)
            finally:
                os.close(headroom_fd)
        except OSError as error:
            log.warning("no headroom for a full disk: %s", error.strerror)
            return False
        return True

    def release_headroom(self) -> bool:
        """The disk is full: give the headroom to the database. True if there was any."""
        try:
            self._headroom.unlink()
        except OSError:
            return False
        log.warning("the disk is full: using the spool's headroom to go on recording deliveries")
        return True

    def _shelve(self, item_id: str, incoming_fd: int, shelf_fd: int) -> None:
        """From incoming/ to its place, and the name on the disk."""
        if not is_id(item_id):
            raise ValueError(f"{item_id!r} is no item id")
        os.rename(item_id, item_id, src_dir_fd=incoming_fd, dst_dir_fd=shelf_fd)
        try:
            files.fsync_folder(shelf_fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(item_id, dir_fd=shelf_fd)
            raise


def _refused(error: OSError, root: Path) -> SpoolError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpoolFull(f"the disk of {root} is full")
    if error.errno == errno.EROFS or not _can_be_written(root):
        return SpoolUnwritable(f"{root} cannot be written ({error.strerror}): {database.DISK_REMEDY}")
    return SpoolError(f"cannot bring a file into {root}: {error.strerror}")


def _can_be_written(root: Path) -> bool:
    """Whether it is not the disk of the original that fails."""
    try:
        with _opened(root / "incoming") as incoming_fd:
            trial_fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=incoming_fd)
            try:
                os.write(trial_fd, b"\0")
                os.fsync(trial_fd)
            finally:
                os.close(trial_fd)
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP  # a file system without nameless files: nobody can say
    return True


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder_fd
    finally:
        os.close(folder_fd)
