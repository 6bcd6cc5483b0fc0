"""The emergency lane under a thin link: an event and a still beside 500 MB of bulk that is already on its way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import pytest
from aiohttp import web

from relayd import clock
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from relayd.model import Priority
from relayd.traffic import Traffic
from tests.system.thin_link import ThinLink

pytestmark = pytest.mark.system

BYTES_PER_SECOND = 256_000 / 8
UPLOADS = 10
BULK_BYTES = 50_000_000
EVENT, STILL = b"e" * 500, b"s" * 50_000
FILLS_SECONDS = 3.0
CHUNK = bytes(128 * 1024)


@dataclass
class Zeros:
    length: int

    def chunks(self) -> Iterable[bytes]:
        for _ in range(self.length // len(CHUNK)):
            yield CHUNK


@pytest.fixture
async def link() -> AsyncIterator[ThinLink]:
    async def take(request: web.BaseRequest) -> web.Response:
        with contextlib.suppress(ConnectionError):
            async for _ in request.content.iter_chunked(65536):
                pass
        return web.json_response({})

    runner = web.ServerRunner(web.Server(take), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with ThinLink(runner.addresses[0][1], BYTES_PER_SECOND) as thin:
        yield thin
    await runner.cleanup()


async def seconds_beside_bulk(link: ThinLink, urgent: Priority) -> tuple[float, float, int]:
    """How long the event and the still took, and how many bytes of bulk went by meanwhile."""
    config = HttpConfig.model_validate({"url": f"http://127.0.0.1:{link.port}"})
    client, road = HttpClient(config), Traffic()

    async def upload() -> None:
        with road.carrying(Priority.BULK):
            await client.send("POST", client.url("/bulk"), body=Zeros(BULK_BYTES // len(CHUNK) * len(CHUNK)))

    async def send(body: bytes) -> float:
        began = clock.monotonic()
        with road.carrying(urgent):
            assert (await client.send("POST", client.url("/urgent"), body=body)).status == 200
        return clock.monotonic() - began

    bulk = [asyncio.create_task(upload()) for _ in range(UPLOADS)]
    try:
        async with asyncio.timeout(30):
            while link.carried < BYTES_PER_SECOND * FILLS_SECONDS:  # noqa: ASYNC110 - a link tells nobody
                await asyncio.sleep(0.05)
        before = link.carried
        event_seconds, still_seconds = await asyncio.gather(send(EVENT), send(STILL))
        return event_seconds, still_seconds, link.carried - before - len(EVENT) - len(STILL)
    finally:
        for task in bulk:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*bulk, return_exceptions=True)
        await client.close()


async def test_an_event_and_a_still_pass_running_uploads_on_a_thin_link(link: ThinLink) -> None:
    event_seconds, still_seconds, bulk_bytes = await seconds_beside_bulk(link, Priority.EMERGENCY)
    assert event_seconds < 2
    assert still_seconds < 10
    assert bulk_bytes > 0


async def test_without_the_lane_the_still_is_too_late(link: ThinLink) -> None:
    """The negative control: as urgent as the bulk itself, nobody gives way."""
    _, still_seconds, _ = await seconds_beside_bulk(link, Priority.BULK)
    assert still_seconds > 10
