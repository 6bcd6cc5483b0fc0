"""How fast the spool takes things in, durably, beside what the disk can do.

Run: `python bench/put.py [--check]`. In turns within one run: `sync` appends 200 bytes to a preallocated file and calls
fdatasync, `sqlite` inserts 200 bytes into a bare WAL database with `synchronous=FULL`, one commit each; then the spool:
messages of 200 bytes one after another and 100 at a time, and files of 100 KB copied and linked, one after another
and 8 at a time. With --check it exits 1 if a single message is put at less than 0.15 of `sqlite`, or 100 at a time are
not at least 3 × as fast as one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from relayd import clock, files
from relayd.model import Capture, Kind, OpenFile, Order, Priority
from relayd.spool import Spool, SpoolConfig

LEAST_OF_SQLITE = 0.15
LEAST_GROUP_GAIN = 3.0
ROUNDS = 5
SINGLES = 200
GROUPED = 4_000
FILES = 60
FILE_BYTES = 100_000
PAYLOAD = b"x" * 200
ORDERS = (Order(destination="api", action="post", priority=Priority.NORMAL, rule="bench"),)


def per_second(count: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


async def per_second_of(count: int, work: Awaitable[object]) -> float:
    started = time.perf_counter()
    await work
    return count / (time.perf_counter() - started)


def bare_sync(folder: Path) -> float:
    def run() -> None:
        for number in range(SINGLES):
            os.pwrite(file, PAYLOAD, number * len(PAYLOAD))
            os.fdatasync(file)

    file = os.open(folder / "sync", os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(file, 0, SINGLES * len(PAYLOAD))
        os.fsync(file)
        return per_second(SINGLES, run)
    finally:
        os.close(file)


def bare_sqlite(folder: Path) -> float:
    def run() -> None:
        for _ in range(SINGLES):
            db.execute("INSERT INTO t (payload) VALUES (?)", (PAYLOAD,))

    with contextlib.closing(sqlite3.connect(folder / "bare.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, payload BLOB)")
        return per_second(SINGLES, run)


async def put_message(spool: Spool) -> None:
    capture = Capture(
        source="bench",
        name="topic",
        kind=Kind.MESSAGE,
        content_type="text/plain",
        captured_at=clock.now(),
        payload=PAYLOAD,
    )
    await spool.put(capture, ORDERS, now=clock.now())


async def put_file(spool: Spool, path: Path, *, linked: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        is_finished = linked and files.hold_lease(descriptor) is True
        origin = files.origin_of(os.fsencode(path.name), os.fstat(descriptor))
        capture = Capture(
            source="bench",
            name=path.name,
            kind=Kind.MEDIA,
            content_type="image/jpeg",
            captured_at=clock.now(),
            file=OpenFile(descriptor=descriptor, origin=origin, is_finished=is_finished),
        )
        await spool.put(capture, ORDERS, now=clock.now())
    finally:
        os.close(descriptor)
    path.unlink()


def dropped(folder: Path) -> list[Path]:
    """Fresh files, on the disk already, as a camera would have left them some seconds ago."""
    paths = [folder / f"{number}.jpg" for number in range(FILES)]
    for path in paths:
        path.write_bytes(os.urandom(FILE_BYTES))
    os.sync()
    return paths


async def one_after_another(works: list[Awaitable[None]]) -> None:
    for work in works:
        await work


async def at_a_time(number: int, works: list[Awaitable[None]]) -> None:
    gate = asyncio.Semaphore(number)

    async def through(work: Awaitable[None]) -> None:
        async with gate:
            await work

    await asyncio.gather(*[through(work) for work in works])


async def round_of(spool: Spool, work: Path) -> dict[str, float]:
    drop = work / "drop"
    drop.mkdir(exist_ok=True)

    def messages(count: int) -> list[Awaitable[None]]:
        return [put_message(spool) for _ in range(count)]

    def captures(*, linked: bool) -> list[Awaitable[None]]:
        return [put_file(spool, path, linked=linked) for path in dropped(drop)]

    return {
        "sync": bare_sync(work),
        "sqlite": bare_sqlite(work),
        "message": await per_second_of(SINGLES, one_after_another(messages(SINGLES))),
        "message_100": await per_second_of(GROUPED, at_a_time(100, messages(GROUPED))),
        "file_copied": await per_second_of(FILES, one_after_another(captures(linked=False))),
        "file_linked": await per_second_of(FILES, one_after_another(captures(linked=True))),
        "file_copied_8": await per_second_of(FILES, at_a_time(8, captures(linked=False))),
        "file_linked_8": await per_second_of(FILES, at_a_time(8, captures(linked=True))),
    }


async def measure(work: Path) -> dict[str, float]:
    options = {"path": str(work / "spool"), "min_free": "0B", "min_free_percent": 0, "min_free_inodes_percent": 0}
    spool = await Spool.open(SpoolConfig.model_validate(options), now=clock.now())
    try:
        rounds = [await round_of(spool, work) for _ in range(ROUNDS)]
    finally:
        await spool.close()
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rates = asyncio.run(measure(Path(work)))
    ratios = {f"{name}_of_sqlite": rate / rates["sqlite"] for name, rate in rates.items() if name != "sqlite"}
    ratios["group_gain"] = rates["message_100"] / rates["message"]
    print(
        json.dumps(
            {f"{name}_per_s": round(rate) for name, rate in rates.items()}
            | {name: round(ratio, 2) for name, ratio in ratios.items()}
        )
    )
    held = ratios["message_of_sqlite"] >= LEAST_OF_SQLITE and ratios["group_gain"] >= LEAST_GROUP_GAIN
    return 1 if options.check and not held else 0


if __name__ == "__main__":
    sys.exit(main())
