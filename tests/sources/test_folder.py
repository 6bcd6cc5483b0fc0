"""The folder source at work: when a file is taken, when not, and what happens to it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest

from relayd.model import Capture
from relayd.sources.folder import FolderSource
from tests.sources.rig import CUT_JPEG, JPEG, Store, config_for, drop, known, running, until, watched

MEDIA = Path(__file__).parent.parent / "media"


async def test_a_file_is_taken_the_moment_its_writer_closes_it(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, settle="1h", rescan="1h"), store)
    async with running(source, store.put):
        await watched(source)
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"])
        await until(lambda: not os.listdir(folder))
    item = store.items[0]
    assert store.content(item) == JPEG
    assert item.sha256 == hashlib.sha256(JPEG).hexdigest()
    assert item.content_type == "image/jpeg"


async def test_files_that_are_there_at_the_start_are_taken_oldest_first(folder: Path, store: Store) -> None:
    for age in (3, 9, 1, 5):
        os.utime(drop(folder, f"{age}.jpg"), (10_000 - age, 10_000 - age))
    source = FolderSource("cam", config_for(folder, concurrency=1), store)
    async with running(source, store.put):
        await until(lambda: len(store.items) == 4)
    assert store.names == ["9.jpg", "5.jpg", "3.jpg", "1.jpg"]


async def test_a_file_that_is_still_open_is_left_alone_until_it_is_closed(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, rescan="1s", settle="50ms"), store)
    with (folder / "a.jpg").open("wb") as writer:
        writer.write(JPEG)
        writer.flush()
        async with running(source, store.put):
            await watched(source)
            await until(lambda: source._visit is not None and source._visit.reason_for(b"a.jpg"))
            assert "open for writing" in (await source.why(str(folder / "a.jpg")) or "")
            assert not store.puts
            writer.close()
            await until(lambda: store.names == ["a.jpg"])


async def test_a_file_that_is_moved_in_is_taken(folder: Path, store: Store, tmp_path: Path) -> None:
    source = FolderSource("cam", config_for(folder, rescan="1h"), store)
    async with running(source, store.put):
        await watched(source)
        drop(folder, "a.jpg.part")
        (folder / "a.jpg.part").rename(folder / "a.jpg")
        drop(tmp_path, "b.jpg").rename(folder / "b.jpg")
        await until(lambda: sorted(store.names) == ["a.jpg", "b.jpg"])


@pytest.mark.parametrize("name", ["a.jpg.part", ".a.jpg", "a.tmp", "a.jpg~", "a.crdownload", "a.partial"])
async def test_a_temporary_name_is_never_taken(folder: Path, store: Store, name: str) -> None:
    drop(folder, name)
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        drop(folder, "last.jpg")
        await until(lambda: store.names == ["last.jpg"])
        assert "never taken" in (await source.why(str(folder / name)) or "")
    assert os.listdir(folder) == [name]


async def test_only_included_files_are_taken(folder: Path, store: Store) -> None:
    for name in ("a.JPG", "b.txt", "c_thumb.jpg"):
        drop(folder, name)
    source = FolderSource("cam", config_for(folder, include=["*.jpg"], exclude=["*_thumb.*"]), store)
    async with running(source, store.put):
        await until(lambda: store.names == ["a.JPG"])
        assert "include" in (await source.why(str(folder / "b.txt")) or "")
    assert sorted(os.listdir(folder)) == ["b.txt", "c_thumb.jpg"]


async def test_a_zero_byte_file_is_never_taken_and_is_looked_at_again_when_it_grows(folder: Path, store: Store) -> None:
    drop(folder, "a.jpg", b"")
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await until(lambda: b"a.jpg" in store.reasons)
        assert "empty" in store.reasons[b"a.jpg"]
        assert not store.puts
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"])
        await until(lambda: not store.reasons)


async def test_a_cut_upload_goes_to_quarantine_and_stays_until_it_is_replaced(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await watched(source)
        drop(folder, "a.jpg", CUT_JPEG)
        drop(folder, "b.mp4", (MEDIA / "clip.mp4").read_bytes()[:-500])
        drop(folder, "c.png", (MEDIA / "frame.png").read_bytes()[:-5])
        await until(lambda: len(store.reasons) == 3)
        assert "cut off" in (await source.why(str(folder / "a.jpg")) or "")
        assert sorted(os.listdir(folder)) == ["a.jpg", "b.mp4", "c.png"]
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"])


async def test_a_writer_that_pauses_is_not_punished(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, settle="400ms"), store)
    async with running(source, store.put):
        await watched(source)
        with (folder / "a.jpg").open("wb") as file:
            file.write(CUT_JPEG)
        await until(lambda: source._visit is not None and source._visit.reason_for(b"a.jpg"))
        with (folder / "a.jpg").open("ab") as file:
            file.write(JPEG[len(CUT_JPEG) :])
        await until(lambda: store.names == ["a.jpg"])
    assert store.content(store.items[0]) == JPEG
    assert not store.reasons


async def test_quarantine_survives_a_restart_and_is_forgotten_with_its_file(folder: Path, store: Store) -> None:
    drop(folder, "a.jpg", CUT_JPEG)
    for _ in range(2):
        source = FolderSource("cam", config_for(folder), store)
        async with running(source, store.put):
            await until(lambda: b"a.jpg" in store.reasons)
            drop(folder, "b.jpg")
            await until(lambda: "b.jpg" in store.names)
            store.items.clear()
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await watched(source)
        (folder / "a.jpg").unlink()
        await until(lambda: not store.rows)


async def test_what_was_taken_before_a_crash_is_removed_and_not_taken_twice(folder: Path, store: Store) -> None:
    drop(folder, "a.jpg")
    source = FolderSource("cam", config_for(folder), store)

    def crash(capture: Capture) -> None:
        raise RuntimeError("power cut after the commit")

    store.after_put = crash
    with pytest.raises(ExceptionGroup):
        await source.run(store.put)
    assert os.listdir(folder) == ["a.jpg"]
    assert len(store.items) == 1
    store.after_put = None
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: not os.listdir(folder))
        await until(lambda: not store.rows)
    assert store.puts == 1


async def test_a_file_rewritten_after_a_crash_is_taken_as_a_new_one(folder: Path, store: Store) -> None:
    drop(folder, "a.jpg")

    def crash(capture: Capture) -> None:
        raise RuntimeError("power cut after the commit")

    store.after_put = crash
    with pytest.raises(ExceptionGroup):
        await FolderSource("cam", config_for(folder), store).run(store.put)
    store.after_put = None
    drop(folder, "a.jpg", JPEG + b"\0")  # in place: the same inode that the store shares
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: len(store.items) == 2 and not os.listdir(folder))
    assert store.content(store.items[1]) == JPEG + b"\0"


async def test_without_the_right_to_remove_nothing_is_taken_twice_and_the_fault_says_what_to_do(
    without_rights: Path,
) -> None:
    folder, place = without_rights / "drop", without_rights / "store"
    folder.mkdir()
    place.mkdir()
    store = Store(place)
    drop(folder, "a.jpg")
    folder.chmod(0o555)
    source = FolderSource("cam", config_for(folder), store)
    for _ in range(2):
        async with running(source, store.put):
            await until(lambda: "write permission" in source.view().reason)
            await until(lambda: known(source) == 1)
    assert source.view().state == "fault"
    assert store.puts == 1
    folder.chmod(0o755)
    async with running(source, store.put):
        await until(lambda: not os.listdir(folder))
        await until(lambda: source.view().state == "ok")
    assert store.puts == 1


async def test_a_full_spool_keeps_files_in_the_folder_and_takes_them_when_there_is_room(
    folder: Path, store: Store
) -> None:
    store.is_full = True
    for number in range(50):
        drop(folder, f"{number}.jpg")
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await until(lambda: source.view().state == "waiting" and store.puts)
        assert "the spool takes nothing now" in source.view().reason
        assert "until the spool takes files again" in (await source.why(str(folder / "7.jpg")) or "")
        assert len(os.listdir(folder)) == 50
        puts = store.puts
        assert puts <= 20
        store.is_full = False
        await until(lambda: len(store.items) == 50 and not os.listdir(folder))
        assert source.view().state == "ok"


async def test_several_files_are_put_at_once_but_not_more_than_configured(folder: Path, store: Store) -> None:
    store.gate = asyncio.Event()
    for number in range(20):
        drop(folder, f"{number}.jpg")
    async with running(FolderSource("cam", config_for(folder, concurrency=7), store), store.put):
        await until(lambda: len(store.items) == 7)
        assert store.puts == 7
        store.gate.set()
        await until(lambda: len(store.items) == 20)


async def test_when_told_to_stop_what_was_begun_is_ended(folder: Path, store: Store) -> None:
    store.gate = asyncio.Event()
    drop(folder, "a.jpg")
    task = asyncio.create_task(FolderSource("cam", config_for(folder), store).run(store.put))
    await until(lambda: len(store.items) == 1)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not os.listdir(folder)


async def test_sub_folders_are_followed_only_if_asked(folder: Path, store: Store) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    drop(folder / "deep" / "er", "a.jpg")
    drop(folder, "b.jpg")
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        await until(lambda: store.names == ["b.jpg"])
        assert "recursive" in (await source.why(str(folder / "deep" / "er" / "a.jpg")) or "")
    async with running(FolderSource("cam", config_for(folder, recursive=True), store), store.put):
        await until(lambda: store.names == ["b.jpg", "a.jpg"])


async def test_new_sub_folders_are_watched_without_a_gap(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, recursive=True, rescan="1h"), store)
    async with running(source, store.put):
        await watched(source)
        for number in range(30):
            sub = folder / f"day{number}" / "gate"
            sub.mkdir(parents=True)
            drop(sub, f"{number}.jpg")
        await until(lambda: len(store.items) == 30)
        await until(lambda: source._visit is not None and not source._visit._wake.is_set())
        drop(folder / "day3" / "gate", "late.jpg")
        await until(lambda: len(store.items) == 31)
        (folder / "day3").rename(folder / "renamed")
        drop(folder / "renamed" / "gate", "later.jpg")
        await until(lambda: len(store.items) == 32)


async def test_attributes_and_the_time_of_capture_come_from_the_path(folder: Path, store: Store) -> None:
    (folder / "gate").mkdir()
    drop(folder / "gate", "20260131T120000Z.jpg")
    os.utime(drop(folder / "gate", "odd.jpg"), (1_000_000, 1_000_000))
    options = {"name_pattern": "{camera}/{time}.jpg", "recursive": True}
    async with running(FolderSource("cam", config_for(folder, **options), store), store.put):
        await until(lambda: len(store.items) == 2)
    by_name = {item.name: item for item in store.items}
    told = by_name["20260131T120000Z.jpg"]
    assert told.attributes == {"camera": "gate", "time": "20260131T120000Z"}
    assert told.captured_at == 1769860800.0
    assert by_name["odd.jpg"].captured_at == 1_000_000


async def test_originals_can_be_kept_and_are_still_taken_once(folder: Path, store: Store) -> None:
    drop(folder, "a.jpg")
    for _ in range(2):
        async with running(FolderSource("cam", config_for(folder, keep_originals=True), store), store.put):
            drop(folder, "b.jpg")
            await until(lambda: "b.jpg" in store.names and "a.jpg" in store.names)
            store.items = [item for item in store.items if item.name == "a.jpg"]
    assert sorted(os.listdir(folder)) == ["a.jpg", "b.jpg"]
    assert store.names == ["a.jpg"]
    assert (store.folder / store.items[0].id).stat().st_nlink == 1


async def test_a_writer_who_closes_and_goes_on_can_be_waited_for(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, trust_close=False, settle="300ms"), store)
    async with running(source, store.put):
        await watched(source)
        for part in (JPEG[:200], JPEG[200:]):
            with (folder / "a.bin").open("ab") as file:
                file.write(part)
            await until(lambda: source._visit is not None and source._visit.reason_for(b"a.bin"))
        await until(lambda: len(store.items) == 1)
    assert store.content(store.items[0]) == JPEG


async def test_a_writer_who_comes_back_during_the_hand_over_alters_nothing_and_loses_nothing(
    folder: Path, store: Store
) -> None:
    camera: list[asyncio.Future[None]] = []

    def rewrite() -> None:
        with (folder / "latest.jpg").open("r+b") as file:
            file.truncate(0)
            file.write(JPEG + b"\0second")

    def come_back(capture: Capture) -> None:
        if camera:
            return
        camera.append(asyncio.get_running_loop().run_in_executor(None, rewrite))
        assert capture.file is not None
        from relayd import files

        deadline = time.monotonic() + 10
        while files.lease_is_whole(capture.file.descriptor) and time.monotonic() < deadline:
            pass

    store.after_put = come_back
    drop(folder, "latest.jpg")
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        await until(lambda: len(store.items) == 2 and not os.listdir(folder))
        await camera[0]
    assert store.content(store.items[0]) == JPEG
    assert store.content(store.items[1]) == JPEG + b"\0second"
    assert store.unshared == [store.items[0].id]


async def test_silence_that_is_too_long_is_a_fault(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder, expect_every="100ms"), store)
    async with running(source, store.put):
        await until(lambda: "expected one every" in source.view().reason)
        assert source.view().state == "fault"
        drop(folder, "a.jpg")
        await until(lambda: source.view().state == "ok")
        assert source.view().last_at is not None


async def test_a_source_says_which_paths_are_its_own(folder: Path, store: Store, tmp_path: Path) -> None:
    source = FolderSource("cam", config_for(folder), store)
    (tmp_path / "alias").symlink_to(folder)
    assert source.path_within(str(folder / "a.jpg")) == b"a.jpg"
    assert source.path_within(str(tmp_path / "alias" / "a.jpg")) == b"a.jpg"
    assert source.path_within(str(folder / ".." / "drop" / "sub" / "a.jpg")) == b"sub/a.jpg"
    assert source.path_within(str(folder)) is None
    assert source.path_within(str(tmp_path / "dropped" / "a.jpg")) is None
    assert await source.why("/etc/passwd") is None


async def test_check_names_what_is_missing_and_what_to_do(without_rights: Path) -> None:
    store = Store(without_rights)
    found = await FolderSource("cam", config_for(without_rights / "none"), store).check()
    assert not found[0].is_good
    assert "does not exist" in found[0].text
    assert "create it" in found[0].remedy
    folder = without_rights / "drop"
    folder.mkdir()
    assert all(finding.is_good for finding in await FolderSource("cam", config_for(folder), store).check())
    folder.chmod(0o555)
    found = await FolderSource("cam", config_for(folder), store).check()
    assert "write permission" in found[0].remedy
    folder.chmod(0)
    assert not (await FolderSource("cam", config_for(folder), store).check())[0].is_good
    mounted = config_for(without_rights / "store", must_be_mounted=True)
    (without_rights / "store").mkdir()
    assert "mounted" in (await FolderSource("cam", mounted, store).check())[0].text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "relative"}, "absolute"),
        ({"name_pattern": "{a}{b}"}, "something between"),
        ({"time_zone": "Mars/Olympus"}, "no time zone"),
        ({"watch": "sometimes"}, "auto"),
        ({"unheard": 1}, "Extra"),
    ],
)
def test_wrong_options_are_refused_in_words(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_for(tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("clip.avi", b"RIFF\x00\x10\x00\x00AVI LIST" + b"frame" * 100, "its length says"),
        ("clip.ts", (b"\x47\x40\x11\x10" + b"p" * 184) * 20 + b"\x47", "its last packet does"),
        ("clip.ts", b"\0" * 200_000, "full of zeros"),
        ("clip.dav", b"\0" * 200_000, "full of zeros"),
        ("snap.jpg", b"401: Unauthorized", 'is text that begins with "401: Unauthorized"'),
    ],
)
async def test_what_is_not_whole_by_its_own_format_stays_where_it_is(
    folder: Path, store: Store, name: str, content: bytes, said: str
) -> None:
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        path = drop(folder, name, content)
        await until(lambda: name.encode() in store.reasons)
        assert said in store.reasons[name.encode()]
    assert path.exists()
    assert not store.items


async def test_a_note_named_like_a_picture_is_taken_as_what_it_is(folder: Path, store: Store) -> None:
    async with running(FolderSource("cam", config_for(folder), store), store.put):
        drop(folder, "note.jpg", b"what the driver saw")
        await until(lambda: store.items)
    assert store.items[0].content_type == "text/plain"
