"""Hints from the kernel when the network changes, in a network namespace of the test's own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

WATCHER = """
import asyncio, subprocess
from relayd import routes

async def main():
    seen = asyncio.Event()

    async def watch():
        async for _ in routes.changes():
            seen.set()

    task = asyncio.create_task(watch())
    await asyncio.sleep(0)
    process = await asyncio.create_subprocess_exec("ip", "link", "set", "lo", "up")
    await process.wait()
    async with asyncio.timeout(10):
        await seen.wait()
    print("seen")
    task.cancel()

asyncio.run(main())
"""


def test_a_link_that_comes_up_is_a_hint() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", WATCHER], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "seen", done.stderr
