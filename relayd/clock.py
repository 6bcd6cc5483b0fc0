"""The only door to the wall clock and to chance, so that tests can walk through time.

Promises: `now()` is Unix seconds UTC as the machine believes it; nothing else in relayd asks the system for the time
of day. Intervals inside one process use `monotonic()`.
"""

from __future__ import annotations

import datetime
import random
import time


def now() -> float:
    """Unix seconds UTC; may be wrong at boot and may jump."""
    return time.time()


def monotonic() -> float:
    """Seconds that never jump; meaningless across restarts."""
    return time.monotonic()


def jitter(upper_seconds: float) -> float:
    """A random span between 0 and `upper_seconds`: full jitter, so that a fleet does not come back all at once."""
    return random.uniform(0.0, upper_seconds)  # noqa: S311 - spreading load, not a secret


def rfc3339(unix_seconds: float) -> str:
    """`2026-01-31T12:00:00.123Z`; the form of every time that leaves relayd. Clamped to years 1 to 9999."""
    bounded = min(max(unix_seconds, -62_135_596_800.0), 253_402_300_799.0)
    moment = datetime.datetime.fromtimestamp(bounded, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
