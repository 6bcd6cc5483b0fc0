"""A worker where many things fail at once, or in ways that invite a storm; on a real spool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.destinations.base import Attempt
from relayd.errors import SpoolError, Unavailable
from relayd.model import Receipt
from tests.worker.stage import Played, Stage, stage

DONE = Receipt(proof="the test says so", fields={})


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as made:
        yield made


async def test_one_outage_that_breaks_eight_deliveries_at_once_is_one_failure_and_no_long_pause(it: Stage) -> None:
    everyone_is_out = asyncio.Barrier(8)

    async def cut(_: Attempt) -> Receipt:
        await everyone_is_out.wait()
        raise Unavailable("the link is gone")

    for number in range(8):
        await it.put(f"n{number}")
    worker = it.start(Played("there", cut), concurrency=8, first="1h", cap="1000h")
    await it.until(lambda: worker.view().state == "waiting" and not worker.view().under_way, "all eight have failed")
    pause = worker._breaker.pause
    assert pause is not None
    assert pause.failures == 1


async def test_a_server_that_says_retry_after_zero_is_not_asked_without_a_pause(it: Stage) -> None:
    async def busy(_: Attempt) -> Receipt:
        raise Unavailable("503", retry_after_seconds=0.0)

    await it.put("waits")
    there = Played("there", busy)
    it.start(there, first="200ms", cap="10s")
    await asyncio.sleep(1.0)
    assert len(there.seen) <= 30


async def test_what_has_happened_outside_is_not_done_twice_because_the_spool_refuses_for_a_moment(
    it: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, refusals = 0, 3
    store = it.spool.store_step

    async def refuses_thrice(delivery_id: int, name: str, result: dict[str, Any]) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise SpoolError("the disk is full")
        await store(delivery_id, name, result)

    async def send(attempt: Attempt) -> Receipt:
        async def effect() -> dict[str, Any]:
            nonlocal sent
            sent += 1
            return {}

        await attempt.step("sms", effect)
        return DONE

    monkeypatch.setattr(it.spool, "store_step", refuses_thrice)
    await it.put("sms")
    it.start(Played("there", send))
    await it.until(lambda: it.spool.counters.delivered == 1, "delivered")
    assert sent == 1
