"""One thread, one connection, natural groups."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.errors import SpoolError
from relayd.spool.change import Change
from relayd.spool.writer import GROUP_OPERATIONS
from tests.patience import PATIENT_SECONDS
from tests.spool.rig import NOW, begun, config, message, opened, order, until


def noting(key: str) -> Callable[[Change], str]:
    return lambda change: note(change, key)


def waiting(gate: threading.Event) -> Callable[[Change], bool]:
    return lambda _: gate.wait(10)


def note(change: Change, key: str) -> str:
    change.db.execute("INSERT INTO notes (key, value) VALUES (?, '')", (key,))
    return key


class Commits:
    """Counts commits that really wrote something, by the trace of the connection itself."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.count = 0
        db.set_trace_callback(self._look)

    def _look(self, statement: str) -> None:
        self.count += statement == "COMMIT"


async def test_what_comes_while_a_commit_runs_is_committed_together(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        writer = spool._engine.writer
        commits = Commits(writer._db)
        gate = threading.Event()
        first = writer.submit(waiting(gate))
        rest = [writer.submit(noting(f"{number}")) for number in range(100)]
        gate.set()
        assert await first
        assert await asyncio.gather(*rest) == [f"{number}" for number in range(100)]
        assert commits.count <= 3


async def test_a_group_has_a_cap(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        writer = spool._engine.writer
        commits = Commits(writer._db)
        gate = threading.Event()
        first = writer.submit(waiting(gate))
        rest = [writer.submit(noting(f"{n}")) for n in range(3 * GROUP_OPERATIONS)]
        heavy = [writer.submit(lambda _: None, weight=5 * 2**20) for _ in range(6)]
        gate.set()
        await asyncio.gather(first, *rest, *heavy)
        assert 6 <= commits.count <= 8


async def test_one_operation_that_fails_takes_nothing_of_its_group_with_it(tmp_path: Path) -> None:
    def bad(change: Change) -> None:
        note(change, "bad")
        change.count("accepted", 1000)
        change.freed.append("x" * 18)
        raise RuntimeError("bad")

    def bad_sql(change: Change) -> None:
        note(change, "bad sql")
        note(change, "bad sql")

    async with opened(config(tmp_path)) as spool:
        writer = spool._engine.writer
        gate = threading.Event()
        ends = await asyncio.gather(
            writer.submit(lambda _: gate.set()),
            writer.submit(noting("before")),
            writer.submit(bad),
            writer.submit(bad_sql),
            writer.submit(noting("after")),
            return_exceptions=True,
        )
        assert (ends[1], ends[4]) == ("before", "after")
        assert isinstance(ends[2], RuntimeError)
        assert isinstance(ends[3], SpoolError)
        assert [await spool.note(key) for key in ("before", "bad", "bad sql", "after")] == ["", None, None, ""]
        assert spool.counters.items == 0


async def test_when_the_commit_fails_all_of_its_group_fail_and_the_next_works(tmp_path: Path) -> None:
    def denied(action: int, first: str | None, *_: object) -> int:
        is_commit = action == sqlite3.SQLITE_TRANSACTION and first == "COMMIT"
        return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK

    async with opened(config(tmp_path)) as spool:
        writer = spool._engine.writer
        writer._db.set_authorizer(denied)
        ends = await asyncio.gather(*[writer.submit(noting(f"{n}")) for n in range(5)], return_exceptions=True)
        assert all(isinstance(end, SpoolError) for end in ends)
        assert writer.failed_last is True
        writer._db.set_authorizer(None)
        assert await spool.note("0") is None
        assert await writer.submit(noting("later")) == "later"
        assert getattr(writer, "failed_last") is False  # noqa: B009 - mypy believes it is still True
        item = await spool.put(message(), [order()], now=NOW)
        assert (await begun(spool)).item.id == item.id


async def test_the_writer_outlives_an_operation_that_ends_the_transaction_by_itself(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        writer = spool._engine.writer
        with pytest.raises(SpoolError):
            await writer.submit(lambda change: change.db.execute("ROLLBACK").rowcount)
        assert await writer.submit(noting("later")) == "later"


async def test_a_write_goes_on_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        writing = asyncio.create_task(spool.set_note("key", "value"))
        await until(lambda: spool._engine.writer._jobs.qsize() > 0 or writing.done())
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    async with opened(settings) as spool:
        assert await spool.note("key") == "value"


async def test_looking_commits_nothing_and_writes_nothing(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(), [order()], now=NOW)
        await spool.sweep()
        wal = spool.folder / "spool.db-wal"
        before = wal.read_bytes()
        await spool.items()
        await spool.item(item.id)
        await spool.known("cam", b"", 10)
        await spool.next_due("api", now=NOW, longest_backoff=300, exclude=())
        await spool.begin("nas", now=NOW, longest_backoff=300, delay=float, exclude=(), probe=False)
        await spool.expire(now=NOW, give_up_after=100)
        await spool.expire_unclaimed(now=NOW, keep_unclaimed=100)
        await spool.purge(now=NOW, keep_delivered=100, keep_dead=100)
        await spool.evict_if_needed(now=NOW)
        await spool.set_note("absent", None)
        assert wal.read_bytes() == before


async def test_closing_joins_every_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with opened(config(tmp_path)) as spool:
        await spool.put(message(), [order()], now=NOW)
        await spool.items()
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENT_SECONDS)  # those that move files end by themselves, soon
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in left if name.startswith("spool")] == []
    assert not (tmp_path / "spool" / "spool.db-wal").exists()
