"""What the spool hands out: frozen pictures of rows, and the counters.

Promises: nothing here touches the disk; a picture is as of the commit before it was taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from relayd.model import JSON, Delivery, Fields, Incident, Item, Outcome, Priority, State

Step = dict[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A delivery that was just charged: everything a worker needs to try it. A step that is None is an intent."""

    item: Item
    delivery: Delivery
    steps: Mapping[str, Step | None]
    incident: Incident | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadDelivery:
    """What will never be delivered unless a person has it tried again, in short."""

    item_id: str
    name: str
    destination: str
    action: str
    priority: Priority
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSummary:
    """One line of a list. `priority` is the most urgent of its deliveries, None if no rule wanted the item.

    `reason` says why an item ended where no delivery can tell; `trouble` what of the rules could not be answered when
    it came. `item.payload` is left out of lists.
    """

    item: Item
    state: State
    priority: Priority | None
    reason: str
    has_content: bool
    ended_at: float | None
    deliveries: tuple[Delivery, ...]
    trouble: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One try. STARTED without an end is under way, or was cut by a crash."""

    number: int
    started_at: float
    ended_at: float | None
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDetail:
    """One delivery with its history; `receipt` and `proof` are there once it is delivered. `is_replaced`: it was given
    up, and what it was to open in its incident was asked for again since then."""

    delivery: Delivery
    attempts: tuple[AttemptRecord, ...]
    steps: Mapping[str, Step | None]
    receipt: Fields | None
    proof: str | None
    ended_at: float | None
    is_replaced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDetail:
    """Everything that is known of one item; `trouble` as in ItemSummary."""

    item: Item
    state: State
    priority: Priority | None
    reason: str
    has_content: bool
    ended_at: float | None
    deliveries: tuple[DeliveryDetail, ...]
    trouble: tuple[str, ...] = ()
    incidents: tuple[str, ...] = ()
    missed: tuple[MissedIncident, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedIncident:
    """One that an item came close to without belonging to it, and why not, in words. `was_open`: when the item came;
    `is_collected`: its source is one of those that the incident collects from."""

    incident: Incident
    why: str
    was_open: bool
    is_collected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentSummary:
    """One line of a list. `items` belong to it, `deliveries` were ordered in it, by state."""

    incident: Incident
    opened_by: str
    items: int
    deliveries: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resent:
    """What came of one item that a person wants sent again: by which `actions`, or `why` not; one of them is empty."""

    item_id: str
    name: str = ""
    actions: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedFile:
    """A file that stays where the technician finds it. `path` is below the source's folder, raw bytes."""

    source: str
    path: bytes
    size_bytes: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounters:
    """`captured` and `repeated` (what came again as it was) count for ever; `quarantined` is how many files wait there
    now."""

    captured: int = 0
    repeated: int = 0
    quarantined: int = 0
    last_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationCounters:
    """`delivered` and `bytes_sent` count for ever; the others are deliveries in that state now.

    `dead` are those that may want a person; `dropped` are those that a person gave up.
    """

    pending: int = 0
    delivered: int = 0
    dead: int = 0
    evicted: int = 0
    expired: int = 0
    dropped: int = 0
    bytes_sent: int = 0
    last_success_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolCounters:
    """`items` ever accepted = pending + delivered + dead + evicted + expired + unclaimed + dropped, across restarts and
    purges: `unclaimed` also counts what no rule wanted and is gone.

    `stored` items still have a row; `bytes` of content are kept, of at most `max_bytes`; `free_bytes` is what the file
    system has left for us.
    """

    items: int
    stored: int
    pending: int
    delivered: int
    dead: int
    evicted: int
    expired: int
    unclaimed: int
    dropped: int
    bytes: int
    max_bytes: int
    free_bytes: int
    open_incidents: int = 0
    sources: Mapping[str, SourceCounters] = field(default_factory=dict)
    destinations: Mapping[str, DestinationCounters] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `spool check|repair|export` found and did. `problems` is empty when all is well."""

    is_good: bool
    problems: tuple[str, ...]
    done: tuple[str, ...]
    numbers: Mapping[str, int] = field(default_factory=dict)
