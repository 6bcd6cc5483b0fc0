"""When the fleet is told that something is broken, and when that it is whole again.

Promises: pure; values in, values out. What flickers is told once: a fault counts after it has lasted, and is over after
it has stayed away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FAULT_LASTS_SECONDS = 2.0
"""A fault that is gone sooner is not told."""
WAITING_LASTS_SECONDS = 600.0
"""Something that mends itself has not done so for this long: told like a fault."""
GONE_FOR_SECONDS = 30.0
"""A fault that comes back sooner was never gone."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one part. `lasts_seconds`: how long it must last before it is told."""

    reason: str
    lasts_seconds: float = FAULT_LASTS_SECONDS


@dataclass(frozen=True, slots=True)
class Turn:
    """A part broke (`is_raised`), or is whole again; `reason` is what is, or was, wrong."""

    part: str
    reason: str
    is_raised: bool


class FaultWatch:
    """Remembers what was told. `told` is part → reason, as another process may have left it."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self.told = dict(told)
        self._since: dict[str, float] = {}
        self._gone_since: dict[str, float] = {}

    def look(self, present: Mapping[str, Fault], *, at: float) -> list[Turn]:
        """What to tell now. `present` is everything that is wrong, by part; `at` is monotonic seconds."""
        return [*self._raised(present, at), *self._cleared(present, at)]

    def _raised(self, present: Mapping[str, Fault], at: float) -> list[Turn]:
        self._since = {part: self._since.get(part, at) for part in present}
        turns = [
            Turn(part, fault.reason, is_raised=True)
            for part, fault in present.items()
            if part not in self.told and at - self._since[part] >= fault.lasts_seconds
        ]
        self.told |= {turn.part: turn.reason for turn in turns}
        return turns

    def _cleared(self, present: Mapping[str, Fault], at: float) -> list[Turn]:
        self._gone_since = {part: self._gone_since.get(part, at) for part in self.told if part not in present}
        gone = [part for part, since in self._gone_since.items() if at - since >= GONE_FOR_SECONDS]
        return [Turn(part, self.told.pop(part), is_raised=False) for part in gone]
