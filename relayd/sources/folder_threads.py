"""Threads that work on one open descriptor, and its end.

Promises: the descriptor is closed when the last of them is through, not under its hands: its number may be another
folder's by then. Whoever waits for a thread may be cancelled at once; nobody has to wait for a disk that hangs.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """The pool's threads, as far as they work for one owner."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._busy: set[asyncio.Future[Any]] = set()
        self._close: Callable[[], None] | None = None

    async def run(self, do: Callable[..., T], *args: Any) -> T:
        """In a thread."""
        work = asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(do, *args))
        self._busy.add(work)
        work.add_done_callback(self._is_through)
        return await asyncio.shield(work)

    def close(self, close: Callable[[], None]) -> None:
        """Nothing more is run: call this once nothing runs any more."""
        self._close = close
        self._close_if_idle()

    def _is_through(self, work: asyncio.Future[Any]) -> None:
        self._busy.discard(work)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._close is not None and not self._busy:
            close, self._close = self._close, None
            close()
