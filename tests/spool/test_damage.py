"""Damage that comes while the spool is open: noticed soon, and nothing more is entrusted to it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from relayd.errors import SpoolDamaged, SpoolError
from relayd.model import Kind, Receipt
from relayd.spool.change import Change
from relayd.spool.damage import look_for_damage
from tests.patience import PATIENT_SECONDS
from tests.spool.rig import NOW, adds_up, begin, begun, camera_file, config, message, opened, order


def overwrite(spool_path: Path) -> None:
    """Everything but the first page, in the file and in its log."""
    for path in (spool_path / "spool.db", spool_path / "spool.db-wal"):
        with path.open("r+b") as stream:
            stream.seek(4096)
            stream.write(b"\xa5" * max(0, path.stat().st_size - 4096))


async def test_damage_in_pages_that_nothing_in_hand_needs_is_noticed_all_the_same(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        for _ in range(5):
            await spool.put(message(), [order()], now=NOW)
        overwrite(settings.path)
        assert await begin(spool) is not None, "the one who writes has all that it needs in memory"
        assert not spool.is_damaged
        async with asyncio.timeout(PATIENT_SECONDS):
            await look_for_damage(spool._engine, every_seconds=0.01)
        assert spool.is_damaged


async def test_once_damage_is_known_nothing_new_is_taken_or_begun_and_what_has_happened_is_kept(tmp_path: Path) -> None:
    settings = config(tmp_path)
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(settings) as spool:
        for _ in range(2):
            await spool.put(message(), [order()], now=NOW)
        out = await begun(spool)
        spool._engine._mark_damage()
        with pytest.raises(SpoolDamaged, match="nothing new"):
            await spool.put(message(kind=Kind.MESSAGE), [order()], now=NOW)
        with camera_file(picture) as capture, pytest.raises(SpoolDamaged, match="nothing new"):
            await spool.put(capture, [order()], now=NOW)
        with pytest.raises(SpoolDamaged, match="nothing new"):
            await begin(spool)
        await spool.record_delivered(out.delivery.id, Receipt(proof=""), now=NOW)
    assert picture.read_bytes() == b"picture"
    async with opened(settings, now=NOW + 100) as spool:
        assert (spool.counters.delivered, spool.counters.pending) == (1, 1)
        assert adds_up(spool)
        with camera_file(picture) as capture:
            await spool.put(capture, [order()], now=NOW)


async def test_the_writer_outlives_a_database_that_is_not_ours_any_more(tmp_path: Path) -> None:
    settings = config(tmp_path)
    path = settings.path / "spool.db"

    def replace(change: Change) -> None:
        change.db.close()
        path.with_name("spool.db-wal").unlink(missing_ok=True)
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as theirs:
            theirs.execute("CREATE TABLE theirs (x)")

    async with opened(settings) as spool:
        async with asyncio.timeout(PATIENT_SECONDS):
            with pytest.raises(SpoolError):
                await spool._engine.writer.submit(replace)
            assert spool.is_damaged
            with pytest.raises(SpoolError):
                await spool.set_note("still", "there")
    async with opened(settings, now=NOW + 100) as spool:
        await spool.put(message(), [order()], now=NOW)
