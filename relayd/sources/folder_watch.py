"""Hints that a drop folder has changed: by inotify where writers are local, by polling where they may be elsewhere.

Promises: hints only. One that is lost costs time, never a file, since the scan is the truth. Inotify watches are set on
descriptors, so that a path that is swapped meanwhile leads nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from asyncinotify import Event, Inotify, Mask
from asyncinotify import Watch as InotifyEntry

from relayd import files, progress
from relayd.sources.folder_threads import Threads
from relayd.sources.folder_watched import Watched
from relayd.sources.folder_writers import Writer, Writers

log = logging.getLogger("relayd.sources")

_NETWORK_TYPES = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
}
_NUMBERED_ANEW = {"9p", "cifs", "exfat", "fuse", "fuseblk", "msdos", "smb3", "smbfs", "vboxsf", "vfat"}
_EVENTS = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR | Mask.EXCL_UNLINK
_WRITER_EVENTS = Mask.MODIFY | Mask.MOVED_FROM | Mask.DELETE
_SELF_EVENTS = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT
_BUFFERED_EVENTS = 64
MOST_WATCHED = 10_000
"""Sub-folders that the kernel watches for us: the newest, and those that hold them. Each takes about 1 kB of its
memory."""
MOST_POLLED = 2000
MOST_FAILED = 1000


class Change(enum.Enum):
    """A hint that names nothing."""

    RESCAN = "the folder itself moved, or went"
    LOST = "hints were lost: look at everything"


@dataclass(frozen=True, slots=True)
class Sub:
    """A hint that this sub-folder came, went, or moved."""

    path: bytes


Hint = bytes | Sub | Change


class Watch(Protocol):
    """What tells of changes below one open folder."""

    @property
    def trouble(self) -> str:
        """Why some of it cannot be watched, in words; empty if all that should be is."""

    def writer_of(self, path: bytes) -> Writer:
        """What is known of the writer of this file. Called from threads."""

    def enter(self, folder_fd: int, path: bytes) -> None:
        """Watch this sub-folder too, if it is among the newest; nothing happens if it is watched already. Called from a
        thread."""

    def leave(self, path: bytes) -> None:
        """This sub-folder, with all below it, is not there. Called from a thread."""

    def entered(self) -> list[bytes]:
        """The sub-folders that are watched."""

    def hints(self) -> AsyncIterator[Hint]:
        """For ever: paths below the folder of files that may be finished, and changes."""

    def close(self) -> None: ...


class InotifyWatch:
    """The kernel tells. Raises OSError if it cannot (too many instances or watches, no read permission).

    With `tells_of_writers` each write is noticed, too: for files of others, of which no lease can be had.
    """

    def __init__(self, folder_fd: int, *, is_recursive: bool, tells_of_writers: bool = False) -> None:
        self._writers = Writers()
        self._events = _EVENTS | Mask.CREATE if is_recursive else _EVENTS
        if tells_of_writers:
            self._events |= _WRITER_EVENTS
        self._is_recursive = is_recursive
        self._lock = threading.Lock()
        self._paths: dict[int, bytes] = {}
        self._watched: Watched[_Entered] = Watched(MOST_WATCHED)
        self._failed: dict[bytes, str] = {}
        self._inotify = Inotify(cache_size=_BUFFERED_EVENTS)
        try:
            self._paths[self._add(folder_fd).wd] = b""
        except OSError:
            self._inotify.close()
            raise

    @property
    def trouble(self) -> str:
        return next(iter(self._failed.values()), "")

    def enter(self, folder_fd: int, path: bytes) -> None:
        found = os.fstat(folder_fd)
        identity = (found.st_dev, found.st_ino)
        with self._lock:
            entered = self._watched.get(path)
            if entered is not None and entered.identity == identity and self._paths.get(entered.watch.wd) == path:
                self._watched.put(path, found.st_mtime_ns, entered)
                return
            self._forget(path)
            if self._make_room(found.st_mtime_ns):
                self._enter(folder_fd, path, found.st_mtime_ns, identity)

    def _enter(self, folder_fd: int, path: bytes, mtime_ns: int, identity: tuple[int, int]) -> None:
        try:
            watch = self._add(folder_fd)
        except OSError as error:
            if len(self._failed) < MOST_FAILED:
                self._failed[path] = remedy_for(error)
            return
        self._failed.pop(path, None)
        before = self._paths.get(watch.wd)
        if before is not None:  # it is known by the name that it had
            self._watched.remove(before)
        self._paths[watch.wd] = path
        self._watched.put(path, mtime_ns, _Entered(watch, identity))

    def _make_room(self, mtime_ns: int) -> bool:
        """Whether there is room for one that was changed then: older ones go."""
        while self._watched.is_full:
            oldest = self._watched.oldest()
            if oldest is None or oldest[0] >= mtime_ns:
                return False
            self._forget(oldest[1])
        return True

    def leave(self, path: bytes) -> None:
        with self._lock:
            for one in self._watched.within(path):
                self._forget(one)
            for one in [one for one in self._failed if one == path or one.startswith(path + b"/")]:
                del self._failed[one]

    def entered(self) -> list[bytes]:
        with self._lock:
            return self._watched.paths()

    def writer_of(self, path: bytes) -> Writer:
        return self._writers.of(path)

    async def hints(self) -> AsyncIterator[Hint]:
        async for event in self._inotify:
            with self._lock:
                hint = self._hint(event)
            if hint is not None:
                yield hint

    def close(self) -> None:
        self._inotify.close()

    def _add(self, folder_fd: int) -> InotifyEntry:
        return self._inotify.add_watch(f"/proc/self/fd/{folder_fd}", self._events)

    def _forget(self, path: bytes) -> None:
        entered = self._watched.remove(path)
        if entered is not None and self._paths.get(entered.watch.wd) == path:
            del self._paths[entered.watch.wd]
            with contextlib.suppress(OSError):  # it went by itself, and the kernel took it back
                self._inotify.rm_watch(entered.watch)

    def _hint(self, event: Event) -> Hint | None:
        if Mask.Q_OVERFLOW & event.mask:
            self._writers = Writers()
            return Change.LOST
        watch = event.watch
        folder = None if watch is None else self._paths.get(watch.wd)
        if watch is None or folder is None:
            return None  # of one that was left
        if (_SELF_EVENTS | Mask.IGNORED) & event.mask:
            if Mask.IGNORED & event.mask:
                del self._paths[watch.wd]
                self._watched.remove(folder)
            return Sub(folder) if folder else Change.RESCAN
        if event.name is None:
            return None
        name = os.fsencode(event.name)
        path = folder + b"/" + name if folder else name
        if Mask.ISDIR & event.mask:
            return Sub(path) if self._is_recursive else None
        if self._events & Mask.MODIFY:
            self._writers.note(path, event.mask, event.cookie)
        return path if event.mask & (Mask.CLOSE_WRITE | Mask.MOVED_TO) else None


class PollWatch:
    """Looks at sizes and times again and again, since nobody tells what another machine does on a network mount."""

    def __init__(self, folder_fd: int, poll_seconds: float, threads: Threads) -> None:
        self.trouble = ""
        self._folder_fd = folder_fd
        self._poll_seconds = poll_seconds
        self._threads = threads
        self._lock = threading.Lock()
        self._watched: Watched[None] = Watched(MOST_POLLED)

    def enter(self, folder_fd: int, path: bytes) -> None:
        mtime_ns = os.fstat(folder_fd).st_mtime_ns
        with self._lock:
            oldest = self._watched.oldest() if self._watched.is_full and path not in self._watched else None
            if oldest is not None and oldest[0] >= mtime_ns:
                return
            if oldest is not None:
                self._watched.remove(oldest[1])
            self._watched.put(path, mtime_ns, None)

    def leave(self, path: bytes) -> None:
        with self._lock:
            for one in self._watched.within(path):
                self._watched.remove(one)

    def entered(self) -> list[bytes]:
        with self._lock:
            return self._watched.paths()

    def writer_of(self, path: bytes) -> Writer:
        return Writer.UNKNOWN

    async def hints(self) -> AsyncIterator[Hint]:
        before: dict[bytes, _Looks] = {}
        while True:
            folders = [b"", *sorted(self.entered())]
            try:
                now = await self._threads.run("it is polled", _look_at_all, self._folder_fd, folders)
            except OSError as error:
                log.debug("polling of a folder is interrupted: %s", error)  # the scan says what is wrong
                now = before
            for folder in [*(one for one in now if one not in before), *(one for one in before if one not in now)]:
                yield Sub(folder) if folder else Change.RESCAN
            for folder, looks in now.items():
                for path in _changed(before.get(folder, looks), looks):
                    yield path
            before = now
            await asyncio.sleep(self._poll_seconds)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class _Entered:
    watch: InotifyEntry
    identity: tuple[int, int]


_Looks = dict[bytes, tuple[int, int, int]]
"""Path → inode, size, time of the last write."""


def _look_at_all(folder_fd: int, folders: list[bytes]) -> dict[bytes, _Looks]:
    """One that has gone is left out. Raises OSError where the folder itself cannot be read."""
    found = {}
    for path in folders:
        progress.go_on()
        try:
            found[path] = _look_at(folder_fd, path)
        except (FileNotFoundError, NotADirectoryError):
            if not path:
                raise
    return found


def _look_at(folder_fd: int, folder: bytes) -> _Looks:
    start = folder + b"/" if folder else b""
    looks = {}
    with files.opened_folder(folder_fd, folder) as inner_fd, os.scandir(b"/proc/self/fd/%d" % inner_fd) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    looks[start + entry.name] = (found.st_ino, found.st_size, found.st_mtime_ns)
    return looks


def _changed(before: _Looks, now: _Looks) -> list[bytes]:
    return [path for path, look in now.items() if before.get(path) != look]


def network_type(folder_fd: int) -> str | None:
    """The type of file system if other machines may write to it without inotify telling, else None."""
    kind = file_system(folder_fd)
    return kind if kind in _NETWORK_TYPES or kind == "fuse" or kind.startswith("fuse.") else None


def has_lasting_inodes(folder_fd: int) -> bool:
    """Whether a file keeps its inode number for as long as it is there. FAT and FUSE have none on the disk, and number
    files anew whenever the kernel has forgotten them."""
    kind = file_system(folder_fd)
    return kind not in _NUMBERED_ANEW and not kind.startswith("fuse.")


def file_system(folder_fd: int) -> str:
    """The type of file system that it is on, as mount(8) calls it; empty if nobody says."""
    device = os.fstat(folder_fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            mount, _, system = line.partition(" - ")
            if mount.split(" ", 3)[2] == wanted:
                return system.split(" ", 1)[0]
    return ""


def remedy_for(error: OSError) -> str:
    """What to do when the kernel gives no watch."""
    if error.errno == errno.ENOSPC:
        return "too many inotify watches: raise fs.inotify.max_user_watches with sysctl"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many inotify instances: raise fs.inotify.max_user_instances with sysctl"
    return f"inotify cannot watch it ({error.strerror})"
