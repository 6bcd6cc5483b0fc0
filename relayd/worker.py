"""The way out: one Worker per destination: begin, try, record, pause.

Promises: an attempt is charged in the spool before it starts, so a crash needs no rescue; what is out right now is a
set in memory. A destination that cannot be had pauses as a whole and is probed with one small urgent item at a time; an
item that fails for a reason of its own backs off alone and never holds up the line. No other destination notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from relayd import clock, pulse
from relayd.arguments import arguments_of
from relayd.breaker import Breaker
from relayd.destinations.base import Attempt, Destination, DestinationConfig, Sibling
from relayd.errors import Rejected
from relayd.files import printable
from relayd.messages import Message, about
from relayd.model import DestinationView, Device, Fields, Outcome, Priority, Receipt
from relayd.recording import REFUSALS, Recorder
from relayd.retry import Backoff, Verdict, judge
from relayd.secrecy import hidden, hidden_in
from relayd.spool import Begun, Spool
from relayd.traffic import Traffic

LOOK_AGAIN_SECONDS = 60.0
"""The longest sleep: hints may be lost and clocks may jump, the table is the truth."""

TRIES_WORTH_A_LINE = frozenset({1, 10, 100, 1000})
"""Which failed tries of one delivery are logged; all of them are on record in the spool."""

BACKLOG_TURN = 8
"""Every so many deliveries one turn goes round, unless there is an emergency: half of these turns are the guaranteed
share of the least urgent, the others that of everything else that would have to wait."""

EMERGENCY_EVERY_SECONDS = 1.0
"""During a pause new emergencies are tried this often at most: a flood of them is no storm on a server that is down."""
EMERGENCY_LOOK_SECONDS = 0.2
"""During a pause a new emergency is looked for this often at most, however much else comes in."""

WAKE_JITTER_SECONDS = 5.0
"""When the network returns, a fleet comes back spread over this span."""


class Worker:
    """Carries out the deliveries of one destination, most urgent first, `concurrency` at a time; beside them something
    urgent while all of them are less so, and an emergency."""

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
        self._breaker = Breaker(self.name, self._backoff, self._log)
        self._recorder = Recorder(self.name, spool, self._backoff, self._log)
        self._begun = 0
        self._next_emergency_look_at = 0.0

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
        self._breaker.nudge(within_seconds)
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
        under_way, pause = len(self._out), self._breaker.pause
        if self._held:
            return DestinationView(
                state="paused", reason="paused by hand, `relayd resume`", next_try_at=None, under_way=under_way
            )
        if pause is not None:
            return DestinationView(
                state="fault" if pause.is_fault else "waiting",
                reason=pause.reason,
                next_try_at=clock.now() + max(0.0, pause.until - clock.monotonic()),
                under_way=under_way,
            )
        if self._recorder.trouble:
            return DestinationView(state="fault", reason=self._recorder.trouble, next_try_at=None, under_way=under_way)
        return DestinationView(
            state="ok", reason="", next_try_at=None, under_way=under_way, is_known=self._breaker.was_heard_of
        )

    # --- choosing

    async def _fill(self, attempts: asyncio.TaskGroup) -> float:
        """Start what may start now; return how long nothing else can happen without a hint, in seconds."""
        while (least_urgent := self._least_urgent()) is not None:
            rest_seconds = self._breaker.rest_seconds()
            wait_seconds = min(rest_seconds, self._next_emergency_look_at - clock.monotonic())
            if wait_seconds > 0:
                return min(wait_seconds, LOOK_AGAIN_SECONDS)
            try:
                await self._wake()
                begun = await (self._begin_emergency() if rest_seconds > 0 else self._begin(least_urgent))
                if begun is None and rest_seconds > 0:
                    return min(rest_seconds, LOOK_AGAIN_SECONDS)
                if begun is None:
                    return await self._until_due_seconds(least_urgent)
            except REFUSALS as error:
                return self._recorder.refused(error)
            self._recorder.trouble = ""
            self._out[begun.delivery.id] = begun
            attempts.create_task(self._try(begun), name=f"deliver {begun.item.id} to {self.name}")
        return LOOK_AGAIN_SECONDS

    def _least_urgent(self) -> Priority | None:
        """What may start now: anything while there is room; beside what fills the room something urgent, if all that is
        less so, and an emergency; else None."""
        places_over = self._concurrency - len(self._out)
        if self._held or places_over < -1:
            return None
        if places_over > 0:
            return Priority.BULK
        is_urgent_out = any(begun.delivery.priority <= Priority.HIGH for begun in self._out.values())
        return Priority.EMERGENCY if is_urgent_out else Priority.HIGH

    async def _wake(self) -> None:
        """What failed for what may be over now is due: it need not wait for the end of its own backoff."""
        within = self._breaker.take_wake_up()
        if within is None:
            return
        now = clock.now()
        try:
            await self._spool.wake(self.name, now=now, due_at=now + clock.jitter(within), exclude=frozenset(self._out))
        except REFUSALS:
            self._breaker.wake_up_later(within)
            raise

    async def _begin(self, least_urgent: Priority) -> Begun | None:
        """Pick and charge the next delivery; a probe avoids the item that the last probe failed with."""
        probe, shunned = self._breaker.pause is not None, self._breaker.shunned
        begun = await self._begin_excluding(self._out.keys() | shunned, least_urgent, probe=probe)
        if begun is None and shunned:
            begun = await self._begin_excluding(set(self._out), least_urgent, probe=probe)
        if begun is not None:
            self._begun += 1
            self._breaker.began(begun.delivery.id, is_probe=probe)
        return begun

    async def _begin_emergency(self) -> Begun | None:
        """Pick and charge an emergency that was never tried: it does not sit out a pause that began before it. It is no
        probe: if it fails, the pause is as long as it was."""
        begun = await self._begin_excluding(set(self._out), Priority.EMERGENCY, probe=False, is_untried=True)
        rest_seconds = EMERGENCY_LOOK_SECONDS if begun is None else EMERGENCY_EVERY_SECONDS
        self._next_emergency_look_at = clock.monotonic() + rest_seconds
        return begun

    async def _begin_excluding(
        self, exclude: set[int], least_urgent: Priority, *, probe: bool, is_untried: bool = False
    ) -> Begun | None:
        round_number, place = divmod(self._begun, BACKLOG_TURN)
        return await self._spool.begin(
            self.name,
            now=clock.now(),
            longest_backoff=self._backoff.cap_seconds,
            delay=lambda attempts: clock.jitter(self._backoff.ceiling_seconds(attempts)),
            exclude=exclude,
            probe=probe,
            least_urgent=least_urgent,
            backlog_turn=round_number + 1 if place == BACKLOG_TURN - 1 and not probe else 0,
            untried_emergency=is_untried,
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
        if not out and least_urgent is Priority.BULK:  # what is less urgent may be owed otherwise
            self._breaker.owed_nothing()
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
            receipt = await self._deliver(begun)
        except Exception as error:  # noqa: BLE001 - the seam: whatever a destination raises becomes a verdict
            await self._record_failure(begun, error)
        else:
            await self._record_success(begun, receipt)
        finally:
            del self._out[begun.delivery.id]
            self._breaker.ended(begun.delivery.id)
            self._hint.set()

    async def _deliver(self, begun: Begun) -> Receipt:
        """As part of the traffic: while something more urgent is under way, when the way is free or at its turn."""
        if not self._destination.goes_over_link:
            return await self._destination.deliver(self._attempt(begun))
        with self._traffic.carrying(begun.delivery.priority, begun.item.kind) as lane:
            await lane.turn()
            return await self._destination.deliver(self._attempt(begun))

    def _attempt(self, begun: Begun) -> Attempt:
        return Attempt(
            item=begun.item,
            delivery=begun.delivery,
            arguments=self._arguments(begun),
            device=self._device,
            incident=begun.incident,
            open_media=lambda: self._spool.open_media(begun.item.id),
            store=self._recorder,
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
        receipt = Receipt(proof=hidden(receipt.proof), fields=hidden_in(dict(receipt.fields)))
        await self._recorder.surely(lambda: self._spool.record_delivered(delivery.id, receipt, now=clock.now()))
        self._log.info(
            "delivered %s (%s) to %s, attempt %d: %s",
            begun.item.id,
            printable(begun.item.name),
            self.name,
            delivery.attempts,
            receipt.proof,
            extra=about(item=begun.item.id, destination=self.name, source=begun.item.source),
        )
        self._breaker.answered()

    async def _record_failure(self, begun: Begun, error: Exception) -> None:
        delivery = begun.delivery
        verdict = judge(error, attempts=delivery.attempts, backoff=self._backoff)
        verdict = replace(verdict, reason=hidden(verdict.reason))
        now = clock.now()
        if verdict.ends_as is not None:
            state = verdict.ends_as
            await self._recorder.surely(
                lambda: self._spool.record_ended(delivery.id, state, verdict.outcome, verdict.reason, now=now)
            )
        else:
            delay = verdict.delay_seconds
            due_at = now + (clock.jitter(verdict.ceiling_seconds) if delay is None else delay)
            await self._recorder.surely(
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
        self._breaker.failed(delivery.id, verdict)

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
