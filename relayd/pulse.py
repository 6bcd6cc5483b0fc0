"""The heartbeats of everything that runs for ever: who still makes progress, and who is stuck.

Promises: a beat costs a look at the clock and wakes nobody. A loop says with each beat how long it may rest until the
next one; it is stuck when it is silent for longer than that and the grace. What waits for somebody outside, such as an
upload, never beats and is never late: only the loops do that start it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from relayd import clock

GRACE_SECONDS = 180.0
"""How much later than it said a loop may be: a slow disk, a file server that does not answer, a large clean-up."""


@dataclass(eq=False, slots=True)
class Pulse:
    """One registry: loop → when it has to have beaten again, in monotonic seconds."""

    due: dict[str, float] = field(default_factory=dict)

    def stuck(self, at: float) -> Mapping[str, float]:
        """Every loop that is overdue, and for how many seconds."""
        return {name: at - due for name, due in self.due.items() if at > due}


_present: ContextVar[Pulse | None] = ContextVar("pulse", default=None)
_part: ContextVar[str] = ContextVar("part", default="")


@contextmanager
def registry() -> Iterator[Pulse]:
    """Everything that is begun inside beats here."""
    pulse = Pulse()
    before = _present.set(pulse)
    try:
        yield pulse
    finally:
        _present.reset(before)


@contextmanager
def heart(part: str) -> Iterator[None]:
    """Beats inside are those of this part; when it ends, nobody waits for them any more."""
    before = _part.set(part)
    try:
        yield
    finally:
        _part.reset(before)
        _forget(part)


def rest() -> None:
    """This part does nothing until it beats again, however long that is."""
    _forget(_part.get())


def beat(rest_seconds: float, loop: str = "") -> None:
    """This loop makes progress, and says so again within `rest_seconds`. A part with several loops names each."""
    pulse, part = _present.get(), _part.get()
    if pulse is not None and part:
        pulse.due[f"{part}: {loop}" if loop else part] = clock.monotonic() + rest_seconds + GRACE_SECONDS


def _forget(part: str) -> None:
    pulse = _present.get()
    if pulse is not None:
        for name in [name for name in pulse.due if name == part or name.startswith(f"{part}: ")]:
            del pulse.due[name]
