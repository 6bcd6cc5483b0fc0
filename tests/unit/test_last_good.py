"""The last good configuration: whole or not at all, and found again wherever the spool is said to be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd import config, last_good


class PowerCut(BaseException):
    pass


def written(folder: Path, spool: str, device: str = "one") -> Path:
    (folder / spool).mkdir(exist_ok=True)
    file = folder / "relayd.toml"
    file.write_text(f'[device]\nid = "{device}"\n[spool]\npath = "{folder / spool}"\n')
    return file


def cut(whole: Callable[..., Any], number: int) -> Callable[..., Any]:
    left = number

    def call(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise PowerCut
        return whole(*args, **options)

    return call


def test_it_is_found_though_the_file_is_broken_and_says_what_ran(tmp_path: Path) -> None:
    file = written(tmp_path, "spool")
    last_good.keep([file], config.load([file]))
    file.write_text("[broken")
    last = last_good.last([file])
    assert last is not None
    assert (last.loaded.config.device.id, last.spool) == ("one", tmp_path / "spool")
    assert last.loaded.files == (file,)


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    file = written(tmp_path, "spool")
    last_good.keep([file], config.load([file]))
    before = [place.stat().st_ino for place in last_good.places([file], tmp_path / "spool")]
    last_good.keep([file], config.load([file]))
    assert [place.stat().st_ino for place in last_good.places([file], tmp_path / "spool")] == before


@pytest.mark.parametrize("kind", ["fsync", "rename", "fchmod"])
def test_cut_off_at_any_step_the_one_before_or_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file = written(tmp_path, "spool")
    last_good.keep([file], config.load([file]))
    for number in range(1, 20):
        written(tmp_path, "spool", f"two-{number}")
        with monkeypatch.context() as patch:
            patch.setattr(os, kind, cut(getattr(os, kind), number))
            try:
                last_good.keep([file], config.load([file]))
            except PowerCut:
                was_cut = True
            else:
                was_cut = False
        last = last_good.last([file])
        assert last is not None
        if not was_cut:
            assert number > 1
            assert last.loaded.config.device.id == f"two-{number}"
            return
    raise AssertionError(f"more calls of {kind} than expected")


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b'{"sha256": "", "last_good": "{}"}', b"[]"])
def test_a_damaged_one_is_none(tmp_path: Path, damage: bytes) -> None:
    file = written(tmp_path, "spool")
    last_good.keep([file], config.load([file]))
    for place in last_good.places([file], tmp_path / "spool"):
        place.write_bytes(damage)
    assert last_good.last([file]) is None
    assert last_good.elsewhere([file], tmp_path / "spool") == {}
