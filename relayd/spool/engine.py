"""What drives the spool: the writer, the reader, the threads that move files, and the counters in memory.

Promises: everything is opened in an order in which a crash at any point can be opened again, and closed in the order
that leaves no thread behind. Files go after the commit that lets them go; workers are hinted after the commit that
gives them work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from relayd import clock
from relayd.errors import SpoolDamaged, SpoolError, SpoolFull, SpoolUnwritable
from relayd.spool import database, lists, salvage, timekeeping, waiting
from relayd.spool.change import INCIDENTS, KEPT_BYTES, Change, Tally
from relayd.spool.database import DatabaseSize
from relayd.spool.leftovers import Leftovers
from relayd.spool.limits import Disk, Need, Room, Shortage, SpoolConfig, Used, room, shortage
from relayd.spool.media import SpoolFolder
from relayd.spool.timeline import Timeline
from relayd.spool.writer import Operation, Writer
from relayd.threads import PartThreads

log = logging.getLogger("relayd.spool")

P = ParamSpec("P")
T = TypeVar("T")
Hint = Callable[[frozenset[str]], None]

FILE_THREADS = 4
CLOSE_SECONDS = 0.7
"""How long the end waits for what was begun; then again, for what has been told to stop."""
REFUSAL_SECONDS = 300.0
"""Sources try again what was refused for want of room; when none did for so long, nothing is refused any more."""
DAMAGE_MARK = "damaged"
"""A file of this name says that the running relay found damage: the next start repairs."""


class Reader:
    """One connection that only looks, and its thread."""

    def __init__(self, path: Path, name: str, damaged: Callable[[], None]) -> None:
        self._path = path
        self._damaged = damaged
        self._db = database.connect_reader(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, look: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises SpoolError."""

        def work() -> T:
            try:
                return look(self._db, *args, **kwargs)
            except sqlite3.Error as error:
                if database.is_damage(error):
                    self._damaged()
                raise database.in_words(error, self._path) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._thread.shutdown()


class Engine:
    """Built by `Engine.open`, in a thread and in the loop; ended by `close`."""

    def __init__(self, config: SpoolConfig, folder: SpoolFolder, db: sqlite3.Connection) -> None:
        self.folder = folder
        self.path = folder.root / database.FILE_NAME
        self.tally = Tally()
        self.tally.load(db)
        self.database_size = database.size_of(db)
        self.claimed = Need()
        self.leftovers = Leftovers(folder)
        self.making_room = asyncio.Lock()
        self._refused: tuple[Need, int, float] | None = None
        self._unwritable: dict[str, tuple[str, float]] = {}
        self.is_damaged = False
        self.waits_for = salvage.why_waiting(folder)
        """Why a damaged database of before could not be salvaged yet; else empty."""
        self.can_salvage = False
        """Whether by now it can."""
        self.arriving: set[str] = set()
        self.vouched: dict[str, float] = {}
        self.strays: set[str] = set()
        """Files of puts whose commit failed: theirs to keep or to go once a commit has succeeded."""
        self.newest_of_before = lists.newest(db)
        """What an earlier process accepted has at most this number."""
        self._hints: list[Hint] = []
        self._event_hints: list[Callable[[], None]] = []
        self._incident_hints: list[Callable[[], None]] = []
        self.unsettled: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[Any]] = []
        self._loop = asyncio.get_running_loop()
        self.files = PartThreads("spool-files", FILE_THREADS)
        self._reader = Reader(self.path, "spool-reader", self._mark_damage)
        self._browser = Reader(self.path, "spool-browser", self._mark_damage)
        self.writer = Writer(
            self.path,
            db,
            wal_limit_bytes=config.own_bytes,
            published=self._publish,
            make_headroom=folder.release_headroom,
            damaged=self._mark_damage,
            finish=waiting.look_after,
            follow=timekeeping.follow,
            times=timekeeping.read(db),
        )
        self.adopt(config)
        self.writer.start()

    def adopt(self, config: SpoolConfig) -> None:
        """From now on these limits and times hold."""
        self.config = config
        self.writer.keeps_content = config.keep_content > 0

    # --- doing

    async def write(self, operation: Operation[T], *, weight: int = 0, grows: bool = False) -> T:
        """Carried out and committed even if the caller is cancelled meanwhile."""
        if grows:
            self.vouch()
        with self.noticing("database"):
            return await self.writer.submit(operation, weight=weight, grows=grows)

    @contextlib.contextmanager
    def noticing(self, what: str) -> Iterator[None]:
        """Whether the disk takes this kind of write."""
        try:
            yield
        except SpoolUnwritable as error:
            self._unwritable[what] = (str(error), clock.monotonic())
            raise
        self._unwritable.pop(what, None)

    async def read(self, look: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Look something up that a seek finds, as of the last commit."""
        return await self._reader.run(look, *args, **kwargs)

    async def browse(
        self, look: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same for people, who may ask for what takes long; nobody else waits behind them."""
        return await self._browser.run(look, *args, **kwargs)

    async def in_files(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Something with files, off the loop."""
        return await self.files.run("the spool's files are worked on", lambda: work(*args, **kwargs))

    def keep(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that `close` waits for, whoever else does."""
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def background(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """A task that `close` ends."""
        task = self.keep(work, name)
        task.add_done_callback(_log_failure)
        self._background.append(task)

    async def shielded(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run to its end even if the caller is cancelled; an error that nobody waits for any more is logged."""
        task = self.keep(work, name)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    def subscribe(self, hint: Hint) -> None:
        self._hints.append(hint)

    def subscribe_to_events(self, hint: Callable[[], None]) -> None:
        self._event_hints.append(hint)

    @contextlib.contextmanager
    def hinted_of_incidents(self, hint: Callable[[], None]) -> Iterator[None]:
        self._incident_hints.append(hint)
        try:
            yield
        finally:
            self._incident_hints.remove(hint)

    def missing(self, need: Need, priority: int) -> Shortage | None:
        """What keeps this from being put."""
        return shortage(
            self.config,
            Disk.of(self.folder.root),
            used=Used(used_bytes=self.used_bytes, free_page_bytes=self.database_size.free_bytes),
            claimed=self.claimed,
            need=need,
            priority=priority,
        )

    def may_be_claimed(self, source: str) -> bool:
        """Whether an incident may want what this source brings: one that is open, or one that rules would open."""
        return source in self.writer.collected or self.tally.value("open", INCIDENTS) > 0

    def refused(self, need: Need, priority: int) -> None:
        """There was no room for this, whatever was let go for it."""
        self._refused = (need, priority, clock.monotonic())

    def room(self) -> Room:
        """What may still be put, and whether something is being refused."""
        if self._refused is not None and clock.monotonic() - self._refused[2] > REFUSAL_SECONDS:
            self._refused = None
        disk = Disk.of(self.folder.root)
        lacking = None if self._refused is None else self.missing(self._refused[0], self._refused[1])
        return room(
            self.config,
            disk,
            used_bytes=self.used_bytes,
            kept_bytes=self.tally.value(KEPT_BYTES),
            claimed=self.claimed,
            refusal="" if lacking is None else lacking.text,
            unwritable=self._why_unwritable(disk),
        )

    def _why_unwritable(self, disk: Disk) -> str:
        """Sources try again within seconds; what none tried for long is not known any more."""
        if disk.is_read_only:
            return f"the disk of {self.folder.root} is read-only: {database.READ_ONLY_REMEDY}"
        since = clock.monotonic() - REFUSAL_SECONDS
        self._unwritable = {what: seen for what, seen in self._unwritable.items() if seen[1] >= since}
        return next((text for text, _ in self._unwritable.values()), "")

    async def keep_headroom(self) -> None:
        """Take hold of the headroom again, if the disk has room for it."""
        floor_bytes = self.config.floor_bytes(Disk.of(self.folder.root))
        await self.in_files(self.folder.keep_headroom, self.config.own_bytes, floor_bytes)

    @property
    def used_bytes(self) -> int:
        """What the spool takes of its `max_size`."""
        own_bytes = self.database_size.live_bytes + 2 * self.config.own_bytes
        return self.tally.value("media_bytes") + own_bytes + self.leftovers.size_bytes

    async def settled(self) -> None:
        """Wait until files that commits have let go are gone."""
        while waiting := [task for task in self._tasks if task.get_name().startswith("discard")]:
            await asyncio.wait(waiting)

    async def close(self) -> None:
        """Finish what was begun, then let go of everything."""
        for task in self._background:
            task.cancel()
        await self._let_tasks_end()
        await self._reader.close()
        await self._browser.close()
        await self.in_files(self.writer.stop)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self.files.close()
        self.folder.unlock()

    async def _let_tasks_end(self) -> None:
        """For a while; then copies end at their next block, and what hangs is given up: it was not accepted."""
        await self._wait_for_tasks()
        self.files.stop()
        await self._wait_for_tasks()
        while self._tasks:
            for task in self._tasks:
                log.warning("%s hangs: it is given up, and comes again", task.get_name())
                task.cancel()
            await self._wait_for_tasks()

    async def _wait_for_tasks(self) -> None:
        end_at = clock.monotonic() + CLOSE_SECONDS
        while self._tasks and (left_seconds := end_at - clock.monotonic()) > 0:
            await asyncio.wait(self._tasks, timeout=left_seconds)

    def vouch(self) -> None:
        """Raises SpoolDamaged once damage is known: what is new would go down with it. What has happened to what is in
        the spool is recorded all the same, the salvage may come upon it."""
        if self.is_damaged:
            raise SpoolDamaged(
                f"{self.path} is damaged and about to be salvaged: nothing new is taken or begun until then"
            )

    # --- after a commit

    def _publish(self, change: Change, size: DatabaseSize) -> None:
        self.tally.follow(change)
        self.database_size = size
        if change.freed:
            self.keep(self.in_files(self.folder.discard, change.freed), f"discard {len(change.freed)}")
        if self.strays:
            self.keep(self._clear_strays(), f"discard {len(self.strays)} strays")
        if change.hints:
            hints = frozenset(change.hints)
            for hint in self._hints:
                hint(hints)
        if change.has_events:
            for tell in self._event_hints:
                tell()
        self.unsettled |= change.unsettled
        if change.has_incidents or change.unsettled:
            for tell in self._incident_hints:
                tell()

    @property
    def times(self) -> Timeline:
        """How steady time and the wall clock lie to each other now, for who only looks."""
        return self.writer.times.followed(clock.stamp())

    async def _clear_strays(self) -> None:
        """A commit has succeeded, so by now it is certain which rows there are."""
        found, self.strays = self.strays, set()
        kept = await self.read(lists.kept_media, list(found))
        await self.in_files(self.folder.discard, found - kept)

    def _mark_damage(self) -> None:
        self.is_damaged = True
        mark = self.folder.root / DAMAGE_MARK
        try:
            if not mark.exists():
                log.error("the database %s is damaged; the next start salvages it", self.path)
                mark.touch()
        except OSError as error:
            log.error("cannot leave a mark for the next start: %s", error.strerror)


def _log_failure(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, SpoolFull):
        return
    if error is not None:
        log.warning("%s: %s", task.get_name(), error if isinstance(error, SpoolError) else repr(error))
