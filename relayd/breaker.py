"""Whether a destination is asked at all: the pause that failures bring on, and the probe that ends it.

Promises: one outage counts once, however many deliveries were out when it began. During a pause one delivery at a time
probes, and not the one that failed as the last probe, as long as there is another. A pause ends with an answer of the
destination's own, or when nothing is owed to it any more.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from relayd import clock
from relayd.messages import Message, about
from relayd.model import Outcome, State
from relayd.retry import BREAKER_FAILURES, Backoff, Verdict

OUTAGE_SECONDS = 30.0
"""After a pause as long as this, what failed by itself is tried again at once: it failed for the same outage. Shorter
ones are not told from items that are at fault themselves, which must not be sent again and again."""


@dataclass(slots=True)
class Pause:
    """Why, since and until when (monotonic seconds) nothing but a probe goes out; `failures` in a row so far."""

    reason: str
    since: float
    until: float
    failures: int
    is_fault: bool
    is_hang: bool = False


class Breaker:
    """One destination's. Told of every end of an attempt by its worker; `pause` is None while everything may go."""

    def __init__(self, name: str, backoff: Backoff, log: logging.Logger) -> None:
        self.pause: Pause | None = None
        self.was_heard_of = False
        """Whether anything is known of the destination: it answered, or it failed."""
        self._name = name
        self._backoff = backoff
        self._log = log
        self._failures_in_a_row = 0
        self._probe: int | None = None
        self._failed_probe: int | None = None
        self._was_anybody_there = True
        self._wake_within: float | None = None

    # --- before an attempt

    def rest_seconds(self) -> float:
        """How long nothing may start; 0 when something may, infinite while the outcome of a probe decides it."""
        if self.pause is None:
            return 0.0
        waiting_seconds = self.pause.until - clock.monotonic()
        if waiting_seconds > 0:
            return waiting_seconds
        return 0.0 if self._probe is None else math.inf

    @property
    def shunned(self) -> frozenset[int]:
        """What should not be the next probe, if there is anything else. Where nobody was there, it was not the item."""
        return frozenset() if self.pause is None or self._failed_probe is None else frozenset({self._failed_probe})

    def began(self, delivery_id: int, *, is_probe: bool) -> None:
        """This one goes out; it is the probe if it was chosen during a pause, even if that is over by now."""
        if is_probe:
            self._probe = delivery_id

    def nudge(self, within_seconds: float) -> None:
        """The world may have changed: probe soon instead of waiting, and wake up what waits by itself."""
        if self.pause is not None:
            self.pause.until = min(self.pause.until, clock.monotonic() + clock.jitter(within_seconds))
        self._wake_within = within_seconds

    def take_wake_up(self) -> float | None:
        """Within how many seconds to try again what failed by itself, since that may be over; None: no reason to. Asked
        once, told once."""
        within, self._wake_within = self._wake_within, None
        return within

    def wake_up_later(self, within_seconds: float) -> None:
        """The wake-up that was taken could not be carried out: it stands, unless a newer one has come."""
        if self._wake_within is None:
            self._wake_within = within_seconds

    # --- after it

    def failed(self, delivery_id: int, verdict: Verdict) -> None:
        """What this attempt says of the destination: nothing, that it is there, or that it may not be."""
        if verdict.outcome is Outcome.NOT_READY or verdict.ends_as is State.EXPIRED:
            return  # it may not have asked anybody: no proof that the destination is there
        if not verdict.counts_as_failure:
            self.answered()
            return
        self._failures_in_a_row += 1
        self._was_anybody_there = not verdict.is_unreachable
        if verdict.pauses or self.pause is not None or self._failures_in_a_row >= BREAKER_FAILURES:
            self._rest(verdict, is_probe=self._probe == delivery_id)

    def _rest(self, verdict: Verdict, *, is_probe: bool) -> None:
        before, wait = self.pause, verdict.retry_after_seconds
        if before is not None and not is_probe and not wait:
            return  # it was out when the pause began: the same outage, which must not count once for each that was out
        now = clock.monotonic()
        since, failures = (now, 1) if before is None else (before.since, before.failures + is_probe)
        if not wait:  # a server that says 0 seconds wants no storm either
            wait = clock.jitter(self._backoff.ceiling_seconds(failures))
        if before is None or before.reason != verdict.reason:
            is_login = verdict.is_fault and not verdict.is_hang
            kind = Message.LOGIN_REFUSED if is_login else Message.DESTINATION_AWAY
            told = about(kind, destination=self._name)
            self._log.warning("%s pauses: %s; next try in %.0f s", self._name, verdict.reason, wait, extra=told)
        self.was_heard_of = True
        self.pause = Pause(verdict.reason, since, now + wait, failures, verdict.is_fault, verdict.is_hang)

    def answered(self) -> None:
        """The destination gave an answer of its own: it is there."""
        self.was_heard_of = True
        self._failures_in_a_row = 0
        if self.pause is not None:
            told = about(Message.DESTINATION_BACK, destination=self._name)
            self._log.info("%s answers again after %d failed tries", self._name, self.pause.failures, extra=told)
            if clock.monotonic() - self.pause.since >= OUTAGE_SECONDS:
                self._wake_within = 0.0
            self.pause = None

    def ended(self, delivery_id: int) -> None:
        """This one is not out any more, whatever came of it."""
        if self._probe == delivery_id:
            self._failed_probe, self._probe = self._probe if self._was_anybody_there else None, None

    def owed_nothing(self) -> None:
        """What its destination was owed has expired or was dropped: nothing will probe it, so nothing is known of it
        any more. A fault stands until it is mended."""
        if self.pause is not None and (self.pause.is_hang or not self.pause.is_fault):
            told = about(destination=self._name)
            self._log.info("%s is owed nothing any more: its pause is over", self._name, extra=told)
            self.pause, self.was_heard_of = None, False
