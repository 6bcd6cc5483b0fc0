"""The seam between the worker and every API: `Destination.deliver(attempt) -> Receipt`, plus `check()`; and `upkeep()`
for a type that has something to look after between deliveries.

A destination raises (see `errors`): it never retries, sleeps, counts or logs failures; the worker does. Its effects go
through `Attempt.step`, which runs each of them once across all tries and all crashes.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Protocol

from pydantic import BaseModel, Field

from relayd.errors import Rejected
from relayd.fields import Duration, Section, written
from relayd.model import JSON, CameraView, Delivery, Device, Fields, Finding, Incident, Item, Kind, Receipt

Step = dict[str, JSON]


class DestinationConfig(Section):
    """What every `[destination.NAME]` section has, whatever its type."""

    type: str
    """Which API this is."""
    concurrency: int = Field(default=2, ge=1, le=32)
    """How many deliveries may be under way at once; beside them goes one of priority `high` while none of them is
    urgent, and one more of priority `emergency`."""
    backoff_first: Duration = written("1s", gt=0)
    """Longest wait after the first failure; it doubles with each further one, and the wait is drawn from 0 to it."""
    backoff_cap: Duration = written("5m", gt=0)
    """No wait is longer than this, whatever the server asks for."""


class StepStore(Protocol):
    """Where the results of steps live; the spool is one. Each call returns after the commit."""

    async def store_intent(self, delivery_id: int, name: str) -> None: ...

    async def store_step(self, delivery_id: int, name: str, result: Step) -> None: ...

    async def tell(self, delivery_ids: Sequence[int], name: str, known: Step | None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """Another pending delivery of the same destination and action. `arguments` are filled in; None if they cannot be,
    so that it will be refused when its turn comes. `steps` are what its own tries have done, or what it was told."""

    item: Item
    delivery: Delivery
    arguments: Fields | None
    steps: Mapping[str, Step | None]


async def _alone() -> AsyncIterator[Sibling]:
    nobody: tuple[Sibling, ...] = ()
    for one in nobody:
        yield one


class Attempt:
    """One try at one delivery: what to send, and the memory of what earlier tries have already done.

    `arguments` are filled in (no templates left) and fit the action's model. `number` is 1 for the first try.
    """

    def __init__(
        self,
        *,
        item: Item,
        delivery: Delivery,
        arguments: Fields,
        device: Device,
        incident: Incident | None = None,
        open_media: Callable[[], BinaryIO],
        store: StepStore,
        steps: Mapping[str, Step | None],
        siblings: Callable[[], AsyncIterator[Sibling]] = _alone,
    ) -> None:
        self.siblings = siblings
        """What else the destination is owed by this action, oldest first; read while it is looked through."""
        self.item = item
        self.delivery = delivery
        self.arguments = arguments
        self.device = device
        self.incident = incident
        self._open_media = open_media
        self._store = store
        self._steps = dict(steps)

    @property
    def number(self) -> int:
        return self.delivery.attempts

    def key(self, name: str) -> str:
        """A UUID that stays the same for every try of this delivery's step `name`: an idempotency key."""
        digest = hashlib.sha256(f"{self.item.id}\0{self.delivery.id}\0{name}".encode()).digest()
        return str(uuid.UUID(bytes=digest[:16], version=5))

    def open_media(self) -> BinaryIO:
        """The spooled content, unbuffered and read-only, at offset 0; the caller closes it. Only for kind MEDIA.

        Raises Rejected if the item is a message, or if the spooled file is gone or no longer what was accepted.
        """
        if self.item.kind is not Kind.MEDIA:
            raise Rejected(f"item {self.item.id} is a message and has no media to send")
        stream = self._open_media()
        found = os.fstat(stream.fileno()).st_size
        if found != self.item.size_bytes:
            stream.close()
            raise Rejected(
                f"the spooled file has {found} bytes instead of {self.item.size_bytes}: run `relayd spool check`"
            )
        return stream

    def remote(self, name: str) -> JSON:
        """What this destination calls the incident of this delivery (`report_id`, `stream_id`). Raises Rejected if it
        belongs to no incident, or to one that has no such id: the spool holds deliveries back until it is known."""
        if self.incident is None:
            raise Rejected(f"no {name} is given, and the item belongs to no incident that has one")
        found = self.incident.remote.get(self.delivery.destination, {}).get(name)
        if found is None:
            raise Rejected(f"incident {self.incident.id} has no {name} at {self.delivery.destination}")
        return found

    def recall(self, name: str) -> Step | None:
        """The stored result of a step, or None if it never returned."""
        return self._steps.get(name)

    async def step(
        self,
        name: str,
        do: Callable[..., Awaitable[Step]],
        *args: Any,
        find: Callable[[], Awaitable[Step | None]] | None = None,
    ) -> Step:
        """Run the effect `do(*args)` once across all tries; its small JSON result is stored the moment it returns.

        With `find`, an intent is stored first, and a later try asks the far side whether the effect has happened
        before doing it again. Without it, a crash between effect and commit repeats the effect: it must be
        repeatable, keyed, or documented as at-least-once.
        """
        done = self._steps.get(name)
        if done is not None:
            return done
        result: Step | None = None
        if find is not None:
            if name in self._steps:
                result = await find()
            else:
                await self._store.store_intent(self.delivery.id, name)
                self._steps[name] = None
        if result is None:
            result = await do(*args)
        await self._store.store_step(self.delivery.id, name, result)
        self._steps[name] = result
        return result

    async def note(self, name: str, known: Step) -> None:
        """Store what is known now of something that nobody can look up, in place of what was noted before."""
        await self._store.store_step(self.delivery.id, name, known)
        self._steps[name] = known

    async def tell(self, siblings: Sequence[Sibling], name: str, known: Step | None) -> None:
        """Give these a step `name` with this result, in one commit (None: nothing new), and have them tried at once."""
        if siblings:
            await self._store.tell([sibling.delivery.id for sibling in siblings], name, known)

    async def count(self, name: str, most: int) -> int:
        """Count one more `name` across tries and crashes and return how many there are now, at most `most`.

        Steps are never changed, so each count is a step of its own: `name-1`, `name-2`, …
        """
        number = next((number for number in range(1, most) if self._steps.get(f"{name}-{number}") is None), most)
        await self.step(f"{name}-{number}", _nothing)
        return number


class Destination(ABC):
    """One configured API. Built once per configuration; `close` ends its connections."""

    Config: ClassVar[type[DestinationConfig]]
    """The model of this type's `[destination.NAME]` section."""

    actions: ClassVar[Mapping[str, type[BaseModel]]]
    """Action name → model of its arguments. `action` may be left out in a rule where there is only one."""

    receipt_fields: ClassVar[frozenset[str] | None] = None
    """What a receipt's fields are called, for the check of texts in `then`; None: whatever the server answers."""

    opens: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Action → the receipt fields that name an incident at this destination (`report` → `report_id`). Such an action is
    ordered once for an incident, whatever number of messages join it."""

    needs: ClassVar[Mapping[str, str]] = {}
    """Action → the remote id of the incident without which it cannot be tried, unless it is given as an argument."""

    spares: ClassVar[Mapping[str, str]] = {}
    """Action → the option of the section that, where it is set, stands in for what the action `needs`: then it is sent
    outside of incidents too, and within one it waits only for what something in the incident may still bring."""

    alarms: ClassVar[frozenset[str]] = frozenset()
    """Actions that reach people at once: who has something sent again is told so."""

    never_late: ClassVar[frozenset[str]] = frozenset()
    """Actions that are worth something only at the moment they are asked for: never sent again."""

    goes_over_link: ClassVar[bool] = True
    """Whether deliveries share the way to the outside with those to other destinations, so that they give way to what
    is more urgent."""

    name: str

    @abstractmethod
    async def deliver(self, attempt: Attempt) -> Receipt:
        """Bring it about, and return only what the server's own answer proves. Raises `errors.DeliveryError`."""

    @abstractmethod
    async def check(self) -> list[Finding]:
        """Try the login and whatever else can be tried without leaving a trace; for `check --online`."""

    async def upkeep(self) -> None:
        """Background work beside the deliveries, for a type that has some: runs until it is cancelled, started again if
        it fails. It waits, backs off and logs for itself, and never holds up a delivery. What it has to remember goes
        through `Surroundings.memory`: durable notes of this destination alone, kept by the spool."""
        return

    def nudge(self) -> None:
        """The network changed, or a person looks: upkeep that waits looks again soon."""
        return

    def cameras(self) -> tuple[CameraView, ...]:
        """The cameras that this destination looks after, for the status and `relayd cameras`; no I/O."""
        return ()

    async def words(self) -> Mapping[str, Sequence[str]]:
        """Argument → the words that the far side takes for it, for `relayd init`. Raises DeliveryError."""
        return {}

    async def close(self) -> None:
        """Close connections. Called once, when the last attempt has ended."""
        return


async def _nothing() -> Step:
    return {}
