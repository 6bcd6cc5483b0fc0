"""A folder as a destination: whole files only, nothing overwritten, nothing outside, and patience with disks."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.destinations import copy_place
from relayd.destinations.copy import Copy, CopyConfig
from relayd.errors import Unavailable
from relayd.model import Kind, Order, Priority
from tests.destinations.driver import Line, PowerCut, line
from tests.worker.stage import stage

CONTENT = bytes(range(256)) * 3000


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "usb"
    folder.mkdir()
    return folder


@pytest.fixture
async def copying(disk: Path, tmp_path: Path) -> AsyncIterator[Line]:
    config = CopyConfig.model_validate({"type": "folder", "path": disk, "min_free": "0B"})
    async with line(lambda: Copy("usb", config), tmp_path / "spool") as made:
        yield made


def files(disk: Path) -> dict[str, bytes]:
    return {path.relative_to(disk).as_posix(): path.read_bytes() for path in disk.rglob("*") if path.is_file()}


async def test_a_file_is_copied_byte_for_byte_and_the_receipt_says_where(copying: Line, disk: Path) -> None:
    await copying.put(CONTENT, path="2026/gate/clip.jpg")
    receipt = await copying.deliver(tries=1)
    assert files(disk) == {"2026/gate/clip.jpg": CONTENT}
    assert receipt.fields == {"path": str(disk / "2026/gate/clip.jpg")}
    assert "SHA-256" in receipt.proof


async def test_a_rule_that_names_no_path_copies_under_the_name_of_the_file(copying: Line, disk: Path) -> None:
    await copying.put(CONTENT)
    await copying.deliver(tries=1)
    assert files(disk) == {"clip-0001.jpg": CONTENT}


async def test_a_message_is_copied_as_its_payload(copying: Line, disk: Path) -> None:
    await copying.put(b'{"pressed":true}', "panic", "application/json", kind=Kind.MESSAGE, path="panic.json")
    await copying.deliver(tries=1)
    assert files(disk) == {"panic.json": b'{"pressed":true}'}


async def test_what_is_there_already_is_never_overwritten(copying: Line, disk: Path) -> None:
    (disk / "clip.jpg").write_bytes(b"somebody else's")
    item = await copying.put(CONTENT, path="clip.jpg")
    await copying.deliver(tries=1)
    assert files(disk) == {"clip.jpg": b"somebody else's", f"clip-{item.id}.jpg": CONTENT}


async def test_the_copy_of_an_earlier_try_is_found_again_instead_of_made_twice(copying: Line, disk: Path) -> None:
    (disk / "clip.jpg").write_bytes(CONTENT)
    before = (disk / "clip.jpg").stat().st_ino
    await copying.put(CONTENT, path="clip.jpg")
    await copying.deliver(tries=1)
    assert files(disk) == {"clip.jpg": CONTENT}
    assert (disk / "clip.jpg").stat().st_ino == before


@pytest.mark.parametrize("path", ["../../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "..", "\x00\n\x1b[2J", "-rf"])
async def test_no_path_leads_out_of_the_folder_or_makes_a_wild_name(copying: Line, disk: Path, path: str) -> None:
    before = {each for each in disk.parent.iterdir() if each.is_file()}
    await copying.put(CONTENT, path=path)
    await copying.deliver(tries=1)
    (name,) = files(disk)
    assert name.isascii()
    assert name.isprintable()
    assert not name.startswith("-")
    assert {each for each in disk.parent.iterdir() if each.is_file()} == before


async def test_a_link_in_the_folder_is_not_followed(copying: Line, disk: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (disk / "gate").symlink_to(outside)
    item = await copying.put(CONTENT, path="gate/clip.jpg")
    receipt = await copying.deliver(tries=1)
    assert list(outside.iterdir()) == []
    assert receipt.fields == {"path": str(disk / f"gate-{item.id}/clip.jpg")}


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "sparse"])
async def test_whatever_has_the_name_of_a_copy_is_left_alone_and_the_copy_gets_a_neighbour(
    copying: Line, disk: Path, kind: str
) -> None:
    place = disk / "clip.jpg"
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        with place.open("wb") as stream:
            stream.truncate(2**40)  # whoever reads all of it is at it for hours
    before = place.lstat()
    item = await copying.put(CONTENT, path="clip.jpg")
    receipt = await copying.deliver(tries=1)
    assert receipt.fields == {"path": str(disk / f"clip-{item.id}.jpg")}
    assert (disk / f"clip-{item.id}.jpg").read_bytes() == CONTENT
    assert place.lstat() == before


async def test_a_file_in_the_place_of_a_folder_holds_up_neither_its_copy_nor_the_disk(
    copying: Line, disk: Path
) -> None:
    await copying.put(CONTENT, path="x/c")
    below = await copying.put(CONTENT + b"1", path="x/c/d")
    await copying.put(CONTENT + b"2", path="y")
    for _ in range(3):
        await copying.deliver(tries=1)
    assert files(disk) == {"x/c": CONTENT, f"x/c-{below.id}/d": CONTENT + b"1", "y": CONTENT + b"2"}


def _refused(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EPERM, "as FAT says of a link")


def _unknown(*_: Any) -> int:
    ctypes.set_errno(errno.EINVAL)
    return -1


@pytest.mark.parametrize("way", ["rename without replacing", "link", "reservation"])
async def test_two_deliveries_of_one_name_at_once_never_overwrite_each_other(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """By two destinations of one folder, on file systems that know fewer and fewer ways to give a name."""
    if way != "rename without replacing":
        monkeypatch.setattr(copy_place, "_renameat2", _unknown)
    if way == "reservation":
        monkeypatch.setattr(os, "link", _refused)
    config = CopyConfig.model_validate({"type": "folder", "path": disk, "min_free": "0B"})
    contents = {}
    async with stage(tmp_path) as it:
        for number in range(80):
            to = Order(
                destination=f"usb{number % 4 // 2}",
                action="copy",
                priority=Priority.NORMAL,
                rule="test",
                arguments={"path": f"day/{number // 4}.jpg"},
            )
            item = await it.put(f"n{number}", to, size_bytes=1000 + number)
            contents[item.id] = b"x" * (1000 + number)
        for name in ("usb0", "usb1"):
            it.start(Copy(name, config), concurrency=8)
        await it.until(lambda: it.spool.counters.delivered == 80, "all are copied")
        paths = {}
        for item_id in contents:
            detail = await it.spool.item(item_id)
            assert detail is not None
            receipt = detail.deliveries[0].receipt
            assert receipt is not None
            paths[item_id] = Path(str(receipt["path"]))
    assert len(set(paths.values())) == 80
    assert {item_id: path.read_bytes() for item_id, path in paths.items()} == contents
    assert len(files(disk)) == 80


async def test_an_absent_disk_is_waited_for(copying: Line, disk: Path) -> None:
    away = disk.rename(disk.with_name("away"))
    await copying.put(CONTENT, path="clip.jpg")
    outcome = await copying.attempt()
    assert isinstance(outcome, Unavailable)
    assert "plug the disk in" in str(outcome)
    away.rename(disk)
    await copying.deliver(tries=1)
    assert files(disk) == {"clip.jpg": CONTENT}


async def test_a_folder_where_nothing_is_mounted_is_waited_for(disk: Path, tmp_path: Path) -> None:
    config = CopyConfig.model_validate({"type": "folder", "path": disk, "must_be_mounted": True})
    async with line(lambda: Copy("usb", config), tmp_path / "spool") as copying:
        await copying.put(CONTENT, path="clip.jpg")
        outcome = await copying.attempt()
        assert isinstance(outcome, Unavailable)
        assert "nothing is mounted" in str(outcome)
        assert files(disk) == {}


async def test_nothing_is_copied_that_would_fill_the_disk(disk: Path, tmp_path: Path) -> None:
    config = CopyConfig.model_validate({"type": "folder", "path": disk, "min_free": "9999TB"})
    async with line(lambda: Copy("usb", config), tmp_path / "spool") as copying:
        await copying.put(CONTENT, path="clip.jpg")
        outcome = await copying.attempt()
        assert isinstance(outcome, Unavailable)
        assert "make room" in str(outcome)
        findings = await copying.destination.check()
        assert [finding.is_good for finding in findings] == [False]
        assert files(disk) == {}


async def test_a_cut_while_copying_leaves_no_short_file_under_the_name(
    copying: Line, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise PowerCut

    await copying.put(CONTENT, path="clip.jpg")
    with monkeypatch.context() as patch:
        patch.setattr(copy_place, "_renameat2", cut)
        with pytest.raises(PowerCut):
            await copying.attempt()
    assert "clip.jpg" not in files(disk)
    await copying.restart()
    await copying.deliver(tries=1)
    assert files(disk) == {"clip.jpg": CONTENT}


async def test_check_leaves_no_trace(copying: Line, disk: Path) -> None:
    findings = await copying.destination.check()
    assert [finding.is_good for finding in findings] == [True]
    assert list(disk.iterdir()) == []
