"""The storm: hundreds of files, dozens of SIGKILLs, lost answers, refusals, expired slots and a captive portal.

Nothing may be lost, altered, stored in part, or stored under a second key. The controls show that it would be seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.model import State
from tests.crash.rig import Rig, Toll, picture
from tests.daemon.running import wait_for

FILES = 220
KILLS = 44
WEATHER = "store%5 lose; slot%5 lose; token%5 lose; resolve%5 lose; any%3 status 500; slot%5 expired -5"
PORTAL = "any portal"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.stop()


def storm(rig: Rig, *, files: int, kills: int, seed: int) -> Toll:
    """Play it, let the sky clear, and count."""
    chance = random.Random(seed)
    rig.start_sandbox(WEATHER)
    for number in range(kills):
        rig.spawn()
        _drop_some(rig, chance, files * number // kills, files * (number + 1) // kills)
        if number == kills // 2:
            rig.script(PORTAL)
        if number == kills // 2 + 3:
            rig.script(WEATHER)
        rig.let_relay_run(chance.uniform(0.3, 2.2))
        rig.kill_relay()
    rig.script("any%5 lose")
    rig.spawn()
    wait_for(rig.has_arrived, "everything arrived after the storm")
    return rig.toll()


def _drop_some(rig: Rig, chance: random.Random, first: int, end: int) -> None:
    for number in range(first, end):
        size = chance.choice((2_000, 30_000, 30_000, 200_000, 200_000, 3_000_000))
        rig.drop_file(f"shot-{number:04d}.jpg", picture(chance, size))


@pytest.mark.timeout(400)
def test_two_hundred_files_and_forty_kills_lose_alter_and_duplicate_nothing(rig: Rig) -> None:
    toll = storm(rig, files=FILES, kills=KILLS, seed=417)
    assert len(rig.dropped) == FILES
    assert toll.is_clean, f"{toll}\n{rig.tail()}"
    status = rig.status()
    assert status is not None
    spool = status["spool"]
    assert spool["items"] == FILES
    assert spool["items"] == sum(spool[state] for state in State)


@pytest.mark.timeout(600)
def test_the_storm_sees_a_relay_that_unlinks_before_the_commit(tmp_path: Path) -> None:
    rig = Rig(tmp_path, entry=("-m", "tests.crash.sabotage", "unlink-before-commit"))
    try:
        rig.start_sandbox()
        chance = random.Random(7)
        for number in range(12):
            rig.spawn()
            _drop_some(rig, chance, number * 20, number * 20 + 20)
            wait_for(lambda: not list(rig.drop.glob("shot-*19.jpg")), "the relay has begun to take files")
            rig.kill_relay()
        rig.spawn()
        wait_for(rig.is_idle, "the relay has nothing more to do")
        assert rig.toll().lost, "a sabotaged relay lost nothing: this storm proves nothing"
    finally:
        rig.stop()


@pytest.mark.timeout(600)
def test_the_storm_sees_a_relay_that_stores_no_steps(tmp_path: Path) -> None:
    rig = Rig(tmp_path, entry=("-m", "tests.crash.sabotage", "no-step-store"))
    try:
        rig.start_sandbox("store%40 lose")
        rig.spawn()
        _drop_some(rig, random.Random(7), 0, 20)
        wait_for(rig.has_arrived, "everything arrived")
        assert rig.toll().duplicates, "a sabotaged relay duplicated nothing: this storm proves nothing"
    finally:
        rig.stop()
