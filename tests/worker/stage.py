"""A worker on a real spool, towards a destination that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from relayd import clock
from relayd.destinations.base import Attempt, Destination, DestinationConfig
from relayd.model import Capture, Device, Finding, Item, Kind, Order, Priority, Receipt
from relayd.spool import Spool, SpoolConfig
from relayd.traffic import Traffic
from relayd.worker import Worker
from tests.patience import PATIENT_SECONDS

DEVICE = Device(id="t", name="t")
Play = Callable[[Attempt], Awaitable[Receipt]]


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = ""


class Played(Destination):
    """An API as the test wants it: `play` is what happens at each delivery; `seen` is every attempt in order."""

    Config = DestinationConfig
    actions = {"post": Arguments}  # noqa: RUF012

    def __init__(self, name: str, play: Play) -> None:
        self.name = name
        self.play = play
        self.seen: list[str] = []

    async def deliver(self, attempt: Attempt) -> Receipt:
        self.seen.append(attempt.item.name)
        return await self.play(attempt)

    async def check(self) -> list[Finding]:
        return []


class Stage:
    """One spool, and workers on it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.workers: dict[str, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        spool.subscribe(self._hint)

    def start(
        self,
        destination: Destination,
        *,
        concurrency: int = 1,
        cap: str = "100ms",
        first: str = "10ms",
        traffic: Traffic | None = None,
    ) -> Worker:
        """A worker with short waits, running."""
        config = DestinationConfig(
            type="played", concurrency=concurrency, backoff_first=parsed(first), backoff_cap=parsed(cap)
        )
        worker = Worker(destination, config, self.spool, DEVICE, is_held=False, traffic=traffic)
        self.workers[destination.name] = worker
        self._tasks.append(asyncio.create_task(worker.run(), name=destination.name))
        return worker

    async def put(self, name: str, *orders: Order, size_bytes: int = 10) -> Item:
        """A message with these orders, one to `there` if none are given."""
        capture = Capture(
            source="test",
            name=name,
            kind=Kind.MESSAGE,
            content_type="text/plain",
            captured_at=clock.now(),
            payload=b"x" * size_bytes,
        )
        return await self.spool.put(capture, orders or (order("there"),), now=clock.now())

    async def until(
        self, true: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = PATIENT_SECONDS
    ) -> None:
        """Wait for a state, with a deadline."""
        try:
            async with asyncio.timeout(seconds):
                while not await _answer(true()):  # noqa: ASYNC110 - a state in the spool has no event
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {what}") from None

    async def state(self, item: Item) -> str:
        detail = await self.spool.item(item.id)
        return "gone" if detail is None else detail.state.value

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hint(self, names: frozenset[str]) -> None:
        for name in names & self.workers.keys():
            self.workers[name].hint()


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """A stage on a fresh spool."""
    config = SpoolConfig.model_validate({"path": folder / "spool", "min_free": "1MB"})
    spool = await Spool.open(config, now=clock.now())
    it = Stage(spool)
    try:
        yield it
    finally:
        await it.end()
        await spool.close()


def order(destination: str, priority: Priority = Priority.NORMAL, **arguments: str) -> Order:
    return Order(destination=destination, action="post", priority=priority, rule="test", arguments=dict(arguments))


def parsed(text: str) -> float:
    """A section takes durations as written."""
    return text  # type: ignore[return-value]


async def _answer(found: bool | Awaitable[bool]) -> bool:
    return found if isinstance(found, bool) else await found
