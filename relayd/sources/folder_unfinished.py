"""Files that are cut off: how long each has been quiet, and whether it is all that there will ever be.

Promises: from the first look at a file on, quiet is counted by the clock that never jumps: a wall clock that is set
shortens nothing. What was before that look counts by the later of the file's two times, so that a restart does not
begin anew. A bounded number of files is remembered.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from relayd import clock
from relayd.model import Origin

MOST_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class _Seen:
    """When this very content was seen first, and how long it had been quiet by then."""

    content: tuple[int, int, int, int]
    at: float
    quiet_seconds: float


class Unfinished:
    """Of one source. `after_seconds` None: such files stay where they are. May be asked from any thread."""

    def __init__(self, after_seconds: float | None = None) -> None:
        self._after_seconds = after_seconds
        self._seen: dict[bytes, _Seen] = {}
        self._lock = threading.Lock()

    def is_over(self, origin: Origin, found: os.stat_result) -> bool:
        """Whether this file has been quiet for so long that nothing more will come."""
        left = self.left_seconds(origin, found)
        return left is not None and left <= 0

    def left_seconds(self, origin: Origin, found: os.stat_result) -> float | None:
        """How long it must still be quiet to be taken as it is; None: it never is."""
        if self._after_seconds is None:
            return None
        seen = self._first_seen(origin.path, found)
        return self._after_seconds - seen.quiet_seconds - (clock.monotonic() - seen.at)

    def when(self, origin: Origin, path: str) -> str:
        """How `It is taken as soon as it changes` goes on, for people."""
        if self._after_seconds is None:
            return ', and never as it is, since its source has unfinished = "keep"'
        try:
            left = self.left_seconds(origin, os.lstat(path))
        except OSError:
            return ""
        return (
            ", and as it is at the next look" if left is None or left <= 0 else f", and as it is in {clock.span(left)}"
        )

    def _first_seen(self, path: bytes, found: os.stat_result) -> _Seen:
        content = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        with self._lock:
            seen = self._seen.get(path)
            if seen is None or seen.content != content:
                quiet = clock.now() - max(found.st_mtime_ns, found.st_ctime_ns) / 1e9
                seen = _Seen(content, clock.monotonic(), max(0.0, quiet))
                self._seen.pop(path, None)
                if len(self._seen) >= MOST_REMEMBERED:
                    del self._seen[next(iter(self._seen))]
                self._seen[path] = seen
            return seen
