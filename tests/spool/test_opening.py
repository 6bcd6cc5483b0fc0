"""Opening: whatever the last process, the power or the disk left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from relayd.errors import SpoolError, SpoolLocked
from relayd.model import Kind, Outcome, Receipt, State
from relayd.spool import Spool, SpoolConfig, check
from relayd.spool.rows import new_id
from tests.spool.rig import NOW, adds_up, begun, camera_file, config, media_names, message, opened, order


async def filled(settings: SpoolConfig, pictures: int = 6) -> list[str]:
    """A closed spool with media items to one destination, one of them delivered, one dead, and a message."""
    async with opened(settings) as spool:
        ids = [
            (await spool.put(message(b"picture %d" % number, kind=Kind.MEDIA), [order()], now=NOW + number)).id
            for number in range(pictures)
        ]
        ids.append((await spool.put(message(b"message"), [order()], now=NOW + pictures)).id)
        await spool.record_delivered((await begun(spool, now=NOW + 9)).delivery.id, Receipt(proof=""), now=NOW)
        it = await begun(spool, now=NOW + 9)
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
    return ids


async def test_a_second_one_is_told_who_owns_the_spool(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings):
        with pytest.raises(SpoolLocked, match=f"process {os.getpid()}"):
            await Spool.open(settings, now=NOW)
        code = "import sys; from pathlib import Path; from relayd.spool import check; check(Path(sys.argv[1]))"
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(settings.path), stderr=asyncio.subprocess.PIPE
        )
        _, said = await other.communicate()
        assert f"SpoolLocked: the spool {settings.path} belongs to the running process {os.getpid()}" in said.decode()
    async with opened(settings):
        pass


async def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"a file")
    with pytest.raises(SpoolError, match=r"spool\.path"):
        await Spool.open(config(tmp_path), now=NOW)


async def test_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.put(message(b"secret", kind=Kind.MEDIA), [], now=NOW)
        for path in (spool.folder, spool.folder / "media", spool.folder / "incoming"):
            assert path.stat().st_mode & 0o077 == 0


async def test_strays_of_a_put_that_never_committed_are_swept_and_what_arrives_meanwhile_is_not(
    tmp_path: Path,
) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    kept = media_names(settings.path)
    for number in range(3):
        stray = new_id(NOW + number)
        (settings.path / "media" / stray[-1] / stray).write_bytes(b"stray")
    (settings.path / "incoming" / new_id(NOW)).write_bytes(b"half")
    async with opened(settings) as spool:
        assert list((settings.path / "incoming").iterdir()) == []
        arriving = new_id(NOW)
        spool._engine.arriving.add(arriving)
        (settings.path / "media" / arriving[-1] / arriving).write_bytes(b"arriving")
        await spool.sweep()
        assert media_names(settings.path) == sorted([*kept, arriving])
        assert await spool.item(ids[-1]) is not None


async def test_a_row_without_its_media_does_not_stop_the_start_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    lost = ids[3]
    (settings.path / "media" / lost[-1] / lost).unlink()
    async with opened(settings) as spool:
        await spool.sweep()
        detail = await spool.item(lost)
        assert detail is not None
        assert detail.state is State.DEAD
        assert detail.deliveries[0].delivery.reason == "the spooled file is gone"
        assert spool.counters.dead == 2
        assert adds_up(spool)
    assert f"item {lost} is lost to 1 deliveries" in caplog.text
    assert check(settings.path).is_good


@pytest.mark.parametrize("damage", ["zeros at the start", "cut off", "garbage", "empty", "gone", "another program's"])
async def test_a_damaged_database_is_set_aside_and_does_not_stop_the_start(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path)
    await filled(settings)
    media = media_names(settings.path)
    path = settings.path / "spool.db"
    content = path.read_bytes()
    if damage == "zeros at the start":
        path.write_bytes(bytes(4096) + content[4096:])
    elif damage == "cut off":
        path.write_bytes(content[:5000])
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 10_000)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "gone":
        path.unlink()
    else:
        path.unlink()
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE theirs (x)")
    damaged = path.read_bytes() if path.exists() else None
    async with opened(settings, now=NOW + 100) as spool:
        await spool.sweep()
        kept = media_names(settings.path) + sorted(entry.name for entry in (settings.path / "salvaged").iterdir())
        assert sorted(kept) == media
        await spool.put(message(), [order()], now=NOW)
        await begun(spool)
        assert adds_up(spool)
    asides = [entry for entry in settings.path.glob("spool.db.damaged-*") if not entry.name.endswith(("-wal", "-shm"))]
    assert [entry.read_bytes() for entry in asides] == ([] if damaged is None else [damaged])
    assert "the spool was damaged" in caplog.text
    assert check(settings.path).is_good
    async with opened(settings, now=NOW + 200) as spool:
        assert spool.counters.stored >= 1
    assert len(list(settings.path.glob("spool.db.damaged-*"))) == len(asides)


async def test_what_can_be_read_of_a_damaged_database_goes_on(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        ids = [
            (await spool.put(message(b"picture" * 300, kind=Kind.MEDIA), [order("api"), order("nas")], now=NOW)).id
            for _ in range(300)
        ]
    path = settings.path / "spool.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        leaf = db.execute(
            "SELECT pageno FROM dbstat WHERE name = 'items' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 5"
        ).fetchone()
    content = bytearray(path.read_bytes())
    if leaf is None:  # pragma: no cover - a Python whose SQLite has no dbstat
        pytest.fail("this SQLite has no dbstat")
    content[(leaf[0] - 1) * 4096 : leaf[0] * 4096] = b"\xee" * 4096
    path.write_bytes(content)
    (settings.path / "damaged").touch()  # as the running relay does when it meets it
    async with opened(settings, now=NOW + 100) as spool:
        await spool.sweep()
        stored = spool.counters.stored
        assert 250 <= stored < 300
        assert spool.counters.items == 300 or adds_up(spool)
        salvaged = {entry.name for entry in (settings.path / "salvaged").iterdir()}
        assert len(salvaged) == 300 - stored
        assert salvaged | set(media_names(settings.path)) == set(ids)
        begun_ids = {(await begun(spool, "nas", now=NOW + 100)).item.id for _ in range(stored)}
        assert begun_ids == set(ids) - salvaged
    assert check(settings.path).is_good
    assert not (settings.path / "damaged").exists()


async def test_damage_that_the_running_relay_meets_is_repaired_at_the_next_start(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        for _ in range(300):
            await spool.put(message(b"x" * 3000), [order()], now=NOW)
    path = settings.path / "spool.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        leaves = db.execute("SELECT pageno FROM dbstat WHERE name = 'items' AND pagetype = 'leaf'").fetchall()
    content = bytearray(path.read_bytes())
    for (leaf,) in leaves[100:110]:
        content[(leaf - 1) * 4096 : leaf * 4096] = b"\xee" * 4096
    path.write_bytes(content)
    async with opened(settings) as spool:
        with pytest.raises(SpoolError, match="relayd spool repair"):
            await asyncio.gather(*[begun(spool) for _ in range(300)])
        assert spool.is_damaged
        assert (settings.path / "damaged").exists()
    async with opened(settings, now=NOW + 100) as spool:
        assert 250 < spool.counters.stored < 300
        while spool.counters.destinations["api"].pending:
            it = await begun(spool, now=NOW + 1000)
            await spool.record_delivered(it.delivery.id, Receipt(proof=""), now=NOW + 1000)
        assert adds_up(spool)


@pytest.mark.parametrize("moment", ["marked", "set aside", "half rebuilt", "rebuilt"])
async def test_a_repair_that_was_cut_goes_on_at_the_next_start(tmp_path: Path, moment: str) -> None:
    settings = config(tmp_path)
    await filled(settings)
    media = media_names(settings.path)
    path = settings.path / "spool.db"
    aside = settings.path / "spool.db.damaged-before"
    (settings.path / "repairing").write_text(aside.name)
    if moment == "marked":
        path.write_bytes(b"garbage" * 1000)
    elif moment == "rebuilt":
        aside.write_bytes(b"garbage")
    else:
        path.rename(aside)
    if moment == "half rebuilt":
        (settings.path / "spool.db.rebuilt").write_bytes(b"half")
    async with opened(settings, now=NOW + 100) as spool:
        await spool.sweep()
        salvaged = settings.path / "salvaged"
        kept = media_names(settings.path) + ([entry.name for entry in salvaged.iterdir()] if salvaged.exists() else [])
        assert sorted(kept) == media
        assert spool.counters.stored == (0 if moment == "marked" else 7)
    assert not (settings.path / "repairing").exists()
    assert check(settings.path).is_good


async def test_an_item_whose_deliveries_were_lost_is_dead_and_kept_not_let_go_as_unclaimed(tmp_path: Path) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    with contextlib.closing(sqlite3.connect(settings.path / "spool.db")) as db:
        db.execute("DELETE FROM deliveries")
        db.commit()
    (settings.path / "damaged").touch()
    async with opened(settings, now=NOW + 100) as spool:
        assert await spool.expire_unclaimed(now=NOW + 1e6, keep_unclaimed=1) == 0
        detail = await spool.item(ids[4])
        assert detail is not None
        assert (detail.state, detail.has_content) == (State.DEAD, True)
        assert detail.reason == "what was owed of it was lost with a damaged database"


async def test_a_file_that_was_taken_but_not_unlinked_is_known_after_the_crash(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    settings = config(tmp_path)
    async with opened(settings) as spool:
        with camera_file(picture) as capture:
            item = await spool.put(capture, [order()], now=NOW)
    async with opened(settings) as spool:
        (known,) = await spool.known("cam", b"", 10)
        assert known.item_id == item.id
