"""The folder source when the ground moves: folders that go and come, polling, lost hints, failing disks."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from relayd.model import Capture, Item
from relayd.sources import folder as folder_module
from relayd.sources.base import Known
from relayd.sources.folder import FolderSource
from relayd.sources.folder_watch import InotifyWatch, network_type
from tests.sources.rig import JPEG, Store, config_for, drop, known, running, until, watched

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "REOPEN_SECONDS", 0.05)


async def test_a_missing_folder_is_a_fault_that_mends_itself_and_is_logged_once(
    folder: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    folder.rmdir()
    caplog.set_level("INFO")
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await until(lambda: "does not exist" in source.view().reason)
        assert source.view().state == "fault"
        folder.mkdir()
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"])
        await until(lambda: source.view().state == "ok")
    assert sum("does not exist" in record.getMessage() for record in caplog.records) == 2  # came, and went


async def test_a_folder_that_vanishes_and_comes_back_goes_on(folder: Path, store: Store, tmp_path: Path) -> None:
    source = FolderSource("cam", config_for(folder, rescan="1h"), store)
    async with running(source, store.put):
        await watched(source)
        folder.rename(tmp_path / "aside")
        await until(lambda: source.view().state == "fault")
        (tmp_path / "aside").rename(folder)
        await until(lambda: source.view().state == "ok")
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"])


async def test_a_folder_that_is_replaced_is_noticed(folder: Path, store: Store, tmp_path: Path) -> None:
    source = FolderSource("cam", config_for(folder, rescan="1h"), store)
    async with running(source, store.put):
        await watched(source)
        folder.rename(tmp_path / "old")
        folder.mkdir()
        drop(folder, "new.jpg")
        drop(tmp_path / "old", "stray.jpg")
        await until(lambda: "new.jpg" in store.names)
        drop(folder, "later.jpg")
        await until(lambda: "later.jpg" in store.names)


async def test_polling_takes_files_when_they_have_been_quiet_for_two_looks(folder: Path, store: Store) -> None:
    options: dict[str, Any] = {"watch": "poll", "poll_every": "100ms", "settle": "100ms", "rescan": "1h"}
    source = FolderSource("cam", config_for(folder, **options), store)
    drop(folder, "early.jpg")
    async with running(source, store.put):
        await until(lambda: store.names == ["early.jpg"])
        for number in range(20):
            drop(folder, f"{number}.jpg")
        await until(lambda: len(store.items) == 21)
        await until(lambda: not os.listdir(folder))
    assert all((store.folder / item.id).stat().st_nlink == 1 for item in store.items)


async def test_polling_goes_on_by_scans_when_a_name_is_not_utf_8(folder: Path, store: Store) -> None:
    options: dict[str, Any] = {"watch": "poll", "poll_every": "50ms", "settle": "50ms"}
    source = FolderSource("cam", config_for(folder, **options), store)
    async with running(source, store.put):
        await watched(source)
        drop(folder, b"caf\xe9.jpg")
        drop(folder, "a.jpg")
        await until(lambda: sorted(store.names) == ["a.jpg", "caf\\xe9.jpg"])


async def test_polling_finds_new_sub_folders(folder: Path, store: Store) -> None:
    options: dict[str, Any] = {"watch": "poll", "poll_every": "50ms", "settle": "50ms", "recursive": True}
    source = FolderSource("cam", config_for(folder, **options), store)
    async with running(source, store.put):
        await watched(source)
        (folder / "gate").mkdir()
        drop(folder / "gate", "a.jpg")
        await until(lambda: store.names == ["a.jpg"])
        drop(folder / "gate", "b.jpg")
        await until(lambda: store.names == ["a.jpg", "b.jpg"])


async def test_without_any_inotify_left_the_scan_still_takes_everything(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(InotifyWatch, "__init__", none_left)
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await watched(source)
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"])


async def test_a_failing_file_does_not_hold_up_the_others_and_is_tried_again(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relayd.sources.folder_pickup.RETRY_SECONDS", 0.2)
    failures: list[str] = []

    async def put(capture: Capture) -> Item:
        if capture.name == "bad.jpg" and len(failures) < 3:
            failures.append(capture.name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return await store.put(capture)

    drop(folder, "bad.jpg")
    drop(folder, "good.jpg")
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, put):
        await until(lambda: store.names == ["good.jpg"])
        await until(lambda: "Input/output error" in source.view().reason)
        await until(lambda: store.names == ["good.jpg", "bad.jpg"])
        await until(lambda: source.view().state == "ok")


async def test_a_sub_folder_that_may_not_be_read_is_a_fault_and_the_others_are_taken(without_rights: Path) -> None:
    folder, place = without_rights / "drop", without_rights / "store"
    for path in (folder / "closed", folder / "open", place):
        path.mkdir(parents=True)
    store = Store(place)
    drop(folder / "open", "a.jpg")
    (folder / "closed").chmod(0)
    source = FolderSource("cam", config_for(folder, recursive=True), store)
    async with running(source, store.put):
        await until(lambda: store.names == ["a.jpg"])
        await until(lambda: "closed" in source.view().reason)
        (folder / "closed").chmod(0o755)
        await until(lambda: source.view().state == "ok")


async def test_a_mount_point_without_its_mount_makes_nothing_forgotten(folder: Path, store: Store) -> None:
    origin_elsewhere = Known(origin=_origin(b"on-the-stick.jpg", device=12345), item_id="item1", reason=None)
    store.rows[b"on-the-stick.jpg"] = origin_elsewhere
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await watched(source)
        await until(lambda: known(source) == 1)
    assert store.rows == {b"on-the-stick.jpg": origin_elsewhere}


def _origin(path: bytes, device: int) -> Any:
    from relayd.model import Origin

    return Origin(path=path, device=device, inode=1, size_bytes=1, mtime_ns=1)


@needs_root
@pytest.mark.system
async def test_an_unmounted_disk_is_a_fault_until_it_is_back_and_nothing_is_taken_twice(
    folder: Path, store: Store
) -> None:
    def mount() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)

    def unmount() -> None:
        subprocess.run(["umount", "-l", str(folder)], check=True)

    source = FolderSource("cam", config_for(folder, must_be_mounted=True), store)
    async with running(source, store.put):
        await until(lambda: "mounted" in source.view().reason)
        mount()
        try:
            drop(folder, "a.jpg", JPEG)
            await until(lambda: store.names == ["a.jpg"])
        finally:
            unmount()
        await until(lambda: "mounted" in source.view().reason)


def test_local_folders_are_no_network_mounts(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        assert network_type(descriptor) is None
    finally:
        os.close(descriptor)


async def test_no_folder_no_thread_and_no_descriptor_is_left_after_the_end(folder: Path, store: Store) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with running(FolderSource("cam", config_for(folder), store), store.put):
            drop(folder, "a.jpg")
            await until(lambda: len(store.items) == 1)
        store.items.clear()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
