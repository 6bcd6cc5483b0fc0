"""What damage left behind: databases that were set aside, and media without a row.

Promises: it counts as used. A database goes as soon as room is needed, since what could be read of it is in the new
one; else all of it goes as dead items do. While a database still waits to be salvaged, neither it nor media goes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path

from relayd.spool import database, salvage
from relayd.spool.media import SpoolFolder

log = logging.getLogger("relayd.spool")

BLOCK_BYTES = 512
"""In which the kernel counts what a file takes."""
PREFIX = "aside:"
"""Of a note that says since when, in steady time, something is there."""


class Leftovers:
    """Of one spool. Every call blocks: not in the loop."""

    def __init__(self, folder: SpoolFolder) -> None:
        self.size_bytes = 0
        """What they take of the disk, as of the last look."""
        self._folder = folder
        self._salvaged: tuple[int, int] = (0, 0)

    def look(self) -> dict[str, list[Path]]:
        """Everything that may go one day, by a name that is another one as soon as there is something new."""
        waiting = salvage.waiting(self._folder)
        asides = [path for path in self._folder.root.glob(f"{database.FILE_NAME}.damaged-*") if path.is_file()]
        changed_ns, salvaged_bytes = self._look_at_salvaged()
        self.size_bytes = salvaged_bytes + sum(map(_size_of, asides))
        found: dict[str, list[Path]] = {}
        for path in asides:
            name = path.name.removesuffix("-wal").removesuffix("-shm")
            if name not in waiting:
                found.setdefault(PREFIX + name, []).append(path)
        if salvaged_bytes and not waiting:
            found[f"{PREFIX}{self._folder.salvaged.name}@{changed_ns}"] = [self._folder.salvaged]
        return found

    def drop(self, paths: list[Path]) -> None:
        """Remove what `look` named."""
        for path in paths:
            if path == self._folder.salvaged:
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            log.warning("%s is removed: it was left behind by damage of the database", path)
        self.look()

    def make_room(self) -> int:
        """Let go of the databases that were salvaged; how many."""
        asides = [paths for paths in self.look().values() if self._folder.salvaged not in paths]
        for paths in asides:
            self.drop(paths)
        return len(asides)

    def _look_at_salvaged(self) -> tuple[int, int]:
        """When it was changed last, and what is in it: looked through only after a change."""
        try:
            changed_ns = self._folder.salvaged.stat().st_mtime_ns
        except FileNotFoundError:
            return 0, 0
        if changed_ns != self._salvaged[0]:
            with os.scandir(self._folder.salvaged) as entries:
                self._salvaged = changed_ns, sum(_size_of(Path(entry)) for entry in entries)
        return self._salvaged


def _size_of(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_blocks * BLOCK_BYTES
    return 0
