"""The way out: one Worker per destination: begin, try, record, pause.

Promises: an attempt is charged in the spool before it starts, so a crash needs no rescue; what is out right now is a
set in memory. A destination that cannot be had pauses as a whole and is probed with one small urgent item at a time; an
item that fails for a reason of its own backs off alone and never holds up the line. No other destination notices.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from relayd import clock, pulse
from relayd.arguments import arguments_of
from relayd.destinations.base import Attempt, Destination, DestinationConfig, Sibling, Step
from relayd.errors import Rejected, SpoolError
from relayd.files import printable
from relayd.messages import Message, about
from relayd.model import DestinationView, Device, Fields, Outcome, Priority, Receipt, State
from relayd.retry import BREAKER_FAILURES, Backoff, Verdict, judge
from relayd.spool import Begun, Spool
from relayd.traffic import Traffic

LOOK_AGAIN_SECONDS = 60.0
"""The longest sleep: hints may be lost and clocks may jump, the table is the truth."""

TRIES_WORTH_A_LINE = frozenset({1, 10, 100, 1000})
"""Which failed tries of one delivery are logged; all of them are on record in the spool."""

BACKLOG_TURN = 8
"""Every so many deliveries the least urgent one goes first, unless there is an emergency: its guaranteed share."""

WAKE_JITTER_SECONDS = 5.0
"""When the network returns, a fleet comes back spread over this span."""

OUTAGE_SECONDS = 30.0
"""After a pause as long as this, what failed by itself is tried again at once: it failed for the same outage. Shorter
ones are not told from items that are at fault themselves, which must not be sent again and again."""


@dataclass(slots=True)
class _Pause:
    """Why, since and until when (monotonic seconds) nothing but a probe goes out; `failures` in a row so far."""

    reason: str
    since: float
    until: float
    failures: int
    is_fault: bool


class Worker:
    """Carries out the deliveries of one destination, most urgent first, `concurrency` at a time; one emergency more."""

    def __init__(
        self,
        destination: Destination,
        config: DestinationConfig,
        spool: Spool,
        device: Device,
        *,
        is_held: bool,
        traffic: Traffic | None = None,
    ) -> None:
        """`traffic` is shared by all workers over one link; without it this one gives way to nobody but itself."""
        self.name = destination.name
        self._log = logging.getLogger(f"relayd.worker.{self.name}")
        self._destination = destination
        self._concurrency = config.concurrency
        self._backoff = Backoff(config.backoff_first, config.backoff_cap)
        self._spool = spool
        self._device = device
        self._traffic = traffic or Traffic()
        self._held = is_held
        self._is_finishing = False
        self._hint = asyncio.Event()
        self._out: dict[int, Begun] = {}
        self._pause: _Pause | None = None
        self._failures_in_a_row = 0
        self._probe: int | None = None
        self._failed_probe: int | None = None
        self._wake_within: float | None = None
        self._spool_trouble = ""
        self._begun = 0
        self._was_heard_of = False

    async def run(self) -> None:
        """Deliver for ever, or until `finish`. When it is cancelled, what is out is due again after its backoff."""
        async with asyncio.TaskGroup() as attempts:
            while not self._is_finishing:
                self._hint.clear()
                pulse.beat(0.0)
                next_look_seconds = await self._fill(attempts)
                pulse.beat(next_look_seconds)
                await self._wait(next_look_seconds)

    def hint(self) -> None:
        """Something changed in the spool: look again."""
        self._hint.set()

    def nudge(self, within_seconds: float = WAKE_JITTER_SECONDS) -> None:
        """The world may have changed (the network is back, a person said so): probe soon instead of waiting, and what
        failed by itself is due then, too."""
        if self._pause is not None:
            self._pause.until = min(self._pause.until, clock.monotonic() + clock.jitter(within_seconds))
        self._wake_within = within_seconds
        self._hint.set()

    def hold(self) -> None:
        """A person paused this destination: start nothing new."""
        self._held = True
        self._hint.set()

    def release(self) -> None:
        """A person resumed this destination: try at once."""
        self._held = False
        self.nudge(0.0)

    def finish(self) -> None:
        """Another takes over: start nothing new; `run` returns when what is out has ended."""
        self._held = self._is_finishing = True
        self._hint.set()

    def view(self) -> DestinationView:
        """For the status snapshot; no I/O."""
        under_way = len(self._out)
        if self._held:
            return DestinationView(
                state="paused", reason="paused by hand, `relayd resume`", next_try_at=None, under_way=under_way
            )
        if self._pause is not None:
            return DestinationView(
                state="fault" if self._pause.is_fault else "waiting",
                reason=self._pause.reason,
                next_try_at=clock.now() + max(0.0, self._pause.until - clock.monotonic()),
                under_way=under_way,
            )
        if self._spool_trouble:
            return DestinationView(state="fault", reason=self._spool_trouble, next_try_at=None, under_way=under_way)
        return DestinationView(
            state="ok", reason="", next_try_at=None, under_way=under_way, is_known=self._was_heard_of
        )

    # --- choosing

    async def _fill(self, attempts: asyncio.TaskGroup) -> float:
        """Start what may start now; return how long nothing else can happen without a hint, in seconds."""
        while (least_urgent := self._least_urgent()) is not None:
            if self._pause is not None:
                waiting_seconds = self._pause.until - clock.monotonic()
                if waiting_seconds > 0:
                    return min(waiting_seconds, LOOK_AGAIN_SECONDS)
                if self._probe is not None:
                    return LOOK_AGAIN_SECONDS
            try:
                await self._wake()
                begun = await self._begin(least_urgent)
                if begun is None:
                    return await self._until_due_seconds(least_urgent)
            except (SpoolError, sqlite3.Error, OSError) as error:
                return self._spool_failed(error)
            self._spool_trouble = ""
            self._out[begun.delivery.id] = begun
            attempts.create_task(self._try(begun), name=f"deliver {begun.item.id} to {self.name}")
        return LOOK_AGAIN_SECONDS

    def _least_urgent(self) -> Priority | None:
        """What may start now: anything while there is room, an emergency beside what fills the room, else None."""
        if self._held or len(self._out) > self._concurrency:
            return None
        return Priority.BULK if len(self._out) < self._concurrency else Priority.EMERGENCY

    async def _wake(self) -> None:
        """What failed for what may be over now is due: it need not wait for the end of its own backoff."""
        if self._wake_within is not None:
            within, self._wake_within = self._wake_within, None
            now = clock.now()
            await self._spool.wake(self.name, now=now, due_at=now + clock.jitter(within), exclude=frozenset(self._out))

    async def _begin(self, least_urgent: Priority) -> Begun | None:
        """Pick and charge the next delivery; a probe avoids the item that the last probe failed with."""
        probe = self._pause is not None
        avoid = {self._failed_probe} if probe and self._failed_probe is not None else set()
        begun = await self._begin_excluding(self._out.keys() | avoid, least_urgent, probe=probe)
        if begun is None and avoid:
            begun = await self._begin_excluding(set(self._out), least_urgent, probe=probe)
        if begun is not None and probe:
            self._probe = begun.delivery.id
        self._begun += begun is not None
        return begun

    async def _begin_excluding(self, exclude: set[int], least_urgent: Priority, *, probe: bool) -> Begun | None:
        return await self._spool.begin(
            self.name,
            now=clock.now(),
            longest_backoff=self._backoff.cap_seconds,
            delay=lambda attempts: clock.jitter(self._backoff.ceiling_seconds(attempts)),
            exclude=exclude,
            probe=probe,
            least_urgent=least_urgent,
            backlog_turn=not probe and self._begun % BACKLOG_TURN == BACKLOG_TURN - 1,
        )

    async def _until_due_seconds(self, least_urgent: Priority) -> float:
        now, out = clock.now(), frozenset(self._out)
        due_at = await self._spool.next_due(
            self.name,
            now=now,
            longest_backoff=self._backoff.cap_seconds,
            exclude=out,
            least_urgent=least_urgent,
        )
        if due_at is not None:
            return min(max(due_at - now, 0.0), LOOK_AGAIN_SECONDS)
        asked_for_all = least_urgent is Priority.BULK
        if not out and asked_for_all and self._pause is not None and not self._pause.is_fault:
            # What it was owed has expired or was dropped: nothing will probe it, so nothing is known of it any more.
            self._log.info("%s is owed nothing any more: its pause is over", self.name)
            self._pause, self._was_heard_of = None, False
        return LOOK_AGAIN_SECONDS

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hint.wait()
        except TimeoutError:
            return

    # --- trying

    async def _try(self, begun: Begun) -> None:
        try:
            with self._traffic.carrying(begun.delivery.priority):
                receipt = await self._destination.deliver(self._attempt(begun))
        except Exception as error:  # noqa: BLE001 - the seam: whatever a destination raises becomes a verdict
            await self._record_failure(begun, error)
        else:
            await self._record_success(begun, receipt)
        finally:
            del self._out[begun.delivery.id]
            if self._probe == begun.delivery.id:
                self._failed_probe, self._probe = self._probe, None
            self._hint.set()

    def _attempt(self, begun: Begun) -> Attempt:
        return Attempt(
            item=begun.item,
            delivery=begun.delivery,
            arguments=self._arguments(begun),
            device=self._device,
            incident=begun.incident,
            open_media=lambda: self._spool.open_media(begun.item.id),
            store=_SureSteps(self._spool, self._surely),
            steps=begun.steps,
            siblings=lambda: self._siblings(begun),
        )

    def _arguments(self, begun: Begun) -> Fields:
        return arguments_of(begun.delivery, begun.item, self._device, self._destination.actions, begun.incident)

    async def _siblings(self, begun: Begun) -> AsyncIterator[Sibling]:
        async for other in self._spool.siblings(begun.delivery):
            try:
                arguments: Fields | None = self._arguments(other)
            except Rejected:
                arguments = None
            yield Sibling(item=other.item, delivery=other.delivery, arguments=arguments, steps=other.steps)

    # --- recording

    async def _record_success(self, begun: Begun, receipt: Receipt) -> None:
        delivery = begun.delivery
        await self._surely(lambda: self._spool.record_delivered(delivery.id, receipt, now=clock.now()))
        self._log.info(
            "delivered %s (%s) to %s, attempt %d: %s",
            begun.item.id,
            printable(begun.item.name),
            self.name,
            delivery.attempts,
            receipt.proof,
            extra=about(item=begun.item.id, destination=self.name, source=begun.item.source),
        )
        self._answered()

    async def _record_failure(self, begun: Begun, error: Exception) -> None:
        delivery = begun.delivery
        verdict = judge(error, attempts=delivery.attempts, backoff=self._backoff)
        now = clock.now()
        if verdict.ends_as is not None:
            state = verdict.ends_as
            await self._surely(
                lambda: self._spool.record_ended(delivery.id, state, verdict.outcome, verdict.reason, now=now)
            )
        else:
            delay = verdict.delay_seconds
            due_at = now + (clock.jitter(verdict.ceiling_seconds) if delay is None else delay)
            await self._surely(
                lambda: self._spool.record_deferred(
                    delivery.id,
                    verdict.outcome,
                    verdict.reason,
                    due_at=due_at,
                    now=now,
                    forget_from=verdict.forget_from,
                )
            )
        self._log_failure(begun, verdict, error)
        self._count(verdict, is_probe=self._probe == delivery.id)

    async def _surely(self, record: Callable[[], Awaitable[None]]) -> None:
        """What happened outside must get into the table: until it is there, this delivery stays out, so that it is
        not done twice while the disk is full."""
        failures = 0
        while True:
            try:
                await record()
            except (SpoolError, sqlite3.Error, OSError) as error:
                failures += 1
                self._spool_failed(error)
                await asyncio.sleep(self._backoff.ceiling_seconds(failures))
            else:
                self._spool_trouble = ""
                return

    def _spool_failed(self, error: Exception) -> float:
        if not self._spool_trouble:
            self._log.error("%s: the spool refuses: %s; nothing is lost, trying again", self.name, error)
        self._spool_trouble = f"the spool refuses: {error}"
        return self._backoff.ceiling_seconds(BREAKER_FAILURES)

    # --- pausing

    def _count(self, verdict: Verdict, *, is_probe: bool) -> None:
        if verdict.outcome is Outcome.NOT_READY or verdict.ends_as is State.EXPIRED:
            return  # it may not have asked anybody: no proof that the destination is there
        if not verdict.counts_as_failure:
            self._answered()
            return
        self._failures_in_a_row += 1
        if not (verdict.pauses or self._pause is not None or self._failures_in_a_row >= BREAKER_FAILURES):
            return
        wait = verdict.retry_after_seconds
        if self._pause is not None and not is_probe and not wait:
            return  # it was out when the pause began: the same outage, which must not count once for each that was out
        now = clock.monotonic()
        since, failures = (now, 1) if self._pause is None else (self._pause.since, self._pause.failures + is_probe)
        if not wait:  # a server that says 0 seconds wants no storm either
            wait = clock.jitter(self._backoff.ceiling_seconds(failures))
        if self._pause is None or self._pause.reason != verdict.reason:
            kind = Message.LOGIN_REFUSED if verdict.is_fault else Message.DESTINATION_AWAY
            told = about(kind, destination=self.name)
            self._log.warning("%s pauses: %s; next try in %.0f s", self.name, verdict.reason, wait, extra=told)
        self._was_heard_of = True
        self._pause = _Pause(verdict.reason, since, now + wait, failures, verdict.is_fault)

    def _answered(self) -> None:
        """The destination gave an answer of its own: it is there."""
        self._was_heard_of = True
        self._failures_in_a_row = 0
        if self._pause is not None:
            told = about(Message.DESTINATION_BACK, destination=self.name)
            self._log.info("%s answers again after %d failed tries", self.name, self._pause.failures, extra=told)
            if clock.monotonic() - self._pause.since >= OUTAGE_SECONDS:
                self._wake_within = 0.0
            self._pause = None

    def _log_failure(self, begun: Begun, verdict: Verdict, error: Exception) -> None:
        delivery = begun.delivery
        names = {"item": begun.item.id, "destination": self.name, "source": begun.item.source}
        words = (begun.item.id, printable(begun.item.name), self.name, delivery.attempts, verdict.reason)
        if verdict.ends_as is not None:
            told = about(Message.ITEM_DEAD, **names)
            text = "%s (%s) is %s for %s after %d attempts: %s"
            self._log.warning(text, *words[:2], verdict.ends_as, *words[2:], extra=told)
        elif verdict.is_unexpected and delivery.attempts == 1:
            self._log.error("%s (%s) failed at %s, attempt %d: %s", *words, exc_info=error, extra=about(**names))
        elif verdict.outcome is Outcome.NOT_READY and delivery.attempts == 1:
            return  # as expected: something goes before it
        elif not verdict.pauses and delivery.attempts in TRIES_WORTH_A_LINE:
            self._log.warning("%s (%s) waits for %s after attempt %d: %s", *words, extra=about(**names))


@dataclass(frozen=True, slots=True)
class _SureSteps:
    """Where an attempt keeps its steps: the result of one that has happened gets in, or the attempt does not go on."""

    spool: Spool
    surely: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]

    async def store_intent(self, delivery_id: int, name: str) -> None:
        await self.spool.store_intent(delivery_id, name)

    async def store_step(self, delivery_id: int, name: str, result: Step) -> None:
        await self.surely(lambda: self.spool.store_step(delivery_id, name, result))

    async def tell(self, delivery_ids: Sequence[int], name: str, known: Step | None) -> None:
        await self.surely(lambda: self.spool.tell(delivery_ids, name, known))
