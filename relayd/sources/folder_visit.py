"""One stay at an open drop folder: hints and scans, until the folder is no longer the one that was opened.

Promises: never returns before every hand-over that was begun has ended; its descriptor is closed by `leave`, once no
thread uses it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from relayd import clock
from relayd.files import may_lease_of_others, printable
from relayd.sources import folder_findings
from relayd.sources.base import Ledger, Put
from relayd.sources.faults import Faults
from relayd.sources.folder_config import FolderConfig, zone_of
from relayd.sources.folder_emptied import Emptied
from relayd.sources.folder_file import FileDesk, Naming, Patience
from relayd.sources.folder_pickup import Pickup, Terms
from relayd.sources.folder_scan import Scan, Scanner, audit
from relayd.sources.folder_threads import Threads
from relayd.sources.folder_unfinished import Unfinished
from relayd.sources.folder_watch import (
    Change,
    InotifyWatch,
    PollWatch,
    Sub,
    Watch,
    has_lasting_inodes,
    network_type,
    remedy_for,
)
from relayd.sources.folder_writers import Writer
from relayd.sources.name_pattern import NamePattern
from relayd.sources.path_filter import PathFilter
from relayd.threads import PartThreads

log = logging.getLogger("relayd.sources")

T = TypeVar("T")
AUDITED_AT_ONCE = 500
AUDITED_PER_SCAN = 5000
SHORTEST_GAP_SECONDS = 0.05
TEMPORARY_SECONDS = 600.0
"""How long a file with a temporary name must have been quiet to be taken for one whose writer gave up."""


class Visit:
    """Built for one descriptor of the folder; `stay` is called once. Its threads are the source's."""

    def __init__(
        self,
        name: str,
        config: FolderConfig,
        ledger: Ledger,
        folder_fd: int,
        *,
        threads: PartThreads,
        faults: Faults,
        accepted: Callable[[], None],
        unfinished: Unfinished,
        emptied: Emptied,
    ) -> None:
        self._name = name
        self._config = config
        self._ledger = ledger
        self._folder_fd = folder_fd
        self._threads = Threads(threads)
        self._faults = faults
        self._accepted = accepted
        self._unfinished = unfinished
        self._emptied = emptied
        self._wake = asyncio.Event()
        self._due_at = 0.0
        self._is_thorough = True
        self._audited_until = b""
        self._watch: Watch | None = None
        self._pickup: Pickup | None = None
        self._scanner = Scanner(
            folder_fd=folder_fd,
            wanted=PathFilter(config.include, config.exclude),
            is_recursive=config.recursive,
        )

    @property
    def is_full(self) -> bool:
        """Whether files wait for room in the spool."""
        return self._pickup is not None and self._pickup.backlog.is_full

    def reason_for(self, path: bytes) -> str | None:
        """Why this file is not taken yet, if it is being dealt with."""
        return None if self._pickup is None else self._pickup.backlog.reason_for(path)

    async def stay(self, put: Put) -> str:
        """Take files until the folder is lost; returns why, in words."""
        is_local = await self._threads.run("it is opened", self._choose_watch)
        desk = FileDesk(
            folder_fd=self._folder_fd,
            max_file_size=self._config.max_file_size,
            trust_leases=is_local,
            trust_close=self._config.trust_close,
            trust_inodes=self._scanner.trusts_inodes,
            hard_link=self._config.hard_link and not self._config.keep_originals,
            patience=self._patience(is_local),
            writer_of=_nobody_known if self._watch is None else self._watch.writer_of,
            unfinished=self._unfinished,
        )
        async with asyncio.TaskGroup() as tasks:
            self._pickup = pickup = self._open_pickup(put, desk, tasks)
            await pickup.adopt()
            following = tasks.create_task(self._follow(pickup), name="hints")
            releasing = tasks.create_task(pickup.releaser().run(), name="let go")
            try:
                return await self._scan_until_lost(pickup, desk)
            finally:
                pickup.backlog.stop()
                following.cancel()
                releasing.cancel()

    def _open_pickup(self, put: Put, desk: FileDesk, tasks: asyncio.TaskGroup) -> Pickup:
        config = self._config
        pattern = None if config.name_pattern is None else NamePattern(config.name_pattern)
        return Pickup(
            naming=Naming(source=self._name, pattern=pattern, zone=zone_of(config.time_zone)),
            terms=Terms(
                quiet_seconds=desk.patience.settle_seconds,
                concurrency=config.concurrency,
                keep_originals=config.keep_originals,
                linger_seconds=self._linger_seconds,
                same_again_seconds=config.same_again,
            ),
            ledger=self._ledger,
            desk=desk,
            scanner=self._scanner,
            put=put,
            threads=self._threads,
            faults=self._faults,
            tasks=tasks,
            hungry=self.look_at_all,
            accepted=self._accepted,
            gone=self._emptied.note,
        )

    @property
    def _linger_seconds(self) -> float:
        """Kept originals are never let go of, and what was taken is known again by its inode, if that lasts."""
        return 0.0 if self._config.keep_originals or not self._scanner.trusts_inodes else self._config.linger

    def _patience(self, is_local: bool) -> Patience:
        config = self._config
        settle_seconds = config.settle if is_local else max(config.settle, 2 * config.poll_every)
        return Patience(
            settle_seconds=settle_seconds,
            closed_seconds=settle_seconds,
            blind_seconds=max(settle_seconds, config.settle_unproven),
            temporary_seconds=TEMPORARY_SECONDS,
            linger_seconds=self._linger_seconds,
        )

    def leave(self) -> None:
        """Close the watch and the folder once no thread uses them any more: what is closed under its hands may be
        another folder by then."""
        self._threads.close(self._close)

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._threads.part.release(self._folder_fd)

    def _choose_watch(self) -> bool:
        """How hints come; returns whether leases tell of every writer."""
        kind = network_type(self._folder_fd)
        self._scanner.trusts_inodes = has_lasting_inodes(self._folder_fd)
        how, path = self._config.watch, printable(str(self._config.path))
        if how == "poll" or (how == "auto" and kind is not None):
            log.info("source %s: %s is polled (%s)", self._name, path, kind or "as configured")
            self._watch = PollWatch(self._folder_fd, self._config.poll_every, self._threads)
            return False
        try:
            self._watch = InotifyWatch(
                self._folder_fd, is_recursive=self._config.recursive, tells_of_writers=not may_lease_of_others()
            )
        except OSError as error:
            log.warning("source %s: %s; it is only listed now and then", self._name, remedy_for(error))
            return kind is None
        log.info("source %s: %s is watched by inotify", self._name, path)
        return kind is None

    async def _follow(self, pickup: Pickup) -> None:
        if self._watch is None:
            return
        async for hint in self._watch.hints():
            if isinstance(hint, bytes):
                if self._scanner.wanted.wants(hint):
                    pickup.backlog.offer(hint)
                continue
            if isinstance(hint, Sub):
                self._scanner.tell(hint.path)
                self._wake.set()
                continue
            if hint is Change.LOST:
                log.info("source %s: more changes at once than the kernel tells of: looking at all files", self._name)
                self._is_thorough = True
                for path in self._watch.entered():
                    self._scanner.tell(path)
            self.look_at_all()

    def look_at_all(self) -> None:
        """Soon: at what the ledger knows, and at every file."""
        self._scanner.ask_for_all()
        self._due_at = 0.0
        self._wake.set()

    async def _scan_until_lost(self, pickup: Pickup, desk: FileDesk) -> str:
        while True:
            self._wake.clear()
            try:
                reason = await self.rescan(pickup, desk)
            except OSError as error:
                reason = folder_findings.in_words(self._config.path, error)
            if reason is not None:
                return reason
            await asyncio.sleep(SHORTEST_GAP_SECONDS)
            try:
                async with asyncio.timeout(max(0.0, self._due_at - clock.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def rescan(self, pickup: Pickup, desk: FileDesk) -> str | None:
        """Compare what the ledger knows with what is there, if that is due, then look for what it does not know; else
        look only at the sub-folders about which there is something new.

        Returns why this is no longer the configured folder, in words, or None. Raises OSError if it cannot be read.
        """
        reason = await self._threads.run("it is looked at", folder_findings.whats_wrong, self._config, self._folder_fd)
        if reason is not None:
            return reason
        is_due = clock.monotonic() >= self._due_at
        if is_due:
            self._due_at = clock.monotonic() + self._config.rescan
            is_thorough, self._is_thorough = self._is_thorough, False
            await self._audit(pickup, desk, is_thorough=is_thorough)
            await pickup.flush()
            await self._emptied.tidy(self._folder_fd, self._threads)
        self._faults.clear("folder")
        wish = pickup.wish(self._watch, is_due=is_due)
        if wish.limit > 0 or self._config.recursive:
            self._offer(await self._threads.run("it is listed", self._scanner.scan, wish), pickup)
        return None

    def _offer(self, scan: Scan, pickup: Pickup) -> None:
        troubles = scan.troubles
        if self._watch is not None:
            troubles = [*troubles, *filter(None, [self._watch.trouble])]
        if troubles:
            self._faults.set("sub-folders", "; ".join(troubles))
        else:
            self._faults.clear("sub-folders")
        pickup.backlog.offer_all(scan.paths, has_more=scan.has_more)
        if self._scanner.is_hurried and not scan.has_more:
            self._wake.set()

    async def _audit(self, pickup: Pickup, desk: FileDesk, *, is_thorough: bool) -> None:
        """All of the ledger's entries if `is_thorough`, else some, going on where the last call stopped."""
        if is_thorough:
            self._audited_until = b""
        began_at, budget = self._audited_until, AUDITED_PER_SCAN
        stuck: tuple[OSError, bytes] | None = None
        while is_thorough or budget > 0:
            rows = await self._ledger.known(self._name, self._audited_until, AUDITED_AT_ONCE)
            may_remove = not self._config.keep_originals
            held = pickup.linger.paths()
            others = [row for row in rows if row.origin.path not in held]
            result = await self._threads.run("it is listed", audit, others, self._scanner, desk, may_remove)
            pickup.apply(result)
            stuck = result.stuck or stuck
            budget -= AUDITED_AT_ONCE
            self._audited_until = rows[-1].origin.path if len(rows) == AUDITED_AT_ONCE else b""
            if not self._audited_until:
                break
        if stuck is not None:
            pickup.cannot_remove(*stuck)
        elif not began_at and not self._audited_until:
            self._faults.clear("removal")


def _nobody_known(path: bytes) -> Writer:
    """Nobody tells of writers."""
    return Writer.UNKNOWN
