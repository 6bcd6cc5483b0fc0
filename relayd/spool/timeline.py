"""Steady time: what ages and waits are counted in. Pure but for the clock that is never set.

Promises: it runs while the machine runs, stands still while it is off, and no clock that is set moves it; so what was
there a minute ago is a minute old, whatever the wall clock says since. Restarts of relayd do not touch it, and after a
restart of the machine it goes on from where it had got to. Its seconds are counted on from the wall clock of the
spool's first start, so in the life of a good clock the two say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from relayd import clock
from relayd.clock import Stamp

REGRESS_SECONDS = 1.0
"""Steady time that is further behind than this was counted in another start of the machine, whatever its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """How steady time and the wall clock lie to each other.

    `offset_seconds` is the wall clock minus the seconds since this start of the machine, `base_seconds` the same for
    steady time. `former_offset_seconds` is what the offset was before the clock was set last: who read the clock just
    before means that. `seen_steady` is how far steady time had got at the last look. Waits are in steady time plus
    `lift_seconds`, which grows when the machine restarts, so that what waited is due: nobody knows for how long it did.
    """

    boot: str = ""
    offset_seconds: float = 0.0
    base_seconds: float = 0.0
    former_offset_seconds: float | None = None
    seen_steady: float = 0.0
    lift_seconds: float = 0.0

    @property
    def lead_seconds(self) -> float:
        """How far the wall clock is ahead of steady time."""
        return self.offset_seconds - self.base_seconds

    @property
    def stamp(self) -> Stamp:
        """The wall clock as it was followed last."""
        return Stamp(boot=self.boot, offset_seconds=self.offset_seconds)

    def reached(self) -> float:
        """Steady time now."""
        return self.base_seconds + clock.since_boot()

    def steady(self, now: float) -> float:
        """What was steady time when the wall clock said `now`: a moment ago, by the clock as set since or before."""
        found = now - self.lead_seconds
        if self.former_offset_seconds is None:
            return found
        former = now - (self.former_offset_seconds - self.base_seconds)
        reached = self.reached()
        return min(found, former, key=lambda each: abs(each - reached))

    def due(self, now: float) -> float:
        """The same as a `due_at`."""
        return self.steady(now) + self.lift_seconds

    def wall_of_due(self, due_at: float) -> float:
        """A `due_at` by the wall clock as it is set now."""
        return self.wall(due_at - self.lift_seconds)

    def wall(self, steady: float) -> float:
        """A moment in steady time, by the wall clock as it is set now."""
        return steady + self.lead_seconds

    def today(self, now: float) -> float:
        """A moment ago, by the wall clock as it is set now, also if it was read just before that."""
        return self.wall(self.steady(now))

    def arrival(self, taken_steady: float, accepted_at: float) -> float:
        """When an item came, by the wall clock as it is set now; what came before this start, as it was stamped."""
        return self.wall(taken_steady) if taken_steady >= self.base_seconds else accepted_at

    def followed(self, stamp: Stamp) -> Timeline:
        """The same after a look at the clock: itself, unless that was set meanwhile, or the machine restarted."""
        if stamp.boot != self.boot or self.reached() < self.seen_steady - REGRESS_SECONDS:
            return self.restarted(stamp)
        if not stamp.stepped_seconds(self.stamp):
            return self
        return replace(self, offset_seconds=stamp.offset_seconds, former_offset_seconds=self.offset_seconds)

    def restarted(self, stamp: Stamp) -> Timeline:
        """The same in another start of the machine: nobody knows how long it was off, so it was not."""
        return replace(
            self,
            boot=stamp.boot,
            offset_seconds=stamp.offset_seconds,
            base_seconds=self.seen_steady,
            former_offset_seconds=None,
        )

    def lifted(self, last_due_at: float | None) -> Timeline:
        """The same with everything due that waits, `last_due_at` at the latest."""
        lacking = 0.0 if last_due_at is None else last_due_at - self.lift_seconds - self.reached()
        return replace(self, lift_seconds=self.lift_seconds + max(0.0, lacking))
