"""Originals that were taken and are still in their folder for a while: take early, let go late.

Half of all programs still want a file that they have closed: they set its times, rename it, ask for its size, or go on
writing. So it stays for `linger` after its last change, and whatever changes until then is that of the same item.

Promises: a record for each file that is held, found by its path and by its inode; the files themselves are looked at in
threads, and no descriptor is kept meanwhile. Nobody is let go of whose writer may still be there.
"""

from __future__ import annotations

import enum
import errno
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from relayd import clock, files
from relayd.model import Held, Origin
from relayd.sources.folder_file import FileDesk, Left, change_time

MISSING_SECONDS = 10.0
"""So long a file whose name is gone is waited for under another one."""


@dataclass(slots=True, kw_only=True)
class Taken:
    """A file whose content is in the spool. `changed_ns` is its change time when that content was read, None if that is
    not known, or too close to tell. It stays for `seconds` after its last change: `due` (monotonic) is when it may be
    let go. It `is_missing` once its name is gone: another one may turn up."""

    held: Held
    changed_ns: int | None
    seconds: float
    due: float
    is_missing: bool = False

    @property
    def origin(self) -> Origin:
        return self.held.origin

    @property
    def item_id(self) -> str:
        return self.held.item_id


class Change(enum.Enum):
    """What has become of a file that was taken."""

    NONE = "it is as it was taken"
    YOUNG = "something was done to it a moment ago"
    TIMES = "its time was set"
    CONTENT = "it was written to"
    WRITER = "a program has it open for writing"
    GONE = "its name is gone"
    REPLACED = "another file has its name"
    LEFT = "it was as it was taken, and is gone now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A second look at a file that was taken. `origin` and `changed_ns` are as of now; `age_seconds` is how long ago
    anything was done to it."""

    change: Change
    origin: Origin
    changed_ns: int | None
    age_seconds: float = 0.0


class Linger:
    """The records of one open folder."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._by_path: dict[bytes, Taken] = {}
        self._by_inode: dict[int, Taken] = {}

    def __len__(self) -> int:
        return len(self._by_inode)

    def at(self, path: bytes) -> Taken | None:
        """What was taken from this path and is still there, as far as is known."""
        return self._by_path.get(path)

    def of(self, origin: Origin) -> Taken | None:
        """What was taken from this inode, under whatever name."""
        return self._by_inode.get(origin.inode)

    def paths(self) -> frozenset[bytes]:
        return frozenset(self._by_path)

    def item_ids(self) -> list[str]:
        return [taken.item_id for taken in self._by_inode.values()]

    def add(self, held: Held, changed_ns: int | None = None, *, seconds: float | None = None) -> None:
        """From now on it stays for as long as a writer may come back. What was known of the same file is forgotten."""
        seconds = self.seconds if seconds is None else seconds
        before = self._by_inode.get(held.origin.inode)
        if before is not None:
            self.drop(before)
        taken = Taken(held=held, changed_ns=changed_ns, seconds=seconds, due=clock.monotonic() + seconds)
        self._by_path[held.origin.path] = self._by_inode[held.origin.inode] = taken

    def put_off(self, taken: Taken) -> None:
        """It changed just now, or may be changing."""
        taken.due = clock.monotonic() + taken.seconds

    def miss(self, taken: Taken) -> None:
        """Its name is gone, or another file's. If it was renamed, its new name is about to be seen: on a busy machine
        later than that a writer would want it."""
        if self._by_path.get(taken.origin.path) is taken:
            del self._by_path[taken.origin.path]
        taken.is_missing = True
        taken.due = clock.monotonic() + max(taken.seconds, MISSING_SECONDS)

    def drop(self, taken: Taken) -> None:
        """It is let go."""
        if self._by_path.get(taken.origin.path) is taken:
            del self._by_path[taken.origin.path]
        if self._by_inode.get(taken.origin.inode) is taken:
            del self._by_inode[taken.origin.inode]

    def due(self, limit: int) -> list[Taken]:
        """Those that may be let go by now."""
        now = clock.monotonic()
        found = (taken for taken in tuple(self._by_inode.values()) if taken.due <= now)
        return [taken for taken, _ in zip(found, range(limit), strict=False)]


def look_again(desk: FileDesk, taken: Taken) -> Again:
    """In a thread: what has become of it."""
    try:
        descriptor = files.open_safely(desk.folder_fd, taken.origin.path)
    except OSError as error:
        return _not_opened(desk, taken, error)
    try:
        return _compared(desk, taken, descriptor)
    finally:
        os.close(descriptor)


def let_go(desk: FileDesk, some: Iterable[Taken], keep: bool) -> list[tuple[Taken, Again | OSError]]:
    """In a thread: remove those that are as they were taken. An OSError says that one cannot be removed."""
    results: list[tuple[Taken, Again | OSError]] = []
    for taken in some:
        again = look_again(desk, taken)
        if again.change is Change.NONE and 0 <= again.age_seconds < taken.seconds:
            again = replace(again, change=Change.YOUNG)
        if again.change is not Change.NONE or keep:
            results.append((taken, again))
            continue
        try:
            results.append((taken, _removed(desk, again)))
        except OSError as error:
            results.append((taken, error))
    return results


def _removed(desk: FileDesk, again: Again) -> Again:
    left = desk.remove_known(again.origin)
    change = {
        Left.REMOVED: Change.LEFT,
        Left.RENAMED: Change.GONE,
        Left.REPLACED: Change.REPLACED,
        Left.RETURNED: Change.WRITER,
    }[left]
    return Again(change=change, origin=again.origin, changed_ns=again.changed_ns)


def _compared(desk: FileDesk, taken: Taken, descriptor: int) -> Again:
    found = os.fstat(descriptor)
    origin = files.origin_of(taken.origin.path, found)

    def it(change: Change) -> Again:
        age_seconds = clock.now() - found.st_ctime
        return Again(change=change, origin=origin, changed_ns=change_time(found), age_seconds=age_seconds)

    if found.st_ino != taken.origin.inode:
        return it(Change.REPLACED)
    if desk.has_writer(descriptor, taken.origin.path):
        return it(Change.WRITER)
    if taken.changed_ns is not None and found.st_ctime_ns == taken.changed_ns:
        return it(Change.NONE)
    if found.st_size != taken.origin.size_bytes or files.digest(descriptor) != taken.held.sha256:
        return it(Change.CONTENT)
    if not files.is_same(origin, os.fstat(descriptor)):
        return it(Change.WRITER)
    return it(Change.NONE if found.st_mtime_ns == taken.origin.mtime_ns else Change.TIMES)


def _not_opened(desk: FileDesk, taken: Taken, error: OSError) -> Again:
    """It may have lost the right to be read, which is no change: its writer made it private."""

    def it(change: Change) -> Again:
        return Again(change=change, origin=taken.origin, changed_ns=taken.changed_ns, age_seconds=math.inf)

    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return it(Change.GONE)
    if error.errno not in (errno.EACCES, errno.EPERM):
        return it(Change.REPLACED if error.errno == errno.ELOOP else Change.WRITER)
    try:
        with files.parent_of(desk.folder_fd, taken.origin.path) as (parent_fd, name):
            found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except OSError:
        return it(Change.GONE)
    if found.st_ino != taken.origin.inode:
        return it(Change.REPLACED)
    is_same = (found.st_size, found.st_mtime_ns) == (taken.origin.size_bytes, taken.origin.mtime_ns)
    return it(Change.NONE if is_same else Change.WRITER)
