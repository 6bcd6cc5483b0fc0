"""The relay with one safety taken out: negative controls, which the crash tests must catch.

`python -m tests.crash.sabotage WHICH --config FILE run`
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from relayd.broker import Message
from relayd.cli import main
from relayd.destinations.base import Attempt, Step
from relayd.model import Capture, Item, Order
from relayd.sources.topic import TopicSource
from relayd.spool import Spool, Ties
from relayd.traffic import Lane, Pace


def unlink_before_commit() -> None:
    """Take the original away first, and store it afterwards."""
    whole_put = Spool.put

    async def put(
        self: Spool,
        capture: Capture,
        orders: Sequence[Order],
        *,
        now: float,
        trouble: Sequence[str] = (),
        ties: Ties | None = None,
    ) -> Item:
        if capture.file is not None:
            Path(f"/proc/self/fd/{capture.file.descriptor}").readlink().unlink()
        return await whole_put(self, capture, orders, now=now, trouble=trouble, ties=ties)

    Spool.put = put  # type: ignore[method-assign]


def no_step_store() -> None:
    """Do every step anew at every try."""

    async def step(
        self: Attempt,
        name: str,
        do: Callable[..., Awaitable[Step]],
        *args: Any,
        find: Callable[[], Awaitable[Step | None]] | None = None,
    ) -> Step:
        return await do(*args)

    Attempt.step = step  # type: ignore[method-assign]
    Attempt.recall = lambda self, name: None  # type: ignore[method-assign]


def acknowledge_at_once() -> None:
    """Acknowledge a message when it comes, and store it afterwards: what MQTT clients do by themselves."""
    take = TopicSource._take
    tasks = set()

    async def soon(self: TopicSource, message: Message) -> bytes | None:
        task = asyncio.get_running_loop().create_task(take(self, message))
        tasks.add(task)
        return None

    TopicSource._take = soon  # type: ignore[method-assign]


def no_lane() -> None:
    """Nobody gives way to anybody, and uploads go as fast as the kernel takes them."""

    async def turn(self: Lane) -> None:
        return

    async def pieces(self: Lane, chunk: bytes, pace: Pace, waiting_bytes: Callable[[], int]) -> AsyncIterator[bytes]:
        yield chunk

    Lane.turn = turn  # type: ignore[method-assign]
    Lane.pieces = pieces  # type: ignore[method-assign]


SABOTAGE = {
    "no-lane": no_lane,
    "unlink-before-commit": unlink_before_commit,
    "no-step-store": no_step_store,
    "acknowledge-at-once": acknowledge_at_once,
}

if __name__ == "__main__":
    SABOTAGE[sys.argv.pop(1)]()
    main()
