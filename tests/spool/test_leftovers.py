"""What damage left behind: counted, kept for a while, and the first to go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relayd.model import Kind, Priority
from relayd.spool import Spool
from relayd.spool.limits import Disk
from tests.spool.rig import NOW, config, message, opened, order

DAY = 86_400.0


def left_behind(folder: Path, size_bytes: int) -> tuple[Path, Path]:
    """A database that was set aside, and media without a row."""
    aside, media = folder / "spool.db.damaged-2026-01-31T140000Z", folder / "salvaged" / "01mcc5rm002fyjza47"
    aside.write_bytes(b"d" * size_bytes)
    aside.with_name(f"{aside.name}-wal").write_bytes(b"w" * 4096)
    media.parent.mkdir(exist_ok=True)
    media.write_bytes(b"m" * size_bytes)
    return aside, media


async def prune(spool: Spool, now: float) -> int:
    return await spool.prune_leftovers(now=now, keep_dead=30 * DAY)


async def test_it_counts_as_used_and_goes_after_it_was_kept_long_enough(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        assert await prune(spool, NOW) == 0
        before = spool.room().used_bytes
        aside, media = left_behind(spool.folder, 100 * 4096)
        assert await prune(spool, NOW) == 0
        assert spool.room().used_bytes - before == 201 * 4096
        assert await prune(spool, NOW + 29 * DAY) == 0
        assert aside.exists()
    async with opened(settings, now=NOW + 29 * DAY) as spool:
        assert await prune(spool, NOW + 31 * DAY) == 2
        assert not list(spool.folder.glob("spool.db.damaged-*"))
        assert not media.exists()
        assert spool.room().used_bytes == before
        assert await prune(spool, NOW + 31 * DAY) == 0
        assert await spool.notes("aside:") == {}


async def test_what_is_new_among_it_is_kept_as_long_again(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        _, media = left_behind(spool.folder, 4096)
        await prune(spool, NOW)
        media.with_name("01mcc5rm002fyjza48").write_bytes(b"later")
        assert await prune(spool, NOW + 31 * DAY) == 1
        assert media.exists()


async def test_a_database_that_still_waits_to_be_salvaged_stays_and_so_does_media(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        aside, media = left_behind(spool.folder, 4096)
        (spool.folder / "unsalvaged").write_text(aside.name)
        await prune(spool, NOW)
        assert await prune(spool, NOW + 31 * DAY) == 0
        await spool._engine.in_files(spool._engine.leftovers.make_room)
        assert aside.exists()
        assert media.exists()


async def test_a_database_that_was_salvaged_makes_room_before_anything_that_is_owed_is_given_up(
    tmp_path: Path,
) -> None:
    async with opened(config(tmp_path, max_size="16MB", min_free="0B", when_full="evict-oldest")) as spool:
        owed = await spool.put(message(b"x" * 2_000_000, kind=Kind.MEDIA), [order("api", Priority.BULK)], now=NOW)
        aside, media = left_behind(spool.folder, 1024)
        aside.write_bytes(b"d" * 8_000_000)
        await prune(spool, NOW)
        await spool.put(message(b"y" * 4_000_000, kind=Kind.MEDIA), [order("api", Priority.HIGH)], now=NOW)
        assert not aside.exists()
        assert media.exists()
        detail = await spool.item(owed.id)
        assert detail is not None
        assert detail.has_content


async def test_below_min_free_it_goes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(config(tmp_path)) as spool:
        aside, _ = left_behind(spool.folder, 4096)
        of = Disk.of
        monkeypatch.setattr(Disk, "of", lambda path: replace(of(path), free_bytes=0))
        assert await spool.evict_if_needed(now=NOW) == 1
        assert not aside.exists()
