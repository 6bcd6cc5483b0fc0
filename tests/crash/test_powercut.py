"""The power goes while the spool is at work; and disks that are really full. Needs root for its mounts.

Two planted bugs keep the rig honest: a database with `synchronous=NORMAL` and media without fsync must lose something.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from relayd.errors import SpoolError, SpoolFull
from relayd.model import Item, Kind, Receipt, State
from relayd.spool import Spool, check
from tests.crash.powercut import cut, mounted, new_disk, tmpfs
from tests.crash.spool_judge import REPOSITORY
from tests.spool.rig import NOW, adds_up, begun, config, message, opened, order

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PROMISES = 120
"""After so many promises the power goes."""


async def promised_until_the_cut(work: Path, *options: str) -> tuple[Path, list[dict[str, Any]]]:
    """The disk after the cut, and what had been promised by then."""
    disk = new_disk(work / "disk.img")
    drop = work / "drop"
    drop.mkdir()
    said: list[dict[str, Any]] = []
    with mounted(disk, work / "before") as folder:
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.crash.powercut", str(folder), str(drop), *options),
            cwd=REPOSITORY,
            env=os.environ,
            stdout=asyncio.subprocess.PIPE,
        )
        assert writer.stdout is not None
        while len(said) < PROMISES:
            line = await asyncio.wait_for(writer.stdout.readline(), 30)
            assert line, "the writer died"
            said.append(json.loads(line))
        writer.kill()
        await writer.wait()
        after = cut(disk, work / "after.img")
    return after, said


async def losses(work: Path, after: Path, said: list[dict[str, Any]]) -> list[str]:
    with mounted(after, work / "after") as folder:
        if not (folder / "spool").is_dir():
            return ["the spool"]
        async with opened(config(folder)) as spool:
            await spool.sweep()
            found = [await loss(spool, one) for one in said]
            assert adds_up(spool)
        if not check(folder / "spool").is_good:
            found.append("check finds faults")
        return [line for line in found if line]


async def loss(spool: Spool, one: dict[str, Any]) -> str:
    detail = await spool.item(one.get("id", one.get("item", "")))
    if one["what"] == "opened":
        return ""
    if detail is None:
        return f"{one} is lost"
    if one["what"] == "delivered":
        return "" if detail.state is State.DELIVERED else f"{one} is {detail.state} again"
    if detail.item.payload is not None:
        content = detail.item.payload
    elif detail.has_content:
        with spool.open_media(detail.item.id) as media:
            content = media.read()
    else:
        return "" if detail.state is State.DELIVERED else f"{one} has lost its media"
    return "" if hashlib.sha256(content).hexdigest() == one["sha256"] else f"{one} is altered"


@pytest.mark.parametrize("time", range(3))
async def test_a_power_cut_loses_nothing_that_was_promised(tmp_path: Path, time: int) -> None:
    after, said = await promised_until_the_cut(tmp_path)
    assert await losses(tmp_path, after, said) == []


async def test_control_synchronous_normal_loses_what_was_promised(tmp_path: Path) -> None:
    after, said = await promised_until_the_cut(tmp_path, "--normal")
    assert await losses(tmp_path, after, said) != []


async def test_control_media_without_fsync_is_lost(tmp_path: Path) -> None:
    after, said = await promised_until_the_cut(tmp_path, "--no-fsync")
    assert await losses(tmp_path, after, said) != []


async def test_on_a_disk_that_is_full_to_the_last_block_deliveries_are_still_recorded(tmp_path: Path) -> None:
    with mounted(new_disk(tmp_path / "disk.img"), tmp_path / "disk") as folder:
        async with opened(config(folder)) as spool:
            await spool.evict_if_needed(now=NOW)  # takes hold of the headroom
            items = [await put(spool) for _ in range(20)]
            fill(folder / "others")
            with pytest.raises(SpoolError):
                await put(spool, 3_000_000)
            for _ in items:
                it = await begun(spool)
                await spool.store_step(it.delivery.id, "upload", {"etag": "e" * 100})
                await spool.record_delivered(it.delivery.id, Receipt(proof="p"), now=NOW)
            assert spool.counters.delivered == len(items)
            assert (await put(spool)).size_bytes == 100_000  # the room of what went
        (folder / "others").unlink()
        async with opened(config(folder)) as spool:
            await spool.evict_if_needed(now=NOW)
            assert (folder / "spool" / "headroom").exists()
            await put(spool, 3_000_000)
            assert adds_up(spool)
        assert check(folder / "spool").is_good


async def test_a_full_disk_does_not_stop_the_start(tmp_path: Path) -> None:
    with mounted(new_disk(tmp_path / "disk.img"), tmp_path / "disk") as folder:
        async with opened(config(folder)) as spool:
            await spool.evict_if_needed(now=NOW)
            item = await put(spool)
        fill(folder / "others")
        async with opened(config(folder)) as spool:
            it = await begun(spool)
            assert it.item.id == item.id
            await spool.record_delivered(it.delivery.id, Receipt(proof="p"), now=NOW)


async def test_without_inodes_media_is_refused_in_words_and_messages_still_come_in(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=64M", "nr_inodes=60") as folder:
        async with opened(config(folder, min_free_inodes_percent=5)) as spool:
            tried = await asyncio.gather(*[put(spool) for _ in range(60)], return_exceptions=True)
            assert len([one for one in tried if isinstance(one, Item)]) >= 5
            refused = [one for one in tried if not isinstance(one, Item)]
            assert refused
            assert all(isinstance(one, SpoolFull) for one in refused), refused
            assert "inodes" in await refusal(spool)
            await spool.put(message(), [order("mqtt")], now=NOW)
            await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof="p"), now=NOW)
            await put(spool)


async def test_two_file_systems_are_copied_between(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=64M") as folder:
        async with opened(config(folder)) as spool:
            item = await put(spool)
            with spool.open_media(item.id) as media:
                assert len(media.read()) == item.size_bytes


async def put(spool: Spool, size: int = 100_000) -> Item:
    return await spool.put(message(b"x" * size, kind=Kind.MEDIA), [order()], now=NOW)


async def refusal(spool: Spool) -> str:
    """What the spool says when nothing more goes in; side by side, puts are refused a little earlier."""
    for _ in range(60):
        try:
            await put(spool)
        except SpoolFull as error:
            return str(error)
    pytest.fail("the spool is never full")


def fill(path: Path) -> None:
    """Somebody else takes all that is left, to the last block."""
    with path.open("wb", buffering=0) as other:
        for size in (2**20, 4096, 512):
            try:
                while True:
                    os.write(other.fileno(), b"z" * size)
            except OSError:
                continue
        os.fsync(other.fileno())
