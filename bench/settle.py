"""How long it takes from the close of a camera's file until it is queued durably.

Run: `python bench/settle.py [--files N] [--rate R] [--size BYTES] [--check]`. With --check it exits 1 if the median is
above 5 ms. Real folder, real source, real spool; the clock starts right after close(2) returned, and stops when `put`
has returned, which is after the commit. The disk's own share is shown by one fsync of a file of the same size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from relayd import clock
from relayd.model import Capture, Item, Order, Priority
from relayd.sources.folder import FolderSource
from relayd.sources.folder_config import FolderConfig
from relayd.spool import Spool, SpoolConfig

LIMIT_SECONDS = 0.005
ORDERS = (Order(destination="somewhere", action="upload", priority=Priority.NORMAL, rule="all"),)


async def measure(files: int, rate: float, size: int, work: Path) -> dict[str, float]:
    folder = work / "drop"
    folder.mkdir()
    config = FolderConfig.model_validate({"type": "folder", "path": str(folder)})
    options = {"path": str(work / "spool"), "min_free": "0B", "min_free_percent": 0, "min_free_inodes_percent": 0}
    spool = await Spool.open(SpoolConfig.model_validate(options), now=clock.now())
    closed: dict[str, float] = {}
    queued: dict[str, float] = {}

    async def put(capture: Capture) -> Item:
        item = await spool.put(capture, ORDERS, now=clock.now())
        queued[capture.name] = time.perf_counter()
        return item

    source = FolderSource("bench", config, spool)
    task = asyncio.create_task(source.run(put))
    try:
        async with asyncio.timeout(120 + files / rate):
            while source.view().state != "ok":  # noqa: ASYNC110 - a state of the source, not of ours
                await asyncio.sleep(0.05)
            await asyncio.to_thread(camera, folder, files, rate, size, closed)
            while len(queued) < files:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.wait({task})
        await spool.close()
    delays = sorted(queued[name] - closed[name] for name in closed)
    return {
        "p50_seconds": statistics.median(delays),
        "p95_seconds": delays[int(len(delays) * 0.95)],
        "max_seconds": delays[-1],
        "fsync_p50_seconds": one_fsync(work, size),
    }


def camera(folder: Path, files: int, rate: float, size: int, closed: dict[str, float]) -> None:
    picture = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x02" + os.urandom(size).replace(b"\xff", b"\xfe") + b"\xff\xd9"
    begun = time.perf_counter()
    for number in range(files):
        name = f"{number:06}.jpg"
        with (folder / name).open("wb") as file:
            file.write(picture)
        closed[name] = time.perf_counter()
        time.sleep(max(0.0, begun + (number + 1) / rate - time.perf_counter()))


def one_fsync(work: Path, size: int) -> float:
    """What the disk takes for one file of this size, without anything of ours."""
    spans = []
    for number in range(50):
        with (work / f"fsync{number}").open("wb") as file:
            file.write(os.urandom(size))
            file.flush()
            before = time.perf_counter()
            os.fsync(file.fileno())
            spans.append(time.perf_counter() - before)
    return statistics.median(spans)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50.0, help="files a second")
    parser.add_argument("--size", type=int, default=100_000, help="bytes a file")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as work:
        result = asyncio.run(measure(arguments.files, arguments.rate, arguments.size, Path(work)))
    print(json.dumps(result, indent=2))
    return int(arguments.check and result["p50_seconds"] > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
