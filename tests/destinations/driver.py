"""Drives one destination from a real spool, one try at a time: what the worker does, without its waits.

    receipt = await deliver_file(destination, Path("clip.mp4"))

A `Line` shows more: every try by itself, restarts between tries, and a power cut before or after a step is stored.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from relayd import clock, mediatype
from relayd.arguments import arguments_of
from relayd.destinations.base import Attempt, Destination, Sibling, Step, StepStore
from relayd.errors import DeliveryError
from relayd.files import origin_of
from relayd.model import Capture, Device, Fields, Item, Kind, OpenFile, Order, Priority, Receipt
from relayd.retry import Backoff, judge
from relayd.spool import Begun, Spool, SpoolConfig
from tests.patience import PATIENT_SECONDS

NO_WAIT = Backoff(0.0, 0.0)
"""Every deferred delivery is due again at once."""
DEVICE = Device(id="test", name="Test")


class PowerCut(BaseException):
    """Nothing after this happened; no `except Exception` sees it."""


class _Dying:
    """A step store that dies at one step, or at the so manyth commit: before it is stored (the effect is forgotten) or
    after."""

    def __init__(self, store: StepStore, dies_at: str | int, *, is_stored: bool) -> None:
        self._store = store
        self._dies_at = dies_at
        self._is_stored = is_stored
        self._commits = 0

    async def store_intent(self, delivery_id: int, name: str) -> None:
        await self._store.store_intent(delivery_id, name)

    async def store_step(self, delivery_id: int, name: str, result: Step) -> None:
        await self._die(name, self._store.store_step(delivery_id, name, result))

    async def tell(self, delivery_ids: Sequence[int], name: str, known: Step | None) -> None:
        await self._die(name, self._store.tell(delivery_ids, name, known))

    async def _die(self, name: str, stored: Coroutine[Any, Any, None]) -> None:
        self._commits += 1
        is_here = self._dies_at in (name, self._commits)
        if is_here and not self._is_stored:
            stored.close()
            raise PowerCut(name)
        await stored
        if is_here:
            raise PowerCut(name)


class Line:
    """One destination and the spool that feeds it."""

    def __init__(self, make: Callable[[], Destination], spool: Spool, config: SpoolConfig) -> None:
        self._make = make
        self._config = config
        self.spool = spool
        self.destination = make()

    async def close(self) -> None:
        await self.destination.close()
        await self.spool.close()

    async def restart(self) -> None:
        """As after a crash: another process, the same disk."""
        await self.close()
        self.spool = await Spool.open(self._config, now=clock.now())
        self.destination = self._make()

    async def put(
        self,
        content: bytes,
        name: str = "clip-0001.jpg",
        content_type: str = "image/jpeg",
        action: str = "",
        kind: Kind = Kind.MEDIA,
        topic: str | None = None,
        **arguments: str,
    ) -> Item:
        """Accept `content` and owe it to the destination, for its first action unless one is named."""
        capture = Capture(
            source="test",
            name=name,
            kind=kind,
            content_type=content_type,
            captured_at=clock.now(),
            payload=content,
            topic=topic,
        )
        return await self.spool.put(capture, [self._order(action, arguments)], now=clock.now())

    async def put_file(self, path: Path, content_type: str | None, action: str, arguments: Fields) -> Item:
        """Accept a file where it lies; it is copied."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            origin = origin_of(os.fsencode(path.name), os.fstat(descriptor))
            capture = Capture(
                source="test",
                name=path.name,
                kind=Kind.MEDIA,
                content_type=content_type or mediatype.content_type(mediatype.read_head(descriptor), path.name),
                captured_at=clock.now(),
                file=OpenFile(descriptor=descriptor, origin=origin, is_finished=False),
            )
            return await self.spool.put(capture, [self._order(action, arguments)], now=clock.now())
        finally:
            os.close(descriptor)

    async def attempt(
        self, *, dies_at: str | int | None = None, is_stored: bool = True
    ) -> Receipt | DeliveryError | None:
        """One try: the receipt, the error that the worker would have judged, or None if nothing is owed any more.

        With `dies_at` the power is cut at that step, or that commit (PowerCut); `restart` before going on.
        """
        begun = await self._begin()
        if begun is None:
            return None
        attempt = self._attempt(begun, dies_at, is_stored=is_stored)
        try:
            receipt = await self.destination.deliver(attempt)
        except DeliveryError as error:
            await self._record(begun, error)
            return error
        await self.spool.record_delivered(begun.delivery.id, receipt, now=clock.now())
        return receipt

    async def deliver(self, tries: int = 20) -> Receipt:
        """Try until it is delivered. Raises what the last try raised, or the first refusal for good."""
        last: Exception = AssertionError("nothing is owed")
        for _ in range(tries):
            outcome = await self.attempt()
            if isinstance(outcome, Receipt):
                return outcome
            if outcome is None:
                break
            last = outcome
        raise last

    def _order(self, action: str, arguments: Fields) -> Order:
        return Order(
            destination=self.destination.name,
            action=action or next(iter(self.destination.actions)),
            priority=Priority.NORMAL,
            rule="test",
            arguments=dict(arguments),
        )

    async def _begin(self) -> Begun | None:
        return await self.spool.begin(
            self.destination.name,
            now=clock.now(),
            longest_backoff=300.0,
            delay=lambda _: 0.0,
            exclude=(),
            probe=False,
        )

    def _attempt(self, begun: Begun, dies_at: str | int | None, *, is_stored: bool) -> Attempt:
        store: StepStore = self.spool if dies_at is None else _Dying(self.spool, dies_at, is_stored=is_stored)
        return Attempt(
            item=begun.item,
            delivery=begun.delivery,
            arguments=self._arguments(begun),
            device=DEVICE,
            open_media=lambda: self.spool.open_media(begun.item.id),
            store=store,
            steps=begun.steps,
            siblings=lambda: self._siblings(begun),
        )

    def _arguments(self, begun: Begun) -> Fields:
        return arguments_of(begun.delivery, begun.item, DEVICE, self.destination.actions)

    async def _siblings(self, begun: Begun) -> AsyncIterator[Sibling]:
        async for other in self.spool.siblings(begun.delivery):
            yield Sibling(item=other.item, delivery=other.delivery, arguments=self._arguments(other), steps=other.steps)

    async def _record(self, begun: Begun, error: DeliveryError) -> None:
        verdict = judge(error, attempts=begun.delivery.attempts, backoff=NO_WAIT)
        now = clock.now()
        if verdict.ends_as is not None:
            await self.spool.record_ended(begun.delivery.id, verdict.ends_as, verdict.outcome, verdict.reason, now=now)
            return
        await self.spool.record_deferred(
            begun.delivery.id,
            verdict.outcome,
            verdict.reason,
            due_at=now,
            now=now,
            forget_from=verdict.forget_from,
        )


async def until(holds: Callable[[], bool], timeout_seconds: float = PATIENT_SECONDS) -> None:
    """Return as soon as `holds()`. Raises TimeoutError."""
    async with asyncio.timeout(timeout_seconds):
        while not holds():  # noqa: ASYNC110 - nothing tells when a stand-in has merely begun to read
            await asyncio.sleep(0.005)


@asynccontextmanager
async def line(make: Callable[[], Destination], folder: Path) -> AsyncIterator[Line]:
    """A new spool in `folder`, feeding the destination that `make` makes."""
    config = SpoolConfig.model_validate({"path": folder, "min_free": "1MB"})
    made = Line(make, await Spool.open(config, now=clock.now()), config)
    try:
        yield made
    finally:
        await made.close()


async def deliver_file(
    destination: Destination,
    path: Path,
    *,
    content_type: str | None = None,
    action: str = "upload",
    arguments: Fields | None = None,
    tries: int = 20,
) -> Receipt:
    """Deliver one file through a real spool in a temporary folder and close the destination. Raises the last error."""
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="relayd-driver-")
    with folder:
        async with line(lambda: destination, Path(folder.name)) as made:
            await made.put_file(path, content_type, action, arguments or {})
            return await made.deliver(tries)
