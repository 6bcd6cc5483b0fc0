"""A folder as a destination: whole files only, nothing overwritten, nothing outside, and patience with disks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relayd.destinations.copy import Copy, CopyConfig
from relayd.errors import Rejected, Unavailable
from relayd.model import Kind
from tests.destinations.driver import Line, PowerCut, line

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
    await copying.put(CONTENT, path="gate/clip.jpg")
    assert isinstance(await copying.attempt(), Unavailable | Rejected)
    assert list(outside.iterdir()) == []


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
        patch.setattr(os, "rename", cut)
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
