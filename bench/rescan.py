"""How long a rescan of 100,000 files takes that are known or have to wait, against a bare listing of the folder.

Run: `python bench/rescan.py [--files N] [--check]`. With --check it exits 1 if a rescan takes more than 4 × as long as
`list(os.scandir(folder))`, measured in turns in the same run. A real spool is the ledger. `known`: all files are in
quarantine. `waiting`: the spool is full, and the source remembers as many names as it may; `waiting_recursive`: so, and
sub-folders must be looked for among all names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from relayd import clock
from relayd.errors import SpoolFull
from relayd.files import origin_of
from relayd.model import Capture, Item
from relayd.sources.folder import FolderSource
from relayd.sources.folder_config import FolderConfig
from relayd.spool import Spool, SpoolConfig

LIMIT = 4.0
ROUNDS = 9


async def refuse(capture: Capture) -> Item:
    """A spool that is full."""
    raise SpoolFull("no room")


async def measure(files: int, work: Path) -> dict[str, float]:
    folder = work / "drop"
    folder.mkdir()
    for number in range(files):
        file = os.open(folder / f"camera-7_20260131_{number:08}.jpg", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(file, b"not empty")
        os.close(file)
    result: dict[str, float] = {}
    for state in ("known", "waiting", "waiting_recursive"):
        options = {"path": str(work / state), "min_free": "0B", "min_free_percent": 0, "min_free_inodes_percent": 0}
        spool = await Spool.open(SpoolConfig.model_validate(options), now=clock.now())
        try:
            if state == "known":
                await put_in_quarantine(spool, folder)
            result |= {f"{state}_{name}": value for name, value in (await rescans(spool, folder, state)).items()}
        finally:
            await spool.close()
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


async def put_in_quarantine(spool: Spool, folder: Path) -> None:
    """Every file is known to the ledger."""
    names = [os.fsencode(name) for name in os.listdir(folder)]
    for start in range(0, len(names), 2000):
        await asyncio.gather(
            *(
                spool.quarantine("bench", origin_of(name, (folder / os.fsdecode(name)).stat()), "the bench says so")
                for name in names[start : start + 2000]
            )
        )


async def rescans(spool: Spool, folder: Path, state: str) -> dict[str, float]:
    """A source that has settled, then rescans and bare listings in turns."""
    config = FolderConfig.model_validate(
        {"type": "folder", "path": str(folder), "include": ["*.jpg", "*.mp4"], "rescan": "1h"}
        | {"recursive": state == "waiting_recursive"}
    )
    source = FolderSource("bench", config, spool)
    before = time.perf_counter()
    task = asyncio.create_task(source.run(refuse))
    try:
        await settled(lambda: is_settled(source, state, config))
        first = time.perf_counter() - before
        visit = source._visit
        assert visit is not None
        pickup = visit._pickup
        assert pickup is not None
        ours, bare = [], []
        for _ in range(ROUNDS):
            bare.append(await timed(listing(folder)))
            ours.append(await timed(visit.rescan(pickup, pickup._desk)))
    finally:
        task.cancel()
        await asyncio.wait({task})
    rescan, scandir = statistics.median(ours), statistics.median(bare)
    return {
        "first_scan_seconds": first,
        "rescan_seconds": rescan,
        "scandir_seconds": scandir,
        "ratio": rescan / scandir,
    }


def is_settled(source: FolderSource, state: str, config: FolderConfig) -> bool:
    pickup = None if source._visit is None else source._visit._pickup
    if pickup is None:
        return False
    if state == "known":
        return len(pickup.known) == len(os.listdir(config.path))
    return pickup.backlog.is_full


async def listing(folder: Path) -> None:
    entries = list(os.scandir(folder))
    assert entries


async def timed(work: Awaitable[object]) -> float:
    before = time.perf_counter()
    await work
    return time.perf_counter() - before


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(900):
        while not condition():  # noqa: ASYNC110 - a state of the source, not of ours
            await asyncio.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relayd-bench-") as work:
        result = asyncio.run(measure(arguments.files, Path(work)))
    print(json.dumps(result, indent=2))
    worst = max(value for name, value in result.items() if name.endswith("_ratio"))
    return int(arguments.check and worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
