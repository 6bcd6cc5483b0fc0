"""Cards and shares as cameras, NAS and Windows leave them: nothing is taken twice, litter and links are left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.files import origin_of
from relayd.model import Known, Origin
from relayd.sources import folder_visit
from relayd.sources.folder import FolderSource
from relayd.sources.folder_known import KnownFiles
from relayd.sources.path_filter import PathFilter
from tests.sources.rig import JPEG, Store, config_for, drop, known, running, until, watched
from tests.sources.test_folder_with_spool import opened as opened_spool

HOUR = 3600


async def looked_again(source: FolderSource, times: int = 2) -> None:
    """Until the folder was listed so often once more."""
    assert source._visit is not None
    scanner = source._visit._scanner
    rounds = scanner._rounds + times
    await until(lambda: scanner._rounds >= rounds, "looked at again")


# --- inodes


async def test_files_that_are_numbered_anew_are_not_taken_again_where_numbers_do_not_last(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_visit, "has_lasting_inodes", lambda folder_fd: False)
    for number in range(3):
        drop(folder, f"{number}.jpg")
    source = FolderSource("card", config_for(folder, keep_originals=True), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 3, "taken")
    for number in range(3):
        shutil.copy2(folder / f"{number}.jpg", folder / "other")
        (folder / "other").rename(folder / f"{number}.jpg")
    source = FolderSource("card", config_for(folder, keep_originals=True), store)
    async with running(source, store.put):
        await watched(source)
        await looked_again(source)
        assert known(source) == 3
        drop(folder, "1.jpg", JPEG + b"more\xff\xd9")
        await until(lambda: len(store.items) == 4, "what changed is taken")
        await looked_again(source)
    assert store.puts == 4


@pytest.fixture
def misnumbered(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder whose listing names other inodes than those of its files, as FUSE and some overlays do."""
    for number in range(3):
        drop(folder, f"{number}.jpg", b"")
        mounted = drop(tmp_path, f"mounted{number}.jpg", JPEG)
        subprocess.run(["mount", "--bind", mounted, folder / f"{number}.jpg"], check=True)
    yield folder
    for number in range(3):
        subprocess.run(["umount", folder / f"{number}.jpg"], check=True)


@pytest.mark.system
async def test_a_card_whose_listing_names_other_inodes_is_read_once(misnumbered: Path, store: Store) -> None:
    with os.scandir(misnumbered) as entries:
        assert all(entry.inode() != entry.stat().st_ino for entry in entries)
    source = FolderSource("card", config_for(misnumbered, keep_originals=True), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 3, "taken")
        await looked_again(source, 3)
        assert store.puts == 3


def test_a_known_file_is_forgotten_only_as_what_it_was() -> None:
    first, second = (Origin(path=b"a", device=1, inode=number, size_bytes=1, mtime_ns=1) for number in (1, 2))
    files = KnownFiles([first])
    assert first in files
    files.add(second)
    files.discard(first)
    assert (second in files, len(files), files.inode_at(b"a")) == (True, 1, 2)
    files.discard(second)
    assert files.inode_at(b"a") is None


# --- times


@pytest.mark.parametrize("hours", [-5, 1, 13])
async def test_times_that_move_by_whole_hours_make_no_new_files(folder: Path, tmp_path: Path, hours: int) -> None:
    for number in range(3):
        drop(folder, f"{number}.jpg", JPEG[:-2] + bytes([number]) + JPEG[-2:])
    options = config_for(folder, keep_originals=True)
    async with opened_spool(tmp_path / "spool") as intake:
        async with running(FolderSource("card", options, intake.spool), intake.put):
            await until(lambda: intake.spool.counters.items == 3, "taken")
        for number in range(3):
            move(folder / f"{number}.jpg", hours * HOUR)
        source = FolderSource("card", options, intake.spool)
        async with running(source, intake.put):
            await until(lambda: intake.spool.counters.sources["card"].repeated == 3, "they came again")
            await looked_again(source)
            assert (intake.spool.counters.items, known(source), len(intake.items)) == (3, 3, 6)
            assert len({item.id for item in intake.items}) == 3


@pytest.mark.parametrize("change", ["content", "minutes", "days"])
async def test_what_is_another_file_for_its_content_or_its_time_is_taken(
    folder: Path, tmp_path: Path, change: str
) -> None:
    path = drop(folder, "a.jpg")
    options = config_for(folder, keep_originals=True, same_again="0s")
    async with opened_spool(tmp_path / "spool") as intake:
        async with running(FolderSource("card", options, intake.spool), intake.put):
            await until(lambda: intake.spool.counters.items == 1, "taken")
        before = path.stat().st_mtime_ns
        if change == "content":
            path.write_bytes(JPEG[:-3] + b"!\xff\xd9")
            os.utime(path, ns=(before, before))
        move(path, {"content": HOUR, "minutes": 90, "days": 48 * HOUR}[change])
        async with running(FolderSource("card", options, intake.spool), intake.put):
            await until(lambda: intake.spool.counters.items == 2, "taken as another one")


def move(path: Path, seconds: int) -> None:
    moved = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(moved, moved))


# --- what is no file of a camera


@pytest.mark.parametrize("target", ["a.jpg", "./gone.jpg", "last.jpg", "{folder}/day/b.jpg", "day"])
async def test_a_link_to_a_file_of_the_same_folder_is_left_alone_without_a_word(
    folder: Path, store: Store, target: str
) -> None:
    (folder / "day").mkdir()
    (folder / "last.jpg").symlink_to(target.format(folder=folder))
    store.rows[b"last.jpg"] = known_as_link(folder / "last.jpg")
    source = FolderSource("cam", config_for(folder, recursive=True), store)
    async with running(source, store.put):
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"], "the file itself is taken")
        await until(lambda: not store.reasons, "and nothing lies in quarantine, also not from before")
        assert source.view().state == "ok"
        assert "a link to another file of the folder" in str(await source.why(str(folder / "last.jpg")))
    assert (folder / "last.jpg").is_symlink()


def known_as_link(path: Path) -> Known:
    origin = origin_of(path.name.encode(), path.lstat())
    return Known(origin=origin, item_id=None, reason="it is a symbolic link, not a regular file")


LITTER = ["@eaDir/a.jpg", "#recycle/a.jpg", "day/@Recycle/a.jpg", "LOST.DIR/1.jpg", "desktop.ini", "Thumbs.db", "x.IDX"]


async def test_litter_of_nas_windows_and_recorders_is_never_taken(folder: Path, store: Store) -> None:
    for name in (*LITTER, "day/good.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drop(folder, name)
    source = FolderSource("cam", config_for(folder, recursive=True), store)
    async with running(source, store.put):
        await until(lambda: store.names == ["good.jpg"], "the picture is taken")
        await looked_again(source)
        assert not store.reasons
        for name in LITTER:
            assert "only where include names it" in str(await source.why(str(folder / name)))
    assert store.names == ["good.jpg"]


def test_litter_is_taken_where_include_names_it() -> None:
    assert not PathFilter(["*", "*.*", "**"], []).wants(b"Thumbs.db")
    assert PathFilter(["*.idx"], []).wants(b"a/0.IDX")
    assert PathFilter(["thumbs.*"], []).wants(b"Thumbs.db")
    assert PathFilter(["*.db"], []).wants(b"Thumbs.db")
    assert not PathFilter(["*.jpg"], []).enters(b"@eaDir")
    assert PathFilter(["@eaDir/*.jpg"], []).enters(b"@eaDir")
    assert not PathFilter(["@eaDir/*.jpg"], []).leaves_out(b"@eaDir/a.jpg")
    assert not PathFilter([], []).leaves_out(b"day/a.jpg")
