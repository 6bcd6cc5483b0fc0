"""The way in."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from relayd.errors import Quarantined, SpoolError, Unsettled
from relayd.files import hold_lease, release_lease
from relayd.model import Kind, Location, Priority, State
from relayd.spool import Spool
from relayd.spool.rows import LONGEST_TROUBLE, MOST_TROUBLE, is_id, new_id
from tests.spool.rig import NOW, adds_up, camera_file, config, media_names, message, opened, order


async def test_a_file_is_kept_with_its_hashes_and_its_deliveries(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture" * 1000)
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture) as capture:
            item = await spool.put(capture, [order("api"), order("nas", Priority.BULK)], now=NOW)
        detail = await spool.item(item.id)
        assert detail is not None
        assert detail.item == item
        assert (item.sha256, item.md5) == (
            hashlib.sha256(picture.read_bytes()).hexdigest(),
            hashlib.md5(picture.read_bytes(), usedforsecurity=False).hexdigest(),
        )
        assert [one.delivery.destination for one in detail.deliveries] == ["api", "nas"]
        assert detail.priority is Priority.NORMAL
        assert item.origin_path == "a.jpg"
        assert item.attributes == {"camera": "front"}
        with spool.open_media(item.id) as media:
            assert media.read() == picture.read_bytes()


async def test_a_message_lives_in_its_row(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(b'{"pressed": true}'), [order()], now=NOW)
        detail = await spool.item(item.id)
        assert detail is not None
        assert detail.item.payload == b'{"pressed": true}'
        assert media_names(spool.folder) == []


async def test_what_the_rules_could_not_answer_stays_with_the_item_within_bounds(tmp_path: Path) -> None:
    said = ("rule 'panic': its condition cannot be answered", "x" * 5_000, *(str(number) for number in range(50)))
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(), [order()], now=NOW, trouble=said)
        media = await spool.put(message(b"\xff\xd8", kind=Kind.MEDIA), [], now=NOW, trouble=said[:1])
    async with opened(config(tmp_path)) as spool:
        detail, other = await spool.item(item.id), await spool.item(media.id)
        assert detail is not None
        assert other is not None
        assert detail.trouble == (said[0], "x" * LONGEST_TROUBLE, *said[2:MOST_TROUBLE])
        assert other.trouble == said[:1]
        listed = await spool.items(state=None, source=None, destination=None, before=None, limit=10)
        assert [one.trouble for one in listed] == [other.trouble, detail.trouble]


async def test_media_that_came_as_bytes_is_a_file(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        item = await spool.put(message(b"\xff\xd8 picture", kind=Kind.MEDIA), [order()], now=NOW)
        assert media_names(spool.folder) == [item.id]
        assert item.payload is None


async def test_a_message_with_a_file_is_refused_rather_than_stored_empty(tmp_path: Path) -> None:
    picture = tmp_path / "a.json"
    picture.write_bytes(b"{}")
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture) as capture, pytest.raises(ValueError, match="payload"):
            await spool.put(dataclasses.replace(capture, kind=Kind.MESSAGE), [], now=NOW)


async def test_what_is_put_survives_a_reopening(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        item = await spool.put(message(b"x" * 100, kind=Kind.MEDIA), [order()], now=NOW)
        before = spool.counters
    async with opened(settings) as spool:
        detail = await spool.item(item.id)
        assert detail is not None
        assert detail.state is State.PENDING
        after = spool.counters
        assert (after.items, after.pending, after.bytes) == (before.items, before.pending, before.bytes) == (1, 1, 100)
        assert after.sources == before.sources


async def test_the_same_file_gives_the_same_item(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    settings = config(tmp_path)
    async with opened(settings) as spool:
        with camera_file(picture) as capture:
            first = await spool.put(capture, [order()], now=NOW)
    async with opened(settings) as spool:
        with camera_file(picture) as capture:
            again = await spool.put(capture, [order()], now=NOW + 5)
        assert again == first
        assert spool.counters.items == 1
        assert media_names(spool.folder) == [first.id]


async def test_the_same_file_put_many_times_at_once_is_one_item(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture" * 100)
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture) as capture:
            items = await asyncio.gather(*[spool.put(capture, [order()], now=NOW) for _ in range(8)])
        assert len({item.id for item in items}) == 1
        assert media_names(spool.folder) == [items[0].id]
        assert adds_up(spool)


@pytest.mark.parametrize("change", ["content", "another file of that name"])
async def test_a_changed_file_at_the_same_path_is_a_new_item(tmp_path: Path, change: str) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture) as capture:
            first = await spool.put(capture, [order()], now=NOW)
        if change == "content":
            picture.write_bytes(b"another picture")
        else:
            other = tmp_path / "b.jpg"
            other.write_bytes(b"Picture")
            os.utime(other, ns=(picture.stat().st_mtime_ns, picture.stat().st_mtime_ns))
            other.rename(picture)
        with camera_file(picture) as capture:
            second = await spool.put(capture, [order()], now=NOW)
        assert second.id != first.id
        assert spool.counters.items == 2
        assert await spool.find_by_path("cam", b"a.jpg") == second.id


async def test_the_device_number_is_no_part_of_the_identity_since_it_changes_from_boot_to_boot(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture) as capture:
            first = await spool.put(capture, [order()], now=NOW)
            await spool._write(lambda change: change.db.execute("UPDATE ledger SET device = device + 1").rowcount)
            again = await spool.put(capture, [order()], now=NOW)
        assert again.id == first.id


async def test_a_file_that_is_known_after_its_item_was_purged_is_not_taken_again(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path), collected=["cam"]) as spool:
        with camera_file(picture) as capture:
            first = await spool.put(capture, [], now=NOW)
            assert await spool.expire_unclaimed(now=NOW + 1000, keep_unclaimed=600) == 1
            assert await spool.item(first.id) is None
            again = await spool.put(capture, [order()], now=NOW + 1002)
        assert (again.id, again.sha256) == (first.id, first.sha256)
        assert spool.counters.items == 1
        assert media_names(spool.folder) == []


async def test_a_finished_file_is_linked_and_a_copy_is_made_when_a_writer_comes_back(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture, is_finished=True) as capture:
            assert capture.file is not None
            assert hold_lease(capture.file.descriptor)
            item = await spool.put(capture, [order()], now=NOW)
            release_lease(capture.file.descriptor)
        kept = spool.folder / "media" / item.id[-1] / item.id
        assert kept.stat().st_ino == picture.stat().st_ino
        await spool.unshare(item.id)
        assert kept.stat().st_ino != picture.stat().st_ino
        picture.write_bytes(b"overwritten")
        with spool.open_media(item.id) as media:
            assert media.read() == b"picture"
        await spool.unshare(item.id)


async def test_unsharing_too_late_says_so(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture, is_finished=True) as capture:
            assert capture.file is not None
            assert hold_lease(capture.file.descriptor)
            item = await spool.put(capture, [order()], now=NOW)
            release_lease(capture.file.descriptor)
        picture.open("r+b").close()
        with picture.open("r+b") as writer:
            writer.write(b"PICTURE")
        with pytest.raises(Unsettled, match="after item"):
            await spool.unshare(item.id)
        assert list((spool.folder / "incoming").iterdir()) == []


async def test_a_put_goes_on_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture" * 100_000)
    settings = config(tmp_path)
    async with opened(settings) as spool:
        with camera_file(picture) as capture:
            putting = asyncio.create_task(spool.put(capture, [order()], now=NOW))
            await asyncio.sleep(0)
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting
    async with opened(settings) as spool:
        (known,) = await spool.known("cam", b"", 10)
        assert known.item_id is not None
        with spool.open_media(known.item_id) as media:
            assert media.read() == picture.read_bytes()


async def test_a_file_over_the_limit_is_refused_for_good(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"x" * 2000)
    async with opened(config(tmp_path, max_file_size="1kB")) as spool:
        with camera_file(picture) as capture, pytest.raises(Quarantined, match="max_file_size"):
            await spool.put(capture, [order()], now=NOW)
        assert spool.counters.items == 0


async def test_a_file_that_changed_before_it_was_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"picture")
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture) as capture:
            picture.write_bytes(b"picture picture")
            with pytest.raises(Unsettled):
                await spool.put(capture, [order()], now=NOW)
        assert media_names(spool.folder) == []
        assert list((spool.folder / "incoming").iterdir()) == []
        assert spool.counters.items == 0


async def test_hostile_names_and_strange_times_come_back_as_they_were(tmp_path: Path) -> None:
    name = "a\nb\x1b[31m\x00\u202e'\"{{ 7*7 }}.jpg"
    capture = dataclasses.replace(
        message(b"", kind=Kind.MEDIA),
        name=name,
        captured_at=float("nan"),
        location=Location(latitude=1.0, longitude=2.0, age_seconds=3.0),
        attributes={"k": "\ud7ff\U0001f6a8"},
    )
    async with opened(config(tmp_path), collected=["panic"]) as spool:
        item = await spool.put(capture, [], now=-5e9)
        detail = await spool.item(item.id)
        assert detail is not None
        assert detail.item == item
        assert item.name == name
        assert item.captured_at == item.accepted_at == -5e9
        assert item.location == capture.location


async def test_stored_numbers_of_a_file_may_use_all_64_bits(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"x")
    async with opened(config(tmp_path)) as spool:
        with camera_file(picture) as capture:
            assert capture.file is not None
            odd = dataclasses.replace(capture.file.origin, device=2**64 - 1, inode=2**63, path=b"\xff\xfe")
        await spool.quarantine("cam", odd, "odd")
        (known,) = await spool.known("cam", b"", 10)
        assert known.origin == odd


async def test_more_can_be_ordered_while_the_content_is_kept_and_not_after(tmp_path: Path) -> None:
    async with opened(config(tmp_path), collected=["panic"]) as spool:
        item = await spool.put(message(b"x", kind=Kind.MEDIA), [], now=NOW)
        await spool.add_orders(item.id, [order("api", Priority.HIGH)], now=NOW)
        detail = await spool.item(item.id)
        assert detail is not None
        assert detail.priority is Priority.HIGH
        await spool.drop([item.id], now=NOW)
        with pytest.raises(SpoolError, match="no longer kept"):
            await spool.add_orders(item.id, [order()], now=NOW)
        with pytest.raises(SpoolError, match="no item"):
            await spool.add_orders("nothing", [order()], now=NOW)


async def test_a_staged_file_is_put_by_hand_and_its_name_goes(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        with spool.stage() as stream:
            stream.write(b"by hand")
            staged = Path(str(stream.name))
            with camera_file(staged, source="by hand") as capture:
                item = await spool.put(capture, [order()], now=NOW)
        assert not staged.exists()
        with spool.open_media(item.id) as media:
            assert media.read() == b"by hand"


async def test_workers_are_hinted_after_the_commit(tmp_path: Path) -> None:
    async with opened(config(tmp_path)) as spool:
        hinted: list[tuple[frozenset[str], int]] = []
        spool.subscribe(lambda names: hinted.append((names, spool.counters.pending)))
        await spool.put(message(), [order("api"), order("nas")], now=NOW)
        assert hinted == [(frozenset({"api", "nas"}), 1)]


async def test_ids_sort_by_time_and_do_not_repeat(tmp_path: Path) -> None:
    early, late = new_id(NOW), new_id(NOW + 1)
    assert early < late
    assert len({new_id(NOW) for _ in range(1000)}) == 1000
    assert is_id(early)
    assert is_id(new_id(float("inf")))
    assert not is_id("../../../etc/passwd")


async def test_two_spools_do_not_know_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with opened(config(tmp_path / "a")) as one, opened(config(tmp_path / "b")) as two:
        assert isinstance(one, Spool)
        await one.put(message(), [order()], now=NOW)
        assert two.counters.items == 0
