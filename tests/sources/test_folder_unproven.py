"""Where no lease can be had: what else says that a writer is done. And what is large: it is linked, not copied."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relayd import files
from relayd.sources import folder_visit
from relayd.sources.folder import FolderSource
from relayd.sources.folder_file import COPIED_BYTES
from tests.sources.rig import Store, config_for, drop, running, until, watched

TS = b"\x47" + b"\0\x11\x22" * 62 + b"x"


def source_of(folder: Path, store: Store, **options: Any) -> FolderSource:
    return FolderSource("cam", config_for(folder, **({"linger": "400ms"} | options)), store)


def gone(path: Path) -> bool:
    return not path.exists()


def released(store: Store, folder: Path) -> bool:
    return not os.listdir(folder) and not store.holding


async def test_what_is_large_is_linked_once_its_writer_is_done_with_it(folder: Path, store: Store) -> None:
    async with running(source_of(folder, store), store.put):
        path = drop(folder, "clip.ts", TS * (COPIED_BYTES // len(TS) + 1))
        inode = path.stat().st_ino
        await until(lambda: released(store, folder) and bool(store.items))
        assert (store.folder / store.items[0].id).stat().st_ino == inode


async def test_what_is_small_is_copied_at_once(folder: Path, store: Store) -> None:
    async with running(source_of(folder, store), store.put):
        inode = drop(folder, "clip.ts", TS * 20).stat().st_ino
        await until(lambda: len(store.items) == 1)
        assert (folder / "clip.ts").exists()
        assert (store.folder / store.items[0].id).stat().st_ino != inode
        await until(lambda: released(store, folder))


@pytest.fixture
def no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel answers a user who does not own the files."""
    monkeypatch.setattr(files, "hold_lease", lambda descriptor: None)
    monkeypatch.setattr(folder_visit, "may_lease_of_others", lambda: False)


@pytest.mark.usefixtures("no_leases")
async def test_without_leases_a_writer_who_pauses_is_seen_by_what_inotify_tells(folder: Path, store: Store) -> None:
    source = source_of(folder, store, settle_unproven="100ms", settle="50ms", linger="50ms")
    async with running(source, store.put):
        await watched(source)
        with (folder / "clip.ts").open("wb", buffering=0) as writer:
            writer.write(TS * 20)
            for name in ("0.jpg", "1.jpg", "2.jpg"):  # others come and go meanwhile, each after its quiet time
                await until(partial(gone, drop(folder, name)))
            assert "clip.ts" not in store.names
            writer.write(TS * 30)
        await until(lambda: released(store, folder))
        assert [store.content(item) for item in store.items if item.name == "clip.ts"] == [TS * 50]


@pytest.mark.usefixtures("no_leases")
async def test_where_nothing_tells_of_its_writer_what_goes_on_later_follows_whole(folder: Path, store: Store) -> None:
    options = {"watch": "poll", "poll_every": "50ms", "settle": "50ms", "settle_unproven": "500ms", "linger": "50ms"}
    async with running(source_of(folder, store, **options), store.put):
        path = drop(folder, "clip.ts", TS * 20)
        await until(lambda: len(store.items) == 1)
        assert path.exists()
        assert not store.holding  # it was quiet for as long as was asked for: deliveries may begin
        with path.open("ab") as writer:
            writer.write(TS * 30)
        await until(lambda: released(store, folder))
        assert store.content(store.items[-1]) == TS * 50
