"""A relay killed at every durable step between taking a file early and letting go of it late.

What lay in the folder when it was killed, or had been let go of, is one item after the next start, whole, delivered,
and gone from the folder. The planted bug, an original that goes before the commit, must be found by the same judge.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path

import pytest

from tests.crash.linger_life import NAME, PART, REST, relaying
from tests.crash.spool_judge import Lived, begin_anew, live
from tests.patience import PATIENT_SECONDS
from tests.sources.test_folder_linger import opened

LIFE = "tests.crash.linger_life"
STEPS = ["held", "corrected", "taken over", "let go", "delivered"]
CALLS = {"fdatasync": 6, "fsync": 2, "renameat": 1, "unlinkat,unlink": 1, "pwrite64": 6}
"""And how many lives at least must end there, so that the steps are really reached."""
EVERY = {"pwrite64": 17}


async def template(work: Path) -> Path:
    (work / "drop").mkdir(parents=True)
    async with opened(work / "spool"):
        return work


async def judge(work: Path) -> list[str]:
    """Start once more; everything that is not as promised, in words."""
    path = work / "drop" / NAME
    wanted = path.read_bytes() if path.exists() else PART + REST
    is_there = path.exists()
    async with relaying(work, "50ms") as spool:
        deadline = time.monotonic() + PATIENT_SECONDS
        while time.monotonic() < deadline:
            rows = await spool.items(limit=10)
            if (rows or not is_there) and not path.exists() and spool.counters.pending == 0:
                break
            await asyncio.sleep(0.02)
        wrong = [f"{NAME} still lies there"] if path.exists() else []
        rows = await spool.items(limit=10)
        if not rows:
            return [*wrong, "it is neither in the folder nor in the spool"]
        if len(rows) > 1:
            wrong.append(f"it became {len(rows)} items")
        for row in rows:
            with spool.open_media(row.item.id) as media:
                content = media.read()
            if content != wanted or hashlib.sha256(content).hexdigest() != row.item.sha256:
                wrong.append(f"an item has {len(content)} bytes of {len(wanted)}")
            if [delivery.state for delivery in row.deliveries] != ["delivered"]:
                wrong.append(f"its deliveries are {[delivery.state for delivery in row.deliveries]}")
    return wrong


async def killed_lives(work: Path, call: str, *options: str) -> tuple[list[Lived], dict[int, list[str]]]:
    """Lives killed at the K-th `call` after the file came, until one is not; and by K what was wrong afterwards."""
    start = await template(work / "template")
    lives, wrong = [], {}
    for number in range(1, 400, EVERY.get(call, 1)):
        place = begin_anew(start, work / "life")
        inject = f"{call}:signal=SIGKILL:when={number}"
        lived = await asyncio.to_thread(live, place, *options, inject=inject, module=LIFE, is_filtered=False)
        if not lived.was_killed:
            break
        lives.append(lived)
        if not (place / "drop" / NAME).exists() and not lived.said and "--unlink-first" not in options:
            continue  # it was killed before its writer began
        found = await judge(place)
        if found:
            wrong[number] = found
    return lives, wrong


async def test_a_life_that_nobody_disturbs_goes_through_every_step(tmp_path: Path) -> None:
    place = await template(tmp_path / "life")
    lived = await asyncio.to_thread(live, place, module=LIFE)
    assert (lived.code, [one["what"] for one in lived.said]) == (0, STEPS), lived.errors
    assert await judge(place) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", CALLS)
async def test_killed_while_it_lingers_nothing_is_lost_and_nothing_doubled(tmp_path: Path, call: str) -> None:
    lives, wrong = await killed_lives(tmp_path, call)
    assert len(lives) >= CALLS[call], f"{len(lives)} lives were killed at {call}: the test tests too little"
    assert wrong == {}


@pytest.mark.timeout(300)
async def test_control_an_original_that_goes_before_the_commit_is_lost(tmp_path: Path) -> None:
    lives, wrong = await killed_lives(tmp_path, "renameat", "--unlink-first")
    assert lives
    assert any("neither in the folder nor in the spool" in line for lines in wrong.values() for line in lines)
