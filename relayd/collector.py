"""Incidents over time: claims what was there before one opened, closes those whose time is over, follows the clock.

Promises: the table is the truth: whatever a crash left unclaimed is claimed at the next start. A wall clock that is set
while an incident is open neither ends it early nor loses its pre-event footage.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from relayd import clock, pulse
from relayd.model import Device, Incident, Item, Opening, Order
from relayd.rules import RuleBook
from relayd.spool import Spool

log = logging.getLogger("relayd.incidents")

LOOK_AGAIN_SECONDS = 30.0
"""The longest sleep while an incident is open."""

IDLE_SECONDS = 600.0
"""The same while none is."""


class BoundRules:
    """The rules as the spool asks them, in its writer's thread: `spool.Ties`."""

    def __init__(self, book: RuleBook, device: Device) -> None:
        self._book = book
        self._device = device

    def openings(self, item: Item) -> tuple[Opening, ...]:
        return self._book.openings(item, self._device)[0]

    def orders(self, item: Item, belongs_to: Sequence[Incident]) -> tuple[Order, ...]:
        return self._book.decide(item, self._device, belongs_to=belongs_to).orders


@dataclass(frozen=True, slots=True)
class DecidedRules:
    """The same for one item about which the rules were asked beforehand, out of the writer's thread: `opens` says that
    it opens, joins or closes something, `unbound` what is owed for it outside of incidents. So a flood of items that
    have nothing to do with incidents fills in no text where an emergency waits for its commit."""

    rules: BoundRules
    opens: bool
    unbound: tuple[Order, ...] | None

    def openings(self, item: Item) -> tuple[Opening, ...]:
        return self.rules.openings(item) if self.opens else ()

    def orders(self, item: Item, belongs_to: Sequence[Incident]) -> tuple[Order, ...]:
        return self.unbound if self.unbound is not None and not belongs_to else self.rules.orders(item, belongs_to)


class Collector:
    """One for each spool; `run` never returns by itself."""

    def __init__(self, spool: Spool, rules: BoundRules) -> None:
        self.rules = rules
        self._spool = spool
        self._hint = asyncio.Event()

    async def run(self) -> None:
        """Look after open incidents for ever."""
        with self._spool.incidents.hinted(self._hint.set):
            await self._spool.incidents.settle_all(now=clock.now())
            while True:
                self._hint.clear()
                pulse.beat(0.0)
                next_look_seconds = await self.look()
                pulse.beat(next_look_seconds)
                try:
                    async with asyncio.timeout(next_look_seconds):
                        await self._hint.wait()
                except TimeoutError:
                    continue

    async def look(self) -> float:
        """Claim and close what is to be claimed and closed now; how long nothing more can be due, in seconds."""
        await self._spool.incidents.follow_clock()
        for incident_id in await self._spool.incidents.claiming():
            await self._claim(incident_id)
        await self._spool.incidents.settle(now=clock.now())
        incidents = await self._spool.incidents.open()
        if any(one.ends_at < clock.now() or one.starts_at > clock.now() for one in incidents):
            await self._spool.incidents.close_overdue(now=clock.now())
        first_end = min((one.ends_at for one in incidents), default=clock.now() + IDLE_SECONDS)
        longest = LOOK_AGAIN_SECONDS if incidents else IDLE_SECONDS
        return min(max(first_end - clock.now(), 0.0) + 0.1, longest)

    async def _claim(self, incident_id: str) -> None:
        claimed, page = 0, None
        while True:
            count, page = await self._spool.incidents.claim(incident_id, self.rules, now=clock.now(), page=page)
            claimed += count
            if page is None:
                break
        if claimed:
            log.info("incident %s has claimed what was there before: %d", incident_id, claimed)
