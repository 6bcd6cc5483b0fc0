"""A drop folder under pressure: a full spool, a long backlog, a ledger that refuses, originals that stay."""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path
from typing import Any

import pytest

from relayd.errors import SpoolFull
from relayd.sources.folder import FolderSource
from relayd.sources.folder_file import FileDesk
from tests.sources.rig import JPEG, Store, config_for, running, until


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "store"
    folder.mkdir()
    return Store(folder)


async def test_a_new_file_is_tried_at_once_however_many_others_the_full_spool_has_refused(
    drop: Path, store: Store
) -> None:
    store.is_full = True
    for number in range(50):
        (drop / f"{number}.jpg").write_bytes(JPEG)
    tried: list[str] = []
    store.before_put = lambda capture: tried.append(capture.name)
    source = FolderSource("cam", config_for(drop), store)
    async with running(source, store.put):
        await until(lambda: "full" in source.view().reason)
        began = time.monotonic()
        (drop / "panic.jpg").write_bytes(JPEG)
        await until(lambda: "panic.jpg" in tried)
        assert time.monotonic() - began < 1.0
        puts = len(tried)
        (drop / "panic.jpg").write_bytes(JPEG)  # refused once, it takes its turn with the others
        await asyncio.sleep(0.3)
        assert len(tried) <= puts + 2


async def test_a_new_file_goes_before_the_backlog(drop: Path, store: Store) -> None:
    for number in range(6000):
        (drop / f"{number}.jpg").write_bytes(JPEG)
    source = FolderSource("cam", config_for(drop, rescan="30s"), store)
    async with running(source, store.put):
        await until(lambda: store.items)
        (drop / "panic.jpg").write_bytes(JPEG)
        await until(lambda: "panic.jpg" in store.names)
        assert len(store.items) < 2000


async def test_a_spool_that_cannot_note_a_quarantine_stops_no_other_file(
    drop: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> None:
        raise SpoolFull("the disk is full")

    monkeypatch.setattr(store, "quarantine", refuse)
    (drop / "empty.jpg").touch()
    source = FolderSource("cam", config_for(drop), store)
    async with running(source, store.put):
        await until(lambda: "empty.jpg: the disk is full" in source.view().reason)
        (drop / "good.jpg").write_bytes(JPEG)
        await until(lambda: store.names == ["good.jpg"])


async def test_what_cannot_be_removed_is_no_longer_shared_with_its_writer(
    drop: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FileDesk, "remove", refuse)
    monkeypatch.setattr(FileDesk, "remove_known", refuse)
    source = FolderSource("cam", config_for(drop), store)
    async with running(source, store.put):
        (drop / "a.jpg").write_bytes(JPEG)
        await until(lambda: "cannot be removed" in source.view().reason)
        with (drop / "a.jpg").open("r+b") as stream:
            stream.write(b"\xff\xd8something else")
        assert store.content(store.items[0]) == JPEG


async def test_why_of_a_file_that_is_not_there_does_not_promise_to_look_again(drop: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(drop), store)
    async with running(source, store.put):
        await until(lambda: source.view().state == "ok")
        assert await source.why(str(drop / "nobody.jpg")) is None
