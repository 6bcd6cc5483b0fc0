"""When a fault counts, and when it is over; and what is to be told of it, and to whom it was told already.

Promises: pure; values in, values out. What flickers is told once: a fault stands after it has lasted, and is over after
it has stayed away. Whoever is told of a part hears strictly in turns that it broke and that it is whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from relayd.clock import rfc3339
from relayd.fields import Duration, Section, written
from relayd.model import Fields

SCHEMA = 1
LONGEST_REASON = 1_000
"""Characters of a reason that are kept and told."""

KINDS = ("source", "destination", "broker", "spool", "clock", "configuration")
"""What sorts of parts there are; of the first three there are many, each with a name."""


class HealthConfig(Section):
    """When something counts as broken, for the fleet and for rules that take from `relayd`."""

    fault_after: Duration = written("2s", ge=0)
    """What needs a person is told when it has lasted this long."""
    waiting_after: Duration = written("10m", ge=0)
    """What mends itself (a link, a server that is away) is told when it has not done so for this long."""
    whole_after: Duration = written("30s", gt=0)
    """A fault is over when it has stayed away this long; sooner, it was never gone."""
    clock_after: Duration = written("10m", ge=0)
    """A clock that is not synchronized counts as a fault after this."""
    spool_percent: float = Field(default=90.0, ge=10.0, le=100.0)
    """The spool is near its limit when it is this full; no longer so, when it is 10 less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with one part now. `needs_person`: it does not mend itself. `lasts_seconds`: how long it must last
    before it is told; None: no reason to tell anything, yet what was told is not over while it is there."""

    reason: str
    needs_person: bool
    lasts_seconds: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A fault that has lasted. `since` is Unix seconds to the millisecond, by the wall clock of that moment."""

    reason: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A part broke (`is_raised`), or is whole again; `reason` is what is, or was, wrong."""

    part: str
    reason: str
    since: float
    is_raised: bool

    @property
    def type(self) -> str:
        """`fault_raised` or `fault_cleared`."""
        return "fault_raised" if self.is_raised else "fault_cleared"

    def fields(self) -> Fields:
        """As it is told: `{part, kind, KIND: name, reason, since}`."""
        kind, _, name = self.part.partition(" ")
        named: Fields = {kind: name} if name else {}
        return {"part": self.part, "kind": kind, **named, "reason": self.reason, "since": rfc3339(self.since)}


def title(type_name: str, part: str) -> str:
    """What the message of a turn is called: `fault_raised destination rapidsos`."""
    return f"{type_name} {part}"


def turns(told: Mapping[str, Standing], standing: Mapping[str, Standing]) -> list[Turn]:
    """What is news to somebody who was `told` that."""
    raised = [
        Turn(part=part, reason=fault.reason, since=fault.since, is_raised=True)
        for part, fault in standing.items()
        if part not in told
    ]
    cleared = [
        Turn(part=part, reason=fault.reason, since=fault.since, is_raised=False)
        for part, fault in told.items()
        if part not in standing
    ]
    return [*raised, *cleared]


def after(turn: Turn, told: Mapping[str, Standing]) -> dict[str, Standing]:
    """What somebody was told, once this turn was told too."""
    others = {part: fault for part, fault in told.items() if part != turn.part}
    return {**others, turn.part: Standing(turn.reason, turn.since)} if turn.is_raised else others


def to_document(standing: Mapping[str, Standing]) -> dict[str, Any]:
    """To be stored."""
    return {part: [fault.reason, fault.since] for part, fault in standing.items()}


def from_document(document: Mapping[str, Any]) -> dict[str, Standing]:
    return {part: Standing(reason, since) for part, (reason, since) in document.items()}


class FaultWatch:
    """Which faults stand; those that stood before a restart go on."""

    def __init__(self, standing: Mapping[str, Standing]) -> None:
        self.standing = dict(standing)
        self._began: dict[str, tuple[float, float]] = {}
        self._gone_at: dict[str, float] = {}

    def look(
        self,
        present: Mapping[str, Fault],
        unknown: Collection[str] = (),
        *,
        at: float,
        now: float,
        gone_for_seconds: float,
    ) -> bool:
        """Whether `standing` changed. `present` is everything that is wrong, by part; of `unknown` parts nothing is
        known yet, so nothing about them changes. `at` is monotonic, `now` Unix seconds."""
        self._began = {part: began for part, began in self._began.items() if part in present or part in unknown} | {
            part: (at, round(now, 3)) for part in present if part not in self._began
        }
        raised = [part for part, fault in present.items() if self._is_raised(part, fault, at)]
        for part in raised:
            self.standing[part] = Standing(present[part].reason[:LONGEST_REASON], self._began[part][1])
        absent = [part for part in self.standing if part not in present and part not in unknown]
        self._gone_at = {part: self._gone_at.get(part, at) for part in absent}
        cleared = [part for part, gone_at in self._gone_at.items() if at - gone_at >= gone_for_seconds]
        for part in cleared:
            del self.standing[part], self._gone_at[part]
        return bool(raised or cleared)

    def _is_raised(self, part: str, fault: Fault, at: float) -> bool:
        if part in self.standing or fault.lasts_seconds is None:
            return False
        return at - self._began[part][0] >= fault.lasts_seconds
