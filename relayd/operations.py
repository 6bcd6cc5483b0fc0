"""What a person may do to the queue: look, ask why, retry, resend, drop; `pausing` and `handover` are the rest.

Promises: the control socket, the web page and fleet commands all come through here, so each means the same everywhere.
Results are JSON documents; what cannot be done is a RelaydError in words.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from relayd import clock, listing, status
from relayd.broker import Broker, BrokerView
from relayd.destinations.base import Destination
from relayd.diagnosis import Views
from relayd.errors import UnknownItem, UnknownName
from relayd.files import printable
from relayd.handover import RULE, HandOver
from relayd.model import DestinationView, Priority
from relayd.pausing import Pausing
from relayd.sources.base import Source
from relayd.spool import ItemDetail, QuarantinedFile, Spool, Terms, Wanted
from relayd.threads import in_own_thread

log = logging.getLogger("relayd.operations")

PATH_SECONDS = 2.0
LIST_LIMIT = 1000
"""The most items that one page of a list holds."""


class Deliverer(Protocol):
    """What pausing means to a worker."""

    def hold(self) -> None: ...
    def release(self) -> None: ...
    def finish(self) -> None: ...
    def nudge(self, within_seconds: float = ...) -> None: ...
    async def run(self) -> None: ...
    def hint(self) -> None: ...
    def view(self) -> DestinationView: ...


class Reporting(Protocol):
    """What the fleet's reporter knows of its broker, by name."""

    def view(self) -> Mapping[str, BrokerView]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What runs under the present configuration."""

    brokers: Mapping[str, Broker] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    destinations: Mapping[str, Destination] = field(default_factory=dict)
    workers: Mapping[str, Deliverer] = field(default_factory=dict)
    reporter: Reporting | None = None

    def views(self) -> Views:
        """How all of them are doing."""
        brokers = {name: broker.view() for name, broker in self.brokers.items()}
        return Views(
            sources={name: source.view() for name, source in self.sources.items()},
            destinations={name: worker.view() for name, worker in self.workers.items()},
            brokers={**brokers, **(self.reporter.view() if self.reporter else {})},
            cameras={name: destination.cameras() for name, destination in self.destinations.items()},
        )

    def view(self, destination: str) -> DestinationView | None:
        """How a destination is doing; None if it is not in the configuration any more."""
        worker = self.workers.get(destination)
        return None if worker is None else worker.view()


class Operations:
    """One relay's queue, in the hands of a person."""

    def __init__(
        self, spool: Spool, parts: Callable[[], Parts], snapshot: Callable[[], Awaitable[status.Status]]
    ) -> None:
        self._spool = spool
        self._parts = parts
        self._snapshot = snapshot
        self.handover = HandOver(spool, lambda: parts().destinations)
        """What a person, or the fleet, hands over."""
        self.pausing = Pausing(spool, lambda: parts().workers, lambda: parts().sources)
        """What a person, or the fleet, pauses and resumes."""

    # --- looking

    async def status(self) -> dict[str, Any]:
        """The status snapshot of the contract."""
        return status.as_json(await self._snapshot())

    async def items(
        self,
        *,
        state: str | None = None,
        source: str | None = None,
        destination: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """A page of items, newest first: `{"items": […], "next": ID or null}`; `before` is the last page's `next`."""
        bounded = max(1, min(limit, LIST_LIMIT))
        if state == "quarantined":
            found = await self._spool.quarantined(source, bounded)
            return {"items": [self._quarantined(entry) for entry in found], "next": None}
        summaries = await self._spool.items(
            state=state, source=source, destination=destination, before=before, limit=bounded
        )
        following = summaries[-1].item.id if len(summaries) == bounded else None
        return {"items": [listing.item_row(summary) for summary in summaries], "next": following}

    async def cameras(self) -> dict[str, Any]:
        """Every camera that a destination looks after, with the token that it waits for; those that wait are looked at
        soon, since somebody may be about to scan."""
        found = []
        for destination in self._parts().destinations.values():
            destination.nudge()
            found += [listing.camera_row(destination.name, camera) for camera in destination.cameras()]
        return {"cameras": found}

    async def item(self, item_id: str) -> dict[str, Any]:
        """One item with every delivery, attempt, step and receipt. Raises UnknownItem."""
        return listing.item_document(await self._detail(item_id))

    async def why(self, about: str) -> dict[str, Any]:
        """Why an item, or a file in a drop folder, is where it is: `{"about", "item", "text"}`. Raises UnknownItem."""
        detail = await self._spool.item(about) if about.isascii() else None
        if detail is None and Path(about).is_absolute():
            detail = await self._by_path(about)
            is_there = await _is_there(about)  # whatever was taken from here before, this file is another one
            text = await self._why_file(about) if is_there or detail is None else None
            if text is not None:
                return {"about": about, "item": None, "text": text}
        if detail is None:
            raise UnknownItem(
                f"{printable(about)} is neither an item nor a file that a source knows; `relayd items` lists all."
                " What no rule wanted and no incident claimed within keep_unclaimed leaves no trace"
            )
        text = listing.paragraph(detail, self._parts().view, now=clock.now())
        return {"about": about, "item": listing.item_document(detail), "text": text}

    async def incidents(
        self, *, state: str | None = None, before: str | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """A page of incidents, newest first: `{"incidents": […], "next": ID or null}`."""
        bounded = max(1, min(limit, LIST_LIMIT))
        is_open = None if state is None else state == "open"
        found = await self._spool.incidents.page(is_open=is_open, before=before, limit=bounded)
        following = found[-1].incident.id if len(found) == bounded else None
        return {"incidents": [listing.incident_row(summary) for summary in found], "next": following}

    async def incident(self, incident_id: str) -> dict[str, Any]:
        """One incident with its items, newest first, at most `LIST_LIMIT`. Raises UnknownItem."""
        summary = await self._spool.incidents.one(incident_id)
        if summary is None:
            raise UnknownItem(f"no incident {printable(incident_id)} in the spool; `relayd incidents` lists them")
        belonging = await self._spool.incidents.items(incident_id, LIST_LIMIT)
        return {**listing.incident_row(summary), "belonging": [listing.item_row(one) for one in belonging]}

    # --- changing

    async def close_incident(self, incident_id: str) -> dict[str, Any]:
        """Close one: what is captured from now on does not belong to it. `{"closed": whether it was open}`."""
        await self.incident(incident_id)
        return {"closed": await self._spool.incidents.close(incident_id, "closed by hand", now=clock.now())}

    async def retry(self, item_ids: list[str] | None, destination: str | None) -> dict[str, Any]:
        """Make dead deliveries of these items (None: of all) due again, and try at once: `{"retried": N}`, and
        for items by name `"left"`: what was left as it is, and why."""
        if destination is not None:
            self._named(destination)
        for item_id in item_ids or ():
            await self._detail(item_id)
        retried = await self._spool.retry(item_ids, destination, now=clock.now())
        for name, worker in self._parts().workers.items():
            if destination in (None, name):
                worker.nudge(0.0)
        log.info("to be tried again, by hand: %d", retried)
        if item_ids is None:
            return {"retried": retried}
        details = [await self._spool.item(item_id) for item_id in item_ids[:LIST_LIMIT]]
        left = [one for detail in details if detail for one in listing.left_by_retry(detail, destination)]
        return {"retried": retried, "left": left}

    async def resend(self, wanted: list[str] | Wanted, to: str, priority: Priority) -> dict[str, Any]:
        """Deliver again to one destination what it was delivered before, while its content is kept:
        `{"resent": [{item, name, actions, alarms}], "left": [{item, name, why}], "more": whether more match}`."""
        self._named(to)
        destination = self._parts().destinations[to]
        terms = Terms(destination=to, priority=priority, rule=RULE, never_late=destination.never_late)
        done, is_more = await self._spool.resend(wanted, terms, now=clock.now())
        resent = [listing.resent_row(one, destination.alarms) for one in done if not one.why]
        left = [listing.left_row(one) for one in done if one.why]
        log.info("sent again to %s, by hand: %d items; left as they are: %d", to, len(resent), len(left))
        return {"resent": resent, "left": left, "more": is_more}

    async def drop(self, item_ids: list[str]) -> dict[str, Any]:
        """Give items up for good; their rows stay as dropped: `{"dropped": N}`. An absolute path is a file in
        quarantine, which is removed for good."""
        paths = [one for one in item_ids if Path(one).is_absolute()]
        ids = [one for one in item_ids if one not in paths]
        for item_id in ids:
            await self._detail(item_id)
        for path in paths:
            await self._discard(path)
        dropped = await self._spool.drop(ids, now=clock.now()) if ids else 0
        log.info("dropped by hand: %d", dropped + len(paths))
        return {"dropped": dropped + len(paths)}

    async def flush(self, name: str | None) -> dict[str, Any]:
        """Do not wait any longer where a destination (None: any) could not be had: `{"flushed": [names]}`."""
        names = self._named(name)
        for one in names:
            self._parts().workers[one].nudge(0.0)
        log.info("to be tried now: %s", ", ".join(names))
        return {"flushed": names}

    # --- finding

    def _quarantined(self, entry: QuarantinedFile) -> dict[str, Any]:
        source = self._parts().sources.get(entry.source)
        return listing.quarantined_row(entry, None if source is None else source.path_of(entry.path))

    async def _discard(self, path: str) -> None:
        for source in self._parts().sources.values():
            if await source.discard(path):
                return
        raise UnknownItem(f"{printable(path)} is in no source's folder; `relayd items --state quarantined` lists all")

    async def _detail(self, item_id: str) -> ItemDetail:
        detail = await self._spool.item(item_id)
        if detail is None:
            raise UnknownItem(f"no item {printable(item_id)} in the spool; `relayd items` lists them")
        return detail

    async def _why_file(self, path: str) -> str | None:
        sources = self._parts().sources
        texts = await asyncio.gather(*(source.why(path) for source in sources.values()))
        told = [f"source {name}: {text}" for name, text in zip(sources, texts, strict=True) if text is not None]
        return next(iter(told), None)

    async def _by_path(self, path: str) -> ItemDetail | None:
        sources = list(self._parts().sources.values())
        inners = await asyncio.gather(*(_within(source, path) for source in sources))
        for source, inner in zip(sources, inners, strict=True):
            found = None if inner is None else await self._spool.find_by_path(source.name, inner)
            if found is not None:
                return await self._spool.item(found)
        return None

    def _named(self, name: str | None) -> list[str]:
        workers = self._parts().workers
        if name is None:
            return sorted(workers)
        if name not in workers:
            known = ", ".join(sorted(workers)) or "none"
            raise UnknownName(f"no destination {printable(name)}; there are: {known}")
        return [name]


async def _is_there(path: str) -> bool:
    """Also where its disk hangs: then its source has more to say."""
    try:
        async with asyncio.timeout(PATH_SECONDS):
            return await in_own_thread("path", os.path.lexists, path)
    except TimeoutError:
        return True


async def _within(source: Source, path: str) -> bytes | None:
    """As `path_within`; a disk that hangs has nothing to say."""
    try:
        async with asyncio.timeout(PATH_SECONDS):
            return await in_own_thread("path", source.path_within, path)
    except TimeoutError:
        return None
