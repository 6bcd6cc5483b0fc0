"""The truth about a drop folder: which files are there that nobody has looked at yet. Runs in threads.

Promises: one pass over the names, without a stat for each; memory for one batch of names, and about 70 bytes for each
file that the ledger knows. No symbolic link is followed, and sub-folders are opened one component at a time.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from relayd import files, mediatype, progress
from relayd.model import Origin
from relayd.sources.base import Known
from relayd.sources.folder_file import HARD_LINKED, TOO_BIG, UNREADABLE, FileDesk, Left, is_same_content
from relayd.sources.path_filter import PathFilter

MOST_FOLDERS = 10_000
MOST_LEVELS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one pass is for: at most `limit` files that are not in `skip`, and whose `key_of` is not in `known`.

    `enter(descriptor, path)` is called for each sub-folder before its names are read: a watch set there misses nothing.
    """

    known: Collection[int]
    skip: Collection[bytes]
    limit: int
    enter: Callable[[int, bytes], None]


@dataclass(slots=True)
class Scan:
    """What one pass found: up to a batch of candidates, oldest first, and whether there were more."""

    paths: list[bytes] = field(default_factory=list)
    has_more: bool = False
    folders: set[bytes] = field(default_factory=set)
    troubles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """Walks one open folder, and its sub-folders if `is_recursive`."""

    folder_fd: int
    wanted: PathFilter
    is_recursive: bool

    def scan(self, wish: Wish) -> Scan:
        """One pass. Raises OSError if the folder itself cannot be read; a sub-folder that cannot is a trouble."""
        scan = Scan()
        walk = deque([b""])
        while walk:
            prefix = walk.popleft()
            try:
                self._scan_one(prefix, scan, walk, wish)
            except OSError as error:
                if not prefix:
                    raise
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    _note(scan, f"sub-folder {files.printable(prefix)}: {error.strerror}")
        scan.paths.sort(key=self._age)
        return scan

    def _scan_one(self, prefix: bytes, scan: Scan, walk: deque[bytes], wish: Wish) -> None:
        progress.go_on()
        folder_fd = self._open_folder(prefix)
        try:
            if prefix:
                scan.folders.add(prefix)
                wish.enter(folder_fd, prefix)
            start = prefix + b"/" if prefix else b""
            with os.scandir(b"/proc/self/fd/%d" % folder_fd) as entries:
                for path, entry in _unknown(entries, start, wish.known):
                    self._sort_in(path, entry, scan, walk, wish)
                    if scan.has_more and not self.is_recursive:
                        return
        finally:
            os.close(folder_fd)

    def _sort_in(self, path: bytes, entry: os.DirEntry[bytes], scan: Scan, walk: deque[bytes], wish: Wish) -> None:
        if self.is_recursive and entry.is_dir(follow_symlinks=False):
            self._descend(path, entry.name, scan, walk)
        elif path in wish.skip or not self.wanted.wants(path) or entry.is_dir(follow_symlinks=False):
            return
        elif len(scan.paths) < wish.limit:
            scan.paths.append(path)
        else:
            scan.has_more = True

    def _descend(self, path: bytes, name: bytes, scan: Scan, walk: deque[bytes]) -> None:
        if not self.wanted.enters(name):
            return
        if path.count(b"/") >= MOST_LEVELS:
            _note(scan, f"sub-folder {files.printable(path)} is more than {MOST_LEVELS} levels deep")
        elif len(scan.folders) + len(walk) >= MOST_FOLDERS:
            _note(scan, f"there are more than {MOST_FOLDERS} sub-folders")
        else:
            walk.append(path)

    def _age(self, path: bytes) -> int:
        try:
            return self.stat(path).st_mtime_ns
        except OSError:
            return 0

    def _open_folder(self, path: bytes) -> int:
        if not path:
            return os.dup(self.folder_fd)
        with files.parent_of(self.folder_fd, path) as (parent_fd, name):
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)

    def stat(self, path: bytes) -> os.stat_result:
        """What is at `path` now, a link not followed. Raises OSError."""
        with files.parent_of(self.folder_fd, path) as (parent_fd, name):
            return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)

    def sync(self, paths: Collection[bytes]) -> None:
        """Make it durable that these names are gone. A folder that is gone itself needs none."""
        for prefix in {path.rpartition(b"/")[0] for path in paths}:
            try:
                folder_fd = self._open_folder(prefix)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                files.fsync_folder(folder_fd)
            finally:
                os.close(folder_fd)


@dataclass(slots=True)
class Audit:
    """What became of some of the files that the ledger knows: each is in one of the lists."""

    same: list[Origin] = field(default_factory=list)
    changed: list[Origin] = field(default_factory=list)
    gone: list[Origin] = field(default_factory=list)
    stuck: OSError | None = None


def audit(rows: Sequence[Known], scanner: Scanner, desk: FileDesk, may_remove: bool) -> Audit:
    """Compare what the ledger knows with what is there, and remove what was accepted already."""
    result = Audit()
    bare_device = _bare_device(scanner.folder_fd)
    for row in rows:
        progress.go_on()
        try:
            found = scanner.stat(row.origin.path)
        except (FileNotFoundError, NotADirectoryError):
            # An empty folder on another device is a mount point without its mount: what is not seen is not gone.
            is_hidden = bare_device is not None and row.origin.device != bare_device
            (result.same if is_hidden else result.gone).append(row.origin)
            continue
        except OSError:
            result.same.append(row.origin)  # cannot be seen now: neither gone nor changed
            continue
        if not is_same_content(row.origin, found) or (row.reason and _is_cured(row, found, scanner, desk)):
            result.changed.append(row.origin)
        elif row.item_id is not None and may_remove:
            _finish(row.origin, desk, result)
        else:
            result.same.append(row.origin)
    return result


def key_of(origin: Origin) -> int:
    """What the scan compares: path and inode, without a stat. The hash of bytes is keyed, so nobody can forge one."""
    return hash((origin.path, origin.inode))


def _unknown(
    entries: Iterator[os.DirEntry[bytes]], start: bytes, known: Collection[int]
) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    for entry in entries:
        path = start + entry.name
        if hash((path, entry.inode())) not in known:
            yield path, entry


def _note(scan: Scan, trouble: str) -> None:
    if len(scan.troubles) < 10 and trouble not in scan.troubles:
        scan.troubles.append(trouble)


def _bare_device(folder_fd: int) -> int | None:
    """The device of the folder if nothing at all is in it, else None."""
    with os.scandir(b"/proc/self/fd/%d" % folder_fd) as entries:
        return None if any(True for _ in entries) else os.fstat(folder_fd).st_dev


def _finish(origin: Origin, desk: FileDesk, result: Audit) -> None:
    try:
        left = desk.remove_known(origin)
    except OSError as error:
        result.stuck = error
        result.same.append(origin)
        return
    {Left.REMOVED: result.gone, Left.REPLACED: result.changed, Left.RETURNED: result.same}[left].append(origin)


def _is_cured(row: Known, found: os.stat_result, scanner: Scanner, desk: FileDesk) -> bool:
    """Whether somebody has put right what kept this file out, without touching its content."""
    if row.reason == HARD_LINKED:
        return found.st_nlink == 1
    if row.reason is not None and row.reason.startswith(TOO_BIG):
        return found.st_size <= desk.max_file_size
    if row.reason is not None and mediatype.is_cut(row.reason):
        return desk.unfinished.is_over(row.origin, found)
    if row.reason != UNREADABLE or not stat.S_ISREG(found.st_mode):
        return False
    with files.parent_of(scanner.folder_fd, row.origin.path) as (parent_fd, name):
        return os.access(name, os.R_OK, dir_fd=parent_fd, effective_ids=True)
