"""The one thread that writes: takes what came while the last commit ran, and commits it together.

Promises: an operation's future is done after the commit that holds it, never before; one operation that fails takes
nothing of its group with it; when the commit itself fails, all of the group fail, nothing of it stays, and the next
group starts anew.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from relayd.errors import SpoolError, SpoolFull
from relayd.spool import database
from relayd.spool.change import Change
from relayd.spool.database import DatabaseSize
from relayd.spool.timeline import Timeline

log = logging.getLogger("relayd.spool")

T = TypeVar("T")
Operation = Callable[[Change], T]

GROUP_OPERATIONS = 512
"""At most this many operations in one commit: bounds the wait of the first and the memory of all."""
GROUP_BYTES = 8 * 2**20
"""No further operation joins a group once its payloads reach this."""
RIDE_SECONDS = 5.0
"""How long something that only rides along waits for a commit to ride with."""
REACHED_SECONDS = 10.0
"""How often a commit that changes something also says how far steady time has got."""


@dataclass(slots=True)
class _Job:
    operation: Operation[Any]
    future: asyncio.Future[Any] | None
    weight: int
    grows: bool


@dataclass(slots=True)
class _End:
    """How one job came out."""

    job: _Job
    result: Any = None
    error: Exception | None = None


class Writer:
    """Owns the writing connection from `start` to `close`."""

    def __init__(
        self,
        path: Path,
        db: sqlite3.Connection,
        *,
        wal_limit_bytes: int,
        published: Callable[[Change, DatabaseSize], None],
        make_headroom: Callable[[], bool],
        damaged: Callable[[], None],
        finish: Callable[[Change], None] = lambda change: None,
        follow: Callable[[Change], None] = lambda change: None,
        times: Timeline | None = None,
    ) -> None:
        """`published` is called in the loop after each commit with the size of the database; `make_headroom` in the
        thread when the disk is full, True if it could free something; `damaged` in the thread when the file is;
        `finish` in the thread at the end of each operation, `follow` at the beginning of each commit. `times` is steady
        time as it was noted."""
        self._path = path
        self._db = db
        self._wal_limit_bytes = wal_limit_bytes
        self._published = published
        self._make_headroom = make_headroom
        self._damaged = damaged
        self._finish_operation = finish
        self._follow = follow
        self.times = times or Timeline()
        self._noted_reached = -REACHED_SECONDS
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._riders: list[_Job] = []
        self._ride_until = 0.0
        self._is_closing = False
        # Joined by `stop`; a process that ends without closing must end all the same.
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._last_size = DatabaseSize(live_bytes=0, free_bytes=0)
        self.failed_last = False
        self.events_kept = 0
        self.collected: frozenset[str] = frozenset()
        self.keeps_content = False

    def start(self) -> None:
        self._thread.start()

    def submit(self, operation: Operation[T], *, weight: int = 0, grows: bool = False) -> asyncio.Future[T]:
        """Done after the commit. `weight` is bytes of payload; `grows` says that it may be refused on a full disk."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(operation, future, weight, grows))
        return future

    def ride(self, operation: Operation[Any]) -> None:
        """Goes along with the next commit, at the latest after RIDE_SECONDS, or when closing. Nobody waits for it."""
        self._jobs.put(_Job(operation, None, 0, False))

    def stop(self) -> None:
        """Carry out what was submitted, then end the thread and close the database. Blocks: not in the loop."""
        self._jobs.put(None)
        self._thread.join()

    # --- in the thread

    def _run(self) -> None:
        while not self._is_closing:
            group = self._next_group()
            if group:
                self._finish(*self._carry_out(group))
        try:
            self._db.close()
        except sqlite3.Error as error:
            log.error("closing the spool: %s", database.in_words(error, self._path))

    def _next_group(self) -> list[_Job]:
        """Wait for work; then take all there is, up to the caps, and those that ride along."""
        group: list[_Job] = []
        weight = 0
        while len(group) + len(self._riders) < GROUP_OPERATIONS and weight < GROUP_BYTES:
            try:
                job = self._jobs.get(block=not group, timeout=self._patience())
            except queue.Empty:
                break
            if job is None:
                self._is_closing = True
                break
            if job.future is None:
                self._ride_until = self._ride_until if self._riders else time.monotonic() + RIDE_SECONDS
                self._riders.append(job)
            else:
                group.append(job)
                weight += job.weight
        riders, self._riders = self._riders, []
        return group + riders

    def _patience(self) -> float | None:
        return max(0.0, self._ride_until - time.monotonic()) if self._riders else None

    def _carry_out(self, group: list[_Job]) -> tuple[list[_End], Change | None]:
        """Commit them together; on a full disk at least those that do not bring in anything new."""
        try:
            return self._commit(group)
        except Exception as error:  # noqa: BLE001 - this thread must outlive whatever it is: everybody waits for it
            failure = self._recover(error)
        modest = [job for job in group if not job.grows]
        if not (modest and isinstance(failure, SpoolFull) and self._make_headroom()):
            return [_End(job, error=failure) for job in group], None
        refused = [_End(job, error=failure) for job in group if job.grows]
        try:
            ends, change = self._commit(modest)
        except Exception as error:  # noqa: BLE001 - as above
            failure = self._recover(error)
            return [_End(job, error=failure) for job in group], None
        return refused + ends, change

    def _commit(self, group: list[_Job]) -> tuple[list[_End], Change]:
        db = self._db
        whole = Change(db, self.events_kept, self.collected, self.keeps_content, self.times)
        db.execute("BEGIN IMMEDIATE")
        self._follow(whole)
        changes_before = db.total_changes
        ends = [self._attempt(job, whole) for job in group]
        reached = whole.times.reached()
        is_worth_noting = db.total_changes != changes_before and reached - self._noted_reached >= REACHED_SECONDS
        if is_worth_noting:
            whole.note_time()
        whole.write_counters()
        db.execute("COMMIT")
        self.failed_last = False
        self.times = replace(whole.times, seen_steady=reached)
        self._noted_reached = reached if is_worth_noting else self._noted_reached
        return ends, whole

    def _attempt(self, job: _Job, whole: Change) -> _End:
        """One operation in its own savepoint. Raises only what spoils the group."""
        db = self._db
        change = Change(db, whole.events_kept, whole.collected, whole.keeps_content, whole.times)
        db.execute("SAVEPOINT operation")
        try:
            result = job.operation(change)
            self._finish_operation(change)
        except sqlite3.Error as error:
            if database.spoils_the_group(error):
                raise
            return self._undo(job, database.in_words(error, self._path))
        except Exception as error:  # noqa: BLE001 - it belongs to the one who waits for this operation
            return self._undo(job, error)
        db.execute("RELEASE operation")
        whole.absorb(change)
        return _End(job, result)

    def _undo(self, job: _Job, error: Exception) -> _End:
        self._db.execute("ROLLBACK TO operation")
        self._db.execute("RELEASE operation")
        return _End(job, error=error)

    def _recover(self, error: Exception) -> Exception:
        """Back to a connection that can try again; the error in words."""
        self.failed_last = True
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._reopen()
        if not isinstance(error, sqlite3.Error):
            return error
        if database.is_damage(error):
            self._damaged()
        return database.in_words(error, self._path)

    def _reopen(self) -> None:
        try:
            self._db.close()
            self._db = database.connect(self._path, self._wal_limit_bytes)
        except (sqlite3.Error, SpoolError) as error:
            if database.is_damage(error):
                self._damaged()
            log.error("%s", error if isinstance(error, SpoolError) else database.in_words(error, self._path))

    def _finish(self, ends: list[_End], change: Change | None) -> None:
        size = self._last_size
        if change is not None:
            for level, text, words in change.lines:
                log.log(level, text, *words)
            size = self._size()
        for end in ends:
            if end.job.future is None and end.error is not None:
                log.warning("could not note in the spool, not urgent: %s", end.error)
        self._loop.call_soon_threadsafe(self._resolve, ends, change, size)

    def _size(self) -> DatabaseSize:
        try:
            self._last_size = database.size_of(self._db)
        except sqlite3.Error as error:
            log.warning("%s", database.in_words(error, self._path))
        return self._last_size

    # --- in the loop

    def _resolve(self, ends: list[_End], change: Change | None, size: DatabaseSize) -> None:
        if change is not None:
            self._published(change, size)
        for end in ends:
            future = end.job.future
            if future is None or future.done():
                continue
            if end.error is not None:
                future.set_exception(end.error)
            else:
                future.set_result(end.result)
