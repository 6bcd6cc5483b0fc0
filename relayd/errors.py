"""The error tree. An error says what failed, on what, and what the operator can do.

Promises: errors are classified once, at the edge that knows the outside; everybody further in decides by type alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


class RelaydError(Exception):
    """Anything that relayd itself says went wrong. `str(error)` is a sentence for people."""


# --- configuration


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One configuration error, printed as `FILE:LINE: KEY: what is wrong, what to write instead`."""

    file: str
    line: int
    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.text}"


class ConfigError(RelaydError):
    """The configuration cannot be used; carries every problem that was found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class SecretMissing(RelaydError):
    """A secret that the configuration names cannot be read. Never carries the value."""


# --- spool


class SpoolError(RelaydError):
    """The disk queue refused."""


class SpoolFull(SpoolError):
    """No room by `max_size`, `min_free` or the inode floor: keep the original, wait, and try again."""


class SpoolUnwritable(SpoolError):
    """The spool's disk refuses every write (read-only, or it fails): keep the original, wait, and try again."""


class SpoolLocked(SpoolError):
    """Another process owns this spool."""


class SpoolDamaged(SpoolError):
    """The database cannot be read; `relayd spool repair` salvages it."""


class SpoolTooNew(SpoolError):
    """A newer relayd wrote this spool; this version does not touch it."""


# --- sources


class Quarantined(RelaydError):
    """This file will never be taken as it is: the reason, for the technician who finds it."""


class Unsettled(RelaydError):
    """Somebody wrote to this file while it was being taken: nothing was kept, look again later."""


# --- deliveries: what a destination may raise


class DeliveryError(RelaydError):
    """Base of what `Destination.deliver` raises on purpose. Anything else is a fault of the code and backs off."""

    nothing_happened: bool = False
    """Whether it is certain that the request had no effect: it never left, or the server says so."""

    def harmless(self) -> Self:
        """The same error, now certain to have had no effect."""
        self.nothing_happened = True
        return self


class Unavailable(DeliveryError):
    """The destination cannot be had now: unreachable, 408 425 429 502 503 504, login refused. Pauses it."""

    def __init__(self, text: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class Unreachable(Unavailable):
    """Nobody is there: no name, no route, no connection, no TLS. Nothing left this machine."""


class Hangs(Unavailable):
    """A disk or share that neither does what it is asked nor says why not: a fault that a person has to look at."""


class LoginRefused(Unavailable):
    """The destination refuses our credentials: a fault of the destination's configuration, not of the item.

    `remedy` is what the technician can do about this very refusal; empty: what is usual there.
    """

    def __init__(self, text: str, *, retry_after_seconds: float | None = None, remedy: str = "") -> None:
        super().__init__(text, retry_after_seconds=retry_after_seconds)
        self.remedy = remedy


class NotReady(DeliveryError):
    """Something this delivery needs is not there yet (an incident id, a camera). Not a failure."""

    def __init__(self, text: str, *, retry_after_seconds: float) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class Rewind(DeliveryError):
    """A stored step is no longer worth anything (an expired upload slot): forget it and later ones, and back off."""

    def __init__(self, step: str, text: str) -> None:
        super().__init__(text)
        self.step = step


class Rejected(DeliveryError):
    """The destination will never take this: dead, kept and visible."""


class TooLate(DeliveryError):
    """What was asked for is worth nothing any more, and was not tried: expired. Says nothing about the destination."""


class TryAgain(DeliveryError):
    """This attempt failed for a reason of its own (a 500, a lost answer): back off; the destination goes on."""


class NotAllowed(TryAgain):
    """A right is missing for this delivery (an MQTT topic): a person has to grant it. A fault if nothing else works."""


# --- people and programs that talk to a running relay


class NoRelay(RelaydError):
    """No running relay answers on any of the sockets where one would be."""


class Refused(RelaydError):
    """The running relay answered that it will not do this; its own sentence says why."""


# --- what a person asked for


class UnknownItem(RelaydError):
    """No such item in the spool."""


class UnknownName(RelaydError):
    """No source or destination of this name in the running configuration."""


class WrongRequest(RelaydError):
    """A request that makes no sense as it is; says what to ask instead."""
