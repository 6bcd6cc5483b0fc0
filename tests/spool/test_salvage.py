"""What comes through of a damaged database, and what the salvage asks of the disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from relayd.errors import SpoolError, SpoolFull
from relayd.model import Kind, Priority
from relayd.spool import Spool, SpoolConfig, check, database, export, repair, salvage
from relayd.spool.damage import look_for_room
from relayd.spool.limits import Disk
from relayd.spool.media import SpoolFolder
from relayd.spool.moving import move
from relayd.spool.pages import Pages
from tests.patience import PATIENT_SECONDS
from tests.spool.rig import NOW, adds_up, begun, config, media_names, message, opened, order

PAGE = database.PAGE_BYTES
COUNT = 300


async def filled(settings: SpoolConfig) -> list[str]:
    """A closed spool; some payloads are larger than a page, most smaller."""
    async with opened(settings) as spool:
        ids = [
            (await spool.put(message(b"picture" * (number % 7) * 300), [order("api")], now=NOW)).id
            for number in range(COUNT)
        ]
        ids.append((await spool.put(message(b"media", kind=Kind.MEDIA), [order("nas")], now=NOW)).id)
    return ids


def pages_of(path: Path, name: str, kind: str) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        sql = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ? ORDER BY path"
        return [row[0] for row in db.execute(sql, (name, kind))]


def root_of(path: Path, name: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as db:
        root: int = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()[0]
    return root


def overwrite(path: Path, *numbers: int, by: bytes = b"\xee") -> None:
    with path.open("r+b") as stream:
        for number in numbers:
            stream.seek((number - 1) * PAGE)
            stream.write(by * PAGE)
    (path.parent / "damaged").touch()  # as the running relay does when it meets it


def narrow(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    of = Disk.of
    monkeypatch.setattr(Disk, "of", lambda path: replace(of(path), free_bytes=free_bytes))


def asides(settings: SpoolConfig) -> list[Path]:
    return [entry for entry in settings.path.glob("spool.db.damaged-*") if not entry.name.endswith(("-wal", "-shm"))]


@pytest.mark.parametrize("page", ["the root of items", "the root of deliveries", "the first"])
async def test_one_page_that_leads_to_all_others_costs_no_row(tmp_path: Path, page: str) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    path = settings.path / "spool.db"
    overwrite(path, 1 if page == "the first" else root_of(path, page.rpartition(" ")[2]), by=b"\0")
    async with opened(settings, now=NOW + 100) as spool:
        await spool.sweep()
        assert spool.counters.stored == len(ids)
        assert spool.counters.destinations["api"].pending == COUNT
        assert media_names(settings.path) == ids[-1:]
        assert (await begun(spool, now=NOW + 100)).item.id == ids[0]
        assert adds_up(spool)
    assert len(asides(settings)) == 1
    assert check(settings.path).is_good


async def test_pages_read_as_sqlite_reads_them_also_what_is_still_in_the_log(tmp_path: Path) -> None:
    settings = config(tmp_path)
    await filled(settings)
    path = settings.path / "spool.db"
    with contextlib.closing(database.connect(path)) as db:
        db.execute("DELETE FROM items WHERE seq % 3 = 0")
        db.execute("UPDATE items SET reason = 'in the log' WHERE seq % 5 = 0")
        assert path.with_name("spool.db-wal").stat().st_size
        with Pages(path) as pages:
            for table in database.TABLES:
                columns = ", ".join(pages.trees[table].columns)
                said = Counter(tuple(row) for row in db.execute(f"SELECT {columns} FROM {table}"))
                assert Counter(pages.rows(table)) == said, table
            assert pages.bad_leaves() == []


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_is_overwritten_the_spool_opens_and_nothing_is_made_up(tmp_path: Path, seed: int) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    path = settings.path / "spool.db"
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(2**seed):
        start = chance.randrange(len(content))
        length = min(chance.choice([1, 30, 5000]), len(content) - start)
        content[start : start + length] = chance.randbytes(length)
    path.write_bytes(content)
    (settings.path / "damaged").touch()
    async with opened(settings, now=NOW + 100) as spool:
        await spool.sweep()
        assert adds_up(spool)
        found = {one.item.id for one in await spool.items(limit=1000)}
        assert len(found - set(ids)) <= 2**seed, "an id of which a letter was overwritten is another one"
        await spool.put(message(), [order()], now=NOW + 100)
    assert check(settings.path).is_good


@pytest.mark.parametrize("index", ["deliveries_due", "sqlite_autoindex_items_1"])
async def test_damage_of_an_index_alone_is_mended_in_place_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    path = settings.path / "spool.db"
    overwrite(path, pages_of(path, index, "leaf")[1])
    with monkeypatch.context() as small:
        narrow(small, 100_000)
        spool = await Spool.open(settings, now=NOW + 100)
        await spool.close()
    assert asides(settings) == []
    async with opened(settings, now=NOW + 100) as spool:
        assert {(await begun(spool, now=NOW + 100)).item.id for _ in range(COUNT)} == set(ids[:-1])
    assert check(settings.path).is_good


async def test_without_room_for_a_salvage_the_spool_begins_empty_and_catches_up_once_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    path = settings.path / "spool.db"
    overwrite(path, root_of(path, "items"), root_of(path, "deliveries"))
    with monkeypatch.context() as small:
        narrow(small, path.stat().st_size // 2)
        for number in range(2):
            async with opened(settings, now=NOW + 100) as spool:
                await spool.sweep()
                assert spool.counters.stored == number
                assert "waits to be salvaged: that needs" in spool.unsalvaged
                assert media_names(settings.path) == []
                pressed = await spool.put(message(), [order("api", Priority.EMERGENCY)], now=NOW + 100)
                ids.append(pressed.id)
                assert adds_up(spool)
            with pytest.raises(SpoolError, match="waits to be salvaged"):
                move(settings.path, tmp_path / "elsewhere")
            said = [check(settings.path), repair(settings.path), export(settings.path, tmp_path / f"export-{number}")]
            assert all("is not all: what the damaged database" in report.problems[0] for report in said)
            assert not any(report.is_good for report in said)
    assert "begins empty" in caplog.text
    async with opened(settings, now=NOW + 200) as spool:
        await spool.sweep()
        assert not spool.unsalvaged
        assert [one.item.id for one in await spool.items(limit=1000)] == ids[::-1]
        assert spool.counters.stored == len(ids)
        assert media_names(settings.path) == [ids[COUNT]]
        assert adds_up(spool)
        begun_ids = [(await begun(spool, now=NOW + 200)).item.id for _ in range(COUNT + 2)]
        assert begun_ids == [*ids[-2:], *ids[:COUNT]]
        assert (await begun(spool, "nas", now=NOW + 200)).item.id == ids[COUNT]
    assert len(asides(settings)) == 1
    assert check(settings.path).is_good


async def test_the_running_relay_is_told_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path)
    await filled(settings)
    path = settings.path / "spool.db"
    overwrite(path, root_of(path, "items"))
    with monkeypatch.context() as small:
        narrow(small, path.stat().st_size // 2)
        spool = await Spool.open(settings, now=NOW + 100)
    try:
        assert spool.unsalvaged
        async with asyncio.timeout(PATIENT_SECONDS):
            await look_for_room(spool._engine, every_seconds=0.01)
        assert spool.is_to_reopen
        assert not spool.is_damaged
    finally:
        await spool.close()


async def test_a_catching_up_that_is_cut_after_its_commit_adds_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    path = settings.path / "spool.db"
    overwrite(path, root_of(path, "items"))
    with monkeypatch.context() as small:
        narrow(small, path.stat().st_size // 2)
        async with opened(settings, now=NOW + 100) as spool:
            ids.append((await spool.put(message(), [order()], now=NOW + 100)).id)

    def cut(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(SpoolFolder, "bring_back", cut)
        with pytest.raises(SpoolError, match="cannot be opened"):
            await Spool.open(settings, now=NOW + 200)
    async with opened(settings, now=NOW + 200) as spool:
        await spool.sweep()
        assert [one.item.id for one in await spool.items(limit=1000)] == ids[::-1]
        assert media_names(settings.path) == [ids[COUNT]]
        assert adds_up(spool)
    assert check(settings.path).is_good


async def test_a_disk_that_gets_full_is_not_taken_for_rows_that_are_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    path = settings.path / "spool.db"
    overwrite(path, root_of(path, "items"))
    connect = database.connect

    def small(path: Path, *args: int) -> sqlite3.Connection:
        db = connect(path, *args)
        if path.name == salvage.REBUILT:
            db.execute("PRAGMA max_page_count = 150")
        return db

    with monkeypatch.context() as full:
        full.setattr(database, "connect", small)
        with pytest.raises(SpoolFull, match="free some space"):
            await Spool.open(settings, now=NOW + 100)
    assert not list(settings.path.glob("spool.db.rebuilt*"))
    async with opened(settings, now=NOW + 100) as spool:
        assert spool.counters.stored == len(ids)


async def test_numbers_of_deliveries_that_were_lost_are_not_given_again(tmp_path: Path) -> None:
    settings = config(tmp_path)
    await filled(settings)
    path = settings.path / "spool.db"
    overwrite(path, pages_of(path, "deliveries", "leaf")[-1])
    async with opened(settings, now=NOW + 100) as spool:
        item = await spool.put(message(), [order("new")], now=NOW + 100)
        it = await begun(spool, "new", now=NOW + 100)
        assert (it.item.id, it.delivery.id) == (item.id, COUNT + 2)
