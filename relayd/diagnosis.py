"""What is wrong with which part, and what the whole is like: decided here, once.

Promises: the state and the reasons of the status snapshot, the events for the fleet and the messages of the source
`relayd` all follow from the same `Diagnosis`. Looking costs a statvfs, and one seek in the spool for each destination
that begins to be in trouble, and one while anything is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from relayd import clock
from relayd.broker import BrokerView
from relayd.faults import Fault, HealthConfig, title
from relayd.files import printable
from relayd.model import CameraView, DestinationView, Priority, SourceView
from relayd.rule_config import OWN_HEALTH
from relayd.spool import DeadDelivery, DestinationCounters, Room, SourceCounters, Spool, SpoolCounters

Overall = Literal["ok", "degraded", "fault"]

SPOOL, CLOCK, CONFIGURATION = "spool", "clock", "configuration"
HYSTERESIS_PERCENT = 10.0
"""A spool that was near its limit is so until it is this much emptier."""
DEAD_SHOWN = 3
"""Of dead emergencies so many are named; of anything else that is dead, one."""
LONGEST_DEAD_REASON = 240
CAMERAS_SHOWN = 5
"""Of cameras that have the same trouble, so many are named."""
FEW_BYTES = 256 * 2**20
"""Less room than this is near the limit, too, where the disk is filled by others; an eighth of a small spool or
disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """How every part of the running configuration is doing, by name."""

    sources: Mapping[str, SourceView]
    destinations: Mapping[str, DestinationView]
    brokers: Mapping[str, BrokerView]
    cameras: Mapping[str, Sequence[CameraView]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """`faults` by part, `destination rapidsos`; of the parts in `unknown` nobody can say yet whether they work; `notes`
    are reasons to call it degraded that are no fault of a part. `dead` is the worst of what will not be delivered."""

    faults: Mapping[str, Fault]
    unknown: frozenset[str]
    notes: tuple[str, ...]
    dead: tuple[DeadDelivery, ...] = ()

    def overall(self) -> tuple[Overall, list[str]]:
        """The one word for it all, and why: fault needs a person, degraded means that something waits or was lost. A
        dead emergency is the first of all: nobody got it, and nobody will."""
        lost = [_lost(one) for one in self.dead if one.priority is Priority.EMERGENCY]
        dead = [_lost(one) for one in self.dead if one.priority is not Priority.EMERGENCY]
        grave = [f"{part}: {fault.reason}" for part, fault in self.faults.items() if fault.needs_person]
        slight = [f"{part}: {fault.reason}" for part, fault in self.faults.items() if not fault.needs_person]
        reasons = [*lost, *grave, *dead, *slight, *self.notes]
        return "fault" if lost or grave else "degraded" if reasons else "ok", reasons


class Examiner:
    """Looks at one relay. `stands` says whether a fault of a part is known to have lasted, also before a restart."""

    def __init__(self, spool: Spool, stands: Callable[[str], bool]) -> None:
        self._spool = spool
        self._stands = stands
        self._is_near = False
        self._adrift_since: float | None = None

    async def examine(self, views: Views, config_error: str | None, settings: HealthConfig) -> Diagnosis:
        """What is wrong now."""
        counters = self._spool.counters
        faults = dict(_sources(views, settings))
        for name, view in views.destinations.items():
            pending = counters.destinations.get(name, DestinationCounters()).pending
            fault = await self._destination(name, view, pending, settings)
            if fault is not None:
                faults[f"destination {name}"] = fault
        faults.update(_brokers(views, settings))
        faults.update(_cameras(views))
        for part, found in (
            (SPOOL, self._spool_fault(settings)),
            (CLOCK, self._clock_fault(settings)),
            (CONFIGURATION, _configuration(config_error, settings)),
        ):
            if found is not None:
                faults[part] = found
        dead = await self._worst_dead(views, counters)
        notes = (*_notes(views, counters), *_more_dead(views, counters, len(dead)))
        return Diagnosis(faults=faults, unknown=_unknown(views, counters), notes=notes, dead=dead)

    async def _worst_dead(self, views: Views, counters: SpoolCounters) -> tuple[DeadDelivery, ...]:
        """Emergencies, or else one other."""
        if not _dead(views, counters) or self._spool.is_damaged:
            return ()
        found = await self._spool.worst_dead(tuple(views.destinations), DEAD_SHOWN)
        return tuple(one for one in found if one.priority is Priority.EMERGENCY) or tuple(found[:1])

    async def _destination(
        self, name: str, view: DestinationView, pending: int, settings: HealthConfig
    ) -> Fault | None:
        """One that waits with nothing owed to it is no fault. What waits there only to tell of its own trouble is no
        reason to tell of that again: messages about it would beget messages."""
        if view.state != "fault" and not (view.state == "waiting" and pending):
            return None
        lasts: float | None = settings.fault_after if view.state == "fault" else settings.waiting_after
        part = f"destination {name}"
        if pending and not self._stands(part) and not await self._is_owed_more(name, part):
            lasts = None
        return Fault(reason=view.reason, needs_person=view.state == "fault", lasts_seconds=lasts)

    async def _is_owed_more(self, name: str, part: str) -> bool:
        if OWN_HEALTH not in self._spool.counters.sources:
            return True
        own = [title(type_name, part) for type_name in ("fault_raised", "fault_cleared")]
        return await self._spool.is_owed_more(name, besides=(OWN_HEALTH, own))

    def _spool_fault(self, settings: HealthConfig) -> Fault | None:
        room = self._spool.room()
        if self._spool.is_damaged:
            return Fault(reason="its database is damaged", needs_person=True, lasts_seconds=settings.fault_after)
        if self._spool.unsalvaged:
            return Fault(reason=self._spool.unsalvaged, needs_person=True, lasts_seconds=settings.fault_after)
        self._is_near = _is_near(room, settings, was_near=self._is_near or self._stands(SPOOL))
        if room.unwritable:
            return Fault(reason=room.unwritable, needs_person=True, lasts_seconds=settings.fault_after)
        if room.refusal:
            reason = f"it refuses what comes, which stays where it is: {room.refusal}"
            return Fault(reason=reason, needs_person=True, lasts_seconds=settings.fault_after)
        if self._is_near:
            reason = f"near its limit: {_left(room)}"
            return Fault(reason=reason, needs_person=False, lasts_seconds=settings.fault_after)
        return None

    def _clock_fault(self, settings: HealthConfig) -> Fault | None:
        """Where the kernel will not say, nobody knows better. A clock may take its time after the start."""
        if clock.synchronization().is_synchronized is not False:
            self._adrift_since = None
            return None
        now = clock.monotonic()
        self._adrift_since = now if self._adrift_since is None else self._adrift_since
        if now - self._adrift_since < settings.clock_after and not self._stands(CLOCK):
            return None
        return Fault(reason="not synchronized; times in reports may be wrong", needs_person=False, lasts_seconds=0.0)


def _sources(views: Views, settings: HealthConfig) -> Iterator[tuple[str, Fault]]:
    for name, view in views.sources.items():
        if view.state not in ("ok", "paused"):
            is_fault = view.state == "fault"
            lasts = settings.fault_after if is_fault else settings.waiting_after
            told = None if name == OWN_HEALTH else lasts  # it would tell of not being able to tell
            yield f"source {name}", Fault(reason=view.reason, needs_person=is_fault, lasts_seconds=told)


def _brokers(views: Views, settings: HealthConfig) -> Iterator[tuple[str, Fault]]:
    for name, view in views.brokers.items():
        if view.state != "ok":
            is_fault = view.state == "fault"
            lasts = settings.fault_after if is_fault else settings.waiting_after
            yield f"broker {name}", Fault(reason=view.reason, needs_person=is_fault, lasts_seconds=lasts)


def _cameras(views: Views) -> Iterator[tuple[str, Fault]]:
    """One for all cameras of a destination that have the same trouble: shown, but nobody is told."""
    alike: dict[tuple[str, str, bool], list[str]] = {}
    for name, cameras in views.cameras.items():
        for camera in cameras:
            if camera.state not in ("ok", "removed"):
                alike.setdefault((name, camera.reason, camera.state == "fault"), []).append(camera.name)
    for (name, reason, is_fault), names in alike.items():
        part = f"destination {name}: {_cameras_named(names)}"
        yield part, Fault(reason=reason, needs_person=is_fault, lasts_seconds=None)


def _cameras_named(cameras: Sequence[str]) -> str:
    if len(cameras) == 1:
        return f"camera {cameras[0]}"
    shown = ", ".join(cameras[:CAMERAS_SHOWN])
    return f"{len(cameras)} cameras ({shown}{', …' if len(cameras) > CAMERAS_SHOWN else ''})"


def _configuration(error: str | None, settings: HealthConfig) -> Fault | None:
    if error is None:
        return None
    reason = f"the newest was refused, the previous one runs: {error}"
    return Fault(reason=reason, needs_person=True, lasts_seconds=settings.fault_after)


def _is_near(room: Room, settings: HealthConfig, *, was_near: bool) -> bool:
    """Space or inodes; once near, it takes some more room to be no longer so."""
    percent = settings.spool_percent - (HYSTERESIS_PERCENT if was_near else 0.0)
    few_bytes = min(FEW_BYTES, room.max_bytes // 8, room.disk_bytes // 8) * (2 if was_near else 1)
    few_inodes = room.inode_floor * (2 if was_near else 1)
    is_short_of_inodes = room.left_inodes is not None and room.inode_floor > 0 and room.left_inodes < few_inodes
    return room.used_percent >= percent or room.left_bytes < few_bytes or is_short_of_inodes


def _left(room: Room) -> str:
    if room.left_inodes is not None and room.inode_floor and room.left_inodes < 2 * room.inode_floor:
        return f"{room.left_inodes} inodes are left before min_free_inodes_percent"
    share = f"{room.used_percent:.0f} % full, " if room.limit == "max_size" else ""
    return f"{share}{max(0, room.left_bytes) / 1e6:,.0f} MB are left before {room.limit}"


def _unknown(views: Views, counters: SpoolCounters) -> frozenset[str]:
    sources = {f"source {name}" for name, view in views.sources.items() if not view.is_known}
    owed = {name for name, found in counters.destinations.items() if found.pending}
    return frozenset(sources) | {
        f"destination {name}" for name, view in views.destinations.items() if not view.is_known and name in owed
    }


def _notes(views: Views, counters: SpoolCounters) -> Iterator[str]:
    for name, view in views.destinations.items():
        if view.state == "paused":
            yield f"destination {name}: {view.reason}"
    for name, source in views.sources.items():
        if source.state == "paused":
            yield f"source {name}: {source.reason}"
        quarantined = counters.sources.get(name, SourceCounters()).quarantined
        if quarantined:
            yield f"source {name}: {quarantined} in quarantine, `relayd items --state quarantined`"


def _dead(views: Views, counters: SpoolCounters) -> int:
    return sum(counters.destinations[name].dead for name in views.destinations if name in counters.destinations)


def _more_dead(views: Views, counters: SpoolCounters, shown: int) -> Iterator[str]:
    left = _dead(views, counters) - shown
    if left > 0:
        more = " more" if shown else ""
        are = f"1{more} delivery is" if left == 1 else f"{left}{more} deliveries are"
        yield f"{are} dead, `relayd items --state dead`"


def _lost(one: DeadDelivery) -> str:
    """A dead delivery in words: what of what to whom, why, and what to do."""
    called = "EMERGENCY is dead" if one.priority is Priority.EMERGENCY else "dead"
    reason = one.reason[:LONGEST_DEAD_REASON] + ("…" if len(one.reason) > LONGEST_DEAD_REASON else "")
    what = f"{one.action} of {printable(one.name)} to {one.destination}"
    return f"{called}: {what}: {reason} (`relayd why {one.item_id}`)"
