"""When to try again: pure policy. Errors and counts in, a `Verdict` out; no clock, no chance, no I/O.

Promises: no number of failures ends a delivery, only its age does (see housekeeping) or the destination's own refusal.
Every wait is bounded by the cap, whatever a server asks for. Callers draw the actual wait between 0 and the ceilings
given here (full jitter), so that a fleet does not come back all at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from relayd.errors import (
    Hangs,
    LoginRefused,
    NotAllowed,
    NotReady,
    Rejected,
    RelaydError,
    Rewind,
    TooLate,
    TryAgain,
    Unavailable,
    Unreachable,
)
from relayd.model import Outcome, State

BREAKER_FAILURES = 5
"""So many failures in a row, whatever their kind, make a destination pause: it is not the items."""

REWIND_DOUBLINGS = 3
"""A step that went stale while the link was away is made anew soon, however many tries failed before; should it go
stale again and again, the breaker sees to it."""

REASON_LIMIT = 500
"""Characters of a reason that are kept; a server's essay is cut."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait at most: doubles from `first_seconds` with each failure, up to `cap_seconds`."""

    first_seconds: float
    cap_seconds: float

    def ceiling_seconds(self, failures: int) -> float:
        """The longest wait after so many failures (1 for the first)."""
        doublings = min(max(failures, 1) - 1, 63)
        return min(self.cap_seconds, self.first_seconds * 2.0**doublings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one failed attempt means.

    For the delivery: `ends_as` (DEAD, or EXPIRED untried) or due again after a wait of up to `ceiling_seconds` (exactly
    `delay_seconds` where that is set), forgetting the step `forget_from` and later ones. For the destination: `pauses`,
    with `retry_after_seconds` as the server's wish (bounded), and whether it `is_fault` that a person has to mend
    (`is_hang`: or that ends by itself).
    `counts_as_failure` feeds the breaker. `is_unexpected` asks for a traceback in the log, once;
    `is_unreachable` says that nobody was there, whatever the item.
    """

    outcome: Outcome
    reason: str
    ends_as: State | None = None
    ceiling_seconds: float = 0.0
    delay_seconds: float | None = None
    forget_from: str | None = None
    pauses: bool = False
    retry_after_seconds: float | None = None
    is_fault: bool = False
    is_hang: bool = False
    counts_as_failure: bool = False
    is_unexpected: bool = False
    is_unreachable: bool = False


def judge(error: Exception, *, attempts: int, backoff: Backoff) -> Verdict:
    """What `error`, raised by attempt number `attempts`, means. The table in "The two seams" of README, row by row."""
    ceiling = backoff.ceiling_seconds(attempts)
    reason = _words(error)
    match error:
        case Unavailable():
            return Verdict(
                outcome=Outcome.UNAVAILABLE,
                reason=reason,
                delay_seconds=0.0,
                pauses=True,
                retry_after_seconds=_bounded(error.retry_after_seconds, backoff),
                is_fault=isinstance(error, LoginRefused | Hangs),
                is_hang=isinstance(error, Hangs),
                counts_as_failure=True,
                is_unreachable=isinstance(error, Unreachable),
            )
        case NotReady():
            wait = _bounded(error.retry_after_seconds, backoff)
            return Verdict(outcome=Outcome.NOT_READY, reason=reason, delay_seconds=wait)
        case Rewind():
            return Verdict(
                outcome=Outcome.REWIND,
                reason=reason,
                ceiling_seconds=backoff.ceiling_seconds(min(attempts, REWIND_DOUBLINGS)),
                forget_from=error.step,
                counts_as_failure=True,
            )
        case Rejected():
            return Verdict(outcome=Outcome.REJECTED, reason=reason, ends_as=State.DEAD)
        case TooLate():
            return Verdict(outcome=Outcome.REJECTED, reason=reason, ends_as=State.EXPIRED)
        case TryAgain():
            return Verdict(
                outcome=Outcome.FAILED,
                reason=reason,
                ceiling_seconds=ceiling,
                is_fault=isinstance(error, NotAllowed),
                counts_as_failure=True,
            )
        case _:
            return Verdict(
                outcome=Outcome.FAILED,
                reason=reason,
                ceiling_seconds=ceiling,
                counts_as_failure=True,
                is_unexpected=True,
            )


def _bounded(wish_seconds: float | None, backoff: Backoff) -> float | None:
    if wish_seconds is None:
        return None
    return min(max(wish_seconds, 0.0), backoff.cap_seconds)


def _words(error: Exception) -> str:
    text = str(error) if isinstance(error, RelaydError) else f"unexpected {type(error).__name__}: {error}"
    line = " ".join(text.split())
    return line if len(line) <= REASON_LIMIT else line[: REASON_LIMIT - 1] + "…"
