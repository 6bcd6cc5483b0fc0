"""What a file system cannot do is said in one sentence, with what to do about it."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest

from relayd.errors import SpoolError
from relayd.spool.abilities import lacks


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_good_disk_lacks_nothing_and_is_left_as_it_was(tmp_path: Path) -> None:
    assert lacks(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_a_folder_in_which_nothing_can_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="nothing can be made in"):
        lacks(tmp_path / "absent")


def only(folder: Path) -> tuple[str, str, bool]:
    (lack,) = lacks(folder)
    assert os.listdir(folder) == []
    return lack.text, lack.remedy, lack.is_grave


def test_rights_that_do_not_last_are_grave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp

    def for_everybody(**options: Any) -> str:
        path = str(make(**options))
        Path(path).chmod(0o777)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", for_everybody)
    text, remedy, is_grave = only(tmp_path)
    assert (
        "others on this machine may read what is stored: the file system keeps no rights (777, asked for 700)" in text
    )
    assert "umask=0077" in remedy
    assert is_grave


def test_a_disk_without_hard_links_copies_which_can_be_lived_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    text, _, is_grave = only(tmp_path)
    assert "no hard links" in text
    assert not is_grave


def test_folders_that_cannot_be_synced_are_grave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", sync)
    text, remedy, is_grave = only(tmp_path)
    assert "a power cut may lose names" in text
    assert "ext4" in remedy
    assert is_grave


def test_names_that_cannot_be_replaced_are_grave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", refuse)
    text, _, is_grave = only(tmp_path)
    assert "take the place of another one (Operation not permitted)" in text
    assert is_grave


@pytest.mark.parametrize("makes_a_file", [False, True])
def test_a_disk_without_sockets_says_where_commands_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makes_a_file: bool
) -> None:
    class Refused(socket.socket):
        def bind(self, address: Any) -> None:
            if not makes_a_file:
                refuse()
            Path(address).touch()

    monkeypatch.setattr(socket, "socket", Refused)
    text, _, is_grave = only(tmp_path)
    assert "commands reach the relay through /run/relayd/relayd.sock" in text
    assert not is_grave
