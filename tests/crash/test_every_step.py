"""A kill at every durable step of one item's life: each call that puts something on the disk or takes it away.

strace kills the relay as it enters the K-th such call, for K = 1, 2, … until an item gets through its whole life
unharmed; after each kill a fresh relay has to bring that item home, once.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

DURABLE = {
    "fsync": "fsync",
    "fdatasync": "fdatasync",
    "link": "link,linkat",
    "rename": "rename,renameat,renameat2",
    "unlink": "unlink,unlinkat",
}
MOST_CALLS = 40


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    rig.start_sandbox()
    yield rig
    rig.stop()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", DURABLE)
def test_killed_at_any_durable_step_of_its_life_an_item_still_arrives_once(rig: Rig, kind: str) -> None:
    chance = random.Random(kind)
    for number in range(1, MOST_CALLS):
        name = f"{kind}-{number}.jpg"
        rig.drop_file(name, picture(chance, 20_000))
        if not _is_killed(rig, kind, number, name):
            break
        rig.spawn()
        wait_for(partial(rig.is_stored, name), f"{name} arrived after a kill at {kind} {number}")
        wait_for(partial(rig.is_taken, name), f"{name} is gone from the folder")
        rig.kill_relay()
    else:
        raise AssertionError(f"{MOST_CALLS} calls of {kind} and the item has still not lived through one")
    assert number > 1, f"the relay never calls {kind}: this test proves nothing"
    rig.spawn()
    wait_for(rig.has_arrived, "everything arrived")
    assert rig.toll().is_clean, f"{rig.toll()}\n{rig.tail()}"
    status = rig.status()
    assert status is not None
    assert status["spool"]["items"] == status["spool"]["delivered"] == len(rig.dropped)


def _is_killed(rig: Rig, kind: str, number: int, name: str) -> bool:
    """Run until strace kills the relay, or until the file has lived through its whole life; True if killed."""
    calls = DURABLE[kind]
    relay = rig.spawn(
        (
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"trace={calls}",
            f"--inject={calls}:signal=SIGKILL:when={number}",
        )
    )
    killed = False

    def is_over() -> bool:
        nonlocal killed
        killed = relay.poll() is not None
        return killed or (rig.is_stored(name) and rig.is_idle())

    wait_for(is_over, f"the relay dies at {kind} {number}, or lives through it")
    if not killed:
        (traced,) = Path(f"/proc/{relay.pid}/task/{relay.pid}/children").read_text().split()
        os.kill(int(traced), signal.SIGKILL)
        relay.wait()
    return killed
