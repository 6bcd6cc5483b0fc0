"""The way in: capture → rules → spool, one commit.

Promises: when `put` returns, the item and every delivery that the rules ask for are on disk, together, and so are the
incidents that it opens. It refuses with SpoolFull while there is no room, and the source keeps the original. Rules that
fail never keep an item out; what of them could not be answered is stored with it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from relayd import clock, incidents
from relayd.collector import BoundRules, Collector, DecidedRules
from relayd.files import printable
from relayd.location import Whereabouts
from relayd.model import Capture, Device, Incident, Item, Opening
from relayd.rules import RuleBook
from relayd.spool import Spool

log = logging.getLogger("relayd.intake")


class Intake:
    """What every source's `run` is given: `put`; and what looks after the incidents that come of it."""

    def __init__(self, spool: Spool, rules: RuleBook, device: Device, whereabouts: Whereabouts | None = None) -> None:
        self._spool = spool
        self._whereabouts = whereabouts or Whereabouts()
        self.collector = Collector(spool, BoundRules(rules, device))
        self.use(rules, device)

    def use(self, rules: RuleBook, device: Device) -> None:
        """Decide by these rules from now on."""
        self._rules = rules
        self._device = device
        self.collector.rules = BoundRules(rules, device)
        self._spool.incidents.keep_delivered_of(rules.collects_from)

    async def put(self, capture: Capture) -> Item:
        """Take one capture durably. Raises SpoolFull, or OSError if the file cannot be read or stored."""
        if capture.location is None:
            place = self._whereabouts.at(capture.captured_at)
            capture = capture if place is None else replace(capture, location=place)
        provisional = provisional_item(capture)
        rules, device, ties = self._rules, self._device, self._ties()  # a reload may change them on the way
        openings, untold = rules.openings(provisional, device) if ties else ((), ())
        belongs_to = await self._incidents_of(provisional, openings)
        decision = rules.decide(provisional, device, belongs_to=belongs_to)
        decided = ties and DecidedRules(ties, bool(openings), None if belongs_to else decision.orders)
        for trouble in (*untold, *decision.trouble):
            log.warning("%s from %s: %s", printable(capture.name), capture.source, trouble)
        if capture.earlier is not None and capture.earlier.is_same_content:
            corrected = await self._spool.correct(capture, decision.orders, now=clock.now(), ties=decided)
            if corrected is not None:
                return corrected
            capture = replace(capture, earlier=None)  # nobody wanted it as it was called before, so no row was left
        item = await self._spool.put(
            capture, decision.orders, now=clock.now(), trouble=(*untold, *decision.trouble), ties=decided
        )
        log.debug("accepted %s (%s) from %s", item.id, printable(item.name), item.source)
        return item

    def _ties(self) -> BoundRules | None:
        """None where nothing can belong to an incident; one that is open is served to its end by whatever rules."""
        is_tied = self._rules.opens_incidents or self._spool.incidents.are_open
        return self.collector.rules if is_tied else None

    async def _incidents_of(self, item: Item, openings: tuple[Opening, ...]) -> list[Incident]:
        """What it will belong to, as far as is known beforehand: the spool decides in the end."""
        if self._ties() is None:
            return []
        await self._spool.incidents.follow_clock()
        found = [incidents.opened(one, incident_id="", now=clock.now()) for one in openings if not one.closes]
        if self._spool.incidents.are_open and item.source in self._rules.collects_from:
            found += await self._spool.incidents.covering(item)
        return found


def provisional_item(capture: Capture) -> Item:
    """The item that `capture` is about to become: rules decide on it before a byte is copied, so its id and hashes are
    not known yet (empty), and its size is what the file system says."""
    size_bytes = len(capture.payload or b"") if capture.file is None else capture.file.origin.size_bytes
    return Item(
        id="",
        source=capture.source,
        name=capture.name,
        kind=capture.kind,
        content_type=capture.content_type,
        size_bytes=size_bytes,
        sha256="",
        md5="",
        captured_at=capture.captured_at,
        accepted_at=clock.now(),
        payload=capture.payload,
        topic=capture.topic,
        attributes=capture.attributes,
        location=capture.location,
        damage=capture.damage,
    )
