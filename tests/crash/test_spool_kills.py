"""A spool killed at every call that changes the disk, and what the next one finds.

The life of one spool is run again and again under strace, which kills it just before the K-th call of a kind, for every
K. The planted bug, unlinking the original before the spool has it, must be found by the same judge.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crash.spool_judge import Lived, begin_anew, judge, live, template

CALLS = ("fsync", "fdatasync", "renameat", "linkat", "unlink", "ftruncate", "pwrite64", "write")
EVERY = {"pwrite64": 9, "write": 2}
"""Of the many writes of the database not each, but in steps that hit every part of a commit over the life."""


async def killed_lives(work: Path, call: str, *options: str) -> tuple[list[Lived], dict[int, list[str]]]:
    """Lives killed at the K-th `call`, until one is not; and by K what was wrong afterwards."""
    start = await template(work / "template")
    most = (await asyncio.to_thread(live, begin_anew(start, work / "life"), *options, count=call)).calls[call]
    lives, wrong = [], {}
    for number in range(1, most + 1, EVERY.get(call, 1)):
        place = begin_anew(start, work / "life")
        lived = await asyncio.to_thread(
            live, place, *options, inject=f"{call}:signal=SIGKILL:when={number}", is_filtered=False
        )
        if not lived.was_killed:
            continue
        lives.append(lived)
        found = await judge(start, place, lived.said)
        if found:
            wrong[number] = found
    return lives, wrong


async def test_a_life_that_nobody_disturbs_keeps_every_promise(tmp_path: Path) -> None:
    start = await template(tmp_path / "template")
    place = begin_anew(start, tmp_path / "life")
    lived = await asyncio.to_thread(live, place)
    assert (lived.code, lived.said[-1]["what"]) == (0, "closed"), lived.errors
    assert await judge(start, place, lived.said) == []


@pytest.mark.parametrize("call", CALLS)
async def test_killed_at_any_call_nothing_is_lost_altered_or_taken_twice(tmp_path: Path, call: str) -> None:
    lives, wrong = await killed_lives(tmp_path, call)
    assert lives, f"no life was killed at {call}: the test tests nothing"
    assert wrong == {}


async def test_control_unlinking_before_the_commit_loses_files(tmp_path: Path) -> None:
    lives, wrong = await killed_lives(tmp_path, "renameat", "--unlink-first")
    assert lives
    assert any("neither at its source nor in the spool" in line for lines in wrong.values() for line in lines)
