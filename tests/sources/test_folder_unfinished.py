"""What is cut off for good: taken as it is once it has been quiet for long, marked, or kept where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relayd import clock
from relayd.files import origin_of
from relayd.sources.folder import FolderSource
from relayd.sources.folder_unfinished import MOST_REMEMBERED, Unfinished
from tests.sources.rig import CUT_JPEG, JPEG, Store, config_for, drop, running, until


@pytest.fixture
def cut(folder: Path) -> Path:
    return drop(folder, "crash.jpg", CUT_JPEG)


def left(unfinished: Unfinished, path: Path) -> float:
    found = path.stat()
    seconds = unfinished.left_seconds(origin_of(os.fsencode(path.name), found), found)
    assert seconds is not None
    return seconds


async def test_a_recording_that_is_cut_off_for_good_is_taken_as_it_is_and_marked(folder: Path, store: Store) -> None:
    async with running(FolderSource("cam", config_for(folder, unfinished_after="1500ms"), store), store.put):
        path = drop(folder, "crash.jpg", CUT_JPEG)
        await until(lambda: b"crash.jpg" in store.reasons)
        assert not store.items
        await until(lambda: not path.exists())
    assert store.content(store.items[0]) == CUT_JPEG
    assert store.items[0].damage == "the JPEG is cut off (no end marker)"
    assert not store.reasons


async def test_an_upload_that_goes_on_in_time_is_taken_whole_and_without_a_mark(folder: Path, store: Store) -> None:
    async with running(FolderSource("cam", config_for(folder, unfinished_after="10m"), store), store.put):
        path = drop(folder, "a.jpg", CUT_JPEG)
        await until(lambda: b"a.jpg" in store.reasons)
        path.write_bytes(JPEG)
        await until(lambda: store.items)
    assert (store.items[0].damage, store.content(store.items[0])) == ("", JPEG)


async def test_it_can_be_kept_where_it_is(folder: Path, store: Store) -> None:
    config = config_for(folder, unfinished="keep", unfinished_after="1ms")
    source = FolderSource("cam", config, store)
    async with running(source, store.put):
        path = drop(folder, "crash.jpg", CUT_JPEG)
        await until(lambda: b"crash.jpg" in store.reasons)
        drop(folder, "b.jpg")
        await until(lambda: store.names == ["b.jpg"])
        said = await source.why(str(path)) or ""
    assert 'never as it is, since its source has unfinished = "keep"' in said
    assert path.exists()


async def test_zeros_and_the_answers_of_servers_are_never_taken_as_they_are(folder: Path, store: Store) -> None:
    async with running(FolderSource("cam", config_for(folder, unfinished_after="1ms"), store), store.put):
        paths = [drop(folder, "zeros.mp4", b"\0" * 9000), drop(folder, "page.jpg", b"<html>401</html>")]
        await until(lambda: len(store.reasons) == 2)
        drop(folder, "crash.jpg", CUT_JPEG)
        await until(lambda: store.names == ["crash.jpg"])
    assert all(path.exists() for path in paths)


async def test_why_says_when_it_is_taken_and_how_to_have_it_at_once(folder: Path, store: Store) -> None:
    source = FolderSource("cam", config_for(folder), store)
    async with running(source, store.put):
        path = drop(folder, "crash of 7.jpg", CUT_JPEG)
        await until(lambda: store.reasons)
        said = await source.why(str(path)) or ""
    assert "the JPEG is cut off (no end marker), probably a broken upload" in said
    assert "It is taken as soon as it changes, and as it is in 10 min." in said
    assert f"At once: `relayd send --as-it-is '{path}' --to NAME`" in said


def test_a_restart_does_not_begin_anew(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert left(Unfinished(600), cut) == pytest.approx(600, abs=60)
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 500)
    assert left(Unfinished(600), cut) == pytest.approx(100, abs=60)
    os.utime(cut, (1, 1))  # a time that was set is no time of writing
    assert left(Unfinished(600), cut) == pytest.approx(100, abs=60)


@pytest.mark.parametrize("step_seconds", [86_400, -86_400])
def test_a_clock_that_is_set_shortens_and_lengthens_nothing(
    cut: Path, monkeypatch: pytest.MonkeyPatch, step_seconds: float
) -> None:
    unfinished = Unfinished(600)
    assert left(unfinished, cut) > 500
    now, since = clock.now(), clock.monotonic()
    monkeypatch.setattr(clock, "now", lambda: now + step_seconds)
    assert left(unfinished, cut) == pytest.approx(600, abs=60)
    monkeypatch.setattr(clock, "monotonic", lambda: since + 601)
    assert left(unfinished, cut) <= 0


def test_a_file_of_the_future_waits_no_longer_than_any(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(cut, (clock.now() + 1e6, clock.now() + 1e6))
    unfinished = Unfinished(600)
    assert left(unfinished, cut) <= 600
    since = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: since + 601)
    assert left(unfinished, cut) <= 0


def test_a_change_begins_anew(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = Unfinished(600)
    left(unfinished, cut)
    since = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: since + 601)
    assert left(unfinished, cut) <= 0
    cut.write_bytes(CUT_JPEG[:-10])
    assert left(unfinished, cut) > 500


def test_a_flood_of_cut_files_costs_a_bounded_memory(cut: Path) -> None:
    unfinished, found = Unfinished(600), cut.stat()
    for number in range(MOST_REMEMBERED + 50):
        unfinished.left_seconds(origin_of(b"%d" % number, found), found)
    assert len(unfinished._seen) == MOST_REMEMBERED
