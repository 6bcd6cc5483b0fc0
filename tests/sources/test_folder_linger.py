"""Take early, let go late: what becomes of a file that was taken while its writer may still want it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from relayd import clock
from relayd.intake import Intake
from relayd.model import Capture, Device, Origin
from relayd.rule_config import RuleConfig
from relayd.rules import compile_rules
from relayd.sources import folder_visit
from relayd.sources.folder import FolderSource
from relayd.sources.folder_config import FolderConfig
from relayd.sources.folder_file import FileDesk, Left
from relayd.sources.folder_findings import findings
from relayd.sources.path_filter import looks_temporary
from relayd.spool import Spool, SpoolConfig
from tests.sources.rig import JPEG, Store, config_for, drop, running, until, watched

LONGER = JPEG[:-2] + b"more of it" * 20 + JPEG[-2:]


def lingering(folder: Path, linger: str = "500ms", **options: object) -> FolderConfig:
    return config_for(folder, linger=linger, **options)


async def test_what_was_taken_stays_until_its_writer_has_left_it_alone(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        drop(folder, "a.jpg")
        await until(lambda: store.names == ["a.jpg"])
        assert os.listdir(folder) == ["a.jpg"]
        assert len(store.holding) == 1
        await until(lambda: not os.listdir(folder))
        await until(lambda: not store.holding)
    assert (store.puts, store.names) == (1, ["a.jpg"])


async def test_without_a_linger_the_original_goes_with_the_commit(folder: Path, store: Store) -> None:
    held = []
    store.after_put = lambda capture: held.append(capture.is_held)
    async with running(FolderSource("cam", lingering(folder, "0s"), store), store.put):
        drop(folder, "a.jpg")
        await until(lambda: not os.listdir(folder))
    assert held == [False]


async def test_a_time_that_is_set_after_the_close_corrects_the_same_item(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        path = drop(folder, "a.jpg")
        await until(lambda: len(store.items) == 1)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        await until(lambda: not os.listdir(folder))
    assert [item.captured_at for item in store.items] == [1_700_000_000]


async def test_a_rename_is_the_same_item_with_its_right_name(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        path = drop(folder, "upload.jpg")
        await until(lambda: len(store.items) == 1)
        path.rename(folder / "front.jpg")
        await until(lambda: not os.listdir(folder))
    assert store.names == ["front.jpg"]


async def test_a_rename_in_the_moment_of_its_removal_is_the_same_item(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = FileDesk.remove_known

    def after_a_rename(desk: FileDesk, origin: Origin) -> Left:
        with suppress(FileNotFoundError):
            (folder / "part-a.jpg").rename(folder / "a.jpg")
        return remove(desk, origin)

    monkeypatch.setattr(FileDesk, "remove_known", after_a_rename)
    async with running(FolderSource("cam", lingering(folder, "100ms"), store), store.put):
        drop(folder, "part-a.jpg")
        await until(lambda: store.items and not os.listdir(folder) and not store.holding)
    assert store.names == ["a.jpg"]


async def test_content_that_goes_on_is_the_same_item_completed(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        path = drop(folder, "a.bin", b"first half" * 100)
        await until(lambda: len(store.items) == 1)
        with path.open("ab") as writer:
            writer.write(b"second half" * 100)
        await until(lambda: not os.listdir(folder))
    assert [store.content(item) for item in store.items] == [b"first half" * 100 + b"second half" * 100]


async def test_content_that_goes_on_and_is_renamed_at_once_is_the_same_item(folder: Path, tmp_path: Path) -> None:
    async with opened(tmp_path / "spool") as (spool, intake):
        source = FolderSource("cam", lingering(folder), spool)
        async with running(source, intake.put):
            await watched(source)
            path = drop(folder, "upload.bin", b"first half" * 100)
            await until(lambda: spool.counters.items == 1)
            with path.open("ab") as writer:
                writer.write(b"second half" * 100)
                path.rename(folder / "right.bin")
            await until(lambda: not os.listdir(folder))
        rows = await spool.items(limit=10)
        assert [(row.item.name, row.item.size_bytes) for row in rows] == [("right.bin", 2100)]


async def test_another_file_under_the_same_name_is_another_item(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        drop(folder, "a.jpg")
        await until(lambda: len(store.items) == 1)
        drop(folder, "b.jpg", LONGER)
        (folder / "b.jpg").rename(folder / "a.jpg")
        await until(lambda: not os.listdir(folder))
    assert sorted(store.content(item) for item in store.items) == sorted([JPEG, LONGER])


async def test_a_writer_who_has_it_open_keeps_it_there(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder, "200ms", rescan="1s"), store)
    async with running(source, store.put):
        await watched(source)
        path = drop(folder, "a.bin", b"first half" * 100)
        await until(lambda: len(store.items) == 1)
        with path.open("ab") as writer:
            taken = source._visit._pickup.linger.at(b"a.bin")  # type: ignore[union-attr]
            assert taken is not None
            due = taken.due
            await until(lambda: taken.due > due)
            assert path.exists()
            writer.write(b"second half" * 100)
        await until(lambda: not os.listdir(folder))
    assert [store.content(item) for item in store.items] == [b"first half" * 100 + b"second half" * 100]


async def test_a_new_mode_or_owner_is_no_writer(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        path = drop(folder, "a.jpg")
        await until(lambda: len(store.items) == 1)
        path.chmod(0o600)
        await until(lambda: not os.listdir(folder))
    assert len(store.items) == 1


async def test_what_is_removed_by_its_writer_is_let_go(folder: Path, store: Store) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        path = drop(folder, "a.jpg")
        await until(lambda: len(store.items) == 1)
        path.unlink()
        await until(lambda: not store.holding)
    assert store.names == ["a.jpg"]


async def test_what_is_old_does_not_linger(folder: Path, store: Store) -> None:
    held: list[bool] = []
    path = drop(folder, "a.jpg")
    age = path.stat().st_ctime

    def is_old(capture: Capture) -> None:
        held.append(capture.is_held)

    store.before_put = is_old
    source = FolderSource("cam", lingering(folder, "50ms", trust_close=False, settle="400ms"), store)
    async with running(source, store.put):
        await until(lambda: not os.listdir(folder))
    assert held == [False]
    assert age > 0


async def test_what_is_renamed_between_commit_and_removal_is_not_taken_twice(folder: Path, store: Store) -> None:
    path = drop(folder, "upload.jpg")

    def rename(capture: Capture) -> None:
        if path.exists():
            path.rename(folder / "right.jpg")

    store.after_put = rename
    source = FolderSource("cam", lingering(folder, "50ms", trust_close=False, settle="400ms"), store)
    async with running(source, store.put):
        await until(lambda: not os.listdir(folder))
    assert len(store.items) == 1


# --- names that look temporary, and what comes again


@pytest.mark.parametrize("name", ["snap.jpg_", "a.mp4.dav_", "q001.jpg.J7AIZ3", "a.mp4.inprogress", "a.jpg-tmp"])
async def test_a_name_that_looks_temporary_is_left_to_its_writer(folder: Path, store: Store, name: str) -> None:
    source = FolderSource("cam", lingering(folder), store)
    async with running(source, store.put):
        await watched(source)
        path = drop(folder, name)
        drop(folder, "last.jpg", LONGER)
        await until(lambda: store.names == ["last.jpg"])
        assert path.exists()
        path.rename(folder / "right.jpg")
        await until(lambda: store.names == ["last.jpg", "right.jpg"])


async def test_a_name_that_looks_temporary_for_long_is_taken_and_said(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folder_visit, "TEMPORARY_SECONDS", 0.5)
    async with running(FolderSource("cam", lingering(folder), store), store.put):
        drop(folder, "snap.jpg_")
        await until(lambda: store.names == ["snap.jpg_"])
    assert "snap.jpg_ is taken under a name that looks temporary" in caplog.text


@pytest.mark.parametrize("name", ["clip.mp4.json", "a.jpg.md5", "a.jpg", "archive.tar.gz", "a.tsv"])
def test_a_name_beside_another_is_no_temporary_one(name: str) -> None:
    assert not looks_temporary(name.encode())


@pytest.mark.parametrize(("same_again", "items"), [("1d", 1), ("0s", 2)])
async def test_what_comes_again_as_it_was_is_the_same_item(
    folder: Path, tmp_path: Path, same_again: str, items: int
) -> None:
    async with opened(tmp_path / "spool") as (spool, intake):
        config = lingering(folder, "50ms", same_again=same_again)
        async with running(FolderSource("cam", config, spool), intake.put):
            for _ in range(2):
                drop(folder, "a.jpg")
                await until(lambda: not os.listdir(folder))
            await until(lambda: spool.counters.items == items)
        assert spool.counters.sources["cam"].repeated == 2 - items


# --- what a check says


def test_a_check_says_that_a_log_becomes_many_items(folder: Path) -> None:
    found = [one for one in findings("cam", config_for(folder, include=["*.log"])) if not one.is_good]
    assert ["many items" in one.text for one in found] == [True]
    assert all(one.is_good for one in findings("cam", config_for(folder, include=["*.log"], trust_close=False)))


def test_a_check_names_the_sub_folder_that_took_its_rights_away_and_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "day one").mkdir()
    real = os.access

    def access(path: str | Path, mode: int, **options: bool) -> bool:  # the tests may run as a user who may do anything
        return "day one" not in str(path) and real(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    found = [one for one in findings("cam", config_for(folder, recursive=True)) if not one.is_good]
    assert [one.text for one in found] == [f"the sub-folder {folder}/day one cannot be written"]
    assert found[0].remedy.startswith("setfacl -m u:")
    assert found[0].remedy.endswith(f"'{folder}/day one'")


# --- with the real spool


RULE = {"name": "all", "from": ["cam"], "when": "{condition}", "deliver": [{"to": "site", "action": "send"}]}


@asynccontextmanager
async def opened(folder: Path, condition: str = "true") -> AsyncIterator[tuple[Spool, Intake]]:
    """A spool, and the way into it by one rule."""
    options = {"path": str(folder), "min_free": "0B", "min_free_percent": 0, "min_free_inodes_percent": 0}
    spool = await Spool.open(SpoolConfig.model_validate(options), now=clock.now())
    rules = compile_rules([RuleConfig.model_validate(RULE | {"when": condition})])
    try:
        yield spool, Intake(spool, rules, Device(id="d", name="d"))
    finally:
        await spool.close()


@pytest.mark.parametrize("change", ["nothing", "time", "name", "content"])
async def test_a_restart_while_it_lingers_loses_nothing_and_doubles_nothing(
    folder: Path, tmp_path: Path, change: str
) -> None:
    whole = b"first half" * 1000
    async with opened(tmp_path / "spool") as (spool, intake):
        slow = FolderSource("cam", lingering(folder, "1h"), spool)
        async with running(slow, intake.put):
            await watched(slow)
            path = drop(folder, "a.bin", whole)
            await until(lambda: spool.counters.items == 1)
    if change == "time":
        os.utime(path, (1_700_000_000, 1_700_000_000))
    elif change == "name":
        path.rename(folder / "b.bin")
    elif change == "content":
        whole += b"second half" * 1000
        path.write_bytes(whole)
    async with opened(tmp_path / "spool") as (spool, intake):
        async with running(FolderSource("cam", lingering(folder, "300ms"), spool), intake.put):
            await until(lambda: not os.listdir(folder), "let go")
        rows = await spool.items(limit=10)
    assert [row.item.sha256 for row in rows] == [hashlib.sha256(whole).hexdigest()]
    assert rows[0].item.name == ("b.bin" if change == "name" else "a.bin")
    assert change != "time" or rows[0].item.captured_at == 1_700_000_000


async def test_what_only_its_right_name_is_wanted_for_is_taken_when_it_has_that(folder: Path, tmp_path: Path) -> None:
    async with opened(tmp_path / "spool", "item.name == 'right.bin'") as (spool, intake):
        source = FolderSource("cam", lingering(folder, "1s"), spool)
        async with running(source, intake.put):
            await watched(source)
            path = drop(folder, "wrong.bin", b"content" * 100)
            await until(lambda: source.view().last_at is not None)
            path.rename(folder / "right.bin")
            await until(lambda: spool.counters.items == 1, "taken")
            await until(lambda: not os.listdir(folder), "let go")
