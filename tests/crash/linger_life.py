"""One file that is taken early and let go late, in a process of its own, for tests that kill it at every durable step.

Run: `python -m tests.crash.linger_life WORK [--unlink-first]`. A writer leaves a file in WORK/drop, sets its time, goes
on with it, and leaves it alone; the relay takes it into WORK/spool meanwhile. Each step is said in one line on standard
output once it is done. `--unlink-first` is the planted bug: the original goes before its content is in the spool.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relayd import clock
from relayd.model import Capture, Item, Receipt
from relayd.sources.folder import FolderSource
from relayd.spool import Spool, engine
from tests.crash.spool_life import say
from tests.sources.rig import config_for, running, until, watched
from tests.sources.test_folder_linger import opened

NAME = "clip.bin"
PART, REST = b"first half" * 1000, b"second half" * 1000
TIME = 1_700_000_000


async def deliver(spool: Spool) -> None:
    """What is owed is given at once."""
    while True:
        now = clock.now()
        begun = await spool.begin("site", now=now, longest_backoff=300, delay=lambda _: 0.0, exclude=(), probe=False)
        if begun is not None:
            await spool.record_delivered(begun.delivery.id, Receipt(proof="here it is"), now=clock.now())
        await asyncio.sleep(0.02)


@asynccontextmanager
async def relaying(work: Path, linger: str, *, unlink_first: bool = False) -> AsyncIterator[Spool]:
    """Spool, folder and worker, all of them real."""
    drop = work / "drop"
    async with opened(work / "spool") as (spool, intake):

        async def put(capture: Capture) -> Item:
            if unlink_first:
                (drop / NAME).unlink()
            return await intake.put(capture)

        source = FolderSource("cam", config_for(drop, linger=linger, settle="50ms"), spool)
        worker = asyncio.create_task(deliver(spool))
        try:
            async with running(source, put):
                await watched(source)
                yield spool
        finally:
            worker.cancel()
            await asyncio.wait({worker})


async def is_so(spool: Spool, captured_at: float | None, size_bytes: int) -> None:
    """Wait until the only item is this."""
    while True:
        rows = await spool.items(limit=10)
        if [row.item.size_bytes for row in rows] == [size_bytes] and captured_at in (None, rows[0].item.captured_at):
            return
        await asyncio.sleep(0.01)


async def live(work: Path, *, unlink_first: bool) -> None:
    path = work / "drop" / NAME
    async with relaying(work, "1s", unlink_first=unlink_first) as spool:
        path.write_bytes(PART)
        await is_so(spool, None, len(PART))
        say("held")
        os.utime(path, (TIME, TIME))
        await is_so(spool, TIME, len(PART))
        say("corrected")
        with path.open("ab") as writer:
            writer.write(REST)
        await is_so(spool, None, len(PART + REST))
        say("taken over")
        await until(lambda: not path.exists(), "let go")
        say("let go")
        await until(lambda: spool.counters.delivered == 1, "delivered")
        say("delivered")


if __name__ == "__main__":
    engine.FILE_THREADS = 1  # strace counts calls thread by thread: one thread, one count
    asyncio.run(live(Path(sys.argv[1]), unlink_first="--unlink-first" in sys.argv))
