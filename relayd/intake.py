"""The way in: capture → rules → spool, one commit.

Promises: when `put` returns, the item and every delivery that the rules ask for are on disk, together. It refuses with
SpoolFull while there is no room, and the source keeps the original. Rules that fail never keep an item out; what
of them could not be answered is stored with it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from relayd import clock
from relayd.files import printable
from relayd.location import Whereabouts
from relayd.model import Capture, Device, Item
from relayd.rules import RuleBook
from relayd.spool import Spool

log = logging.getLogger("relayd.intake")


class Intake:
    """What every source's `run` is given: `put`."""

    def __init__(self, spool: Spool, rules: RuleBook, device: Device, whereabouts: Whereabouts | None = None) -> None:
        self._spool = spool
        self._rules = rules
        self._device = device
        self._whereabouts = whereabouts or Whereabouts()

    async def put(self, capture: Capture) -> Item:
        """Take one capture durably. Raises SpoolFull, or OSError if the file cannot be read or stored."""
        if capture.location is None:
            place = self._whereabouts.at(capture.captured_at)
            capture = capture if place is None else replace(capture, location=place)
        decision = self._rules.decide(provisional_item(capture), self._device)
        for trouble in decision.trouble:
            log.warning("%s from %s: %s", printable(capture.name), capture.source, trouble)
        item = await self._spool.put(capture, decision.orders, now=clock.now(), trouble=decision.trouble)
        log.debug("accepted %s (%s) from %s", item.id, printable(item.name), item.source)
        return item


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
    )
