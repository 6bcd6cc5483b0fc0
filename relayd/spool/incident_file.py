"""The spool's side that keeps incidents: what the collector does to them, and what people ask of them.

Promises: each call is one commit of bounded work, or a look that waits for none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial

from relayd.model import Incident, Item
from relayd.spool import claiming, incident_rows, lists, waiting
from relayd.spool.change import INCIDENTS
from relayd.spool.claiming import Claiming
from relayd.spool.engine import Engine
from relayd.spool.records import IncidentSummary, ItemSummary
from relayd.spool.tying import Ties


class IncidentFile:
    """`Spool.incidents`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep_delivered_of(self, sources: Collection[str]) -> None:
        """Media of these sources stays for `keep_unclaimed` after it was delivered: an incident may still want it."""
        self._engine.writer.collected = frozenset(sources)

    @property
    def are_open(self) -> bool:
        """Whether any is."""
        return self._engine.tally.value("open", INCIDENTS) > 0

    def hinted(self, hint: Callable[[], None]) -> AbstractContextManager[None]:
        """Within it, `hint` is called in the loop after each commit that opened or joined an incident."""
        return self._engine.hinted_of_incidents(hint)

    async def open(self) -> list[Incident]:
        """Those that are open, oldest first."""
        return await self._engine.read(lists.open_incidents)

    async def claiming(self) -> list[str]:
        """Ids of those, open or closed by now, that have not looked through all that came before, oldest first."""
        return await self._engine.read(lists.claiming_incidents)

    async def claim(
        self, incident_id: str, ties: Ties, *, now: float, page: Claiming | None = None
    ) -> tuple[int, Claiming | None]:
        """A page of what came before it opened and belongs to it: how many items, and the page after it, if any."""
        return await self._engine.write(partial(claiming.claim, incident_id=incident_id, ties=ties, now=now, page=page))

    async def close(self, incident_id: str, reason: str, *, now: float) -> bool:
        """Close one; False if it is not open."""
        return await self._engine.write(partial(incident_rows.close, incident_id=incident_id, reason=reason, now=now))

    async def close_overdue(self, *, now: float) -> int:
        """Close those whose time is over; how many."""
        return await self._engine.write(partial(incident_rows.close_overdue, now=now))

    async def follow_clock(self) -> None:
        """If the clock was set, what was read from it before has moved along when this returns."""
        if self._engine.times is not self._engine.writer.times:
            await self._engine.write(lambda change: None)  # each commit begins by following the clock

    async def settle_all(self, *, now: float) -> None:
        """Look after what waits in every incident, also where the database lost it, or an older version left it."""
        self._engine.unsettled |= set(await self._engine.read(waiting.with_waiting))
        await self.settle(now=now)

    async def settle(self, *, now: float) -> None:
        """Go on with what was too much for one commit."""
        while self._engine.unsettled:
            incident = self._engine.unsettled.pop()
            await self._engine.write(partial(waiting.touch, incident=incident, now=now))

    # --- looking

    async def covering(self, item: Item) -> list[Incident]:
        """Those that an item would belong to by when it was captured."""
        return await self._engine.read(incident_rows.covering, item)

    async def page(
        self, *, is_open: bool | None = None, before: str | None = None, limit: int = 100
    ) -> list[IncidentSummary]:
        """A page, newest first."""
        return await self._engine.browse(lists.incidents, is_open=is_open, before=before, limit=limit)

    async def one(self, incident_id: str) -> IncidentSummary | None:
        return await self._engine.browse(lists.incident, incident_id)

    async def items(self, incident_id: str, limit: int) -> list[ItemSummary]:
        """What belongs to it, newest first."""
        return await self._engine.browse(lists.items_of_incident, incident_id, limit)
