"""What spool tests need: captures of files and messages, orders, an open spool that ignores how full this disk is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.model import Capture, Kind, OpenFile, Order, Origin, Priority, State
from relayd.spool import Begun, Spool, SpoolConfig, database
from relayd.spool.evicting import Gain, GainedNothing, Room, let_go, plan
from tests.patience import PATIENT_SECONDS

NOW = 1_800_000_000.0
DAY = 86_400.0


def config(path: Path, **settings: Any) -> SpoolConfig:
    """Limits that do not depend on how full this disk is, and no content kept once it is delivered, unless a test says
    so."""
    free = {"min_free": "0B", "min_free_percent": 0.0, "min_free_inodes_percent": 0.0}
    return SpoolConfig(path=path / "spool", **({"keep_content": "0s"} | free | settings))


@contextlib.asynccontextmanager
async def opened(config: SpoolConfig, now: float = NOW, collected: Collection[str] = ()) -> AsyncIterator[Spool]:
    """`collected` are the sources from which incidents collect: what nobody wants of them is kept for a while."""
    spool = await Spool.open(config, now=now)
    spool.incidents.keep_delivered_of(collected)
    try:
        yield spool
    finally:
        await spool.close()


BEFORE = {
    "deliveries_due": "CREATE INDEX deliveries_due ON deliveries (destination, priority, due_at)"
    " WHERE state = 'pending'",
    "items_ended": "CREATE INDEX items_ended ON items (state, ended_at) WHERE ended_at IS NOT NULL",
    "deliveries_newest": "CREATE INDEX deliveries_newest ON deliveries (destination, priority, item)"
    " WHERE state = 'pending' AND waits_for = '' AND lane = 1",
    "deliveries_untried": "CREATE INDEX deliveries_untried ON deliveries (destination, id)"
    " WHERE state = 'pending' AND waits_for = '' AND priority = 0 AND attempts = 0",
}
"""Indexes that a migration replaces, as they were."""


def to_first_shape(db: sqlite3.Connection) -> None:
    """Undo every migration, the newest first: shapes have only grown so far, but for the indexes in BEFORE, and for the
    states that may be."""
    db.create_function("without_comments", 1, lambda sql: re.sub(r" *--.*", "", sql))  # they hinder DROP COLUMN
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_schema SET sql = without_comments(sql) WHERE sql IS NOT NULL")
    db.execute("UPDATE sqlite_schema SET sql = replace(replace(sql, ', ''unclaimed''', ''), ', ''dropped'')', ')')")
    db.execute("PRAGMA writable_schema = RESET")
    for step in reversed(database.migrations()):
        for what, name in reversed(re.findall(r"CREATE (?:UNIQUE )?(TABLE|INDEX) (\w+)", step.sql)):
            db.execute(f"DROP {what} {name}")
        for table, name in re.findall(r"ALTER TABLE (\w+) ADD COLUMN (\w+)", step.sql):
            db.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
        for name in re.findall(r"DROP INDEX (\w+)", step.sql):
            db.execute(BEFORE[name])
    db.execute("PRAGMA user_version = 1")


class Machine:
    """The clocks of one machine, walked through by a test: `now` is the wall clock, `boot` the one that counts from the
    start and is never set."""

    def __init__(self, patch: pytest.MonkeyPatch, now: float = NOW) -> None:
        self.now, self.boot = now, 1000.0
        self.starts, self.is_synchronized = 1, True
        patch.setattr(clock, "now", lambda: self.now)
        patch.setattr(clock, "boot", lambda: f"start {self.starts}")
        patch.setattr(clock, "synchronization", lambda: clock.Synchronization(self.is_synchronized, None))
        patch.setattr(clock, "since_boot", lambda: self.boot)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.boot += seconds

    def machine_restarts(self, clock_says: float) -> None:
        """Nobody has told the clock the time yet."""
        self.starts += 1
        self.now, self.boot, self.is_synchronized = clock_says, 10.0, False

    def clock_is_set(self, by_seconds: float) -> None:
        self.now += by_seconds


def message(payload: bytes = b"{}", *, source: str = "panic", kind: Kind = Kind.MESSAGE) -> Capture:
    return Capture(
        source=source,
        name="vehicle/panic",
        kind=kind,
        content_type="application/json",
        captured_at=NOW - 1,
        payload=payload,
        topic="vehicle/panic",
    )


def origin_of(path: Path, name: bytes | None = None) -> Origin:
    found = path.stat()
    return Origin(
        path=os.fsencode(path.name) if name is None else name,
        device=found.st_dev,
        inode=found.st_ino,
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
    )


@contextlib.contextmanager
def camera_file(path: Path, *, source: str = "cam", is_finished: bool = False) -> Iterator[Capture]:
    """A capture of a file in a drop folder, its descriptor open as a source would have it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield Capture(
            source=source,
            name=path.name,
            kind=Kind.MEDIA,
            content_type="image/jpeg",
            captured_at=NOW - 1,
            file=OpenFile(descriptor=descriptor, origin=origin_of(path), is_finished=is_finished),
            attributes={"camera": "front"},
        )
    finally:
        os.close(descriptor)


def order(to: str = "api", priority: Priority = Priority.NORMAL, *then: Order, **arguments: Any) -> Order:
    return Order(destination=to, action="upload", priority=priority, rule="test", arguments=arguments, then=then)


async def begin(
    spool: Spool,
    to: str = "api",
    *,
    now: float = NOW,
    delay: Callable[[int], float] = lambda _: 10.0,
    exclude: Collection[int] = (),
    probe: bool = False,
    longest_backoff: float = 300.0,
) -> Begun | None:
    return await spool.begin(to, now=now, longest_backoff=longest_backoff, delay=delay, exclude=exclude, probe=probe)


async def begun(spool: Spool, to: str = "api", **settings: Any) -> Begun:
    """The next delivery, which must be there."""
    found = await begin(spool, to, **settings)
    assert found is not None
    return found


async def make_way(
    spool: Spool, *, now: float, bytes_wanted: int = 0, inodes_wanted: int = 0, media_wanted: int = 0
) -> Gain:
    """As for an emergency that wants so much room, in one commit."""
    room = Room(
        bytes_wanted=bytes_wanted,
        inodes_wanted=inodes_wanted,
        media_wanted=media_wanted,
        priority=0,
        when_full="evict-lower",
    )
    try:
        return await spool._write(lambda change: let_go(change, room, plan(change.db, room), now=now))
    except GainedNothing:
        return Gain()


async def until(true: Callable[[], bool]) -> None:
    """Wait for a state, with a deadline."""
    end = time.monotonic() + PATIENT_SECONDS
    while not true():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


def media_names(spool_path: Path) -> list[str]:
    return sorted(entry.name for entry in (spool_path / "media").glob("*/*"))


def adds_up(spool: Spool) -> bool:
    """The promise of the contract."""
    it = spool.counters
    return it.items == sum(int(getattr(it, state)) for state in State)
