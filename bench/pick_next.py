"""How long it takes to pick the next delivery when a million wait, against a thousand; and from opening to the first.

Run: `python bench/pick_next.py [--many N] [--check]`. Both spools are measured in turns in the same run. `pick` is the
look alone, `begin` the durable charge with it; what was begun is due again at once, behind the others, so that no class
runs dry. With --check it exits 1 if either takes more than 1.3 × as long with many as with few, or if opening the large
spool to its first begun delivery takes more than 10 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from relayd import clock
from relayd.model import Priority
from relayd.spool import Spool, SpoolConfig, counting, database, timekeeping
from relayd.spool.picking import Wanted, pick
from relayd.spool.rows import new_id

LIMIT_RATIO = 1.3
LIMIT_OPEN_SECONDS = 0.010
FEW = 1_000
ROUNDS = 15
LOOKS_PER_ROUND = 400
BEGINS_PER_ROUND = 20
BACKOFF_SECONDS = 3600.0


def filled(path: Path, number: int) -> SpoolConfig:
    """A spool with that many messages of 200 bytes waiting, of all priorities, for three destinations."""
    config = SpoolConfig.model_validate(
        {"path": str(path), "min_free": "0B", "min_free_percent": 0, "min_free_inodes_percent": 0}
    )
    path.mkdir(parents=True)
    now = clock.now() - 1000
    chance = random.Random(7)
    with contextlib.closing(database.connect(path / database.FILE_NAME)) as db:
        database.bring_up_to_date(db)
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        priorities = [chance.choice(list(Priority)) for _ in range(number)]
        db.executemany(
            "INSERT INTO items (seq, id, source, name, kind, content_type, size_bytes, sha256, md5, captured_at,"
            " accepted_at, payload, state, priority, has_content)"
            " VALUES (?, ?, 'bench', 'n', 'message', 'text/plain', 200, ?, ?, ?, ?, ?, 'pending', ?, 1)",
            (
                (seq, new_id(now + seq / number), "0" * 64, "0" * 32, now, now, b"x" * 200, int(priority))
                for seq, priority in enumerate(priorities, 1)
            ),
        )
        db.executemany(
            "INSERT INTO deliveries (item, destination, action, rule, priority, state, created_at, owed_since, due_at)"
            " VALUES (?, ?, 'post', 'bench', ?, 'pending', ?, ?, ?)",
            (
                (seq, chance.choice(("api", "nas", "mqtt")), int(priority), now, now, now + seq / number)
                for seq, priority in enumerate(priorities, 1)
            ),
        )
        counting.correct(db)
        db.executemany(
            "INSERT OR REPLACE INTO counters (subject, name, value) SELECT 'destination:' || destination, 'pending',"
            " count(*) FROM deliveries WHERE destination = ?",
            [("api",), ("nas",), ("mqtt",)],
        )
        db.execute("COMMIT")
        timekeeping.resume(db, now=clock.now())  # as its first start would
    return config


async def begin(spool: Spool) -> None:
    found = await spool.begin(
        "api",
        now=clock.now(),
        longest_backoff=BACKOFF_SECONDS,
        delay=lambda _: 0.0,
        exclude=(),
        probe=False,
    )
    if found is None:
        raise SystemExit("nothing to pick: the bench is wrong")


def looks(spool: Spool) -> float:
    """Seconds for one look, on a connection of its own."""
    wanted = Wanted(destination="api", now=clock.now(), longest_backoff=BACKOFF_SECONDS, exclude=frozenset())
    with contextlib.closing(database.connect_reader(spool.folder / database.FILE_NAME)) as db:
        pick(db, wanted)
        started = time.perf_counter()
        for _ in range(LOOKS_PER_ROUND):
            pick(db, wanted)
        return (time.perf_counter() - started) / LOOKS_PER_ROUND


async def begins(spool: Spool) -> float:
    started = time.perf_counter()
    for _ in range(BEGINS_PER_ROUND):
        await begin(spool)
    return (time.perf_counter() - started) / BEGINS_PER_ROUND


async def open_to_first(config: SpoolConfig) -> float:
    started = time.perf_counter()
    spool = await Spool.open(config, now=clock.now())
    try:
        await begin(spool)
        return time.perf_counter() - started
    finally:
        await spool.close()


async def measure(few: SpoolConfig, many: SpoolConfig) -> dict[str, float]:
    opens = [await open_to_first(many) for _ in range(ROUNDS)]
    rss_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took: dict[str, list[float]] = {"pick_few": [], "pick_many": [], "begin_few": [], "begin_many": []}
    one, other = await Spool.open(few, now=clock.now()), await Spool.open(many, now=clock.now())
    try:
        await one.sweep()
        await other.sweep()
        for _ in range(ROUNDS):
            for name, spool in (("few", one), ("many", other)):
                took[f"pick_{name}"].append(looks(spool))
                took[f"begin_{name}"].append(await begins(spool))
    finally:
        await one.close()
        await other.close()
    medians = {f"{name}_us": statistics.median(values) * 1e6 for name, values in took.items()}
    return {
        **medians,
        "pick_ratio": medians["pick_many_us"] / medians["pick_few_us"],
        "begin_ratio": medians["begin_many_us"] / medians["begin_few_us"],
        "open_to_first_ms": statistics.median(opens) * 1000,
        "open_to_first_worst_ms": max(opens) * 1000,
        "rss_growth_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss_before) / 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        few, many = filled(Path(work) / "few", FEW), filled(Path(work) / "many", options.many)
        result = asyncio.run(measure(few, many))
    print(json.dumps({"few": FEW, "many": options.many} | {key: round(value, 2) for key, value in result.items()}))
    held = (
        result["pick_ratio"] <= LIMIT_RATIO
        and result["begin_ratio"] <= LIMIT_RATIO
        and result["open_to_first_ms"] <= LIMIT_OPEN_SECONDS * 1000
    )
    return 1 if options.check and not held else 0


if __name__ == "__main__":
    sys.exit(main())
