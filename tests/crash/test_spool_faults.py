"""A disk that fails under the spool: once at any call, and from some moment on for good.

strace makes the calls fail as the kernel would. A life that tries again what was refused must reach its end, and what
it was promised must be there; a disk that stays full must end in refusals, not in a hang or in a lie.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.crash.spool_judge import Lived, begin_anew, judge, live, template

ONCE = (
    ("fsync", "EIO", 1),
    ("fdatasync", "EIO", 2),
    ("fdatasync", "ENOSPC", 5),
    ("pwrite64", "ENOSPC", 11),
    ("pwrite64", "EIO", 17),
    ("renameat", "ENOSPC", 1),
    ("linkat", "EIO", 1),
    ("unlink", "EIO", 1),
    ("ftruncate", "EIO", 1),
)
"""(call, error, step between the calls that are made to fail)."""


async def failing_lives(work: Path, call: str, error: str, step: int) -> list[tuple[int, Lived, list[str]]]:
    start = await template(work / "template")
    most = (await asyncio.to_thread(live, begin_anew(start, work / "life"), count=call)).calls[call]
    found = []
    for number in range(1, most + 1, step):
        place = begin_anew(start, work / "life")
        inject = f"{call}:error={error}:when={number}"
        lived = await asyncio.to_thread(live, place, "--stubborn", inject=inject)
        found.append((number, lived, await judge(start, place, lived.said)))
    return found


@pytest.mark.parametrize(("call", "error", "step"), ONCE)
async def test_a_call_that_fails_once_costs_no_promise_and_what_is_tried_again_works(
    tmp_path: Path, call: str, error: str, step: int
) -> None:
    lives = await failing_lives(tmp_path, call, error, step)
    assert lives, f"no life calls {call}: the test tests nothing"
    for number, lived, wrong in lives:
        assert wrong == [], f"{call} number {number}"
        assert lived.code == 0, f"{call} number {number}: {lived.errors[-2000:]}"
        assert lived.said[-1]["what"] == "closed", f"{call} number {number}: {lived.said[-1]}"


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
async def test_an_error_of_a_commit_reaches_those_who_wait_for_it(tmp_path: Path, call: str) -> None:
    lives = await failing_lives(tmp_path, call, "EIO", 7)
    assert sum(any(one["what"] == "refused" for one in lived.said) for _, lived, _ in lives) >= 1


@pytest.mark.parametrize(
    ("inject", "words"), [("pwrite64:error=ENOSPC:when=40+", "full"), ("fsync:error=EIO:when=2+", "")]
)
async def test_a_disk_that_stays_broken_ends_in_refusals_and_keeps_what_was_promised(
    tmp_path: Path, inject: str, words: str
) -> None:
    start = await template(tmp_path / "template")
    place = begin_anew(start, tmp_path / "life")
    lived = await asyncio.to_thread(live, place, "--stubborn", inject=inject)
    assert lived.code == 1
    refusals = [one["why"] for one in lived.said if one["what"] == "refused"]
    assert len(refusals) >= 6
    assert words in refusals[-1]
    assert await judge(start, place, lived.said) == []
