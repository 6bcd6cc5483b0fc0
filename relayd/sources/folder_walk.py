"""In which order sub-folders are looked at, however many there are: the newest first.

Promises: memory for so many of one folder's sub-folders at most; for the others that folder is listed again when their
turn has come. Those that are as new as one another come in the order of their names.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

MOST_HELD = 10_000
AT_ONCE = -(2**63)
"""The age of what is looked at before everything else."""


class Turn(NamedTuple):
    """A folder to be listed. `age` orders turns: minus the time of its last change, in ns. Of its sub-folders those
    are wanted that come after `after`; its files only with `has_files`."""

    age: int
    path: bytes
    after: tuple[int, bytes] | tuple[()] = ()
    has_files: bool = True


class Frontier:
    """The folders that are still to be listed on one way through a tree."""

    def __init__(self, *turns: Turn) -> None:
        self._turns = list(turns)
        heapq.heapify(self._turns)

    def __len__(self) -> int:
        return len(self._turns)

    def pop(self) -> Turn:
        return heapq.heappop(self._turns)

    def push(self, turn: Turn) -> None:
        heapq.heappush(self._turns, turn)

    @contextmanager
    def children(self, turn: Turn) -> Iterator[Children]:
        """Collects the sub-folders of the folder that is being listed."""
        found = Children(turn.after)
        yield found
        for age, path in found.newest():
            self.push(Turn(age, path))
        if found.last is not None:
            self.push(Turn(found.last[0], turn.path, found.last, has_files=False))


class Children:
    """The newest of one folder's sub-folders. `last`: the last of them, if they are not all."""

    def __init__(self, after: tuple[int, bytes] | tuple[()]) -> None:
        self._after = after
        self._found: list[tuple[int, bytes]] = []
        self.last: tuple[int, bytes] | None = None

    def add(self, path: bytes, mtime_ns: int) -> None:
        one = (-mtime_ns, path)
        if not self._after or one > self._after:
            self._found.append(one)
            if len(self._found) >= 2 * MOST_HELD:
                self._cut()

    def newest(self) -> list[tuple[int, bytes]]:
        if len(self._found) > MOST_HELD:
            self._cut()
        return self._found

    def _cut(self) -> None:
        self._found = heapq.nsmallest(MOST_HELD, self._found)
        self.last = self._found[-1]
