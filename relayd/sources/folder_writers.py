"""What the kernel's hints tell of the writers of files of which no lease can be had."""

from __future__ import annotations

import enum
from collections import OrderedDict

from asyncinotify import Mask

from relayd import clock

_MOST_WRITERS = 8192
_LONGEST_WORK_SECONDS = 3600.0
"""A file can be cut short without being opened: that looks like a writer who never closes."""


class Writer(enum.Enum):
    """What the kernel's hints tell of a file's writer, where no lease can be had."""

    UNKNOWN = "nothing is known of it"
    AT_WORK = "it was written to, and not closed since"
    CLOSED = "it was closed, and not written to since"


_NOBODY = (Writer.UNKNOWN, 0.0)


class Writers:
    """Which files are being written to: a file that was written to and not closed since has a writer, however quiet it
    is. A bounded number of names; of those that do not fit nothing is known."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[Writer, float]] = OrderedDict()
        self._moved: tuple[int, Writer] = (0, Writer.UNKNOWN)

    def of(self, path: bytes) -> Writer:
        writer, since = self._known.get(path, _NOBODY)
        is_over = writer is Writer.AT_WORK and clock.monotonic() - since > _LONGEST_WORK_SECONDS
        return Writer.UNKNOWN if is_over else writer

    def note(self, path: bytes, mask: Mask, cookie: int) -> None:
        """One event."""
        if mask & Mask.MOVED_FROM:
            self._moved = (cookie, self._known.pop(path, _NOBODY)[0])
        elif mask & Mask.DELETE:
            self._known.pop(path, None)
        elif mask & Mask.MOVED_TO:
            was = self._moved[1] if cookie and self._moved[0] == cookie else Writer.UNKNOWN
            self._set(path, Writer.AT_WORK if was is Writer.AT_WORK else Writer.CLOSED)
        elif mask & Mask.CLOSE_WRITE:
            self._set(path, Writer.CLOSED)
        elif mask & Mask.MODIFY:
            self._set(path, Writer.AT_WORK)

    def _set(self, path: bytes, writer: Writer) -> None:
        self._known[path] = (writer, clock.monotonic())
        self._known.move_to_end(path)
        if len(self._known) > _MOST_WRITERS:
            self._known.popitem(last=False)
