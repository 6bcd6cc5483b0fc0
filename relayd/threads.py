"""Threads that one part alone uses, so that a disk, a share or a name server that hangs stops nobody else.

Promises: at most so many threads as were asked for, made when there is work for them. Whoever waits may be cancelled at
once, and the process may end at once: nobody has to wait for a thread. `hang` names what has made no progress for too
long; should it come back, everything goes on. A descriptor is closed after the work that uses it, not under its hands:
its number may be another file's by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from relayd import clock, progress
from relayd.errors import RelaydError
from relayd.progress import Stopped

log = logging.getLogger("relayd.threads")

T = TypeVar("T")
HUNG_SECONDS = 30.0
"""Work that makes no progress for so long hangs, as far as we can tell."""
WATCHES = 20
"""How often it is looked at within that time."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Work that makes no progress: what it is, and since when (Unix seconds)."""

    what: str
    since: float

    def __str__(self) -> str:
        return f"no answer since {clock.rfc3339(self.since)} while {self.what}"


class Hung(RelaydError):
    """Work that makes no progress was given up."""

    def __init__(self, hang: Hang) -> None:
        super().__init__(str(hang))
        self.hang = hang


class PartThreads:
    """The threads of one part, by its name. Made and used in the loop."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._busy: dict[_Work, None] = {}
        self._is_stopping = False
        self._is_closed = False

    async def run(
        self,
        what: str,
        do: Callable[..., T],
        *args: Any,
        undo: Callable[[T], object] | None = None,
        uses: int = -1,
        ended: Callable[[], None] | None = None,
    ) -> T:
        """In a thread. `what` it is, in words that go on from "while" ("the folder is listed"). `undo` is called with
        the result if nobody waits for it any more; `uses` is a descriptor that `release` leaves open until this is
        over; `ended` is called in the loop when the thread is through, whoever still waits."""
        work = self._submit(_Work(what, lambda: do(*args), undo=undo, uses=uses, ended=ended))
        try:
            result: T = await asyncio.shield(work.future)
        except asyncio.CancelledError:
            self._abandon(work)
            raise
        return result

    async def run_watched(self, what: str, do: Callable[..., T], *args: Any) -> T:
        """The same, but raises Hung once it makes no progress, or cannot begin because what was begun makes none. The
        thread that hangs is left to itself."""
        work = self._submit(_Work(what, lambda: do(*args)))
        try:
            while not work.future.done():
                hang = self.hang if work.moved_at is None else work.hang
                if hang is not None:
                    raise Hung(hang)
                await asyncio.wait({work.future}, timeout=HUNG_SECONDS / WATCHES)
        except (asyncio.CancelledError, Hung):
            self._abandon(work)
            raise
        result: T = work.future.result()
        return result

    def start(self, what: str, do: Callable[[], object]) -> None:
        """In a thread; nobody waits for it."""
        self._submit(_Work(what, do)).future.add_done_callback(_log_failure)

    def release(self, descriptor: int) -> None:
        """Close it, in a thread, once no work uses it. Somebody else's close would wait for a share that hangs."""
        for work in self._busy:
            if work.uses == descriptor:
                work.closes.append(descriptor)
                return
        self.start("a file is closed", lambda: os.close(descriptor))

    @property
    def hang(self) -> Hang | None:
        """What has made no progress for longest, if that is too long."""
        hangs = [hang for work in self._busy if (hang := work.hang) is not None]
        return min(hangs, key=lambda hang: hang.since, default=None)

    async def idle(self) -> None:
        """Until nothing is under way any more."""
        while self._busy:
            await asyncio.wait([work.future for work in self._busy])

    def stop(self) -> None:
        """Work that asks whether it shall go on ends at its next block, from now on; the rest goes on."""
        self._is_stopping = True
        for work in self._busy:
            work.is_unwanted = True

    def close(self) -> None:
        """No more work comes. The threads end after what they have; those that hang, with the process."""
        self.stop()
        self._is_closed = True
        for _ in range(self._count):
            self._jobs.put(None)

    # --- in the loop

    def _submit(self, work: _Work) -> _Work:
        work.is_unwanted = self._is_stopping
        self._busy[work] = None
        self._start(work)
        return work

    def _abandon(self, work: _Work) -> None:
        """Nobody waits for it any more."""
        work.is_unwanted = work.is_abandoned = True
        undo = work.undo
        if work.future.done() and work.future.exception() is None and undo is not None:
            self.start(work.what, lambda: undo(work.future.result()))

    def _start(self, work: _Work) -> None:
        self._jobs.put(work)
        if self._is_closed:
            self._jobs.put(None)  # a thread for this alone
        elif self._idle.acquire(blocking=False) or self._count >= self._most:
            return
        self._count += 1
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._serve, args=(loop,), name=f"{self._name}-{self._count}", daemon=True).start()

    def _is_through(self, work: _Work, result: Any, error: BaseException | None) -> None:
        self._busy.pop(work, None)
        for descriptor in work.closes:
            self.release(descriptor)
        future, undo = work.future, work.undo
        if error is None and undo is not None and work.is_unwanted:
            self.start(work.what, lambda: undo(result))
            error = Stopped()
        if work.ended is not None:
            work.ended()
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
            if work.is_unwanted:
                future.exception()  # nobody else may look at it

    # --- in the threads

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            work = self._jobs.get()
            if work is None:
                return
            result, error = work.carry_out()
            if work.undo is not None and work.is_unwanted and error is None:
                work.undo(result)
                error = Stopped()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._is_through, work, result, error)
            del work, result, error
            self._idle.release()


async def in_own_thread(what: str, do: Callable[..., T], *args: Any) -> T:
    """One piece of work in a thread of its own."""
    threads = PartThreads(what.replace(" ", "-"), 1)
    try:
        return await threads.run(what, do, *args)
    finally:
        threads.close()


class _Work:
    """One piece of it. `moved_at` (monotonic seconds) is its last progress; None: no thread has begun it."""

    __slots__ = (
        "_context",
        "_do",
        "closes",
        "ended",
        "future",
        "is_abandoned",
        "is_unwanted",
        "moved_at",
        "undo",
        "uses",
        "what",
    )

    def __init__(
        self,
        what: str,
        do: Callable[[], Any],
        *,
        undo: Callable[[Any], object] | None = None,
        uses: int = -1,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self._do = do
        self._context = contextvars.copy_context()
        self.what = what
        self.undo = undo
        self.uses = uses
        self.ended = ended
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.closes: list[int] = []
        self.is_unwanted = False
        self.is_abandoned = False
        self.moved_at: float | None = None

    @property
    def hang(self) -> Hang | None:
        if self.moved_at is None:
            return None
        silent_seconds = clock.monotonic() - self.moved_at
        return Hang(self.what, clock.now() - silent_seconds) if silent_seconds > HUNG_SECONDS else None

    def go_on(self) -> None:
        self.moved_at = clock.monotonic()
        if self.is_unwanted:
            raise Stopped

    def carry_out(self) -> tuple[Any, BaseException | None]:
        """In the context of whoever asked for it, as `asyncio.to_thread` does."""
        return self._context.run(self._carry_out)

    def _carry_out(self) -> tuple[Any, BaseException | None]:
        if self.is_abandoned:
            return None, Stopped()
        self.moved_at = clock.monotonic()
        before = progress.here.set(self.go_on)
        try:
            return self._do(), None
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits
            return None, error
        finally:
            progress.here.reset(before)


def _log_failure(future: asyncio.Future[Any]) -> None:
    error = future.exception()
    if error is not None:
        log.debug("work that nobody waits for failed: %r", error)
