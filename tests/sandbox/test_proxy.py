"""The byte-level proxy: every kind of weather, and TLS going through untouched."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import trustme

from relayd.sandbox import Sandbox
from relayd.sandbox.proxy import LOSE_ANSWER, Proxy, Weather
from tests.sandbox.peers import form_of, get, multipart, post, slot, token, until

LOST = (ConnectionError, asyncio.IncompleteReadError)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def proxy(sandbox: Sandbox) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", urlsplit(sandbox.url).port or 0) as proxy:
        yield proxy


def through(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}"


async def test_in_fair_weather_it_carries_everything_and_slots_stay_behind_it(sandbox: Sandbox, proxy: Proxy) -> None:
    given = await slot(through(proxy))
    assert given["signed_request"]["url"].startswith(through(proxy))
    content = bytes(range(256)) * 8000
    assert (await post(given["signed_request"]["url"], form_of(given, content), multipart())).status == 204
    assert next(iter(sandbox.objects.values())).size_bytes == len(content)


async def test_a_lost_answer_was_counted_by_the_server(sandbox: Sandbox, proxy: Proxy) -> None:
    given = await slot(through(proxy))
    proxy.next(LOSE_ANSWER)
    with pytest.raises(LOST):
        await post(given["signed_request"]["url"], form_of(given, b"x"), multipart())
    await sandbox.wait_for(lambda: len(sandbox.objects) == 1)
    assert (await post(given["signed_request"]["url"], form_of(given, b"x"), multipart())).status == 204
    assert next(iter(sandbox.objects.values())).stored == 2


async def test_a_request_cut_on_the_way_is_not_stored(sandbox: Sandbox, proxy: Proxy) -> None:
    given = await slot(through(proxy))
    proxy.next(Weather(up_cut_after=100_000))
    with pytest.raises(LOST):
        await post(given["signed_request"]["url"], form_of(given, bytes(500_000)), multipart())
    await sandbox.wait_for(lambda: sandbox.log[-1].ended_at is not None)
    assert not sandbox.objects
    assert sandbox.log[-1].received_bytes <= 100_000


async def test_refusing_and_shutting_reach_the_client_at_once(sandbox: Sandbox, proxy: Proxy) -> None:
    proxy.next(Weather(is_refusing=True))
    with pytest.raises(LOST):
        await token(through(proxy))
    await proxy.shut()
    with pytest.raises(ConnectionRefusedError):
        await token(through(proxy))
    await proxy.open()
    assert (await token(through(proxy))).startswith("Authorization")


async def test_a_hanging_line_goes_on_when_the_weather_clears(sandbox: Sandbox, proxy: Proxy) -> None:
    proxy.set(Weather(is_hanging=True))
    asking = asyncio.ensure_future(token(through(proxy)))
    await until(lambda: proxy.connections > 0)
    assert not (await asyncio.wait({asking}, timeout=0.1))[0]
    assert sandbox.count("token") == 0
    proxy.set()
    assert (await asyncio.wait_for(asking, 10)).startswith("Authorization")


async def test_a_slow_line_takes_its_time(sandbox: Sandbox, proxy: Proxy) -> None:
    given = await slot(through(proxy))
    proxy.set(Weather(bytes_per_second=200_000))
    start = asyncio.get_running_loop().time()
    assert (await post(given["signed_request"]["url"], form_of(given, bytes(60_000)), multipart())).status == 204
    assert asyncio.get_running_loop().time() - start > 0.2


async def test_a_corrupt_line_alters_one_byte_each_way(sandbox: Sandbox, proxy: Proxy) -> None:
    proxy.next(Weather(down_corrupt_at=9))
    with pytest.raises(ValueError, match="decode"):
        await get(f"{through(proxy)}/_sandbox/")
    proxy.next(Weather(up_corrupt_at=0))
    assert (await get(f"{through(proxy)}/_sandbox/")).status in (400, 405)


async def test_tls_passes_through_and_its_corruption_is_seen(sandbox: Sandbox) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with Sandbox(tls=server) as secure, Proxy("127.0.0.1", urlsplit(secure.url).port or 0) as proxy:
        for weather, is_good in ((Weather(), True), (Weather(down_corrupt_at=300), False)):
            proxy.next(weather)
            connecting = asyncio.open_connection("127.0.0.1", proxy.port, ssl=client)
            if is_good:
                _, writer = await connecting
                writer.transport.abort()
            else:
                with pytest.raises((ssl.SSLError, *LOST)):
                    await connecting


async def test_closing_leaves_no_task_behind(sandbox: Sandbox) -> None:
    before = asyncio.all_tasks()
    async with Proxy("127.0.0.1", urlsplit(sandbox.url).port or 0) as proxy:
        proxy.set(Weather(is_hanging=True))
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        await until(lambda: proxy.connections > 0)
    writer.close()
    await until(lambda: asyncio.all_tasks() == before)
