"""files: safe opening, leases, staging, and names."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import files
from relayd.errors import Quarantined, Unsettled

CONTENT = os.urandom(700_000)


@pytest.fixture
def folder_fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def source_fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(CONTENT)
    descriptor = os.open(tmp_path / "source", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def stage(source_fd: int, folder_fd: int, *, may_link: bool = False, size_limit: int = 10**9) -> files.Staged:
    return files.link_or_copy(source_fd, folder_fd, "target", may_link=may_link, size_limit=size_limit)


# --- staging


def test_a_copy_has_the_content_and_both_hashes_of_it(tmp_path: Path, source_fd: int, folder_fd: int) -> None:
    staged = stage(source_fd, folder_fd)
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert staged.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert staged.md5 == hashlib.md5(CONTENT).hexdigest()
    assert staged.size_bytes == len(CONTENT)
    assert not staged.was_linked
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


def test_a_leased_file_is_linked_from_its_descriptor_whatever_its_name_is_now(
    tmp_path: Path, source_fd: int, folder_fd: int
) -> None:
    (tmp_path / "source").rename(tmp_path / "moved")
    (tmp_path / "source").write_bytes(b"another")
    assert files.hold_lease(source_fd) is True
    staged = stage(source_fd, folder_fd, may_link=True)
    assert staged.was_linked
    assert (tmp_path / "target").stat().st_ino == (tmp_path / "moved").stat().st_ino
    assert staged.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_without_a_lease_nothing_is_linked(tmp_path: Path, source_fd: int, folder_fd: int) -> None:
    assert not stage(source_fd, folder_fd, may_link=True).was_linked


def test_a_file_with_a_second_name_is_copied(tmp_path: Path, source_fd: int, folder_fd: int) -> None:
    (tmp_path / "second").hardlink_to(tmp_path / "source")
    files.hold_lease(source_fd)
    assert not stage(source_fd, folder_fd, may_link=True).was_linked


def test_a_file_with_the_setuid_bit_is_copied_without_it(tmp_path: Path, source_fd: int, folder_fd: int) -> None:
    (tmp_path / "source").chmod(0o4755)
    files.hold_lease(source_fd)
    assert not stage(source_fd, folder_fd, may_link=True).was_linked
    assert (tmp_path / "target").stat().st_mode & 0o7777 == 0o600


def test_another_file_system_means_a_copy(source_fd: int) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == os.fstat(source_fd).st_dev:
        pytest.skip("no second file system here")
    name = f"relayd-test-{os.getpid()}"
    other_fd = os.open(other, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.hold_lease(source_fd)
        staged = files.link_or_copy(source_fd, other_fd, name, may_link=True, size_limit=10**9)
        assert not staged.was_linked
        assert (other / name).read_bytes() == CONTENT
    finally:
        (other / name).unlink(missing_ok=True)
        os.close(other_fd)


def test_a_writer_who_comes_during_the_hash_makes_it_a_copy(
    tmp_path: Path, source_fd: int, folder_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.hold_lease(source_fd)
    writer: list[threading.Thread] = []
    pread = os.pread

    def pread_and_let_a_writer_come(descriptor: int, size: int, offset: int) -> bytes:
        if not writer:
            writer.append(threading.Thread(target=(tmp_path / "source").write_bytes, args=(b"new",)))
            writer[0].start()
            while files.lease_is_whole(source_fd):
                pass
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread_and_let_a_writer_come)
    staged = stage(source_fd, folder_fd, may_link=True)
    files.release_lease(source_fd)
    writer[0].join()
    assert not staged.was_linked
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert (tmp_path / "source").read_bytes() == b"new"


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_changes_while_it_is_copied_is_not_taken(
    tmp_path: Path, source_fd: int, folder_fd: int, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    pread = os.pread

    def pread_and_change(descriptor: int, size: int, offset: int) -> bytes:
        if offset == files.BLOCK_BYTES:
            with (tmp_path / "source").open("r+b") as file:
                file.truncate(300_000 if change == "shrink" else len(CONTENT))
                file.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
                file.write(b"more")
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread_and_change)
    with pytest.raises(Unsettled):
        stage(source_fd, folder_fd)
    assert not (tmp_path / "target").exists()


def test_a_file_that_is_no_longer_the_one_that_was_judged_is_not_taken(
    tmp_path: Path, source_fd: int, folder_fd: int
) -> None:
    origin = files.origin_of(b"source", os.fstat(source_fd))
    os.utime(tmp_path / "source", ns=(1, 1))
    with pytest.raises(Unsettled):
        files.link_or_copy(source_fd, folder_fd, "target", may_link=False, size_limit=10**9, origin=origin)


def test_a_sparse_terabyte_is_refused_before_it_is_read(tmp_path: Path, folder_fd: int) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    descriptor = os.open(tmp_path / "sparse", os.O_RDONLY)
    try:
        with pytest.raises(Quarantined, match="1099511627776"):
            stage(descriptor, folder_fd, size_limit=4 * 2**30)
    finally:
        os.close(descriptor)


def test_nothing_is_left_behind_when_the_disk_refuses(
    tmp_path: Path, source_fd: int, folder_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        stage(source_fd, folder_fd)
    with pytest.raises(OSError, match="No space"):
        files.write_bytes(b"payload", folder_fd, "target")
    assert not (tmp_path / "target").exists()


def test_an_original_whose_fsync_failed_is_never_linked_again_whatever_a_later_one_says(
    tmp_path: Path, source_fd: int, folder_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.fstat(source_fd).st_ino
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == original:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        assert not stage(source_fd, folder_fd, may_link=True).was_linked
    assert (tmp_path / "target").stat().st_ino != original
    (tmp_path / "target").unlink()
    assert not stage(source_fd, folder_fd, may_link=True).was_linked, "pages that failed once are marked clean"
    assert os.fstat(source_fd).st_nlink == 1


def test_bytes_are_written_with_both_hashes_and_never_over_something(tmp_path: Path, folder_fd: int) -> None:
    staged = files.write_bytes(b"payload", folder_fd, "target")
    assert (tmp_path / "target").read_bytes() == b"payload"
    assert staged.sha256 == hashlib.sha256(b"payload").hexdigest()
    assert staged.md5 == hashlib.md5(b"payload").hexdigest()
    with pytest.raises(FileExistsError):
        files.write_bytes(b"other", folder_fd, "target")
    assert (tmp_path / "target").read_bytes() == b"payload"


# --- opening


def test_no_component_may_be_a_symbolic_link(tmp_path: Path, folder_fd: int) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "last").symlink_to("real/file")
    os.close(files.open_safely(folder_fd, b"real/file"))
    for path in (b"link/file", b"last"):
        with pytest.raises(OSError, match=r"symbolic|Not a directory"):
            files.open_safely(folder_fd, path)


@pytest.mark.parametrize("path", [b"../x", b"/etc/passwd", b"a/../b", b"", b".", b"a//b", b"a/"])
def test_only_plain_relative_paths_are_opened(folder_fd: int, path: bytes) -> None:
    with pytest.raises(OSError, match="not a plain relative path"):
        files.open_safely(folder_fd, path)


def test_a_pipe_is_not_waited_for(tmp_path: Path, folder_fd: int) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.close(files.open_safely(folder_fd, b"pipe"))


def test_opening_leaves_no_descriptor_behind(tmp_path: Path, folder_fd: int) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    for path in (b"a/b/c/none", b"a/none/c", b"none"):
        with pytest.raises(FileNotFoundError):
            files.open_safely(folder_fd, path)
    assert len(os.listdir("/proc/self/fd")) == before


# --- leases


def test_a_file_open_for_writing_is_seen(tmp_path: Path, source_fd: int) -> None:
    with (tmp_path / "source").open("r+b"):
        assert files.hold_lease(source_fd) is False
    assert files.hold_lease(source_fd) is True
    assert files.lease_is_whole(source_fd)


def test_a_writer_waits_until_the_lease_is_released_and_nobody_is_killed(tmp_path: Path, source_fd: int) -> None:
    assert files.hold_lease(source_fd) is True
    code = f"open({str(tmp_path / 'source')!r}, 'r+b').write(b'new')"
    writer = subprocess.Popen([sys.executable, "-c", code])
    while files.lease_is_whole(source_fd):
        assert writer.poll() is None
    files.release_lease(source_fd)
    assert writer.wait(20) == 0
    assert signal.getsignal(signal.SIGIO) == signal.SIG_DFL
    assert os.pread(source_fd, 3, 0) == b"new"


# --- names


def test_names_that_are_safe_stay_as_they_are() -> None:
    for name in ("a.jpg", "IMG_0001.JPG", "20260131T120000.mp4", "x"):
        assert files.safe_name(name, "id1") == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo 1.jpg", "photo-1-id1.jpg"),
        ("Ærø café.jpeg", "r-cafe-id1.jpeg"),
        ("../../etc/passwd", "etc-passwd-id1"),
        ("-rf", "rf-id1"),
        (".hidden.png", "hidden-id1.png"),
        ("$(id).jpg", "id-id1.jpg"),
        ("名前.mp4", "id1.mp4"),
        ("", "id1"),
        ("a..jpg", "a-id1.jpg"),
    ],
)
def test_other_names_become_a_slug_with_the_id(name: str, safe: str) -> None:
    assert files.safe_name(name, "id1") == safe


@given(st.text(max_size=400), st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=16, max_size=26))
def test_every_name_becomes_safe(name: str, item_id: str) -> None:
    safe = files.safe_name(name, item_id)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}", safe)
    assert ".." not in safe
    assert files.safe_name(safe, item_id) == safe
    assert safe == name or item_id in safe


@given(st.binary(max_size=255))
def test_raw_names_become_text_that_any_encoder_takes_and_that_differs_when_they_do(raw: bytes) -> None:
    text = files.text_of(raw)
    text.encode("utf-8")
    assert files.text_of(raw + b"\xff") != text


@given(st.text(max_size=500) | st.binary(max_size=500))
def test_what_is_printed_is_one_line_without_control_characters(name: str | bytes) -> None:
    shown = files.printable(name)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_escapes_and_bidirectional_marks_are_shown_not_sent() -> None:
    assert files.printable("a\x1b[31m\n\u202egpj.exe") == "a\\x1b[31m\\n\\u202egpj.exe"
    assert files.printable(b"caf\xe9.jpg") == "caf\\xe9.jpg"
    assert files.printable("Ærø.jpg") == "Ærø.jpg"
