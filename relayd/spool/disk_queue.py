"""START HERE: the spool as the rest of relayd sees it.

Promises: what `put` returned is on the disk, with every delivery that it was ordered for; so is what a `record_…` call
recorded. One process owns a spool. A full disk refuses new items and still records what happened to old ones; a damaged
database is set aside, salvaged and reported, and does not stop the start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

from relayd import clock
from relayd.model import Capture, Delivery, Item, Kind, Known, Order, Origin, Outcome, Priority, Receipt, State
from relayd.spool import accepting, arriving, delivering, lists, picking, sharing, siblings, upkeep
from relayd.spool.change import KEPT_BYTES, Change
from relayd.spool.correspondence import Correspondence
from relayd.spool.damage import look_for_damage, look_for_room
from relayd.spool.engine import Engine, Hint
from relayd.spool.holder import Holder, release_unvouched
from relayd.spool.incident_file import IncidentFile
from relayd.spool.leftovers import PREFIX
from relayd.spool.limits import Need, SpoolConfig
from relayd.spool.media import SpoolFolder
from relayd.spool.moving import settle
from relayd.spool.opening import open_database
from relayd.spool.picking import Wanted
from relayd.spool.records import Begun, Step
from relayd.spool.sweeping import sweep
from relayd.spool.tying import Ties
from relayd.threads import in_own_thread

log = logging.getLogger("relayd.spool")

SPARE_INODES = 1_000
"""So many files may come between two looks before a put has to make room by itself."""
GIVEN_BACK_AT_ONCE = 50
"""Portions of spare pages that one purge returns to the disk, each in a commit of its own."""


class Spool(Holder):
    """One disk queue. Also the StepStore of destinations and the Ledger of sources; what people ask is in Desk, what
    sources have not let go of in Holder."""

    @classmethod
    async def open(cls, config: SpoolConfig, *, now: float) -> Spool:
        """Own it, repair it if need be, and start its threads. Raises SpoolLocked, SpoolTooNew, SpoolError."""
        folder = SpoolFolder(config.path)
        folder.lock()
        try:
            db = await in_own_thread("spool-open", partial(_open, folder, now=now, wal_limit_bytes=config.own_bytes))
            engine = Engine(config, folder, db)
        except BaseException:
            folder.unlock()
            raise
        engine.background(sweep(engine), "sweep the spool")
        engine.background(engine.keep_headroom(), "keep headroom")
        engine.background(look_for_damage(engine), "look for damage")
        engine.background(look_for_room(engine), "look for room for a salvage")
        engine.background(release_unvouched(engine), "let go")
        return cls(engine)

    def adopt(self, config: SpoolConfig) -> None:
        """From now on these limits and times hold; the path stays what it was when the spool was opened."""
        self._engine.adopt(config.model_copy(update={"path": self._engine.config.path}))

    async def close(self) -> None:
        """Finish what was begun, join every thread, and let go of the folder."""
        await self._engine.close()

    # --- the way in

    async def put(
        self,
        capture: Capture,
        orders: Sequence[Order],
        *,
        now: float,
        trouble: Sequence[str] = (),
        ties: Ties | None = None,
    ) -> Item:
        """Durable when it returns: only then unlink the original or acknowledge the message. The same file of the same
        source gives the same item again. Goes on to its end if the caller is cancelled. `trouble` is kept with it: what
        of the rules could not be answered. With `ties` the rules order in the transaction, knowing which incidents the
        item opens or belongs to.

        Raises SpoolFull (keep the original, wait), SpoolUnwritable and SpoolDamaged (the same), Quarantined (too
        large), Unsettled (somebody writes to it).
        """
        owed, told = tuple(orders), tuple(trouble)
        if capture.kind is Kind.MESSAGE:
            return await arriving.take_message(self._engine, capture, owed, now=now, trouble=told, ties=ties)
        descriptor = None if capture.file is None else os.dup(capture.file.descriptor)
        work = arriving.take_media(self._engine, capture, descriptor, owed, now=now, trouble=told, ties=ties)
        return await self._engine.shielded(work, f"put {capture.source}")

    async def add_orders(self, item_id: str, orders: Sequence[Order], *, now: float) -> None:
        """Owe more for an item that is there. Raises SpoolError if its content is no longer kept."""
        await self._write(partial(accepting.add_orders, item_id=item_id, orders=tuple(orders), now=now))

    @contextlib.contextmanager
    def stage(self) -> Iterator[BinaryIO]:
        """A new file inside the spool, to write to and to `put` from; its name is gone when the context ends."""
        path = self._engine.folder.incoming / f"stage-{os.urandom(8).hex()}"
        with path.open("x+b", buffering=0) as stream:
            try:
                yield stream
            finally:
                path.unlink(missing_ok=True)

    # --- the way out

    async def begin(
        self,
        destination: str,
        *,
        now: float,
        longest_backoff: float,
        delay: Callable[[int], float],
        exclude: Collection[int],
        probe: bool,
        least_urgent: Priority = Priority.BULK,
        backlog_turn: int = 0,
        untried_emergency: bool = False,
    ) -> Begun | None:
        """Pick the delivery to try next and charge it, durably: due again after `delay(attempts)`. None: nothing due.
        Raises SpoolDamaged once damage is known: what came of it might not be kept, and it would be done again.

        `exclude` are ids that are out now. With `probe`: of the most urgent class with work, the smallest of the first,
        and what is urgent sits out no backoff of its own. Less urgent ones than `least_urgent` are left alone. A turn
        with a number (`backlog_turn`, from 1) goes round among all others, behind emergencies, so that everybody gets
        a share however much urgent work there is. With `untried_emergency` only an emergency that was never tried is
        begun.
        """
        self._engine.vouch()
        wanted = Wanted(
            destination=destination,
            now=now,
            longest_backoff=longest_backoff,
            exclude=frozenset(exclude),
            probe=probe,
            least_urgent=least_urgent,
            backlog_turn=backlog_turn,
            untried_emergency=untried_emergency,
        )
        trouble_with = self._engine.folder.trouble_with
        while True:
            begun = await self._write(partial(delivering.begin, wanted=wanted, delay=delay, trouble_with=trouble_with))
            if begun is None or await sharing.is_as_accepted(self._engine, begun.item):
                return begun

    async def next_due(
        self,
        destination: str,
        *,
        now: float,
        longest_backoff: float,
        exclude: Collection[int],
        least_urgent: Priority = Priority.BULK,
    ) -> float | None:
        """When `begin` will have something; None if nothing is owed."""
        due_now = self._engine.times.due(now)
        wanted = Wanted(
            destination=destination,
            now=due_now,
            longest_backoff=longest_backoff,
            exclude=frozenset(exclude),
            least_urgent=least_urgent,
        )
        due_at = await self._engine.read(picking.next_due, wanted)
        return None if due_at is None else now + (due_at - due_now)

    async def wake(self, destination: str, *, now: float, due_at: float, exclude: Collection[int]) -> int:
        """What failed by itself and waits for the end of its backoff is due at `due_at` at the latest."""
        return await self._write(
            partial(delivering.wake, destination=destination, now=now, due_at=due_at, exclude=exclude)
        )

    def open_media(self, item_id: str) -> BinaryIO:
        """The content of a media item, unbuffered, at offset 0; the caller closes it. Raises Rejected if it is gone."""
        return self._engine.folder.open_media(item_id)

    async def record_delivered(self, delivery_id: int, receipt: Receipt, *, now: float) -> None:
        """The server proved it. Follow-ups are owed from now on; media goes when nobody is owed."""
        await self._write(partial(delivering.record_delivered, delivery=delivery_id, receipt=receipt, now=now))

    async def record_deferred(
        self,
        delivery_id: int,
        outcome: Outcome,
        reason: str,
        *,
        due_at: float,
        now: float,
        forget_from: str | None = None,
    ) -> None:
        """Not this time: due again at `due_at`. `forget_from` names a step that is worth nothing any more."""
        await self._write(
            partial(
                delivering.record_deferred,
                delivery=delivery_id,
                outcome=outcome,
                reason=reason,
                due_at=due_at,
                now=now,
                forget_from=forget_from,
            )
        )

    async def record_ended(self, delivery_id: int, state: State, outcome: Outcome, reason: str, *, now: float) -> None:
        """Never: DEAD or EXPIRED, kept and visible."""
        await self._write(
            partial(delivering.record_ended, delivery=delivery_id, state=state, outcome=outcome, reason=reason, now=now)
        )

    async def store_intent(self, delivery_id: int, name: str) -> None:
        """The effect of this step is about to happen."""
        await self._write(partial(delivering.store_step, delivery=delivery_id, name=name, result=None))

    async def store_step(self, delivery_id: int, name: str, result: Step) -> None:
        """The effect has happened, with this result."""
        await self._write(partial(delivering.store_step, delivery=delivery_id, name=name, result=result))

    async def siblings(self, delivery: Delivery) -> AsyncIterator[Begun]:
        """What else its destination is owed by the same action, oldest first; read as it is asked for."""
        ids = await self._engine.read(siblings.ids, delivery)
        for start in range(0, len(ids), siblings.PAGE):
            for found in await self._engine.read(siblings.page, ids[start : start + siblings.PAGE]):
                yield found

    async def tell(self, delivery_ids: Sequence[int], name: str, known: Step | None) -> None:
        """These deliveries have a step `name` with this result from now on (None: nothing new), and are due at once."""
        await self._write(partial(siblings.tell, deliveries=delivery_ids, name=name, known=known, now=clock.now()))

    # --- the ledger of sources

    async def known(self, source: str, after: bytes, limit: int) -> list[Known]:
        """Files of a drop folder that need no second look, in path order."""
        return await self._engine.read(lists.known, source, after, limit)

    async def quarantine(self, source: str, origin: Origin, reason: str) -> None:
        """This file will not be taken as it is."""
        await self._write(
            partial(accepting.remember, source=source, origin=origin, item=None, reason=reason, now=clock.now())
        )

    def forget(self, source: str, paths: Iterable[bytes]) -> None:
        """These files are gone from the folder. Goes along with the next commit, at the latest in some seconds."""
        gone = tuple(paths)
        if gone:
            self._engine.writer.ride(partial(accepting.forget, source=source, paths=gone))

    async def unshare(self, item_id: str) -> None:
        """Give an item that is a hard link a copy of its own, now. Raises Unsettled if it was written to already."""
        detail = await self._engine.read(lists.item, item_id)
        if detail is not None and detail.has_content:
            folder = self._engine.folder
            await self._engine.shielded(
                self._engine.in_files(folder.unshare, item_id, detail.item.sha256), f"unshare {item_id}"
            )

    # --- housekeeping; each bounded per call

    async def expire(self, *, now: float, give_up_after: float, min_attempts: int = 3) -> int:
        """Give up deliveries that were tried for too long, but never those tried less than `min_attempts` times."""
        return await self._write(
            partial(upkeep.expire, now=now, give_up_after=give_up_after, min_attempts=min_attempts)
        )

    async def expire_unclaimed(self, *, now: float, keep_unclaimed: float) -> int:
        """Let go of media that no rule wanted."""
        return await self._write(partial(upkeep.expire_unclaimed, now=now, keep_unclaimed=keep_unclaimed))

    async def free_delivered(self, *, now: float, keep_content: float, keep_unclaimed: float) -> int:
        """Let go of the media of what was delivered long enough ago; no earlier than an incident could claim it."""
        return await self._write(
            partial(upkeep.free_delivered, now=now, keep_content=keep_content, keep_unclaimed=keep_unclaimed)
        )

    async def purge(self, *, now: float, keep_delivered: float, keep_dead: float) -> int:
        """Forget what ended long enough ago, and return the database's spare pages to the disk."""
        count = await self._write(partial(upkeep.purge, now=now, keep_delivered=keep_delivered, keep_dead=keep_dead))
        for _ in range(GIVEN_BACK_AT_ONCE):
            if not await self._write(upkeep.give_back):
                break
        return count

    async def evict_if_needed(self, *, now: float) -> int:
        """Back within the limits, as far as what nobody is owed goes (see `when_full`). The content of what was
        delivered goes some way before that, so that hardly a put has to wait until it is gone."""
        engine = self._engine
        await engine.keep_headroom()
        async with engine.making_room:
            lacking = engine.missing(Need(size_bytes=1, inodes=1), Priority.EMERGENCY)
            if lacking is not None:
                gone = await engine.in_files(engine.leftovers.make_room)
                return gone or await arriving.make_room(engine, lacking, None, now=now)
            lacking = engine.missing(Need(size_bytes=engine.config.spare_bytes, inodes=SPARE_INODES), Priority.NORMAL)
            if lacking is None or not engine.tally.value(KEPT_BYTES):
                return 0
            return await arriving.make_room(engine, lacking, None, now=now, is_spare=True)

    async def prune_leftovers(self, *, now: float, keep_dead: float) -> int:
        """Remove what damage left behind, once it was there for so long."""
        engine = self._engine
        found = await engine.in_files(engine.leftovers.look)
        noted = await self.notes(PREFIX)
        for gone in noted.keys() - found.keys():
            await self.set_note(gone, None)
        steady, count = engine.times.steady(now), 0
        for name, paths in found.items():
            if name not in noted:
                await self.set_note(name, repr(steady))
            elif steady - float(noted[name]) >= keep_dead:
                await engine.in_files(engine.leftovers.drop, paths)
                count += 1
        return count

    async def note_time(self) -> None:
        """Make sure that ages do not forget, at a power cut, the time in which nothing was written."""
        await self._write(Change.note_time)

    async def sweep(self) -> int:
        """One pass over all media, as after each start: strays go, rows without their media are told."""
        return await sweep(self._engine)

    # --- the rest

    @property
    def folder(self) -> Path:
        """The spool's folder; the socket may live in it."""
        return self._engine.folder.root

    @cached_property
    def incidents(self) -> IncidentFile:
        """What ties items together."""
        return IncidentFile(self._engine)

    @cached_property
    def fleet(self) -> Correspondence:
        """What the fleet is told, and what it asked."""
        return Correspondence(self._engine)

    def subscribe(self, hint: Hint) -> None:
        """`hint` is called in the loop, after a commit, with the names of destinations that may have work."""
        self._engine.subscribe(hint)


def _open(folder: SpoolFolder, *, now: float, wal_limit_bytes: int) -> sqlite3.Connection:
    settle(folder.root)
    return open_database(folder, now=now, wal_limit_bytes=wal_limit_bytes)
