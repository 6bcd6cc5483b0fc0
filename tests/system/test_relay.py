"""A whole relay, as its own process, against servers that nobody here wrote: Prism, and radosgw as the storage."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relayd.files import safe_name
from tests.daemon.running import RunningRelay, wait_for
from tests.system.conftest import BUCKET
from tests.system.prism import Proxy
from tests.system.processes import free_port
from tests.system.radosgw import Storage
from tests.system.resource_manager import running_manager

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def content(number: int) -> bytes:
    """The bytes of file `number`: its size grows to 1.2 MB, past the limit up to which a body is sent in one piece."""
    return hashlib.shake_256(str(number).encode()).digest(1 + number**3 * 180)


@asynccontextmanager
async def relay(folder: Path, url: str) -> AsyncIterator[RunningRelay]:
    """A running relay that delivers to `url`; it is ended with SIGTERM and must say that all is well."""
    running = RunningRelay(folder, url)
    await asyncio.to_thread(running.start)
    try:
        yield running
    finally:
        code = await asyncio.to_thread(running.end)
    assert code == 0, running.log.read_text()


async def eventually(true: Callable[[], Any], what: str) -> None:
    await asyncio.to_thread(wait_for, true, what, 60.0)


def all_delivered(running: RunningRelay, count: int) -> bool:
    spool = running.ask("GET", "/api/v1/status").document["spool"]
    return bool(spool["delivered"] == count and spool["pending"] == 0)


async def test_files_dropped_into_a_folder_reach_prism_through_every_refusal(proxy: Proxy, tmp_path: Path) -> None:
    proxy.force("/oauth/token", "code=503")
    proxy.force("/v1/resources", "code=429", "code=500", "code=401")
    proxy.force("/s3/example-bucket", "code=403, example=PolicyExpired", "code=500", "code=400, example=RequestTimeout")
    proxy.force("/resolve", "code=503")
    files = [content(number) for number in range(12)]

    async with relay(tmp_path, proxy.url) as running:
        for number, data in enumerate(files):
            (running.drop / f"still {number}.jpg").write_bytes(b"\xff\xd8" + data + b"\xff\xd9")
        await eventually(lambda: all_delivered(running, len(files)), "all delivered")
        status = await asyncio.to_thread(running.json, "status")

    assert sorted(proxy.received) == sorted(b"\xff\xd8" + data + b"\xff\xd9" for data in files)
    assert list(running.drop.iterdir()) == []
    assert status["destinations"]["rapidsos"]["delivered"] == len(files)
    assert status["spool"]["dead"] == 0
    assert proxy.violations == []


async def test_a_relay_that_is_killed_again_and_again_fills_a_real_storage_byte_for_byte(
    storage: Storage, tmp_path: Path
) -> None:
    files = {f"clip-{number}.bin": content(number) for number in range(20)}

    async with (
        running_manager(storage, BUCKET, free_port(), lives_seconds=[600, -60, 600, -60]) as manager,
        relay(tmp_path, manager.url) as running,
    ):
        for number, (name, data) in enumerate(files.items()):
            (running.drop / name).write_bytes(data)
            if number % 5 == 4:
                await asyncio.to_thread(running.end, signal.SIGKILL)
                await asyncio.to_thread(running.start)
        await eventually(lambda: all_delivered(running, len(files)), "all delivered")
        items = await asyncio.to_thread(running.json, "items")

    assert len(items["items"]) == len(files)
    assert list(running.drop.iterdir()) == []
    for item in items["items"]:
        keys = manager.slots[safe_name(item["name"], item["id"])]
        stored = [found for found in (storage.read(BUCKET, key) for key in keys) if found is not None]
        assert stored, item["name"]
        assert set(stored) == {files[item["name"]]}
