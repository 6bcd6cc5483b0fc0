"""The words of relayd: frozen records and enumerations that every room shares.

Promises: no I/O, no clock, nothing optional that need not be. Times are Unix seconds (UTC, float); sizes are
bytes. Names are the ones of the configuration, the command line, the topics and the pages: one word per thing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from relayd.threads import PartThreads

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"
Fields: TypeAlias = Mapping[str, JSON]


class Kind(enum.StrEnum):
    """What an item is made of: a file on disk, or a message small enough to live in its row."""

    MEDIA = "media"
    MESSAGE = "message"


class Priority(enum.IntEnum):
    """How urgent a delivery is; the smaller the number, the sooner. The numbers are stored: add, do not reuse."""

    EMERGENCY = 0
    HIGH = 1
    NORMAL = 2
    BULK = 3

    @property
    def word(self) -> str:
        """The name as written in the configuration."""
        return self.name.lower()


class State(enum.StrEnum):
    """Where an item or one of its deliveries stands. An item is in exactly one of these, always.

    An item is PENDING while any of its deliveries is; after that the worst of its deliveries decides: DEAD, EVICTED,
    EXPIRED, DROPPED, DELIVERED, in this order. DROPPED: a person gave it up. UNCLAIMED is an item that no rule wanted,
    also after it was let go; no delivery is.
    """

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    EVICTED = "evicted"
    EXPIRED = "expired"
    UNCLAIMED = "unclaimed"
    DROPPED = "dropped"


class Outcome(enum.StrEnum):
    """How one attempt at a delivery ended; shown by `items show` and `why`. STARTED without an end: it was cut."""

    STARTED = "started"
    DELIVERED = "delivered"
    UNAVAILABLE = "unavailable"
    NOT_READY = "not ready"
    REWIND = "rewind"
    REJECTED = "rejected"
    FAILED = "failed"


class TimeFrom(enum.StrEnum):
    """What said when something was captured."""

    PATTERN = "pattern"
    NAME = "name"
    WRITTEN = "mtime"
    ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A position in WGS 84 degrees; `age_seconds` is how old the fix was when the item was captured (negative:
    it came later; None: nobody knows)."""

    latitude: float
    longitude: float
    accuracy_meters: float | None = None
    age_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """This relay, as `[device]` describes it."""

    id: str
    name: str
    site: str | None = None
    location: Location | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which file in a drop folder an item came from: enough to know it again after a crash.

    `path` is relative to the source's folder, as the raw bytes of the file system.
    """

    path: bytes
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A file of a source that needs no second look while it stays as it is.

    With `item_id` it is accepted already (a crash, or missing rights, kept it from being unlinked); with `reason` it is
    in quarantine. Exactly one of the two is set.
    """

    origin: Origin
    item_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A file that was taken and not let go of yet, as it was then. `captured_at` is the time its item has."""

    origin: Origin
    item_id: str
    sha256: str
    captured_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFile:
    """A file opened by the safe-open rule: checked on this very descriptor, which the source keeps open and closes.

    `is_finished` says that a lease proved that no writer is left, so that the spool may hard-link instead of copying.
    It is read in the source's own `threads`, so that a disk that hangs uses up nobody else's; None: in the spool's.
    """

    descriptor: int
    origin: Origin
    is_finished: bool
    threads: PartThreads | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message as its broker knows it, so that it can be known again: `origin` stands for it in the ledger.

    `is_repeat` says that it may have been taken before: then the answer is the item that it became, if it did.
    """

    origin: Origin
    is_repeat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The item that a file became before it changed. `is_same_content`: only its name or its time did."""

    item_id: str
    is_same_content: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What a source hands to the intake: either an open `file`, or a `payload` of bytes, never both.

    `name` is what the outside called it (hostile, but valid Unicode); `attributes` come from a path template.
    `kind` MEDIA with a `payload` is an image published over MQTT. `is_held`: its writer may still come back, so only
    what is urgent begins until the source lets go of it. `earlier`: it has been taken before, and changed since. What
    came with the same path and content within `same_again_seconds` is the same item. `damage` says what is missing
    of it; empty: nothing. `time_from` is what said `captured_at`.
    """

    source: str
    name: str
    kind: Kind
    content_type: str
    captured_at: float
    file: OpenFile | None = None
    payload: bytes | None = None
    topic: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    location: Location | None = None
    arrival: Arrival | None = None
    is_held: bool = False
    earlier: Earlier | None = None
    same_again_seconds: float = 0.0
    damage: str = ""
    time_from: TimeFrom = TimeFrom.ARRIVAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One media file or one message, immutable and durable. `md5` and `sha256` are lower-case hex of the content.

    `damage` says what is missing of it, or that it is not what its name says; empty for what is whole.
    """

    id: str
    source: str
    name: str
    kind: Kind
    content_type: str
    size_bytes: int
    sha256: str
    md5: str
    captured_at: float
    accepted_at: float
    payload: bytes | None = None
    topic: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    location: Location | None = None
    origin_path: str | None = None
    damage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One delivery that a rule, a person or a `then` asks for: what `deliver = [{…}]` says, not yet in the spool.

    `arguments` are kept as written: text fields are templates, filled in when the delivery is tried.
    `then` holds follow-up orders, created in the transaction that stores this delivery's receipt. `incident` is the id
    of the incident it belongs to, else empty. `needs` names remote ids of that incident without which it cannot be
    tried: `DESTINATION.NAME` for one that this destination gives, `NAME` for one from anywhere; with a `?` at its
    end it is only waited for while something in the incident may bring it. `opens` are the receipt fields that become
    remote ids of the incident. `is_tied` says that it is another one for each incident of its item.
    """

    destination: str
    action: str
    priority: Priority
    rule: str
    arguments: Fields = field(default_factory=dict)
    then: tuple[Order, ...] = ()
    incident: str = ""
    needs: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    is_tied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One action owed to one destination for one item, as its row says.

    `attempts` counts the tries begun, this one included. `parent_receipt` is the receipt of the delivery whose `then`
    created this one, else empty. `reason` is the last answer in words, for people. `incident` is the id of the incident
    it belongs to, else empty; `waits_for` are the remote ids of it that are not known yet. `is_held`: it begins when
    the source has let the original go.
    """

    id: int
    item_id: str
    destination: str
    action: str
    rule: str
    priority: Priority
    state: State
    attempts: int
    created_at: float
    due_at: float
    arguments: Fields = field(default_factory=dict)
    then: tuple[Order, ...] = ()
    parent_receipt: Fields = field(default_factory=dict)
    reason: str = ""
    incident: str = ""
    waits_for: tuple[str, ...] = ()
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a rule with `incident` asks for: open one under `key`, or join the one that is open; or, with `closes`,
    close it. `collect` are the sources whose items belong to it, from `before_seconds` before it opens to
    `after_seconds` after the last item under its key. Of its rule at most `most_open` are open at once."""

    rule: str
    key: str
    collect: tuple[str, ...]
    before_seconds: float
    after_seconds: float
    closes: bool = False
    most_open: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What ties the items of one event together. `starts_at` to `ends_at` is the span in which items of the `collect`
    sources belong to it; `ends_at` moves with each further item under its key. `remote` is destination → what it
    calls this incident (`report_id`, `stream_id`, …), as far as known. `closed_at` is None while it is open."""

    id: str
    key: str
    rule: str
    collect: tuple[str, ...]
    opened_at: float
    starts_at: float
    ends_at: float
    closed_at: float | None = None
    close_reason: str = ""
    remote: Mapping[str, Fields] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a destination gave back. `proof` says in words what proves it."""

    proof: str
    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of `check --online`: what was tried, whether it worked, and the remedy if it did not."""

    subject: str
    is_good: bool
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationView:
    """What status shows of a destination besides its counters. `state` is ok, waiting, paused or fault.

    `reason` is empty when ok; `next_try_at` is Unix seconds, None when nothing is timed; `under_way` counts attempts.
    Until `is_known`, it has not been heard of since the start: that it is ok is only a guess.
    """

    state: Literal["ok", "waiting", "paused", "fault"]
    reason: str
    next_try_at: float | None
    under_way: int
    is_known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraView:
    """A camera that a destination looks after. `state` is waiting (for its activation, or to be looked at), ok, dead
    (activated, and sends no frames), fault (a person is needed) or removed (no longer in the configuration).

    `reason` is empty when ok. `token` is None once it is used, `qr` is what its QR code says. `alive`, `last_change_at`
    and `last_frame_at` (Unix seconds by the server's clock) are as the server said last, None if it did not.
    """

    name: str
    title: str
    state: Literal["waiting", "ok", "dead", "fault", "removed"]
    reason: str
    token: str | None = None
    qr: str | None = None
    stream_name: str | None = None
    alive: bool | None = None
    last_change_at: float | None = None
    last_frame_at: float | None = None
    activated_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceView:
    """What status shows of a source. `state` is ok, waiting, paused or fault; `reason` is empty when ok. Until
    `is_known`, it had no time yet since the start to show whether it works."""

    state: Literal["ok", "waiting", "paused", "fault"]
    reason: str
    last_at: float | None
    is_known: bool = True
