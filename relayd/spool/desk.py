"""What people ask of the spool: lists, details, retry, resend, drop, notes, and the counters.

Promises: lists are pages; nothing here waits for a delivery. `retry`, `resend` and `drop` are committed when they
return.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TypeVar

from relayd.model import State
from relayd.spool import lists, resending, upkeep
from relayd.spool.change import INCIDENTS, Change
from relayd.spool.engine import Engine
from relayd.spool.limits import Disk, Room
from relayd.spool.records import DeadDelivery, ItemDetail, ItemSummary, QuarantinedFile, Resent, SpoolCounters
from relayd.spool.writer import Operation

T = TypeVar("T")

NAMED_AT_ONCE = 200
MOST_RESENT = 10_000
"""Items that are looked at for one `resend`."""


class Desk:
    """The half of the spool that faces people; `Spool` is the whole."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def items(
        self,
        *,
        state: str | None = None,
        source: str | None = None,
        destination: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[ItemSummary]:
        """A page, newest first by order of acceptance; `before` is the id of the last item of the page before."""
        return await self._engine.browse(
            lists.items, state=state, source=source, destination=destination, before=before, limit=limit
        )

    async def item(self, item_id: str) -> ItemDetail | None:
        """Everything about one item; of each delivery's attempts the first and the last ones."""
        return await self._engine.browse(lists.item, item_id)

    async def find_by_path(self, source: str, path: bytes) -> str | None:
        """The id of the newest item that came from this path below the source's folder."""
        return await self._engine.browse(lists.find_by_path, source, path)

    async def quarantined(self, source: str | None, limit: int) -> list[QuarantinedFile]:
        """Files that wait for a technician, newest first."""
        return await self._engine.browse(lists.quarantined, source, limit)

    async def retry(self, item_ids: Sequence[str] | None, destination: str | None, *, now: float) -> int:
        """Make dead, expired and evicted deliveries (None: of all items) due now, where the content is still kept.

        Stored steps stay. Returns how many deliveries.
        """
        names = list(self._engine.tally.destinations()) if destination is None else [destination]
        if item_ids is None:
            return sum([await self._retry_all(name, now) for name in names])
        total = 0
        for start in range(0, len(item_ids), NAMED_AT_ONCE):
            page = item_ids[start : start + NAMED_AT_ONCE]
            total += await self._write(partial(upkeep.retry_items, item_ids=page, destinations=names, now=now))
        return total

    async def _retry_all(self, destination: str, now: float) -> int:
        total = 0
        after: int | None = 0
        while after is not None:
            count, after = await self._write(partial(upkeep.retry_all, destination=destination, after=after, now=now))
            total += count
        return total

    async def resend(
        self, wanted: Sequence[str] | resending.Wanted, terms: resending.Terms, *, now: float
    ) -> tuple[list[Resent], bool]:
        """Deliver these items again, oldest first, MOST_RESENT at the most; what came of each, and whether there are
        more. A commit for each page: what was said to be sent again is, and asked again it is under way already."""
        done: list[Resent] = []
        after: int | None = 0
        while after is not None and len(done) < MOST_RESENT:
            page, after = await self._page_of(wanted, after)
            done += await self._write(partial(resending.resend, item_ids=page, terms=terms, now=now))
        return done, after is not None

    async def _page_of(self, wanted: Sequence[str] | resending.Wanted, after: int) -> tuple[Sequence[str], int | None]:
        """Ids, and where the next page begins; None after the last one."""
        if isinstance(wanted, resending.Wanted):
            found = await self._engine.browse(resending.find, wanted, after=after, limit=NAMED_AT_ONCE)
            return [item_id for _, item_id in found], found[-1][0] if len(found) == NAMED_AT_ONCE else None
        end = after + NAMED_AT_ONCE
        return wanted[after:end], end if end < len(wanted) else None

    async def drop(self, item_ids: Sequence[str], *, now: float) -> int:
        """Give items up for good: their deliveries are dropped, their content goes. How many items."""
        total = 0
        for start in range(0, len(item_ids), NAMED_AT_ONCE):
            page = item_ids[start : start + NAMED_AT_ONCE]
            total += await self._write(partial(upkeep.drop, item_ids=page, now=now))
        return total

    async def oldest_pending(self) -> float | None:
        """When the oldest item that is still owed to somebody was accepted."""
        return await self._engine.read(lists.oldest_pending)

    async def worst_dead(self, destinations: Collection[str], limit: int) -> list[DeadDelivery]:
        """Dead deliveries to these, the most urgent first, of those the newest: one seek."""
        return await self._engine.read(lists.worst_dead, destinations, limit)

    async def note(self, key: str) -> str | None:
        """A small durable fact."""
        return await self._engine.read(lists.note, key)

    async def notes(self, prefix: str) -> dict[str, str]:
        """Every small fact whose key begins with `prefix`, which ends in a colon."""
        return await self._engine.read(lists.notes, prefix)

    async def set_note(self, key: str, value: str | None) -> None:
        """Remember a small fact durably; None forgets it. Writes nothing if it is known already."""
        if await self.note(key) != value:
            await self._write(partial(set_note, key=key, value=value))

    @property
    def counters(self) -> SpoolCounters:
        """As of the last commit; costs no look into the database."""
        engine = self._engine
        tally = engine.tally
        return SpoolCounters(
            items=tally.value("accepted"),
            stored=tally.value("stored"),
            pending=tally.value(State.PENDING),
            delivered=tally.value(State.DELIVERED),
            dead=tally.value(State.DEAD),
            evicted=tally.value(State.EVICTED),
            expired=tally.value(State.EXPIRED),
            unclaimed=tally.value(State.UNCLAIMED),
            dropped=tally.value(State.DROPPED),
            bytes=tally.value("bytes"),
            max_bytes=engine.config.max_size,
            free_bytes=Disk.of(engine.folder.root).free_bytes,
            open_incidents=tally.value("open", INCIDENTS),
            sources=tally.sources(),
            destinations=tally.destinations(),
        )

    def room(self) -> Room:
        """What may still be put; costs a statvfs."""
        return self._engine.room()

    async def is_owed_more(self, destination: str, *, besides: tuple[str, Collection[str]]) -> bool:
        """Whether anything waits for it besides the items of that source (first) with those names (second)."""
        return await self._engine.read(lists.is_owed_more, destination, besides)

    @property
    def is_damaged(self) -> bool:
        """The database turned out to be damaged while it was open: closing and opening it again salvages it."""
        return self._engine.is_damaged

    @property
    def is_to_reopen(self) -> bool:
        """The same, or by now there is room to salvage what was damaged before."""
        return self._engine.is_damaged or self._engine.can_salvage

    @property
    def unsalvaged(self) -> str:
        """Why a damaged database of before could not be salvaged yet, in words; else empty."""
        return self._engine.waits_for

    async def _write(self, operation: Operation[T]) -> T:
        return await self._engine.write(operation)


def set_note(change: Change, key: str, value: str | None) -> None:
    """The operation behind `Desk.set_note`."""
    if value is None:
        change.db.execute("DELETE FROM notes WHERE key = ?", (key,))
    else:
        change.db.execute("INSERT OR REPLACE INTO notes (key, value) VALUES (?, ?)", (key, value))
