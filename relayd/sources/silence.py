"""How long a source has brought nothing: `expect_every`, for every type of source alike.

Promises: silence counts from the last capture since the machine was started, else from when the source was built; so
neither a restart of relayd nor a reload starts it anew, and a vehicle that was parked overnight is given its time. It
is measured on the monotonic clock. A source that is away or at fault is not called silent besides. One that was called
silent before a restart is not called whole before it has brought something.
"""

from __future__ import annotations

from dataclasses import replace

from relayd import clock
from relayd.model import SourceView

GRACE_SECONDS = 10.0
"""So long after the start nobody is called silent: what waited for us is only being taken."""


class Silence:
    """Of one source. `what` is what it brings: file, message."""

    def __init__(self, expected_seconds: float | None, what: str) -> None:
        """`expected_seconds` None: silence is normal."""
        self._expected_seconds = expected_seconds
        self._what = what
        self._built_at = clock.monotonic()
        self._heard_at = self._built_at
        self._was_heard = False

    def resume(self, last_at: float | None) -> None:
        """`last_at` is when it brought something, as known from before the restart, in Unix seconds."""
        if last_at is None:
            return
        elapsed = clock.now() - last_at
        if 0.0 < elapsed < clock.since_boot():
            self._heard_at = min(self._heard_at, self._built_at - elapsed)
            self._was_heard = True

    def heard(self) -> None:
        """It brought something just now."""
        self._heard_at = clock.monotonic()
        self._was_heard = True

    def start_over(self) -> None:
        """It may bring something from now on."""
        self._built_at = self._heard_at = clock.monotonic()
        self._was_heard = False

    def judge(self, view: SourceView) -> SourceView:
        """The view of a source that does not look at the time, with its silence."""
        if self._expected_seconds is None or view.state != "ok":
            return view
        silent_seconds = clock.monotonic() - self._heard_at
        if silent_seconds <= self._expected_seconds:
            return replace(view, is_known=self._was_heard)
        if self._built_at > self._heard_at and clock.monotonic() - self._built_at < GRACE_SECONDS:
            return replace(view, is_known=False)
        expected = clock.span(self._expected_seconds)
        reason = f"no {self._what} for {clock.span(silent_seconds)}, expected one every {expected}"
        return replace(view, state="fault", reason=reason)
