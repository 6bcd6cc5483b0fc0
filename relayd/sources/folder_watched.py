"""Which sub-folders are watched, where not all can be: the newest.

Promises: no more than so many. Those that hold others which are watched outlast all that hold none: where a new folder
will come is known for longest.
"""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Generic, TypeVar

T = TypeVar("T")


class Watched(Generic[T]):
    """Path → what belongs to it, and when the folder was changed last (ns)."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[bytes, tuple[int, T]] = {}
        self._held: Counter[bytes] = Counter()
        self._by_age: list[tuple[int, bytes]] = []

    def __contains__(self, path: bytes) -> bool:
        return path in self._entries

    @property
    def is_full(self) -> bool:
        return len(self._entries) >= self._most

    def paths(self) -> list[bytes]:
        return list(self._entries)

    def get(self, path: bytes) -> T | None:
        entry = self._entries.get(path)
        return None if entry is None else entry[1]

    def put(self, path: bytes, mtime_ns: int, belonging: T) -> None:
        before = self._entries.get(path)
        self._entries[path] = (mtime_ns, belonging)
        if before is None:
            self._held[_parent(path)] += 1
        if before is None or before[0] != mtime_ns:
            self._line_up(path, mtime_ns)

    def remove(self, path: bytes) -> T | None:
        entry = self._entries.pop(path, None)
        if entry is None:
            return None
        parent = _parent(path)
        self._held[parent] -= 1
        if not self._held[parent]:
            del self._held[parent]
            if parent in self._entries:
                self._line_up(parent, self._entries[parent][0])
        return entry[1]

    def within(self, path: bytes) -> list[bytes]:
        """Those at this path and below it."""
        below = [one for one in self._entries if one.startswith(path + b"/")] if path in self._held else []
        return [*below, path] if path in self._entries else below

    def oldest(self) -> tuple[int, bytes] | None:
        """The one to go first: (changed at, path)."""
        while self._by_age:
            mtime_ns, path = self._by_age[0]
            if path not in self._held and path in self._entries and self._entries[path][0] == mtime_ns:
                return mtime_ns, path
            heapq.heappop(self._by_age)  # it changed, went, or holds others; it is lined up again when it holds none
        return None

    def _line_up(self, path: bytes, mtime_ns: int) -> None:
        heapq.heappush(self._by_age, (mtime_ns, path))
        if len(self._by_age) > 4 * self._most:
            self._by_age = [(at, one) for one, (at, _) in self._entries.items()]
            heapq.heapify(self._by_age)


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
