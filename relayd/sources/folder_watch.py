"""Hints that a drop folder has changed: by inotify where writers are local, by polling where they may be elsewhere.

Promises: hints only. One that is lost costs time, never a file, since the scan is the truth. Inotify watches are set on
descriptors, so that a path that is swapped meanwhile leads nowhere.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asyncinotify import Event, Inotify, Mask

if TYPE_CHECKING:
    import watchfiles

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
_LONGEST_STEP_MS = 500


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

    def __init__(self, folder: str, poll_seconds: float) -> None:
        self.trouble = ""
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._entered: set[bytes] = set()
        self._stop = threading.Event()
        # It would log names as they are, and every change.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)

    def enter(self, folder_fd: int, path: bytes) -> None:
        if path not in self._entered:
            self._entered.add(path)
            self._stop.set()

    def keep(self, folders: Collection[bytes]) -> None:
        if not self._entered.issubset(folders):
            self._entered.intersection_update(folders)
            self._stop.set()

    async def hints(self) -> AsyncIterator[Hint]:
        while True:
            self._stop = threading.Event()
            try:
                async for changes in self._changes():
                    for change, path in changes:
                        if change.name != "deleted":
                            yield os.fsencode(os.path.relpath(path, self._folder))
            except (OSError, UnicodeError, RuntimeError, ExceptionGroup) as error:
                # A name that is no UTF-8 is enough: then plain scans do its work.
                log.debug("polling of %a is interrupted: %a", self._folder, str(error))
                await asyncio.sleep(self._poll_seconds)
            yield Change.RESCAN

    def close(self) -> None:
        self._stop.set()

    def _changes(self) -> AsyncIterator[set[tuple[watchfiles.Change, str]]]:
        import watchfiles  # costs a tenth of an idle relay's memory, and few relays poll

        folders = [self._folder, *(f"{self._folder}/{os.fsdecode(path)}" for path in sorted(self._entered))]
        poll_ms = max(1, round(self._poll_seconds * 1000))
        step_ms = max(20, min(_LONGEST_STEP_MS, poll_ms // 2))
        return watchfiles.awatch(
            *folders,
            watch_filter=None,
            debounce=2 * step_ms,
            step=step_ms,
            stop_event=self._stop,
            force_polling=True,
            poll_delay_ms=poll_ms,
            recursive=False,  # its own walk would follow symbolic links
            ignore_permission_denied=True,
        )


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
