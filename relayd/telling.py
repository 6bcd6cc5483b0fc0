"""Sends the events that wait in the spool: in order, and each until the broker has it.

Promises: an event is forgotten only after the broker's acknowledgement; a crash between the two has it sent again under
the same id. What has to be sent again may come behind what followed it; the numbers say the order. One that the broker
will never take is left out and said in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from relayd import pulse
from relayd.errors import Rejected, RelaydError
from relayd.post import Post
from relayd.spool import Correspondence, Event

log = logging.getLogger("relayd.telling")

AT_ONCE = 20
LOOK_AGAIN_SECONDS = 60.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0


class Teller:
    """Empties the spool's events into the fleet's broker."""

    def __init__(self, post: Post, waiting: Correspondence) -> None:
        self._post = post
        self._waiting = waiting
        self._hint = asyncio.Event()
        self._told = 0
        self._dropped = waiting.events_dropped

    def hint(self) -> None:
        """There are new events, or the broker is there again."""
        self._hint.set()

    async def run(self) -> None:
        """For ever."""
        failures = 0
        while True:
            pulse.beat(LOOK_AGAIN_SECONDS, "events")
            self._hint.clear()
            self._say_dropped()
            events = await self._waiting.events(self._told, AT_ONCE) if self._post.is_open else []
            if not events:
                await self._wait(LOOK_AGAIN_SECONDS)
            elif await self._tell(events):
                failures = 0
            else:
                failures += 1
                wait = FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 8)
                await asyncio.sleep(min(wait, LONGEST_WAIT_SECONDS))

    async def _tell(self, events: Sequence[Event]) -> bool:
        """Send them side by side, in order; True if all of them are through. Those before the first failure are."""
        outcomes = await asyncio.gather(*(self._tell_one(event) for event in events), return_exceptions=True)
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, RelaydError):
                raise outcome
            if isinstance(outcome, RelaydError) and not isinstance(outcome, Rejected):
                break
            if isinstance(outcome, Rejected):
                log.warning("event %d (%s) is left out: %s", event.seq, event.type, outcome)
            self._told = event.seq
        if self._told >= events[0].seq:
            self._waiting.forget_events(self._told)
        return self._told == events[-1].seq

    async def _tell_one(self, event: Event) -> None:
        await self._post.publish("event", event.document)

    def _say_dropped(self) -> None:
        dropped = self._waiting.events_dropped
        if dropped > self._dropped and self._post.is_open:
            log.warning(
                "%d events were dropped because the fleet was away for too long; the numbers of events show the gap",
                dropped - self._dropped,
            )
            self._dropped = dropped

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hint.wait()
        except TimeoutError:
            return
