"""Threads that work on one open descriptor, and its end.

Promises: the descriptor is closed when the last of them is through, not under its hands: its number may be another
folder's by then. Whoever waits for a thread may be cancelled at once; nobody has to wait for a disk that hangs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from relayd.threads import PartThreads

T = TypeVar("T")


class Threads:
    """The source's threads, as far as they work for one owner."""

    def __init__(self, part: PartThreads) -> None:
        self.part = part
        self._busy = 0
        self._close: Callable[[], None] | None = None

    async def run(self, what: str, do: Callable[..., T], *args: Any, **options: Any) -> T:
        """In a thread; see `PartThreads.run`."""
        self._busy += 1

        def is_through() -> None:
            self._busy -= 1
            self._close_if_idle()

        return await self.part.run(what, do, *args, ended=is_through, **options)

    def close(self, close: Callable[[], None]) -> None:
        """Nothing more is run: call this, in the loop, once nothing runs any more."""
        self._close = close
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._close is not None and not self._busy:
            close, self._close = self._close, None
            close()
