"""What an FTP account, a USB stick or a broken camera may put into a drop folder: each a named test."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from relayd import files
from relayd.errors import WrongRequest
from relayd.sources import folder_findings
from relayd.sources.folder import FolderSource
from tests.sources.rig import JPEG, Store, config_for, drop, running, until, watched

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make this")


async def reason_for(folder: Path, store: Store, name: str | bytes, **options: object) -> str:
    """Why the only file there went to quarantine; it must still be there, and nothing taken."""
    raw = os.fsencode(name)
    async with running(FolderSource("cam", config_for(folder, **options), store), store.put):
        await until(lambda: raw in store.reasons, f"{name!r} in quarantine")
    assert not store.items
    assert raw in os.listdir(os.fsencode(folder))
    return store.reasons[raw]


# --- links


@pytest.mark.parametrize(
    "target",
    ["/etc/shadow", "/proc/self/environ", "/etc", "../..", "../store/spool.db", "../nowhere", "/dev/zero"],
)
async def test_a_symbolic_link_is_never_followed(folder: Path, store: Store, target: str) -> None:
    (folder / "self.jpg").symlink_to(target)
    assert "symbolic link" in await reason_for(folder, store, "self.jpg")


async def test_a_linked_sub_folder_is_never_entered(folder: Path, store: Store, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    drop(tmp_path / "secrets", "key.jpg")
    (folder / "sub").symlink_to(tmp_path / "secrets")
    assert "symbolic link" in await reason_for(folder, store, "sub", recursive=True)


async def test_a_hard_link_to_a_foreign_file_is_not_taken_until_it_is_the_only_name(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    drop(tmp_path, "foreign.jpg")
    (folder / "a.jpg").hardlink_to(tmp_path / "foreign.jpg")
    assert "hard link" in await reason_for(folder, store, "a.jpg")
    (tmp_path / "foreign.jpg").unlink()
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: store.names == ["a.jpg"])


async def test_a_file_swapped_for_a_link_again_and_again_never_gives_the_secret_away(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    secret = drop(tmp_path, "secret", b"SECRET" * 1000)
    stop = threading.Event()

    def swap() -> None:
        drop(tmp_path, "good")
        while not stop.is_set():
            (tmp_path / "link").unlink(missing_ok=True)
            (tmp_path / "link").symlink_to(secret)
            (tmp_path / "link").rename(folder / "a.jpg")
            shutil.copyfile(tmp_path / "good", tmp_path / "fresh")
            (tmp_path / "fresh").rename(folder / "a.jpg")

    swapper = threading.Thread(target=swap)
    async with running(FolderSource("cam", config_for(folder, settle="10ms"), store), store.put):
        await watched_or_quarantined(store, folder)
        swapper.start()
        try:
            await until(lambda: len(store.items) >= 100)
        finally:
            stop.set()
            await asyncio.to_thread(swapper.join)
    assert all(store.content(item) == JPEG for item in store.items)
    assert secret.read_bytes() == b"SECRET" * 1000


async def watched_or_quarantined(store: Store, folder: Path) -> None:
    drop(folder, "first.jpg")
    await until(lambda: store.names == ["first.jpg"])
    store.items.clear()


async def test_a_sub_folder_swapped_for_a_link_leads_nowhere(folder: Path, store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    drop(outside, "key.jpg", JPEG + b"\0secret")
    stop = threading.Event()
    rounds: list[int] = []

    def swap() -> None:
        while not stop.is_set():
            (folder / "sub").mkdir()
            drop(folder / "sub", "key.jpg")
            (folder / "sub").rename(tmp_path / "aside")
            (folder / "sub").symlink_to(outside)
            (folder / "sub").rename(tmp_path / "link")
            shutil.rmtree(tmp_path / "aside")
            rounds.append(1)

    swapper = threading.Thread(target=swap)
    source = FolderSource("cam", config_for(folder, recursive=True, settle="10ms"), store)
    async with running(source, store.put):
        await watched(source)
        swapper.start()
        try:
            await until(lambda: len(rounds) >= 500)
        finally:
            stop.set()
            await asyncio.to_thread(swapper.join)
    assert all(store.content(item) == JPEG for item in store.items)
    assert (outside / "key.jpg").exists()


# --- kinds of files


async def test_a_pipe_is_not_waited_for(folder: Path, store: Store) -> None:
    os.mkfifo(folder / "a.jpg")
    assert "named pipe" in await reason_for(folder, store, "a.jpg")


async def test_a_socket_is_not_taken(folder: Path, store: Store) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "a.jpg"))
        assert "socket" in await reason_for(folder, store, "a.jpg")


@needs_root
async def test_a_device_is_not_opened(folder: Path, store: Store) -> None:
    os.mknod(folder / "a.jpg", 0o020666, os.makedev(1, 5))
    assert "device" in await reason_for(folder, store, "a.jpg")


async def test_a_folder_with_the_name_of_a_picture_is_not_taken(folder: Path, store: Store) -> None:
    (folder / "a.jpg").mkdir()
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        drop(folder, "b.jpg")
        await until(lambda: store.names == ["b.jpg"])
    assert not store.reasons
    assert (folder / "a.jpg").is_dir()


async def test_the_setuid_bit_does_not_reach_the_spool(folder: Path, store: Store) -> None:
    drop(folder, "a.jpg").chmod(0o4755)
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: len(store.items) == 1)
    assert (store.folder / store.items[0].id).stat().st_mode & 0o7777 == 0o600


async def test_a_file_that_may_not_be_read_waits_in_quarantine_for_a_chmod(without_rights: Path) -> None:
    folder, place = without_rights / "drop", without_rights / "store"
    folder.mkdir()
    place.mkdir()
    store = Store(place)
    drop(folder, "a.jpg").chmod(0)
    assert "read permission" in await reason_for(folder, store, "a.jpg")
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        (folder / "a.jpg").chmod(0o600)
        await until(lambda: store.names == ["a.jpg"])


@needs_root
async def test_a_file_of_another_owner_is_taken_when_it_has_been_quiet(without_rights: Path) -> None:
    folder, place = without_rights / "drop", without_rights / "store"
    folder.mkdir()
    place.mkdir()
    store = Store(place)
    os.seteuid(0)
    drop(folder, "a.jpg").chmod(0o644)
    os.seteuid(65534)
    before = time.monotonic()
    async with running(FolderSource("cam", config_for(folder, settle="500ms"), store), store.put):
        await until(lambda: store.names == ["a.jpg"])
        assert time.monotonic() - before >= 0.5
        await until(lambda: not os.listdir(folder))
    assert (store.folder / store.items[0].id).stat().st_uid == 65534


# --- sizes and times


async def test_a_sparse_terabyte_is_refused_before_it_is_read(folder: Path, store: Store) -> None:
    os.truncate(drop(folder, "a.jpg"), 2**40)
    before = time.process_time()
    assert "max_file_size" in await reason_for(folder, store, "a.jpg")
    assert time.process_time() - before < 2.0


async def test_a_file_over_the_limit_is_taken_once_the_limit_is_raised(folder: Path, store: Store) -> None:
    drop(folder, "a.bin", b"x" * 2000)
    assert "max_file_size" in await reason_for(folder, store, "a.bin", max_file_size="1kB")
    async with running(FolderSource("cam", config_for(folder, max_file_size="1MB"), store), store.put):
        await until(lambda: store.names == ["a.bin"])


async def test_a_file_that_grows_for_ever_is_not_taken_and_holds_nobody_up(folder: Path, store: Store) -> None:
    stop = threading.Event()

    def grow() -> None:
        with (folder / "endless.bin").open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"more" * 100)
                if file.tell() > 10_000_000:
                    file.truncate(0)

    grower = threading.Thread(target=grow)
    grower.start()
    source = FolderSource("cam", config_for(folder, settle="10ms"), store)
    try:
        async with running(source, store.put):
            for number in range(50):
                drop(folder, f"{number}.jpg")
            await until(lambda: len(store.items) == 50)
            assert "endless.bin" not in store.names
    finally:
        stop.set()
        await asyncio.to_thread(grower.join)


async def test_files_that_vanish_shrink_and_are_rewritten_meanwhile_are_taken_whole_or_not_at_all(
    folder: Path, store: Store
) -> None:
    stop = threading.Event()
    one, two = JPEG + b"\0" * 3000, JPEG.replace(b"picture", b"PICTURE")

    def meddle() -> None:
        while not stop.is_set():
            drop(folder, "a.jpg", one)
            drop(folder, "a.jpg", two)
            (folder / "a.jpg").unlink(missing_ok=True)

    meddler = threading.Thread(target=meddle)
    async with running(FolderSource("cam", config_for(folder, settle="10ms"), store), store.put):
        meddler.start()
        try:
            await until(lambda: len(store.items) >= 30)
        finally:
            stop.set()
            await asyncio.to_thread(meddler.join)
    assert all(store.content(item) in (one, two) for item in store.items)


@pytest.mark.parametrize("year_seconds", [-2_177_452_800, 13_569_465_600])
async def test_times_of_1901_and_2400_are_taken_as_they_are(folder: Path, store: Store, year_seconds: int) -> None:
    path = drop(folder, "a.jpg")
    os.utime(path, (year_seconds, year_seconds))
    found = path.stat().st_mtime
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: len(store.items) == 1)
    assert store.items[0].captured_at == found


# --- names


HOSTILE_NAMES = [
    b"new\nline.jpg",
    b"a\r\nX-Header: injected.jpg",
    b"\x1b[31mred\x1b[0m.jpg",
    b"\"quoted'.jpg",
    b"$(id).jpg",
    b"-rf",
    b"%2e%2e%2f.jpg",
    b"{0.__class__}.jpg",
    b"{{ 7*7 }}.jpg",
    b"relayd/+/#.jpg".replace(b"/", b"_"),
    b"latin-\xe9\xff.jpg",
    "\u202egpj.exe".encode(),
    b"x" * 251 + b".jpg",
    b"spool.db",
    b"relayd.sock",
    b"lock",
    b" ",
    b"*",
    "😀".encode() * 60,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: files.printable(name[:20]))
async def test_a_hostile_name_is_only_a_name(
    folder: Path, store: Store, name: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    drop(folder, name)
    caplog.set_level("DEBUG")
    async with running(FolderSource("cam", config_for(folder, name_pattern="{a}.{b}"), store), store.put):
        await until(lambda: len(store.items) == 1 and not os.listdir(folder))
    store.names[0].encode("utf-8")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", files.safe_name(store.names[0], store.items[0].id))
    assert all(record.getMessage().isprintable() for record in caplog.records)


async def test_names_that_differ_only_in_bad_bytes_stay_apart(folder: Path, store: Store) -> None:
    drop(folder, b"a\xfe.jpg", JPEG)
    drop(folder, b"a\xff.jpg", JPEG + b"\0")
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: len(store.items) == 2)
    assert len(set(store.names)) == 2


async def test_a_hostile_name_in_quarantine_is_logged_on_one_line(
    folder: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    drop(folder, b"a\n\x1b[31m\xff.jpg", b"")
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: len(store.reasons) == 1)
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert any("quarantine" in record.getMessage() for record in caplog.records)


async def test_300_levels_of_folders_are_walked_to_their_end(folder: Path, store: Store) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(300):
        os.mkdir("d" * 20, dir_fd=descriptor)
        inner = os.open("d" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    file = os.open("a.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(file, JPEG)
    os.close(file)
    os.close(descriptor)
    source = FolderSource("cam", config_for(folder, recursive=True), store)
    async with running(source, store.put):
        await until(lambda: store.names == ["a.jpg"])
        assert source.view().state == "ok"


async def test_20000_files_at_once_are_all_taken_though_inotify_loses_some(folder: Path, store: Store) -> None:
    def burst() -> None:
        for number in range(20_000):
            descriptor = os.open(folder / f"{number}.txt", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, b"%d" % number)
            os.close(descriptor)

    taken: set[str] = set()
    source = FolderSource("cam", config_for(folder, rescan="5s"), Taking(store.folder, taken))
    async with running(source, Taking(store.folder, taken).put):
        await watched(source)
        await asyncio.get_running_loop().run_in_executor(None, burst)
        await until(lambda: len(taken) == 20_000, "20,000 taken")
        await until(lambda: not os.listdir(folder))


class Taking(Store):
    """Takes names only: 20,000 copies are not what this is about."""

    def __init__(self, folder: Path, taken: set[str]) -> None:
        super().__init__(folder)
        self._taken = taken

    async def put(self, capture):  # type: ignore[no-untyped-def]
        self._taken.add(capture.name)
        from relayd.model import Item

        return Item(
            id=capture.name,
            source="cam",
            name=capture.name,
            kind=capture.kind,
            content_type="",
            size_bytes=0,
            sha256="",
            md5="",
            captured_at=0.0,
            accepted_at=0.0,
        )


async def test_descriptors_and_memory_do_not_grow_over_thousands_of_refusals(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, settle="1ms"), store)
    async with running(source, store.put):
        await watched(source)
        before = len(os.listdir("/proc/self/fd"))
        for round_number in range(2):
            for number in range(200):
                (folder / f"{number}.jpg").symlink_to("/etc/passwd")
            await until(lambda: len(store.reasons) == 200)
            for number in range(200):
                (folder / f"{number}.jpg").unlink()
            await until(lambda: not store.reasons, f"round {round_number}")
        assert len(os.listdir("/proc/self/fd")) <= before + 4
        assert source._visit is not None
        assert source._visit._pickup is not None
        assert not source._visit._pickup.known


# --- what is dropped by hand


@pytest.mark.parametrize("change", ["nothing", "written", "replaced", "parent linked", "gone"])
def test_only_the_very_file_that_is_in_quarantine_is_removed_by_hand(folder: Path, tmp_path: Path, change: str) -> None:
    (folder / "sub").mkdir()
    path, outside = drop(folder / "sub", "a.jpg"), tmp_path / "outside"
    outside.mkdir()
    origin = files.origin_of(b"sub/a.jpg", path.stat())
    if change == "written":
        path.write_bytes(JPEG + JPEG)
    elif change == "replaced":
        drop(folder / "sub", "new.jpg").rename(path)
    elif change == "parent linked":
        path.rename(outside / "a.jpg")
        (folder / "sub").rmdir()
        (folder / "sub").symlink_to(outside)
    elif change == "gone":
        path.unlink()
    if change == "nothing":
        folder_findings.discard(config_for(folder), origin)
        assert not path.exists()
        return
    with pytest.raises((WrongRequest, OSError)):
        folder_findings.discard(config_for(folder), origin)
    assert path.exists() == (change != "gone")


async def test_a_name_that_was_dropped_by_hand_may_be_used_again_at_once(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, rescan="1h", max_file_size="1kB"), store)
    async with running(source, store.put):
        path = drop(folder, "a.jpg", JPEG * 100)
        await until(lambda: b"a.jpg" in store.reasons, "too big")
        assert await source.discard(str(path))
        assert not path.exists()
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"], "taken")
        await until(lambda: not store.reasons, "nothing is in quarantine any more")
