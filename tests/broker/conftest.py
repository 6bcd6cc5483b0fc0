"""Real brokers, and a broker's client that a test can talk to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest

from relayd.broker import Broker, BrokerConfig, Will
from tests.broker.mosquitto import Mosquitto
from tests.patience import PATIENT_SECONDS

Running = Callable[..., AbstractAsyncContextManager[Broker]]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """Open to everybody, and persistent."""
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()


async def until(true: Callable[[], object], what: str, seconds: float = PATIENT_SECONDS) -> None:
    """Look until it is so."""
    try:
        async with asyncio.timeout(seconds):
            while not true():  # noqa: ASYNC110 - whatever it is, it tells nobody
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:.0f} s: {what}") from None


@asynccontextmanager
async def running(broker: Broker, *, is_awaited: bool = True) -> AsyncIterator[Broker]:
    """Run it until the end of the context; wait for the connection first."""
    task = asyncio.create_task(broker.run())
    try:
        if is_awaited:
            await until(lambda: broker.is_connected, f"connected: {broker.view()}")
        yield broker
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def broker_at(url: str, client_id: str = "relayd-test", *, will: Will | None = None, **settings: object) -> Broker:
    return Broker("local", BrokerConfig.model_validate({"url": url, **settings}), client_id, will)


def collector(into: list[object]) -> Callable[[object], Awaitable[None]]:
    """A handler that takes everything."""

    async def take(message: object) -> None:
        into.append(message)

    return take
