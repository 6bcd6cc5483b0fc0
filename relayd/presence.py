"""Keeps the retained topics right: `state`, `health`, and what Home Assistant reads; and notices what breaks.

Promises: after each connection the birth comes first, then health. Health follows every change of its `state` within
seconds, and comes every `health_every` seconds whatever happens. What breaks or mends is told as an event, once, also
across restarts.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from relayd import clock, pulse
from relayd.errors import RelaydError, SpoolError, Unavailable
from relayd.faults import Standing, after, from_document, to_document, turns
from relayd.homeassistant import Shown
from relayd.lookout import Lookout
from relayd.model import Fields
from relayd.operations import Operations
from relayd.post import Post
from relayd.reports import encoded
from relayd.spool import Spool

log = logging.getLogger("relayd.presence")

LOOK_EVERY_SECONDS = 1.0
REFUSED_SECONDS = 60.0
"""What the broker refused is tried again after this, or over the next connection."""
TOLD_NOTE = "fleet:told"
"""Part → [reason, since] of what the fleet was told to be broken."""
SHOWN_NOTE = "fleet:home_assistant"
"""The topics at which Home Assistant finds documents of ours."""

Document = dict[str, Any]


class Presence:
    """One relay's retained topics. `birth` makes the document of `state`; `shown` None: nothing for Home Assistant."""

    def __init__(
        self,
        post: Post,
        spool: Spool,
        operations: Operations,
        lookout: Lookout,
        *,
        birth: Callable[[], Document],
        health_every_seconds: float,
        shown: Shown | None,
    ) -> None:
        self._post = post
        self._spool = spool
        self._operations = operations
        self._lookout = lookout
        self._birth = birth
        self._health_every_seconds = health_every_seconds
        self._shown = shown
        self._wake = asyncio.Event()
        self._connection = 0
        self._sent_over: dict[str, int] = {}
        self._refused_until: dict[str, float] = {}
        self._last_state = ""
        self._next_health_at = 0.0

    def renew(self) -> None:
        """There is a new connection: the broker may have lost everything."""
        self._connection += 1
        self._refused_until.clear()
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        told = from_document(json.loads(await self._spool.note(TOLD_NOTE) or "{}"))
        while True:
            self._wake.clear()
            pulse.beat(LOOK_EVERY_SECONDS, "presence")
            connection = self._connection
            snapshot = await self._operations.status()
            if connection != self._connection:
                continue  # it would say that the fleet cannot be reached, to the fleet
            told = await self._tell(told)
            if self._connection and self._post.is_open:
                await self._publish(snapshot)
            try:
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    # --- retained topics

    async def _publish(self, snapshot: Document) -> None:
        """Whatever is owed; what is not taken stays owed."""
        if self._is_owed("state"):
            await self._send("state", lambda: self._post.publish("state", self._birth(), retain=True))
        now = clock.monotonic()
        is_news = snapshot["state"] != self._last_state or now >= self._next_health_at
        if (self._is_owed("health") or is_news) and await self._send(
            "health", lambda: self._post.publish("health", snapshot, retain=True)
        ):
            self._last_state = snapshot["state"]
            self._next_health_at = now + self._health_every_seconds
        if self._is_owed("shown"):
            await self._send("shown", self._show)

    def _is_owed(self, what: str) -> bool:
        return self._sent_over.get(what) != self._connection

    async def _send(self, what: str, publish: Callable[[], Awaitable[None]]) -> bool:
        """Whether the broker has it now."""
        connection = self._connection
        if clock.monotonic() < self._refused_until.get(what, 0.0):
            return False
        try:
            await publish()
        except Unavailable as error:
            log.debug("%s is not at the fleet's broker yet: %s", what, error)
            return False
        except RelaydError:
            self._refused_until[what] = clock.monotonic() + REFUSED_SECONDS
            return False
        self._sent_over[what] = connection
        return True

    async def _show(self) -> None:
        """What Home Assistant reads, and nothing left of what it is not to read any more."""
        documents = {} if self._shown is None else self._shown.documents()
        before: list[str] = json.loads(await self._spool.note(SHOWN_NOTE) or "[]")
        await self._spool.set_note(SHOWN_NOTE, json.dumps(sorted({*before, *documents})))
        for topic in before:
            if topic not in documents:
                await self._post.publish_at(topic, b"", kind="home assistant", retain=True)
        for topic, document in documents.items():
            await self._post.publish_at(topic, encoded(document), kind="home assistant", retain=True)
        await self._spool.set_note(SHOWN_NOTE, json.dumps(sorted(documents)) if documents else None)

    # --- what breaks

    async def _tell(self, before: dict[str, Standing]) -> dict[str, Standing]:
        """What the fleet has been told by now."""
        news, told = turns(before, self._lookout.standing), before
        for turn in news:
            told = after(turn, told)
        if not news:
            return told
        notes: Fields = {TOLD_NOTE: json.dumps(to_document(told)) if told else None}
        try:
            await self._spool.fleet.report([(turn.type, turn.fields()) for turn in news], now=clock.now(), notes=notes)
        except SpoolError as error:
            log.debug("the fleet is not told yet of %d turns: %s", len(news), error)
            return before
        return told
