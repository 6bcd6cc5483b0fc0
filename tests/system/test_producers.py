"""What real programs write into a drop folder arrives: each file once, whole, under its last name, with its time, and
no program sees an error. The relay is another user than the writer, with the right to take leases and without it.
"""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import RunningRelay, wait_for
from tests.system.processes import installed
from tests.system.producers import PRODUCERS, WRITER, Expected, Place, digest, make_media

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

CONFIG = """
[device]
id = "t"
[spool]
path = "{spool}"
min_free = "1MB"
min_free_percent = 0
[source.drop]
type = "folder"
path = "{drop}"
recursive = true
[destination.disk]
type = "folder"
path = "{out}"
min_free = "1MB"
[[rule]]
name = "all"
from = ["drop"]
deliver = [ {{ to = "disk", path = "{{{{ item.id }}}}" }} ]
"""
RIGHTS = {"with CAP_LEASE": "-all,+lease", "without it": "-all"}
"""What is left to the relay's user 0: files of others are as foreign to it as to any other user."""
SETTLED_SECONDS = 90.0


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """A folder that other users may enter."""
    assert os.geteuid() == 0, "writer and relay are different users: sudo make system"
    installed("system")
    folder = Path(tempfile.mkdtemp(prefix="relayd-producers-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def media(ground: Path) -> dict[str, Path]:
    return make_media(ground / "media")


def relay_in(folder: Path, rights: str) -> RunningRelay:
    """Running as a user that owns nothing in the drop folder."""
    relay = RunningRelay(folder)
    out = folder / "out"
    out.mkdir()
    relay.config.write_text(CONFIG.format(spool=relay.spool, drop=relay.drop, out=out))
    os.chown(relay.drop, WRITER, WRITER)
    subprocess.run(["setfacl", "-m", "u:0:rwx,d:u:0:rwx", relay.drop], check=True)  # as `relayd setup` does
    relay.start(("setpriv", f"--bounding-set={RIGHTS[rights]}"))
    return relay


def left_in(drop: Path) -> list[str]:
    """All but folders and links: a recorder's link to its newest picture is its own."""
    return sorted(str(path.relative_to(drop)) for path in drop.rglob("*") if path.is_file() and not path.is_symlink())


def items_of(relay: RunningRelay) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = relay.json("items", "--limit", "1000")["items"]
    return found


def seconds_of(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("rights", list(RIGHTS))
@pytest.mark.parametrize("producer", list(PRODUCERS))
def test_what_it_writes_arrives_once_whole_under_its_last_name_with_its_time_and_it_sees_no_error(
    producer: str, rights: str, ground: Path, media: dict[str, Path]
) -> None:
    folder = Path(tempfile.mkdtemp(dir=ground))
    folder.chmod(0o755)
    work = folder / "work"
    work.mkdir()
    os.chown(work, WRITER, WRITER)
    relay = relay_in(folder, rights)
    try:
        expected = PRODUCERS[producer](Place(drop=relay.drop, work=work, media=media))
        wait_for(lambda: not left_in(relay.drop), f"nothing is left: {left_in(relay.drop)}", SETTLED_SECONDS)
        wait_for(lambda: relay.json("status")["spool"]["pending"] == 0, "nothing is owed", SETTLED_SECONDS)
        assert relay.json("status")["sources"]["drop"]["state"] == "ok"
        judge(items_of(relay), expected, folder / "out")
    finally:
        relay.end()


def judge(items: list[dict[str, Any]], expected: dict[str, Expected], out: Path) -> None:
    """Nothing twice, nothing in parts, nothing under another name or with another time; by the copies themselves."""
    sent = {item["id"]: digest(out / item["id"]) if item["state"] == "delivered" else "" for item in items}
    found = sorted((item["name"], sent[item["id"]], item["state"]) for item in items)
    wanted = sorted((name.rpartition("/")[2], one.sha256, "delivered") for name, one in expected.items())
    assert found == wanted
    assert len(list(out.iterdir())) == len(expected)
    times = {one.sha256: one.captured_at for one in expected.values()}
    wrong = [
        (item["name"], item["captured_at"])
        for item in items
        if (at := times[sent[item["id"]]]) is not None and abs(seconds_of(item["captured_at"]) - at) > 2
    ]
    assert wrong == []
