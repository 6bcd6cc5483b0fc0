"""The only door to the wall clock and to chance, so that tests can walk through time.

Promises: `now()` is Unix seconds UTC as the machine believes it; nothing else in relayd asks the system for the time
of day. Intervals inside one process use `monotonic()`.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


def now() -> float:
    """Unix seconds UTC; may be wrong at boot and may jump."""
    return time.time()


def monotonic() -> float:
    """Seconds that never jump; meaningless across restarts of the machine."""
    return time.monotonic()


def since_boot() -> float:
    """Seconds since the machine was started, those it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@functools.lru_cache(maxsize=1)
def boot() -> str:
    """Which start of the machine this is; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """By which clock a time was read: the wall clock runs along with the one that counts from boot until it is set."""

    SMALLEST_SECONDS: ClassVar[float] = 2.0
    """Less is drift, or the kernel's gentle correction."""

    boot: str
    offset_seconds: float

    def stepped_seconds(self, before: Stamp) -> float:
        """By how much the clock was set since that stamp; 0.0 if it was not, or if the machine was restarted."""
        stepped = self.offset_seconds - before.offset_seconds
        return stepped if self.boot == before.boot and abs(stepped) >= self.SMALLEST_SECONDS else 0.0


def stamp() -> Stamp:
    """As of now."""
    return Stamp(boot=boot(), offset_seconds=now() - since_boot())


def jitter(upper_seconds: float) -> float:
    """A random span between 0 and `upper_seconds`: full jitter, so that a fleet does not come back all at once."""
    return random.uniform(0.0, upper_seconds)  # noqa: S311 - spreading load, not a secret


def span(seconds: float) -> str:
    """A length of time for people: `3 s`, `12 min`, `5 h`, `3 d`."""
    positive = max(0.0, seconds)
    for limit, unit, word in ((120.0, 1.0, "s"), (7200.0, 60.0, "min"), (172_800.0, 3600.0, "h")):
        if positive < limit:
            return f"{positive / unit:.0f} {word}"
    return f"{positive / 86_400:.0f} d"


def rfc3339(unix_seconds: float) -> str:
    """`2026-01-31T12:00:00.123Z`; the form of every time that leaves relayd. Clamped to years 1 to 9999."""
    bounded = min(max(unix_seconds, -62_135_596_800.0), 253_402_300_799.0)
    moment = datetime.datetime.fromtimestamp(bounded, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Synchronization:
    """Whether the kernel believes its clock to be right, and by how much it is being corrected, if it says so."""

    is_synchronized: bool | None
    offset_seconds: float | None


class _Timex(ctypes.Structure):
    _fields_: ClassVar = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    ]


_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_TIME_ERROR = 5


def synchronization() -> Synchronization:
    """Ask the kernel (adjtimex(2)); None where it will not say."""
    state = _Timex()
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        answer = -1
    if answer < 0:
        return Synchronization(None, None)
    is_synchronized = answer != _TIME_ERROR and not state.status & _STA_UNSYNC
    unit = 1e9 if state.status & _STA_NANO else 1e6
    return Synchronization(is_synchronized, state.offset / unit if is_synchronized else None)
