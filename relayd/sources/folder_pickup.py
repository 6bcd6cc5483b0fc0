"""Taking files out of an open drop folder: look, hand over, and clear away.

Promises: a file is removed after `put` has returned, never before, and never if a writer came back to it. Once begun, a
hand-over ends even if we are told to stop, unless its disk is slow or hangs: nothing of that was accepted. What the
ledger knows is never handed over again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from relayd import files
from relayd.errors import Quarantined, RelaydError, SpoolError, SpoolFull, SpoolUnwritable, Unsettled
from relayd.messages import Message, about
from relayd.model import Capture, Earlier, Held, Item, Origin
from relayd.progress import Stopped
from relayd.sources.base import Known, Ledger, Put
from relayd.sources.faults import Faults
from relayd.sources.folder_backlog import MOST_NAMES, Backlog
from relayd.sources.folder_file import (
    HARD_LINKED,
    Busy,
    FileDesk,
    Left,
    Look,
    Naming,
    Quiet,
    Ready,
    Refused,
    Waiting,
    removal_remedy,
)
from relayd.sources.folder_known import KnownFiles
from relayd.sources.folder_linger import Change, Linger, Taken, look_again
from relayd.sources.folder_release import Heirs, Releaser
from relayd.sources.folder_scan import Audit, Scanner, Wish
from relayd.sources.folder_threads import Threads
from relayd.sources.folder_watch import Watch
from relayd.sources.path_filter import looks_temporary

log = logging.getLogger("relayd.sources")

T = TypeVar("T")
MOST_GONE = 1024
RETRY_SECONDS = 10.0
FINISH_SECONDS = 0.5
"""How long a hand-over that was begun may go on when we are told to stop; then a copy ends at its next block, and after
as long again it hangs."""
SHORTLY_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long to wait, how many at once, and whether originals stay."""

    quiet_seconds: float
    concurrency: int
    keep_originals: bool
    linger_seconds: float = 0.0
    same_again_seconds: float = 0.0


class Pickup:
    """Lives as long as its folder stays open. `known` files need no look."""

    def __init__(
        self,
        *,
        naming: Naming,
        terms: Terms,
        ledger: Ledger,
        desk: FileDesk,
        scanner: Scanner,
        put: Put,
        threads: Threads,
        faults: Faults,
        tasks: asyncio.TaskGroup,
        hungry: Callable[[], None],
        accepted: Callable[[], None],
        gone: Callable[[Iterable[bytes]], None],
    ) -> None:
        self._naming = naming
        self._terms = terms
        self._ledger = ledger
        self._desk = desk
        self._scanner = scanner
        self._put = put
        self._threads = threads
        self._faults = faults
        self._tasks = tasks
        self._accepted = accepted
        self._tell_gone = gone
        self._gone: set[bytes] = set()
        self._failing: set[bytes] = set()
        self._under_way: dict[int, bytes] = {}
        self.known = KnownFiles()
        self.linger = Linger(terms.linger_seconds)
        self.backlog = Backlog(
            concurrency=terms.concurrency, quiet_seconds=terms.quiet_seconds, start=self._start, hungry=hungry
        )

    async def adopt(self) -> None:
        """What was taken and not let go of when the last process ended."""
        for held in await self._ledger.held(self._naming.source):
            self.known.add(held.origin)
            self.linger.add(held)

    def releaser(self) -> Releaser:
        """What lets go of the originals that were taken."""
        heirs = Heirs(changed=self.backlog.offer, left=self._left, stuck=self._stuck)
        return Releaser(
            self._naming.source,
            self.linger,
            desk=self._desk,
            threads=self._threads,
            ledger=self._ledger,
            heirs=heirs,
            keep=self._terms.keep_originals,
        )

    def wish(self, watch: Watch | None, *, is_due: bool) -> Wish:
        """What the next scan should look for."""
        held = self.backlog.held()
        self._no_longer_failing(*(self._failing - held))
        return Wish(known=self.known, skip=held, limit=max(0, MOST_NAMES - len(held)), watch=watch, is_due=is_due)

    def apply(self, audit: Audit) -> None:
        """What became of files that the ledger knows, and that are not held."""
        for origin in audit.same:
            self.known.add(origin)
        for origin in (*audit.changed, *audit.gone):
            self.known.discard(origin)
        self._gone.update(origin.path for origin in audit.gone if not self.backlog.is_busy(origin.path))

    async def flush(self) -> None:
        """Let the ledger forget what is gone, once that is durable: else a power cut could bring it back unknown."""
        paths = tuple(self._gone)
        if not paths:
            return
        try:
            await self._threads.run("it is synced", self._scanner.sync, paths)
        except OSError as error:
            self.cannot_remove(error, paths[0])
            return
        forgotten = self._gone.intersection(paths)  # one that was taken meanwhile is known anew
        self._gone -= forgotten
        self._ledger.forget(self._naming.source, forgotten)
        self._tell_gone(forgotten)

    def cannot_remove(self, error: OSError, path: bytes) -> None:
        """Files that were taken are still there, one at `path`; they are not taken twice, but somebody must act."""
        self._faults.set("removal", removal_remedy(error, self._desk.folder_of(path)))

    def _start(self, path: bytes) -> None:
        self._tasks.create_task(self._take(path), name="take a file")

    async def _take(self, path: bytes) -> None:
        try:
            await self._finished(self._look_and_act(path))
        except BaseException:
            self.backlog.stop()  # we are told to end, or must
            raise
        finally:
            self.backlog.done(path)

    async def _finished(self, work: Coroutine[Any, Any, None]) -> None:
        """Await it to its end; when cancelled, for so long as a disk that does not hang needs to come to a stop."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task}, timeout=FINISH_SECONDS)
            self._threads.part.stop()
            await asyncio.wait({task}, timeout=FINISH_SECONDS)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
            raise

    async def _look_and_act(self, path: bytes) -> None:
        try:
            if await self._is_as_taken(path):
                return
            look = await self._look(path)
            self._no_longer_failing(path)
            await self._act(path, look)
        except Stopped:
            self.backlog.stop()
        except (SpoolError, OSError) as error:
            self._failed(path, error)

    async def _act(self, path: bytes, look: Look) -> None:
        if isinstance(look, Ready):
            self.backlog.unpark(path)
            try:
                await self._accept(look)
            finally:
                self._threads.part.release(look.file.descriptor)
        elif isinstance(look, Waiting):
            said = look.reason or "it is not yet certain that its writer is done"
            self.backlog.wait_until_quiet(look.origin, said, look.seconds)
        elif isinstance(look, Refused):
            await self._quarantine(look)
        elif look is Busy.WRITER:
            self.backlog.park(path, RETRY_SECONDS, "a program still has it open for writing")
        elif look is Busy.ALIAS:
            self.backlog.unpark(path)
            self._gone.add(path)  # nothing is known of it any more
        else:
            self.backlog.unpark(path)

    async def _look(self, path: bytes) -> Look:
        quiet = self.backlog.quiet(path)
        look = await self._look_once(path, quiet, may_be_linked=False)
        if isinstance(look, Waiting | Refused) and look.reason == HARD_LINKED and await self._is_own_link(look.origin):
            return await self._look_once(path, quiet, may_be_linked=True)
        return look

    async def _look_once(self, path: bytes, quiet: Quiet | None, *, may_be_linked: bool) -> Look:
        what = f"{files.printable(path)} is looked at"
        return await self._threads.run(what, self._desk.look, path, quiet, may_be_linked, undo=_let_go)

    async def _is_own_link(self, origin: Origin) -> bool:
        """A crash or a rename came between commit and removal, and a writer came back to the file before we did."""
        if self.linger.of(origin) is not None:
            return True
        row = await lookup(self._ledger, self._naming.source, origin.path)
        return row is not None and row.item_id is not None and row.origin.inode == origin.inode

    async def _is_as_taken(self, path: bytes) -> bool:
        """Whether nothing has to be done about what was taken from here and is still held."""
        taken = self.linger.at(path)
        if taken is None:
            return False
        again = await self._threads.run(f"{files.printable(path)} is looked at", look_again, self._desk, taken)
        if self.linger.at(path) is not taken:
            return False
        if again.change is Change.NONE:
            taken.changed_ns = again.changed_ns
            return True
        if again.change is Change.WRITER:
            self.linger.put_off(taken)
            return True
        if again.change in (Change.GONE, Change.REPLACED):
            self.known.discard(taken.origin)
            self.linger.miss(taken)
        return again.change is Change.GONE

    async def _accept(self, ready: Ready) -> None:
        """One at a time for each file: under its new name it may come before it is known under the old one."""
        origin = ready.file.origin
        if origin.inode in self._under_way:
            self.backlog.park(origin.path, SHORTLY_SECONDS, "it is being taken under another name")
            return
        self._under_way[origin.inode] = origin.path
        try:
            await self._hand_over(ready)
        finally:
            del self._under_way[origin.inode]

    async def _capture(self, ready: Ready, taken: Taken | None) -> Capture:
        """With what is known of the same file from before."""
        capture = replace(
            self._naming.capture(ready, self._threads.part),
            is_held=self.linger.seconds > 0 and not (ready.is_old and taken is None),
            same_again_seconds=self._terms.same_again_seconds,
        )
        if taken is None:
            return capture
        is_same_size = ready.file.origin.size_bytes == taken.origin.size_bytes
        is_same = is_same_size and await self._digest(ready) == taken.held.sha256
        if taken.origin.path != ready.file.origin.path and not is_same and not await self._has_grown(ready, taken):
            return capture  # the number of a file that is gone was given to another one
        return replace(capture, earlier=Earlier(item_id=taken.item_id, is_same_content=is_same))

    async def _has_grown(self, ready: Ready, taken: Taken) -> bool:
        """Whether it begins with all that was taken: its writer went on, and renamed it before we looked."""
        size_bytes = taken.origin.size_bytes
        if not 0 < size_bytes < ready.file.origin.size_bytes:
            return False
        return await self._digest(ready, size_bytes) == taken.held.sha256

    async def _digest(self, ready: Ready, size_bytes: int | None = None) -> str:
        what, descriptor = f"{files.printable(ready.file.origin.path)} is compared", ready.file.descriptor
        return await self._threads.run(what, files.digest, descriptor, size_bytes, uses=descriptor)

    async def _hand_over(self, ready: Ready) -> None:
        origin = ready.file.origin
        self._gone.discard(origin.path)
        taken = self.linger.of(origin)
        try:
            capture = await self._capture(ready, taken)
            if taken is not None and capture.earlier is None:
                await self._forget(taken)
            item = await self._put(capture)
        except (SpoolFull, SpoolUnwritable):
            self.backlog.wait_for_room(origin.path)
        except Unsettled:
            self.backlog.park(origin.path, self._terms.quiet_seconds, "it is being written to")
        except Quarantined as error:
            await self._quarantine(Refused(origin, str(error)))
        except (SpoolError, OSError) as error:
            self._failed(origin.path, error)
        else:
            self.backlog.has_room()
            self._accepted()
            if ready.damage:
                name = files.printable(origin.path)
                log.warning("source %s: %s is taken as it is: %s", self._naming.source, name, ready.damage)
            if looks_temporary(origin.path.rpartition(b"/")[2]):
                said = "source %s: %s is taken under a name that looks temporary: nobody has renamed it for long"
                log.warning(said, self._naming.source, files.printable(origin.path))
            if capture.is_held or (self.linger.seconds and not ready.is_proven):
                self._keep_for_a_while(ready, capture, item)
            else:
                await self._clear_away(ready, capture, item)

    def _keep_for_a_while(self, ready: Ready, capture: Capture, item: Item) -> None:
        """Its writer may still want it."""
        origin = ready.file.origin
        taken = self.linger.of(origin)
        item_id, sha256 = item.id, item.sha256
        if taken is not None:
            self.linger.drop(taken)
            if taken.origin.path == origin.path:
                self.known.discard(taken.origin)
            else:
                self._left(taken)
            if capture.earlier is not None and capture.earlier.is_same_content:
                item_id, sha256 = taken.item_id, taken.held.sha256
        self.known.add(origin)
        is_untouched = os.fstat(ready.file.descriptor).st_ctime_ns == ready.changed_ns
        held = Held(origin=origin, item_id=item_id, sha256=sha256, captured_at=capture.captured_at)
        seconds = self.linger.seconds if ready.is_proven else self._desk.patience.blind_seconds
        self.linger.add(held, ready.changed_ns if is_untouched else None, seconds=seconds)

    async def _forget(self, taken: Taken) -> None:
        """It is another file's place by now."""
        self.linger.drop(taken)
        self._left(taken)
        await self._ledger.release([taken.item_id])

    def _left(self, taken: Taken) -> None:
        """It is gone from the folder."""
        path = taken.origin.path
        self.known.discard(taken.origin)
        if self.linger.at(path) is None and not self.backlog.is_busy(path):
            self._gone.add(path)

    def _stuck(self, taken: Taken, error: OSError) -> None:
        self.known.add(taken.origin)
        self.cannot_remove(error, taken.origin.path)

    async def _clear_away(self, ready: Ready, capture: Capture, item: Item) -> None:
        origin = ready.file.origin
        if self._terms.keep_originals:
            self.known.add(origin)
            return
        try:
            what = f"{files.printable(origin.path)} is removed"
            left, is_in_danger = await self._threads.run(what, self._desk.remove, ready, uses=ready.file.descriptor)
        except OSError as error:
            self.known.add(origin)
            self.cannot_remove(error, origin.path)
            if ready.file.is_finished:  # it stays in reach of its writer
                await self._unshare(item)
            return
        if is_in_danger and ready.file.is_finished:
            await self._unshare(item)
        if left is Left.REMOVED:
            self.known.discard(origin)
            self._gone.add(origin.path)
        elif left is Left.RETURNED and not self.linger.seconds:
            self.backlog.park(origin.path, self._terms.quiet_seconds, "a writer came back to it")
        elif left is Left.RETURNED:  # whatever its writer does to it is looked after
            self._keep_for_a_while(ready, capture, item)
        else:  # it has another name since just now: it is known again under that
            self._keep_for_a_while(ready, capture, item)
            taken = self.linger.of(origin)
            if taken is not None:
                self.linger.miss(taken)
            if left is Left.REPLACED:
                self.backlog.offer(origin.path)
        if len(self._gone) >= MOST_GONE:
            await self.flush()

    async def _unshare(self, item: Item) -> None:
        try:
            await self._ledger.unshare(item.id)
        except (RelaydError, OSError) as error:
            log.error("source %s: item %s may be altered by its writer: %s", self._naming.source, item.id, error)

    async def _quarantine(self, refused: Refused) -> None:
        origin = refused.origin
        self.backlog.unpark(origin.path)
        taken = self.linger.at(origin.path)
        if taken is not None:  # what was whole is let go as it was
            self.linger.drop(taken)
            await self._ledger.release([taken.item_id])
        self._gone.discard(origin.path)
        await self._ledger.quarantine(self._naming.source, origin, refused.reason)
        if origin not in self.known:
            self.known.add(origin)
            name = files.printable(origin.path)
            told = about(Message.FILE_QUARANTINED, source=self._naming.source, file=name)
            log.warning("source %s: %s goes to quarantine: %s", self._naming.source, name, refused.reason, extra=told)

    def _failed(self, path: bytes, error: Exception) -> None:
        """The disk, the network or the spool: try again after a while, and let the others go on."""
        reason = getattr(error, "strerror", None) or error
        self._failing.add(path)
        self._faults.set("taking", f"cannot take {files.printable(path)}: {reason}")
        self.backlog.park(path, RETRY_SECONDS, f"it could not be taken: {reason}")

    def _no_longer_failing(self, *paths: bytes) -> None:
        if not self._failing.isdisjoint(paths):
            self._failing.difference_update(paths)
            if not self._failing:
                self._faults.clear("taking")


async def lookup(ledger: Ledger, source: str, path: bytes) -> Known | None:
    """What the ledger knows of exactly this path."""
    after = path[:-1] + bytes([path[-1] - 1]) + b"\xff" * 255 if path[-1:] > b"\0" else path[:-1]
    rows = await ledger.known(source, after, 1)
    return rows[0] if rows and rows[0].origin.path == path else None


def _let_go(look: Look) -> None:
    """Nobody waits for it any more."""
    if isinstance(look, Ready):
        os.close(look.file.descriptor)
