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
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Protocol

from asyncinotify import Event, Inotify, Mask

from relayd import files, progress
from relayd.sources.folder_threads import Threads

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
_EVENTS = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR | Mask.EXCL_UNLINK
_SELF_EVENTS = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED
_BUFFERED_EVENTS = 64


class Change(enum.Enum):
    """A hint that names no file."""

    RESCAN = "a folder came, went or moved"
    LOST = "hints were lost: look at everything"


Hint = bytes | Change


class Watch(Protocol):
    """What tells of changes below one open folder."""

    trouble: str
    """Why some of it cannot be watched, in words; empty if all of it is."""

    def enter(self, folder_fd: int, path: bytes) -> None:
        """Watch this sub-folder too; nothing happens if it is watched already. Called from a thread."""

    def keep(self, folders: Collection[bytes]) -> None:
        """No other sub-folders are left."""

    def hints(self) -> AsyncIterator[Hint]:
        """For ever: paths below the folder of files that may be finished, and changes."""

    def close(self) -> None: ...


class InotifyWatch:
    """The kernel tells. Raises OSError if it cannot (too many instances or watches, no read permission)."""

    def __init__(self, folder_fd: int, *, is_recursive: bool) -> None:
        self.trouble = ""
        self._events = _EVENTS | Mask.CREATE if is_recursive else _EVENTS
        self._is_recursive = is_recursive
        self._paths: dict[int, bytes] = {}
        self._entered: dict[bytes, tuple[int, int]] = {}
        self._inotify = Inotify(cache_size=_BUFFERED_EVENTS)
        try:
            self._add(folder_fd, b"")
        except OSError:
            self._inotify.close()
            raise

    def enter(self, folder_fd: int, path: bytes) -> None:
        found = os.fstat(folder_fd)
        if self._entered.get(path) == (found.st_dev, found.st_ino):
            return
        try:
            self._add(folder_fd, path)
        except OSError as error:
            self.trouble = remedy_for(error)
        else:
            self._entered[path] = (found.st_dev, found.st_ino)

    def keep(self, folders: Collection[bytes]) -> None:
        if len(self._entered) == len(folders):
            self.trouble = ""
        for watch in self._inotify.watches:
            path = self._paths.get(watch.wd, b"")
            if path and path not in folders:
                self._forget(watch.wd)
                self._inotify.rm_watch(watch)

    async def hints(self) -> AsyncIterator[Hint]:
        async for event in self._inotify:
            hint = self._hint(event)
            if hint is not None:
                yield hint

    def close(self) -> None:
        self._inotify.close()

    def _add(self, folder_fd: int, path: bytes) -> None:
        watch = self._inotify.add_watch(f"/proc/self/fd/{folder_fd}", self._events)
        self._paths[watch.wd] = path

    def _forget(self, number: int) -> None:
        self._entered.pop(self._paths.pop(number, b""), None)

    def _hint(self, event: Event) -> Hint | None:
        if Mask.Q_OVERFLOW & event.mask:
            return Change.LOST
        watch = event.watch
        folder = None if watch is None else self._paths.get(watch.wd)
        if watch is not None and Mask.IGNORED & event.mask:
            self._forget(watch.wd)
            return Change.RESCAN
        if folder is None:
            return Change.RESCAN
        if _SELF_EVENTS & event.mask:
            self._entered.pop(folder, None)
            return Change.RESCAN
        if Mask.ISDIR & event.mask:
            return Change.RESCAN if self._is_recursive else None
        if event.name is None or not event.mask & (Mask.CLOSE_WRITE | Mask.MOVED_TO):
            return None
        name = os.fsencode(event.name)
        return folder + b"/" + name if folder else name


class PollWatch:
    """Looks at sizes and times again and again, since nobody tells what another machine does on a network mount."""

    def __init__(self, folder_fd: int, poll_seconds: float, threads: Threads) -> None:
        self.trouble = ""
        self._folder_fd = folder_fd
        self._poll_seconds = poll_seconds
        self._threads = threads
        self._entered: set[bytes] = {b""}

    def enter(self, folder_fd: int, path: bytes) -> None:
        self._entered.add(path)

    def keep(self, folders: Collection[bytes]) -> None:
        self._entered.intersection_update({b"", *folders})

    async def hints(self) -> AsyncIterator[Hint]:
        before: dict[bytes, _Looks] = {}
        while True:
            try:
                now = await self._threads.run("it is polled", _look_at_all, self._folder_fd, sorted(self._entered))
            except OSError as error:
                log.debug("polling of a folder is interrupted: %s", error)  # the scan says what is wrong
                now = before
            for folder, looks in now.items():
                if folder not in before:
                    yield Change.RESCAN
                for path in _changed(before.get(folder, looks), looks):
                    yield path
            before = now
            await asyncio.sleep(self._poll_seconds)

    def close(self) -> None:
        """Nothing is held."""


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
    device = os.fstat(folder_fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            mount, _, system = line.partition(" - ")
            if mount.split(" ", 3)[2] == wanted:
                kind = system.split(" ", 1)[0]
                return kind if kind in _NETWORK_TYPES or kind.startswith("fuse.") else None
    return None


def remedy_for(error: OSError) -> str:
    """What to do when the kernel gives no watch."""
    if error.errno == errno.ENOSPC:
        return "too many inotify watches: raise fs.inotify.max_user_watches with sysctl"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many inotify instances: raise fs.inotify.max_user_instances with sysctl"
    return f"inotify cannot watch it ({error.strerror})"
