"""Trees of any size: no file is out of sight, the newest come first, and a new folder costs no look at the others."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relayd.model import Capture, Item
from relayd.sources import folder_scan, folder_walk, folder_watch
from relayd.sources.folder import FolderSource
from relayd.sources.folder_known import KnownFiles
from relayd.sources.folder_scan import Scanner, Wish
from relayd.sources.folder_watched import Watched
from relayd.sources.path_filter import PathFilter
from tests.sources.rig import Store, config_for, drop, running, until, watched


def tree(folder: Path, days: int, minutes: int) -> list[Path]:
    """`day/minute` folders, each a minute older than the next."""
    made = [folder / f"{day:03d}" / f"{minute:04d}" for day in range(days) for minute in range(minutes)]
    for number, path in enumerate(made):
        path.mkdir(parents=True, exist_ok=True)
        drop(path, f"{number}.jpg")
    for number, path in enumerate(made):
        os.utime(path, (1e9 + 60 * number, 1e9 + 60 * number))
        os.utime(path.parent, (1e9 + 60 * number, 1e9 + 60 * number))
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test's tree exceeds."""
    monkeypatch.setattr(folder_scan, "FOLDERS_AT_ONCE", 20)
    monkeypatch.setattr(folder_walk, "MOST_HELD", 15)
    monkeypatch.setattr(folder_watch, "MOST_WATCHED", 25)
    monkeypatch.setattr(folder_watch, "MOST_POLLED", 25)


def listed_by(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every folder that is listed from now on."""
    listed: list[bytes] = []
    scan_one = Scanner._scan_one

    def counted(self: Scanner, turn: Any, *others: Any) -> None:
        listed.append(turn.path)
        scan_one(self, turn, *others)

    monkeypatch.setattr(Scanner, "_scan_one", counted)
    return listed


async def test_every_file_of_more_than_ten_thousand_sub_folders_is_taken_and_the_source_is_well(
    folder: Path, store: Store
) -> None:
    for number in range(10_500):
        (folder / str(number)).mkdir()
    for number in (0, 5_000, 10_499):
        drop(folder / str(number), f"{number}.jpg")
    source = FolderSource("cam", config_for(folder, recursive=True, rescan="1h"), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 3, "all are taken")
        assert source.view().state == "ok"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("options", [{}, {"watch": "poll", "poll_every": "50ms", "settle": "50ms"}])
async def test_however_many_sub_folders_there_are_every_file_is_found(
    folder: Path, store: Store, options: dict[str, Any]
) -> None:
    made = tree(folder, 4, 20)
    source = FolderSource("cam", config_for(folder, recursive=True, **options), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 80, "all of the tree")
        for path in (made[0], made[30], made[-1]):
            drop(path, "late.jpg")
        await until(lambda: len(store.items) == 83, "also where nobody watches any more")
        (folder / "new").mkdir()
        drop(folder / "new", "new.jpg")
        await until(lambda: len(store.items) == 84, "and in a new one")


@pytest.mark.usefixtures("small")
def test_the_newest_sub_folders_are_listed_first(folder: Path) -> None:
    made = tree(folder, 6, 50)
    with opened(folder) as scanner:
        first = scanner.scan(wish(is_due=True))
        names = {path.rpartition(b"/")[0] for path in first.paths}
        newest = {os.fsencode(path.relative_to(folder)) for path in made[-10:]}
        assert newest <= names
        assert len(names) < 60
        seen = set(names)
        while scanner.is_hurried:
            seen |= {path.rpartition(b"/")[0] for path in scanner.scan(wish(is_due=False)).paths}
        assert len(seen) == 300


@pytest.mark.usefixtures("small")
async def test_a_new_sub_folder_costs_no_look_at_the_others(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(folder, 6, 50)
    source = FolderSource("cam", config_for(folder, recursive=True, rescan="1h"), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 300, "all of the tree")
        await until(lambda: source._visit is not None and not source._visit._scanner.is_hurried, "at rest")
        listed = listed_by(monkeypatch)
        for number in range(5):
            (folder / "005" / f"new{number}").mkdir()
            drop(folder / "005" / f"new{number}", "new.jpg")
        await until(lambda: len(store.items) == 305, "taken")
        assert set(listed) <= {f"005/new{number}".encode() for number in range(5)}


@pytest.mark.usefixtures("small")
def test_more_files_than_are_wanted_at_once_are_asked_for_again(folder: Path) -> None:
    tree(folder, 3, 30)
    found: set[bytes] = set()
    with opened(folder) as scanner:
        for _ in range(100):
            scan = scanner.scan(wish(skip=found, limit=7, is_due=True))
            assert len(scan.paths) <= 7
            found |= set(scan.paths)
            if len(found) == 90:
                break
        assert len(found) == 90


@pytest.mark.parametrize("way", ["back", "swapped", "outside"])
async def test_a_sub_folder_that_was_moved_about_is_watched_where_it_is(
    folder: Path, store: Store, tmp_path: Path, way: str
) -> None:
    for name in ("a/b", "c/b"):
        (folder / name).mkdir(parents=True)
    source = FolderSource("cam", config_for(folder, recursive=True, rescan="1h"), store)
    async with running(source, store.put):
        await watched(source)
        await until(lambda: watched_paths(source) == {b"a", b"a/b", b"c", b"c/b"}, "watched")
        if way == "back":
            (folder / "a" / "b").rename(folder / "c" / "away")
            await until(lambda: watched_paths(source) == {b"a", b"c", b"c/b", b"c/away"}, "watched where it went")
            (folder / "c" / "away").rename(folder / "a" / "b")
        elif way == "swapped":
            (folder / "a").rename(tmp_path / "a")
            (folder / "c").rename(folder / "a")
            (tmp_path / "a").rename(folder / "c")
        else:
            (folder / "a").rename(tmp_path / "outside")
            await until(lambda: watched_paths(source) == {b"c", b"c/b"}, "no longer watched")
            (tmp_path / "outside" / "b").rename(tmp_path / "b")
            (tmp_path / "outside").rename(folder / "a")
            (tmp_path / "b").rename(folder / "a" / "b")
        await until(lambda: watched_paths(source) == {b"a", b"a/b", b"c", b"c/b"}, "watched again")
        for number, name in enumerate(("a/b", "c/b")):
            drop(folder / name, f"{number}.jpg")
        await until(lambda: sorted(store.names) == ["0.jpg", "1.jpg"], "taken without a rescan")


async def test_what_could_not_be_taken_is_no_fault_any_more_once_its_folder_is_gone(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    async def put(capture: Capture) -> Item:
        if capture.name == "bad.jpg":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return await store.put(capture)

    drop(folder, "bad.jpg")
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, put):
        await until(lambda: "cannot take bad.jpg" in source.view().reason, "a fault")
        with (folder / "open.jpg").open("wb") as other:
            other.write(b"not whole yet")
            assert "It is not taken yet" in str(await source.why(str(folder / "open.jpg")))
            assert await source.why(str(folder / "absent.jpg")) is None
        (folder / "open.jpg").unlink()
        folder.rename(tmp_path / "away")
        await until(lambda: "does not exist" in source.view().reason, "the folder is what is wrong")
        assert "Nothing is taken at the moment" in str(await source.why(str(folder / "open.jpg")))
        folder.mkdir()
        await until(lambda: source.view().state == "ok", "all is well")


def test_of_watched_folders_the_oldest_that_holds_no_other_goes_first() -> None:
    watched_ones: Watched[str] = Watched(4)
    for path, at in ((b"cam", 1), (b"cam/old", 5), (b"cam/new", 9), (b"other", 7)):
        watched_ones.put(path, at, path.decode())
    assert watched_ones.is_full
    assert watched_ones.oldest() == (5, b"cam/old")
    watched_ones.put(b"cam/old", 10, "changed")
    assert watched_ones.oldest() == (7, b"other")
    for path in (b"other", b"cam/old", b"cam/new"):
        watched_ones.remove(path)
    assert watched_ones.oldest() == (1, b"cam")
    watched_ones.put(b"cam/sub/deep", 3, "deep")
    assert watched_ones.remove(b"cam") == "cam"
    assert watched_ones.remove(b"cam") is None


@contextmanager
def opened(folder: Path) -> Iterator[Scanner]:
    """A scanner of an open folder."""
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Scanner(folder_fd=folder_fd, wanted=PathFilter((), ()), is_recursive=True)
    finally:
        os.close(folder_fd)


def wish(*, is_due: bool, limit: int = 1000, skip: set[bytes] | None = None) -> Wish:
    return Wish(known=KnownFiles(), skip=skip or set(), limit=limit, watch=None, is_due=is_due)


def watched_paths(source: FolderSource) -> set[bytes]:
    visit = source._visit
    return set() if visit is None or visit._watch is None else set(visit._watch.entered())
