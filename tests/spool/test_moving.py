"""`spool move`: the whole spool is in the old folder or in the new one, wherever it is cut off."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd.errors import SpoolError, SpoolLocked
from relayd.spool import check, moving
from tests.spool.rig import adds_up, config, opened
from tests.spool.test_offline import filled

ITEMS = 5
MOST_CALLS = 200


class PowerCut(BaseException):
    pass


async def is_whole(folder: Path) -> bool:
    """Whether it opens, and has everything."""
    if not any((folder / name).exists() for name in ("spool.db", moving.MOVING, moving.FROM, moving.MOVED)):
        return False
    settings = config(folder.parent).model_copy(update={"path": folder})
    try:
        async with opened(settings) as spool:
            found = spool.counters.items == ITEMS
            assert adds_up(spool)
    except SpoolError:
        return False
    return found and check(folder).is_good


async def test_everything_is_in_the_new_folder_and_nothing_in_the_old_one(tmp_path: Path) -> None:
    old = config(tmp_path).path
    await filled(config(tmp_path))
    seen: list[tuple[int, int]] = []
    report = moving.move(old, tmp_path / "new" / "spool", lambda done, total: seen.append((done, total)))
    assert report.is_good
    assert seen[-1][0] == seen[-1][1]
    assert not old.exists()
    assert await is_whole(tmp_path / "new" / "spool")


@pytest.mark.parametrize("kind", ["fsync", "rename", "unlink", "open"])
async def test_cut_off_at_any_step_one_of_both_is_whole_and_a_second_move_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    await filled(config(tmp_path))
    for number in range(1, MOST_CALLS):
        at = tmp_path / str(number)
        old, new = at / "old", at / "new"
        shutil.copytree(config(tmp_path).path, old, ignore=shutil.ignore_patterns("lock"))
        with monkeypatch.context() as patch:
            patch.setattr(os, kind, cut(getattr(os, kind), number))
            try:
                moving.move(old, new)
            except PowerCut:
                was_cut = True
            else:
                was_cut = False
        assert await is_whole(old) != await is_whole(new), f"{kind} {number}"
        if (old / "spool.db").exists() or (old / moving.MOVED).exists():
            moving.move(old, new)
        assert await is_whole(new), f"{kind} {number}"
        shutil.rmtree(at)
        if not was_cut:
            assert number > 1
            return
    raise AssertionError(f"{MOST_CALLS} calls of {kind} were not enough")


def cut(whole: Callable[..., Any], number: int) -> Callable[..., Any]:
    left = number

    def call(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise PowerCut
        return whole(*args, **options)

    return call


async def test_it_refuses_what_would_lose_something(tmp_path: Path) -> None:
    settings = config(tmp_path)
    await filled(settings)
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.jpg").write_bytes(b"mine")
    for target, why in (
        (full, "not empty"),
        (settings.path / "inside", "one in the other"),
        (tmp_path, "one in the other"),
        (settings.path, "already"),
    ):
        with pytest.raises(SpoolError, match=why):
            moving.move(settings.path, target)
    async with opened(settings):
        with pytest.raises(SpoolLocked):
            moving.move(settings.path, tmp_path / "new")
    assert await is_whole(settings.path)


async def test_a_spool_that_took_nothing_yet_makes_room_for_the_one_that_did(tmp_path: Path) -> None:
    await filled(config(tmp_path))
    new = config(tmp_path).model_copy(update={"path": tmp_path / "new"})
    async with opened(new):
        pass
    assert moving.owed(config(tmp_path).path) == 3
    assert moving.owed(new.path) == 0
    moving.move(config(tmp_path).path, new.path)
    assert await is_whole(new.path)
