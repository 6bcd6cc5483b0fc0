"""The truth about a drop folder: which files are there that nobody has looked at yet. Runs in threads.

Promises: one pass over the names, without a stat for each file; memory for one batch of names, and about 100 bytes
for each file that the ledger knows. However many sub-folders there are, no file in them is out of sight, and a new one
costs no look at the others. No symbolic link is followed, and sub-folders are opened one component at a time.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from relayd import files, mediatype, progress
from relayd.model import Origin
from relayd.sources.base import Known
from relayd.sources.folder_file import HARD_LINKED, SYMBOLIC_LINK, TOO_BIG, UNREADABLE, FileDesk, Left, is_same_content
from relayd.sources.folder_known import KnownFiles
from relayd.sources.folder_walk import AT_ONCE, Children, Frontier, Turn
from relayd.sources.folder_watch import Watch
from relayd.sources.path_filter import PathFilter

FOLDERS_AT_ONCE = 1000
"""So many of those that are told of, of the newest, and of the rest, are listed by one scan: about 30 ms for each."""
MOST_LEVELS = 400
MOST_TROUBLES = 10
NOTHING_AFTER = (2**63, b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one scan is for: at most `limit` files that are not in `skip`, and are not `known`.

    `watch` enters each sub-folder before its names are read, and so misses nothing; it leaves those that were looked
    for and are not there. `is_due`: look at the newest sub-folders, and go on with the others; else only at those that
    were told of.
    """

    known: KnownFiles
    skip: Collection[bytes]
    limit: int
    watch: Watch | None
    is_due: bool


@dataclass(slots=True)
class Scan:
    """What one scan found: up to a batch of candidates, oldest first, and whether there were more."""

    found: dict[bytes, None] = field(default_factory=dict)
    paths: list[bytes] = field(default_factory=list)
    has_more: bool = False
    troubles: list[str] = field(default_factory=list)


class Scanner:
    """Walks one open folder, and its sub-folders if `is_recursive`, a bounded number at a time: those that it was told
    of, then the newest, then the rest in turn. A tree of no more than `FOLDERS_AT_ONCE` is walked whole each time."""

    def __init__(self, *, folder_fd: int, wanted: PathFilter, is_recursive: bool) -> None:
        self.folder_fd = folder_fd
        self.wanted = wanted
        self.is_recursive = is_recursive
        self.trusts_inodes = True
        """Whether a file keeps its inode number."""
        self._told: deque[bytes] = deque()
        self._first = Frontier()
        self._newest = Frontier()
        self._rest = Frontier()
        self._rounds = 0
        self._rounds_wanted = 1
        self._troubles: dict[bytes, tuple[int, str]] = {}

    def tell(self, path: bytes) -> None:
        """There is something new about this sub-folder: it is looked at next, with all that is below it."""
        if self.wanted.enters(path.rpartition(b"/")[2]):
            self._told.append(path)

    def ask_for_all(self) -> None:
        """Everything must be looked at once more, from now on."""
        self._rounds_wanted = self._rounds + (2 if self._rest else 1)

    @property
    def is_hurried(self) -> bool:
        """Whether the next scan should follow at once."""
        is_owed = self._rounds < self._rounds_wanted and bool(self._rest or self._newest)
        return bool(self._told or self._first) or is_owed

    def scan(self, wish: Wish) -> Scan:
        """One scan. Raises OSError if the folder itself cannot be read; a sub-folder that cannot is a trouble."""
        scan = Scan()
        while self._told:
            self._first.push(Turn(AT_ONCE, self._told.popleft()))
        self._work_off(self._first, scan, wish, is_stopped_by_files=False)
        if wish.is_due:
            self._newest = Frontier(Turn(AT_ONCE, b""))
            self._work_off(self._newest, scan, wish)
            if not self._newest and not scan.has_more:
                self._rest = Frontier()
                self._end_round()
                self._rounds_wanted = self._rounds
        if not scan.has_more and (wish.is_due or self._rounds < self._rounds_wanted):
            self._go_on(scan, wish)
        scan.paths = sorted(scan.found, key=self._age)
        scan.troubles = [text for _, text in self._troubles.values()]
        return scan

    def _go_on(self, scan: Scan, wish: Wish) -> None:
        """With the rest; where there is none, with what the newest left."""
        if not self._rest:
            self._rest, self._newest = self._newest, Frontier()
        if self._rest:
            self._work_off(self._rest, scan, wish)
            if not self._rest and not scan.has_more:
                self._end_round()

    def _end_round(self) -> None:
        self._troubles = {path: seen for path, seen in self._troubles.items() if seen[0] >= self._rounds - 1}
        self._rounds += 1

    def _work_off(self, frontier: Frontier, scan: Scan, wish: Wish, *, is_stopped_by_files: bool = True) -> None:
        """Some of it. A folder with more files than are wanted now has another turn."""
        again: list[Turn] = []
        for _ in range(FOLDERS_AT_ONCE):
            if not frontier or (scan.has_more and is_stopped_by_files):
                break
            turn = frontier.pop()
            had_more, scan.has_more = scan.has_more, False
            try:
                self._scan_one(turn, frontier, scan, wish)
                self._troubles.pop(turn.path, None)
            except OSError as error:
                if not turn.path:
                    raise
                self._not_listed(turn.path, error, wish)
            if scan.has_more:
                again.append(turn._replace(after=NOTHING_AFTER))
            scan.has_more |= had_more
        for turn in again:
            frontier.push(turn)

    def _not_listed(self, path: bytes, error: OSError, wish: Wish) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            self._troubles.pop(path, None)
            if wish.watch is not None:
                wish.watch.leave(path)
        else:
            self._note(path, f"sub-folder {files.printable(path)}: {error.strerror}")

    def _scan_one(self, turn: Turn, frontier: Frontier, scan: Scan, wish: Wish) -> None:
        progress.go_on()
        with files.opened_folder(self.folder_fd, turn.path) as folder_fd, frontier.children(turn) as children:
            if turn.path and wish.watch is not None:
                wish.watch.enter(folder_fd, turn.path)
            start = turn.path + b"/" if turn.path else b""
            with os.scandir(b"/proc/self/fd/%d" % folder_fd) as entries:
                for entry in entries:
                    path = start + entry.name
                    if self._is_known(path, entry, wish.known):
                        continue
                    if self.is_recursive and entry.is_dir(follow_symlinks=False):
                        self._descend(path, entry, children)
                    elif turn.has_files:
                        self._sort_in(path, entry, scan, wish)
                    if scan.has_more and not self.is_recursive:
                        return

    def _is_known(self, path: bytes, entry: os.DirEntry[bytes], known: KnownFiles) -> bool:
        """By the inode that the listing says, which costs nothing; some file systems say another one there than that of
        the file."""
        inode = known.inode_at(path)
        if inode is None or not self.trusts_inodes:
            return inode is not None
        if inode == entry.inode():
            return True
        try:
            return inode == entry.stat(follow_symlinks=False).st_ino
        except OSError:
            return False

    def _sort_in(self, path: bytes, entry: os.DirEntry[bytes], scan: Scan, wish: Wish) -> None:
        if path in wish.skip or not self.wanted.wants(path) or entry.is_dir(follow_symlinks=False):
            return
        if path in scan.found or len(scan.found) < wish.limit:
            scan.found[path] = None
        else:
            scan.has_more = True

    def _descend(self, path: bytes, entry: os.DirEntry[bytes], children: Children) -> None:
        if not self.wanted.enters(entry.name):
            return
        if path.count(b"/") >= MOST_LEVELS:
            self._note(path, f"sub-folder {files.printable(path)} is more than {MOST_LEVELS} levels deep")
            return
        with contextlib.suppress(FileNotFoundError):
            children.add(path, entry.stat(follow_symlinks=False).st_mtime_ns)

    def _note(self, path: bytes, trouble: str) -> None:
        if len(self._troubles) < MOST_TROUBLES or path in self._troubles:
            self._troubles[path] = (self._rounds, trouble)

    def _age(self, path: bytes) -> int:
        try:
            return self.stat(path).st_mtime_ns
        except OSError:
            return 0

    def stat(self, path: bytes) -> os.stat_result:
        """What is at `path` now, a link not followed. Raises OSError."""
        with files.parent_of(self.folder_fd, path) as (parent_fd, name):
            return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)

    def sync(self, paths: Collection[bytes]) -> None:
        """Make it durable that these names are gone. A folder that is gone itself needs none."""
        for prefix in {path.rpartition(b"/")[0] for path in paths}:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                files.opened_folder(self.folder_fd, prefix) as folder_fd,
            ):
                files.fsync_folder(folder_fd)


@dataclass(slots=True)
class Audit:
    """What became of some of the files that the ledger knows: each is in one of the lists."""

    same: list[Origin] = field(default_factory=list)
    changed: list[Origin] = field(default_factory=list)
    gone: list[Origin] = field(default_factory=list)
    stuck: tuple[OSError, bytes] | None = None


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
        is_same = is_same_content(row.origin, found, by_inode=scanner.trusts_inodes)
        if not is_same or (row.reason and _is_cured(row, found, scanner, desk)):
            result.changed.append(row.origin)
        elif row.item_id is not None and may_remove:
            _finish(row.origin, desk, result)
        else:
            result.same.append(row.origin)
    return result


def _bare_device(folder_fd: int) -> int | None:
    """The device of the folder if nothing at all is in it, else None."""
    with os.scandir(b"/proc/self/fd/%d" % folder_fd) as entries:
        return None if any(True for _ in entries) else os.fstat(folder_fd).st_dev


def _finish(origin: Origin, desk: FileDesk, result: Audit) -> None:
    try:
        left = desk.remove_known(origin)
    except OSError as error:
        result.stuck = (error, origin.path)
        result.same.append(origin)
        return
    {
        Left.REMOVED: result.gone,
        Left.RENAMED: result.gone,
        Left.REPLACED: result.changed,
        Left.RETURNED: result.same,
    }[left].append(origin)


def _is_cured(row: Known, found: os.stat_result, scanner: Scanner, desk: FileDesk) -> bool:
    """Whether somebody has put right what kept this file out, without touching its content."""
    if row.reason == HARD_LINKED:
        return found.st_nlink == 1
    if row.reason is not None and row.reason.startswith(TOO_BIG):
        return found.st_size <= desk.max_file_size
    if row.reason is not None and mediatype.is_cut(row.reason):
        return desk.unfinished.is_over(row.origin, found)
    if stat.S_ISLNK(found.st_mode) and row.reason is not None and SYMBOLIC_LINK in row.reason:
        with files.parent_of(scanner.folder_fd, row.origin.path) as (parent_fd, name):
            return desk.is_alias(row.origin.path, parent_fd, name)
    if row.reason != UNREADABLE or not stat.S_ISREG(found.st_mode):
        return False
    with files.parent_of(scanner.folder_fd, row.origin.path) as (parent_fd, name):
        return os.access(name, os.R_OK, dir_fd=parent_fd, effective_ids=True)
