"""One file of a drop folder: whether it may be taken, and its removal once it is in the spool. Runs in threads.

Promises: a file is opened by the safe-open rule, judged on its descriptor alone, and removed only while its name still
is the very file that was taken and no writer has come back to it.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import errno
import os
import pwd
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from relayd import clock, files, mediatype
from relayd.model import Capture, Kind, OpenFile, Origin
from relayd.sources.folder_unfinished import Unfinished
from relayd.sources.folder_writers import Writer
from relayd.sources.name_pattern import NamePattern
from relayd.sources.name_times import capture_time
from relayd.sources.path_filter import looks_temporary
from relayd.threads import PartThreads

HARD_LINKED = "it has a second name (a hard link): remove the other one, or copy the file instead of linking it"
UNREADABLE = "it cannot be read: give the service read permission on it"
TOO_BIG = "it is bigger than max_file_size"
SYMBOLIC_LINK = "a symbolic link"
RACY_SECONDS = 0.02
"""Two changes within one tick of the kernel's clock have the same time."""
COPIED_BYTES = 8 * 1024 * 1024
LONGEST_WAIT_TO_LINK_SECONDS = 5.0
"""What is bigger is not written to the disk twice for the sake of so short a while: it is linked once it is old."""
_WITH_AN_END = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/heic", "image/avif"}
_KINDS = {
    stat.S_IFLNK: SYMBOLIC_LINK,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Ready:
    """To be put now. Whoever gets this closes the descriptor. `is_leased`: a lease is held, so no writer can come.
    `is_old`: it has been as it is for so long that nobody wants it any more. `changed_ns` as `change_time` says it.
    `is_proven`: something else than quiet says that its writer is done."""

    file: OpenFile
    content_type: str
    is_leased: bool
    damage: str = ""
    is_old: bool = True
    changed_ns: int | None = None
    is_proven: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What the names of a source's files tell."""

    source: str
    pattern: NamePattern | None
    zone: datetime.tzinfo | None

    def capture(self, ready: Ready, threads: PartThreads) -> Capture:
        """What goes to the intake. The time of capture is the one in the path, else that of the last write."""
        origin = ready.file.origin
        path = files.text_of(origin.path)
        attributes = (self.pattern.match(path) if self.pattern else None) or {}
        name = path.rpartition("/")[2]
        captured_at, time_from = capture_time(path, attributes, self.zone, origin.mtime_ns / 1e9)
        return Capture(
            source=self.source,
            name=name,
            kind=Kind.MEDIA,
            content_type=ready.content_type,
            captured_at=captured_at,
            time_from=time_from,
            file=replace(ready.file, threads=threads),
            attributes=attributes,
            damage=ready.damage,
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not before it has been quiet for a while: with `reason`, it will go to quarantine then, else it will be taken.
    `seconds` is how long; None: as long as all that is cut off."""

    origin: Origin
    reason: str | None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """To quarantine."""

    origin: Origin
    reason: str


class Busy(enum.Enum):
    """Nothing to do about this path now."""

    GONE = "there is no such file"
    ALIAS = "it is a link to another file of the folder, which is taken by itself"
    WRITER = "a program still has it open for writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """A file that waits: what it was when it began to, and for how long. `is_settled`: for as long as one that is cut
    off has to, before it is refused."""

    origin: Origin
    seconds: float
    is_settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a file must have been quiet: `closed_seconds` where its last close was seen, or its content has an end;
    `blind_seconds` where nothing tells of its writer; `temporary_seconds` under a name that looks temporary."""

    settle_seconds: float = 2.0
    closed_seconds: float = 2.0
    blind_seconds: float = 60.0
    temporary_seconds: float = 600.0
    linger_seconds: float = 0.0


Look = Ready | Waiting | Refused | Busy


class Left(enum.Enum):
    """How `remove` left the place where the file was."""

    REMOVED = "removed"
    RENAMED = "its name is gone, and it may have another one"
    REPLACED = "another file has taken its name"
    RETURNED = "a writer came back to it"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDesk:
    """Looks at files below one open folder, and removes them."""

    folder_fd: int
    max_file_size: int
    trust_leases: bool
    trust_close: bool
    hard_link: bool
    trust_inodes: bool = True
    unfinished: Unfinished = field(default_factory=Unfinished)
    patience: Patience = Patience()
    writer_of: Callable[[bytes], Writer] = lambda path: Writer.UNKNOWN

    def look(self, path: bytes, quiet: Quiet | None, may_be_linked: bool) -> Look:
        """Judge the file at `path`. `quiet` says for how long it has waited, and as what.

        `may_be_linked`: its second name is known to be ours. Raises OSError if the disk or the network fails.
        """
        try:
            with files.parent_of(self.folder_fd, path) as (parent_fd, name):
                found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    return Busy.GONE
                if stat.S_ISLNK(found.st_mode) and self.is_alias(path, parent_fd, name):
                    return Busy.ALIAS
                if not stat.S_ISREG(found.st_mode):  # opening a device may do something
                    return _refused_kind(path, found)
                descriptor = os.open(name, files.SAFE_OPEN_FLAGS, dir_fd=parent_fd)
        except OSError as error:
            return self._not_opened(path, quiet, error)
        with _closed_unless_kept(descriptor) as keep:
            look = self._judge(path, descriptor, quiet, may_be_linked)
            if isinstance(look, Ready):
                keep()
        return look

    def is_alias(self, path: bytes, parent_fd: int, name: bytes) -> bool:
        """Whether the link there leads to somewhere below the folder, by its words; nobody follows it."""
        target = os.readlink(name, dir_fd=parent_fd)
        folder = os.fsencode(Path(f"/proc/self/fd/{self.folder_fd}").readlink())
        place = os.path.normpath(os.path.join(folder, os.path.dirname(path), target))  # noqa: PTH118, PTH120 - bytes
        return place.startswith(folder.rstrip(b"/") + b"/")

    def has_writer(self, descriptor: int, path: bytes) -> bool:
        """Whether somebody has it open for writing, as far as can be told. No lease is kept."""
        is_free = self._is_free(descriptor)
        return is_free is False or (is_free is None and self.writer_of(path) is Writer.AT_WORK)

    def _is_free(self, descriptor: int) -> bool | None:
        """A lease is asked for and given back: whoever wants to write must not have to wait for it."""
        is_free = files.hold_lease(descriptor) if self.trust_leases else None
        if is_free:
            files.release_lease(descriptor)
        return is_free

    def _not_opened(self, path: bytes, quiet: Quiet | None, error: OSError) -> Look:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return Busy.GONE
        if error.errno == errno.EWOULDBLOCK:  # another program holds a lease on it
            return Busy.WRITER
        if error.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO):
            raise error
        try:
            with files.parent_of(self.folder_fd, path) as (parent_fd, name):
                found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except OSError:
            return Busy.GONE  # its folder is closed to us or gone: the scan tells which
        if not stat.S_ISREG(found.st_mode):
            return _refused_kind(path, found)
        return _later(files.origin_of(path, found), quiet, UNREADABLE)

    def _judge(self, path: bytes, descriptor: int, quiet: Quiet | None, may_be_linked: bool) -> Look:
        is_leased = self.trust_leases and self.patience.linger_seconds == 0  # it goes with the commit: let nobody in
        is_free = files.hold_lease(descriptor) if is_leased else self._is_free(descriptor)
        found = os.fstat(descriptor)  # after the lease: a writer who comes later is seen by what this says
        origin = files.origin_of(path, found)
        if not stat.S_ISREG(found.st_mode):
            return _refused_kind(path, found)
        if found.st_nlink == 0:
            return Busy.GONE
        if found.st_size > self.max_file_size:
            return Refused(origin, f"{TOO_BIG}: {found.st_size} bytes of at most {self.max_file_size}")
        if is_free is False or (is_free is None and self.writer_of(path) is Writer.AT_WORK):
            return Busy.WRITER
        if found.st_nlink > 1 and not may_be_linked:
            return _later(origin, quiet, HARD_LINKED)
        is_old = self._is_old(found, origin, quiet)
        wanted_seconds = self._wanted_seconds(path, descriptor, is_free)
        if is_free and self.hard_link and not is_old and found.st_size > COPIED_BYTES:
            wanted_seconds = max(wanted_seconds, min(self.patience.linger_seconds, LONGEST_WAIT_TO_LINK_SECONDS))
        if not _has_waited(origin, quiet, wanted_seconds):
            return Waiting(origin, None, wanted_seconds)
        verdict = mediatype.judge(descriptor, files.text_of(path.rpartition(b"/")[2]))
        is_all = verdict.is_cut and self.unfinished.is_over(origin, found)
        if verdict.is_refused and not is_all:
            return _later(origin, quiet, verdict.damage)
        if is_free and is_old and not is_leased and self.hard_link:  # nobody wants it any more: let nobody in
            is_leased = bool(files.hold_lease(descriptor))
            if not is_leased or not files.is_same(origin, os.fstat(descriptor)):
                return Busy.WRITER
        is_leased = is_leased and bool(is_free)
        file = OpenFile(descriptor=descriptor, origin=origin, is_finished=is_leased and self.hard_link)
        return Ready(
            file,
            verdict.content_type,
            is_leased,
            verdict.damage,
            is_old,
            change_time(found),
            is_proven=bool(is_free) or wanted_seconds < self.patience.blind_seconds,
        )

    def _wanted_seconds(self, path: bytes, descriptor: int, is_free: bool | None) -> float:
        """For how long it must have been as it is."""
        patience, name = self.patience, path.rpartition(b"/")[2]
        if looks_temporary(name):
            return patience.temporary_seconds
        if is_free:
            return 0.0 if self.trust_close else patience.settle_seconds
        if self.writer_of(path) is Writer.CLOSED or _has_an_end(descriptor, name):
            return patience.closed_seconds
        return patience.blind_seconds

    def _is_old(self, found: os.stat_result, origin: Origin, quiet: Quiet | None) -> bool:
        """Nothing was done to it for as long as its writer may want it."""
        linger_seconds = self.patience.linger_seconds
        return found.st_ctime + linger_seconds < clock.now() or _has_waited(origin, quiet, linger_seconds)

    def remove(self, taken: Ready) -> tuple[Left, bool]:
        """Unlink what was taken; True with it if somebody may still write to the content, should the spool share it.

        Raises OSError when the name cannot be removed. A lease is held only meanwhile, so that a writer who opens the
        file just now is noticed, unless `look` got one that is held since then.
        """
        descriptor = taken.file.descriptor
        if taken.is_leased or not self.trust_leases:
            return self._remove(taken, is_leased=taken.is_leased)
        is_free = files.hold_lease(descriptor)
        if is_free is False:
            return Left.RETURNED, os.fstat(descriptor).st_nlink > 1
        try:
            return self._remove(taken, is_leased=bool(is_free))
        finally:
            files.release_lease(descriptor)

    def _remove(self, taken: Ready, *, is_leased: bool) -> tuple[Left, bool]:
        path, descriptor = taken.file.origin.path, taken.file.descriptor
        found = os.fstat(descriptor)
        is_whole = not is_leased or files.lease_is_whole(descriptor)
        if not is_whole or not files.is_same(taken.file.origin, found):
            return Left.RETURNED, found.st_nlink > 1
        try:
            with files.parent_of(self.folder_fd, path) as (parent_fd, name):
                named = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
                if (named.st_dev, named.st_ino) != (found.st_dev, found.st_ino):
                    return Left.REPLACED, found.st_nlink > 1
                os.unlink(name, dir_fd=parent_fd)
        except (FileNotFoundError, NotADirectoryError):
            links = os.fstat(descriptor).st_nlink - taken.file.is_finished  # one may be the spool's
            return (Left.RENAMED, True) if links > 0 else (Left.REMOVED, False)
        if is_leased and not files.lease_is_whole(descriptor):
            return self._put_back(path, descriptor), True
        return Left.REMOVED, os.fstat(descriptor).st_nlink > 1

    def _put_back(self, path: bytes, descriptor: int) -> Left:
        """A writer opened the file in the moment before its name went: give the name back, for what it will write."""
        try:
            with files.parent_of(self.folder_fd, path) as (parent_fd, name):
                os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=parent_fd, follow_symlinks=True)
        except OSError:
            return Left.REMOVED  # the name is taken anew, or nothing else holds the content: it cannot be had back
        return Left.RETURNED

    def folder_of(self, path: bytes) -> str:
        """The absolute path of the folder that holds the file at `path`, for people."""
        folder = os.fsencode(Path(f"/proc/self/fd/{self.folder_fd}").readlink())
        return files.text_of(os.path.join(folder, os.path.dirname(path)).rstrip(b"/"))  # noqa: PTH118, PTH120 - bytes

    def remove_known(self, origin: Origin) -> Left:
        """The same for a file that was accepted before a crash, or that could not be removed then."""
        try:
            descriptor = files.open_safely(self.folder_fd, origin.path)
        except (FileNotFoundError, NotADirectoryError):
            return Left.RENAMED  # or removed by somebody else
        except PermissionError:
            return self._remove_unread(origin)
        with _closed_unless_kept(descriptor):
            found = os.fstat(descriptor)
            if not is_same_content(origin, found, by_inode=self.trust_inodes):
                return Left.REPLACED
            now = OpenFile(descriptor=descriptor, origin=files.origin_of(origin.path, found), is_finished=False)
            return self.remove(Ready(now, "", is_leased=False))[0]

    def _remove_unread(self, origin: Origin) -> Left:
        """Its writer made it private after it was taken."""
        try:
            with files.parent_of(self.folder_fd, origin.path) as (parent_fd, name):
                found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
                if not is_same_content(origin, found, by_inode=self.trust_inodes):
                    return Left.REPLACED
                os.unlink(name, dir_fd=parent_fd)
        except (FileNotFoundError, NotADirectoryError):
            return Left.RENAMED
        return Left.REMOVED


def change_time(found: os.stat_result) -> int | None:
    """What tells later whether anything at all was done to the file since; None if it is too young to tell."""
    return None if found.st_ctime_ns > (clock.now() - RACY_SECONDS) * 1e9 else found.st_ctime_ns


def is_same_content(origin: Origin, found: os.stat_result, *, by_inode: bool) -> bool:
    """As `files.is_same`, but for the device: its number may be another one after each mount, and so may the inode's
    where it does not last."""
    is_same_inode = origin.inode == found.st_ino or not by_inode
    return is_same_inode and (origin.size_bytes, origin.mtime_ns) == (found.st_size, found.st_mtime_ns)


def removal_remedy(error: OSError, folder: str) -> str:
    """Taken, but still in the sub-folder of this absolute path: why, and what to do."""
    if error.errno == errno.EROFS:
        return "taken files cannot be removed, the folder is mounted read-only: mount it writable or set keep_originals"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"taken files cannot be removed from {files.printable(folder)}: give the service write permission on it"
            f" ({permit(folder)}), or set keep_originals"
        )
    return f"taken files cannot be removed: {error.strerror or error}"


def permit(folder: str) -> str:
    """The command that gives this process's user back its rights in a folder; rsync -a, tar and chmod take them away by
    the mask of its access list."""
    user = str(os.geteuid())
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(os.geteuid()).pw_name
    return f"setfacl -m u:{user}:rwx,m::rwx {shlex.quote(files.printable(folder))}"


def _later(origin: Origin, quiet: Quiet | None, reason: str) -> Look:
    """Its writer may come back and make it whole, so nothing is refused for this before it has been quiet."""
    is_over = quiet is not None and quiet.is_settled and quiet.origin == origin
    return Refused(origin, reason) if is_over else Waiting(origin, reason)


def _has_waited(origin: Origin, quiet: Quiet | None, seconds: float) -> bool:
    return seconds <= 0 or (quiet is not None and quiet.origin == origin and quiet.seconds >= seconds)


def _has_an_end(descriptor: int, name: bytes) -> bool:
    """Whether the content itself shows that it is all there: pictures do."""
    verdict = mediatype.judge(descriptor, files.text_of(name))
    return verdict.content_type in _WITH_AN_END and verdict.flaw is None


def _refused_kind(path: bytes, found: os.stat_result) -> Refused:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "of an unknown kind")
    return Refused(files.origin_of(path, found), f"it is {kind}, not a regular file")


class _Keep:
    def __init__(self) -> None:
        self.is_kept = False

    def __call__(self) -> None:
        self.is_kept = True


@contextmanager
def _closed_unless_kept(descriptor: int) -> Iterator[_Keep]:
    keep = _Keep()
    try:
        yield keep
    finally:
        if not keep.is_kept:
            os.close(descriptor)
