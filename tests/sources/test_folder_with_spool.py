"""The folder source and the real spool together: nothing lost, nothing taken twice, nothing altered."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd import clock, files
from relayd.model import Capture, Item, Order, Priority
from relayd.sources.folder import FolderSource
from relayd.spool import Spool, SpoolConfig
from tests.patience import PATIENT_SECONDS
from tests.sources.rig import CUT_JPEG, JPEG, config_for, drop, running, until, watched

ORDERS = (Order(destination="somewhere", action="upload", priority=Priority.NORMAL, rule="all"),)


class Intake:
    """Puts into the spool, and may die right after the commit."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.items: list[Item] = []
        self.dies = False

    async def put(self, capture: Capture) -> Item:
        item = await self.spool.put(capture, ORDERS, now=clock.now())
        self.items.append(item)
        if self.dies:
            raise RuntimeError("killed between commit and unlink")
        return item

    def intact(self) -> bool:
        """Whether every item's content still is what was accepted."""
        for item in self.items:
            with self.spool.open_media(item.id) as media:
                if hashlib.sha256(media.read()).hexdigest() != item.sha256:
                    return False
        return True


@contextlib.asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[Intake]:
    defaults = {"path": str(path), "min_free": "0B", "min_free_percent": 0, "min_free_inodes_percent": 0}
    spool = await Spool.open(SpoolConfig.model_validate(defaults | options), now=clock.now())
    try:
        yield Intake(spool)
    finally:
        await spool.close()


async def ledger_has(spool: Spool, count: int) -> None:
    """Wait until the ledger knows this many files."""
    async with asyncio.timeout(PATIENT_SECONDS):
        while len(await spool.known("cam", b"", 10)) != count:  # noqa: ASYNC110 - another component's state
            await asyncio.sleep(0.01)


async def test_a_dropped_file_ends_up_in_the_spool_without_being_copied(folder: Path, tmp_path: Path) -> None:
    async with opened(tmp_path / "spool") as intake:
        source = FolderSource("cam", config_for(folder), intake.spool)
        async with running(source, intake.put):
            await watched(source)
            inode = drop(tmp_path, "a.jpg").stat().st_ino
            (tmp_path / "a.jpg").rename(folder / "a.jpg")
            await until(lambda: intake.items and not os.listdir(folder))
        with intake.spool.open_media(intake.items[0].id) as media:
            assert os.fstat(media.fileno()).st_ino == inode
            assert media.read() == JPEG
        assert intake.items[0].md5 == hashlib.md5(JPEG).hexdigest()


async def test_a_kill_between_commit_and_unlink_loses_and_repeats_nothing(folder: Path, tmp_path: Path) -> None:
    drop(folder, "a.jpg")
    async with opened(tmp_path / "spool") as intake:
        intake.dies = True
        with pytest.raises(ExceptionGroup):
            await FolderSource("cam", config_for(folder), intake.spool).run(intake.put)
        assert os.listdir(folder) == ["a.jpg"]
        item = intake.items[0]
    async with opened(tmp_path / "spool") as intake:
        source = FolderSource("cam", config_for(folder), intake.spool)
        async with running(source, intake.put):
            await until(lambda: not os.listdir(folder))
        assert not intake.items
        assert [summary.item.id for summary in await intake.spool.items(limit=10)] == [item.id]
        intake.items.append(item)
        assert intake.intact()


async def test_quarantine_is_in_the_ledger_after_a_restart_and_leaves_it_when_the_file_is_whole(
    folder: Path, tmp_path: Path
) -> None:
    drop(folder, "a.jpg", CUT_JPEG)
    for _ in range(2):
        async with opened(tmp_path / "spool") as intake:
            source = FolderSource("cam", config_for(folder), intake.spool)
            async with running(source, intake.put):
                await watched(source)
                await ledger_has(intake.spool, 1)
                assert "cut off" in (await source.why(str(folder / "a.jpg")) or "")
    async with opened(tmp_path / "spool") as intake:
        source = FolderSource("cam", config_for(folder), intake.spool)
        async with running(source, intake.put):
            drop(folder, "a.jpg")
            await until(lambda: intake.items and not os.listdir(folder))
            assert not await intake.spool.quarantined("cam", 10)


async def test_a_full_spool_leaves_the_rest_in_the_folder(folder: Path, tmp_path: Path) -> None:
    async with opened(tmp_path / "spool", max_size="2MB") as intake:
        for number in range(40):
            drop(folder, f"{number}.bin", os.urandom(100_000))
        source = FolderSource("cam", config_for(folder), intake.spool)
        async with running(source, intake.put):
            await until(lambda: intake.items and "full" in source.view().reason)
            await until(lambda: len(os.listdir(folder)) == 40 - len(intake.items))
            await until(lambda: source.view().state == "waiting")
            assert intake.intact()


@pytest.mark.parametrize("hard_link", [True, False])
async def test_a_camera_that_rewrites_one_file_at_full_speed_alters_nothing_that_was_taken(
    folder: Path, tmp_path: Path, *, hard_link: bool
) -> None:
    stop = threading.Event()
    written: set[str] = set()

    def camera() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            picture = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x02" + b"%d" % number * 20_000 + b"\xff\xd9"
            written.add(hashlib.sha256(picture).hexdigest())
            drop(folder, "latest.jpg", picture)

    thread = threading.Thread(target=camera)
    async with opened(tmp_path / "spool") as intake:
        source = FolderSource("cam", config_for(folder, settle="10ms", hard_link=hard_link), intake.spool)
        async with running(source, intake.put):
            await watched(source)
            thread.start()
            try:
                await until(lambda: len(intake.items) >= 150)
            finally:
                stop.set()
                await asyncio.to_thread(thread.join)
        assert {item.sha256 for item in intake.items} <= written
        assert intake.intact()


class Rewriting(Intake):
    """A writer opens the file again between commit and unlink."""

    def __init__(self, spool: Spool, path: Path) -> None:
        super().__init__(spool)
        self._path = path
        self.writer: threading.Thread | None = None

    async def put(self, capture: Capture) -> Item:
        item = await super().put(capture)
        if self.writer is None and capture.file is not None:
            self.writer = threading.Thread(target=self._path.write_bytes, args=(JPEG + b"\0second",))
            self.writer.start()
            descriptor = capture.file.descriptor
            await until(lambda: not files.lease_is_whole(descriptor))
        return item


@pytest.mark.parametrize("unshares", [True, False], ids=["", "negative control: without unshare"])
async def test_a_writer_who_comes_between_commit_and_unlink_alters_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, unshares: bool
) -> None:
    async def share_on(self: Spool, item_id: str) -> None:
        return None

    if not unshares:
        monkeypatch.setattr(Spool, "unshare", share_on)
    drop(folder, "latest.jpg")
    async with opened(tmp_path / "spool") as opened_spool:
        intake = Rewriting(opened_spool.spool, folder / "latest.jpg")
        source = FolderSource("cam", config_for(folder), intake.spool)
        async with running(source, intake.put):
            await until(lambda: len(intake.items) == 2 and not os.listdir(folder))
        assert intake.writer is not None
        await asyncio.to_thread(intake.writer.join)
        assert intake.items[1].size_bytes == len(JPEG) + 7
        assert intake.intact() is unshares


async def test_files_wait_while_the_spools_disk_refuses_writes_and_the_spool_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> files.Staged:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with opened(tmp_path / "spool") as intake:
        source = FolderSource("cam", config_for(folder), intake.spool)
        async with running(source, intake.put):
            with monkeypatch.context() as broken:
                broken.setattr(files, "link_or_copy", refuse)
                drop(folder, "a.jpg")
                await until(lambda: source.view().state == "waiting" and "takes nothing now" in source.view().reason)
                assert "cannot be written (Read-only file system)" in intake.spool.room().unwritable
                assert (folder / "a.jpg").exists()
            await until(lambda: intake.spool.counters.items == 1, "it goes on by itself")
            await until(lambda: source.view().state == "ok")
            assert not intake.spool.room().unwritable
