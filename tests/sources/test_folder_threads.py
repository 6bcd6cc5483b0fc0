"""A descriptor outlives the threads that work on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

import pytest

from relayd.sources.folder_threads import Threads
from relayd.threads import PartThreads
from tests.patience import PATIENT_SECONDS


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_thread_still_uses_is_closed_after_it(tmp_path: Path, fails: bool) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    go_on, seen, closed = threading.Event(), [], asyncio.Event()

    def slow() -> None:
        go_on.wait(10)
        seen.append(os.fstat(folder).st_ino)
        if fails:
            raise OSError("the disk")

    def close() -> None:
        os.close(folder)
        closed.set()

    with contextlib.closing(PartThreads("test", 1)) as part:
        threads = Threads(part)
        work = asyncio.create_task(threads.run("it is slow", slow))
        await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        threads.close(close)
        assert not closed.is_set()
        go_on.set()
        async with asyncio.timeout(PATIENT_SECONDS):
            await closed.wait()
    assert seen == [tmp_path.stat().st_ino]


async def test_with_no_thread_at_work_it_is_closed_at_once() -> None:
    closed = []
    with contextlib.closing(PartThreads("test", 1)) as part:
        threads = Threads(part)
        assert await threads.run("it counts", int, "7") == 7
        await asyncio.sleep(0)
        threads.close(lambda: closed.append(True))
    assert closed == [True]
