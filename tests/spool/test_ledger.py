"""What folder sources have the spool remember."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from relayd.model import Origin
from relayd.spool import Spool
from tests.spool.rig import NOW, camera_file, config, opened, order, origin_of


def origin(path: bytes) -> Origin:
    return Origin(path=path, device=1, inode=2, size_bytes=3, mtime_ns=4)


async def all_paths(spool: Spool, source: str = "cam") -> list[bytes]:
    return [known.origin.path for known in await spool.known(source, b"", 1000)]


async def test_known_files_come_in_pages_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    paths = [b"a", b"a/b", b"a0", b"\xff", b"B", "æ".encode(), b"b" * 255]
    async with opened(config(tmp_path)) as spool:
        for path in paths:
            await spool.quarantine("cam", origin(path), "reason")
        await spool.quarantine("other", origin(b"a"), "reason")
        found: list[bytes] = []
        while page := await spool.known("cam", found[-1] if found else b"", 2):
            found += [known.origin.path for known in page]
        assert found == sorted(paths)


async def test_a_quarantined_file_is_remembered_with_its_reason(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        await spool.quarantine("cam", origin(b"bad.jpg"), "zero length")
        await spool.quarantine("cam", origin(b"bad.jpg"), "cut off")
    async with opened(settings) as spool:
        (known,) = await spool.known("cam", b"", 10)
        assert (known.item_id, known.reason) == (None, "cut off")
        assert spool.counters.sources["cam"].quarantined == 1
        (listed,) = await spool.quarantined(None, 10)
        assert (listed.source, listed.path, listed.reason) == ("cam", b"bad.jpg", "cut off")
        assert await spool.quarantined("other", 10) == []


async def test_a_forgotten_file_is_gone_at_the_latest_after_closing(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        await spool.quarantine("cam", origin(b"a"), "reason")
        await spool.quarantine("cam", origin(b"b"), "reason")
        spool.forget("cam", [b"a", b"never seen"])
    async with opened(settings) as spool:
        assert await all_paths(spool) == [b"b"]
        assert spool.counters.sources["cam"].quarantined == 1


async def test_forgetting_goes_along_with_the_next_commit(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        await spool.quarantine("cam", origin(b"a"), "reason")
        spool.forget("cam", [b"a"])
        await spool.quarantine("cam", origin(b"b"), "reason")
        assert await all_paths(spool) == [b"b"]


async def test_a_file_that_was_mended_leaves_quarantine_when_it_is_taken(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path)) as spool:
        await spool.quarantine("cam", dataclasses.replace(origin_of(picture), size_bytes=0), "zero length")
        with camera_file(picture) as capture:
            item = await spool.put(capture, [order()], now=NOW)
        (known,) = await spool.known("cam", b"", 10)
        assert (known.item_id, known.reason) == (item.id, None)
        assert spool.counters.sources["cam"].quarantined == 0
