"""Reading a file that may be hostile: by position, in blocks, and never more than a fixed amount of it.

Promises: the descriptor's own offset stays where it was; nothing is read past the end that the file had when it was
opened; `TooCostly` ends a walk through a file that is made to be walked through for ever.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from relayd.files import size_in_words

HEAD_BYTES = 4096
_BLOCK_BYTES = 64 * 1024
_MOST_BYTES = 96 * 1024 * 1024
_MOST_STEPS = 60_000


class TooCostly(Exception):
    """This file would take too long to be judged: it is taken as it is."""


@dataclass(slots=True)
class Content:
    """One open file of `size` bytes. Small reads near one another cost one system call for 64 KiB."""

    descriptor: int
    size: int
    head: bytes
    _block: bytes = b""
    _block_at: int = 0
    _steps: int = 0
    _bytes: int = field(default=0)

    def read(self, at: int, length: int) -> bytes:
        """Up to `length` bytes at `at`; fewer at the end of the file."""
        length = min(length, self.size - at)
        if length <= 0 or at < 0:
            return b""
        self._spend(0)
        if not (self._block_at <= at and at + length <= self._block_at + len(self._block)):
            wanted = max(length, min(_BLOCK_BYTES, self.size - at))
            self._block, self._block_at = os.pread(self.descriptor, wanted, at), at
            self._spend(wanted)
        start = at - self._block_at
        return self._block[start : start + length]

    def tail(self, length: int) -> bytes:
        """The last bytes."""
        return self.read(max(0, self.size - length), length)

    def _spend(self, length: int) -> None:
        self._steps += 1
        self._bytes += length
        if self._steps > _MOST_STEPS or self._bytes > _MOST_BYTES:
            raise TooCostly


def missing(content: Content, end: int) -> str:
    """`it ends 1.2 MB before …` begins with this; `end` is where the file should end."""
    return f"it ends {size_in_words(end - content.size)} before"


def open_content(descriptor: int) -> Content:
    """The file as it is now. Raises OSError."""
    return Content(descriptor, os.fstat(descriptor).st_size, os.pread(descriptor, HEAD_BYTES, 0))
