"""Sub-folders that are empty since everything was taken out of them, and their removal once they are old.

Promises: only folders below the configured one, and only those that held something that was taken; what is known of
them outlives restarts. They are removed by rmdir alone, which the kernel refuses where there is anything in one. A
clock that is set forward makes none old that was emptied under our eyes.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from relayd import clock, files, progress
from relayd.errors import SpoolError
from relayd.memory import Memory
from relayd.sources.faults import Faults
from relayd.sources.folder_threads import Threads

MOST_KNOWN = 50_000
"""More than these are left where they are."""
AT_ONCE = 1000
KEY = "emptied "
_STUCK = (errno.EACCES, errno.EPERM, errno.EROFS)


class Emptied:
    """Of one source. `after_seconds` None: all sub-folders stay."""

    def __init__(self, memory: Memory, after_seconds: float | None, faults: Faults) -> None:
        self._memory = memory
        self._after_seconds = after_seconds
        self._faults = faults
        self._touched: dict[bytes, None] = {}
        self._known: dict[bytes, float] | None = None

    def note(self, gone: Iterable[bytes]) -> None:
        """These files were taken, and are no longer there."""
        if self._after_seconds is not None:
            self._touch(path.rpartition(b"/")[0] for path in gone)

    async def tidy(self, folder_fd: int, threads: Threads) -> None:
        """Look which of the folders are empty now, and remove some that have been so for long. Raises OSError if the
        disk fails."""
        if self._after_seconds is None:
            return
        known = await self._recalled()
        touched = list(islice(self._touched, AT_ONCE))
        began = clock.monotonic() - self._after_seconds
        old = [path for path in islice(known, AT_ONCE) if known[path] <= began]
        before_ns = int((clock.now() - self._after_seconds) * 1e9)
        outcome = await threads.run("empty folders are removed", _look, folder_fd, touched, old, before_ns)
        for path in touched:
            self._touched.pop(path, None)
        for path in list(islice(known, AT_ONCE)):  # the others have their turn next
            known[path] = known.pop(path)
        self._touch(path.rpartition(b"/")[0] for path in outcome.removed)
        await self._keep(known, outcome)
        if outcome.stuck:
            self._faults.set("emptied", outcome.stuck)
        elif old:
            self._faults.clear("emptied")

    def _touch(self, folders: Iterable[bytes]) -> None:
        for folder in folders:
            if folder and len(self._touched) < MOST_KNOWN:
                self._touched[folder] = None

    async def _recalled(self) -> dict[bytes, float]:
        """Path → since when it is known to be empty (monotonic), for ever if from before the start."""
        if self._known is None:
            facts = await self._memory.everything()
            own = (key.removeprefix(KEY) for key in facts if key.startswith(KEY))
            self._known = {path.encode("latin-1"): float("-inf") for path in own}
        return self._known

    async def _keep(self, known: dict[bytes, float], outcome: _Outcome) -> None:
        gone = [path for path in (*outcome.removed, *outcome.used) if known.pop(path, None) is not None]
        new = [path for path in outcome.empty if path not in known][: max(0, MOST_KNOWN - len(known))]
        known.update(dict.fromkeys(new, clock.monotonic()))
        wanted = [self._memory.remember(_key(path), {}) for path in new]
        wanted += [self._memory.remember(_key(path), None) for path in gone]
        for failure in await asyncio.gather(*wanted, return_exceptions=True):
            if failure is not None and not isinstance(failure, SpoolError):  # what is not kept is only not removed
                raise failure


@dataclass(slots=True)
class _Outcome:
    empty: list[bytes] = field(default_factory=list)
    removed: list[bytes] = field(default_factory=list)
    used: list[bytes] = field(default_factory=list)
    stuck: str = ""


def _look(folder_fd: int, touched: Sequence[bytes], old: Sequence[bytes], before_ns: int) -> _Outcome:
    outcome = _Outcome()
    for path in touched:
        progress.go_on()
        if _is_empty(folder_fd, path):
            outcome.empty.append(path)
    for path in old:
        progress.go_on()
        try:
            if _remove(folder_fd, path, before_ns):
                outcome.removed.append(path)
        except OSError as error:
            if error.errno in _STUCK:
                remedy = "give the service write permission on the folder that holds it, or take remove_empty out"
                outcome.stuck = f"the empty sub-folder {files.printable(path)} cannot be removed: {remedy}"
            else:  # something is in it, it is a mount point, or it is gone
                outcome.used.append(path)
    return outcome


def _is_empty(folder_fd: int, path: bytes) -> bool:
    try:
        with files.opened_folder(folder_fd, path) as inner_fd, os.scandir(inner_fd) as entries:
            return not any(True for _ in entries)
    except OSError:
        return False


def _remove(folder_fd: int, path: bytes, before_ns: int) -> bool:
    """Whether it was old enough, and is gone. Raises OSError."""
    with files.parent_of(folder_fd, path) as (parent_fd, name):
        if os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mtime_ns > before_ns:
            return False
        os.rmdir(name, dir_fd=parent_fd)
    return True


def _key(path: bytes) -> str:
    return KEY + path.decode("latin-1")
