"""Sub-folders that relayd emptied go when they are old; every other one stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relayd import clock
from relayd.memory import Unkept
from relayd.sources.faults import Faults
from relayd.sources.folder import FolderSource
from relayd.sources.folder_emptied import Emptied
from relayd.sources.folder_threads import Threads
from relayd.surroundings import Surroundings
from relayd.threads import PartThreads
from tests.sources.rig import Store, config_for, drop, running, until


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def test_what_was_emptied_goes_once_it_is_old_and_all_else_stays(folder: Path, store: Store) -> None:
    for name in ("cam/day/10", "cam/day/11", "made/by/hand"):
        (folder / name).mkdir(parents=True)
    drop(folder / "cam/day/10", "a.jpg")
    drop(folder / "cam/day/11", "b.jpg")
    drop(folder / "cam", "notes.txt", b"stays")
    source = FolderSource("cam", config_for(folder, recursive=True, remove_empty="300ms", include=["*.jpg"]), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 2, "taken")
        await until(lambda: not (folder / "cam" / "day").exists(), "the emptied ones go, and what holds no other then")
        assert source.view().state == "ok"
    assert names(folder) == {"cam", "cam/notes.txt", "made", "made/by", "made/by/hand"}


async def test_the_configured_folder_itself_stays(folder: Path, store: Store) -> None:
    (folder / "sub").mkdir()
    drop(folder, "a.jpg")
    drop(folder / "sub", "b.jpg")
    source = FolderSource("cam", config_for(folder, recursive=True, remove_empty="100ms"), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 2 and not names(folder), "all is empty")
        drop(folder, "c.jpg")
        await until(lambda: len(store.items) == 3, "and goes on")
    assert folder.is_dir()


async def test_what_was_emptied_before_a_restart_goes_after_it(folder: Path, store: Store) -> None:
    memory = Unkept()
    surroundings = Surroundings(memory=lambda owner: memory)
    (folder / b"caf\xe9".decode(errors="surrogateescape")).mkdir()
    drop(folder / os.fsdecode(b"caf\xe9"), "a.jpg")
    options = config_for(folder, recursive=True, remove_empty="1h")
    async with running(FolderSource("cam", options, store, surroundings), store.put):
        await until(lambda: memory.facts, "it is remembered")
    long_ago = clock.now() - 7200
    os.utime(folder / os.fsdecode(b"caf\xe9"), (long_ago, long_ago))
    async with running(FolderSource("cam", options, store, surroundings), store.put):
        await until(lambda: not names(folder), "it goes")
        await until(lambda: not memory.facts, "and is forgotten")


async def test_a_clock_that_is_set_forward_makes_nothing_old(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir()
    memory, threads = Unkept(), PartThreads("test", 1)
    emptied = Emptied(memory, 3600.0, Faults("cam"))
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        emptied.note([b"sub/a.jpg"])
        await emptied.tidy(folder_fd, Threads(threads))
        assert memory.facts
        later = clock.now() + 86_400
        monkeypatch.setattr(clock, "now", lambda: later)
        await emptied.tidy(folder_fd, Threads(threads))
        assert names(folder) == {"sub"}
        uptime = clock.monotonic() + 3601
        monkeypatch.setattr(clock, "monotonic", lambda: uptime)
        await emptied.tidy(folder_fd, Threads(threads))
        assert names(folder) == set()
    finally:
        os.close(folder_fd)
        threads.close()


async def test_one_that_is_in_use_again_is_forgotten_and_stays(folder: Path) -> None:
    (folder / "sub").mkdir()
    memory, threads = Unkept(), PartThreads("test", 1)
    emptied = Emptied(memory, 0.0, Faults("cam"))
    folder_fd = os.open(folder, os.O_RDONLY)
    try:
        emptied.note([b"sub/a.jpg", b"gone/b.jpg"])
        await emptied.tidy(folder_fd, Threads(threads))
        drop(folder / "sub", ".hidden")
        await emptied.tidy(folder_fd, Threads(threads))
        assert names(folder) == {"sub", "sub/.hidden"}
        assert not memory.facts
    finally:
        os.close(folder_fd)
        threads.close()


async def test_without_the_right_to_remove_it_the_fault_says_what_to_do(without_rights: Path) -> None:
    folder, place = without_rights / "drop", without_rights / "store"
    (folder / "sub").mkdir(parents=True)
    place.mkdir()
    store = Store(place)
    drop(folder / "sub", "a.jpg")
    folder.chmod(0o555)
    source = FolderSource("cam", config_for(folder, recursive=True, remove_empty="100ms"), store)
    async with running(source, store.put):
        await until(lambda: "empty sub-folder sub cannot be removed: give the service" in source.view().reason)
        folder.chmod(0o755)
        await until(lambda: not names(folder) and source.view().state == "ok", "it goes, and all is well")
