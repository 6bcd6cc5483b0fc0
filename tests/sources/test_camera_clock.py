"""camera_clock: a camera that is off by whole hours is off every time."""

from __future__ import annotations

import datetime
import zoneinfo
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import clock, incidents
from relayd.clock import Synchronization
from relayd.memory import Notes, Unkept
from relayd.model import Capture, Kind, OpenFile, Origin, TimeFrom
from relayd.sources.camera_clock import CameraClock
from relayd.sources.folder import FolderSource
from relayd.spool import Spool, SpoolConfig
from relayd.surroundings import Surroundings
from tests.sources.rig import Store, config_for, drop, running, until

HOUR = 3600.0
NOW = datetime.datetime(2026, 1, 31, 12, 0, tzinfo=datetime.UTC).timestamp()
COPENHAGEN = zoneinfo.ZoneInfo("Europe/Copenhagen")


class Wall:
    now = NOW
    is_synchronized: bool | None = True


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(clock, "now", lambda: wall.now)
    monkeypatch.setattr(clock, "synchronization", lambda: Synchronization(wall.is_synchronized, None))
    return wall


def camera_clock(memory: Unkept | None = None, time_zone: str = "Europe/Copenhagen") -> CameraClock:
    return CameraClock("cam", memory or Unkept(), time_zone, zoneinfo.ZoneInfo(time_zone))


def capture(
    captured_at: float,
    *,
    written_at: float | None = None,
    time_from: TimeFrom = TimeFrom.PATTERN,
    content_type: str = "image/jpeg",
) -> Capture:
    mtime_ns = round((clock.now() if written_at is None else written_at) * 1e9)
    origin = Origin(path=b"a", device=1, inode=1, size_bytes=1, mtime_ns=mtime_ns)
    file = OpenFile(descriptor=-1, origin=origin, is_finished=False)
    return Capture(
        source="cam",
        name="a",
        kind=Kind.MEDIA,
        content_type=content_type,
        captured_at=captured_at,
        file=file,
        time_from=time_from,
    )


def off_by(
    wall: Wall, camera: CameraClock, off: float, *, every: float = 200.0, count: int = 3, **how: object
) -> float:
    """So many captures in a row; how far the last one is off after the correction."""
    left = off
    for _ in range(count):
        wall.now += every
        left = camera.corrected(capture(wall.now - 5 + off, **how)).captured_at - (wall.now - 5)  # type: ignore[arg-type]
    return left


@pytest.mark.parametrize(
    ("hours", "remedy"),
    [
        (-1.0, 'write time_zone = "UTC"'),
        (1.0, 'time_zone = "Etc/GMT-2"'),
        (-6.0, 'time_zone = "Etc/GMT+5"'),
        (4.5, "the zone of its clock"),
    ],
)
def test_a_clock_that_is_off_by_whole_hours_again_and_again_is_corrected_and_named(
    wall: Wall, hours: float, remedy: str
) -> None:
    camera = camera_clock()
    assert off_by(wall, camera, hours * HOUR, count=2) == pytest.approx(hours * HOUR)
    assert not camera.reason
    assert off_by(wall, camera, hours * HOUR) == pytest.approx(0.0)
    assert "in its names" in camera.reason
    assert remedy in camera.reason


@pytest.mark.parametrize("off", [0.0, -70.0, -40 * 60.0, -15 * 60.0, -90 * 60.0, -20 * HOUR, 365 * 24 * HOUR])
def test_other_differences_are_not_those_of_a_zone(wall: Wall, off: float) -> None:
    camera = camera_clock()
    assert off_by(wall, camera, off, count=10) == pytest.approx(off)
    assert not camera.reason


def test_a_burst_that_was_uploaded_an_hour_late_moves_nothing(wall: Wall) -> None:
    camera = camera_clock()
    off_by(wall, camera, -HOUR, every=10.0, count=25)
    assert not camera.reason


def test_pictures_of_all_the_last_hours_that_come_at_once_move_nothing(wall: Wall) -> None:
    camera = camera_clock()
    for minutes in range(600, 0, -1):
        wall.now += 1.0
        camera.corrected(capture(NOW - 60.0 * minutes))
    assert not camera.reason


def test_clips_of_an_hour_are_named_by_their_start_and_are_right(wall: Wall) -> None:
    camera = camera_clock()
    off_by(wall, camera, -HOUR, every=HOUR, count=24, content_type="video/mp4")
    assert not camera.reason
    off_by(wall, camera, HOUR, count=3, content_type="video/mp4")
    assert "ahead of" in camera.reason


def test_a_clock_that_is_right_again_is_no_fault_any_more(wall: Wall) -> None:
    camera = camera_clock()
    off_by(wall, camera, -HOUR)
    assert off_by(wall, camera, 0.0, count=1) == 0.0, "what is right is never moved"
    assert camera.reason
    assert off_by(wall, camera, 0.0) == 0.0
    assert not camera.reason


def test_two_cameras_of_one_source_of_which_one_is_right_are_left_alone(wall: Wall) -> None:
    camera = camera_clock()
    for _ in range(20):
        assert off_by(wall, camera, -HOUR, count=1) == -HOUR
        assert off_by(wall, camera, 0.0, count=1) == 0.0
    assert not camera.reason


def test_nothing_is_moved_into_the_future_and_old_things_stay_old(wall: Wall) -> None:
    camera = camera_clock()
    off_by(wall, camera, -HOUR)
    young = wall.now - 1800.0
    assert camera.corrected(capture(young)).captured_at == young
    old = wall.now - 48 * HOUR
    assert camera.corrected(capture(old)).captured_at == old + HOUR


def test_a_file_s_own_time_settles_what_arrives_days_later(wall: Wall) -> None:
    camera = camera_clock()
    for number in range(3):
        written = NOW - 72 * HOUR + number * 600.0
        camera.corrected(capture(written - HOUR, written_at=written))
    assert 'time_zone = "UTC"' in camera.reason
    assert camera.corrected(capture(NOW - 50 * HOUR, written_at=NOW - 49 * HOUR)).captured_at == NOW - 49 * HOUR


def test_files_that_are_dated_in_another_zone_have_another_remedy(wall: Wall) -> None:
    camera = camera_clock()
    for _ in range(3):
        wall.now += 200.0
        told = wall.now - HOUR
        camera.corrected(capture(told, written_at=told, time_from=TimeFrom.WRITTEN))
    assert "its files are dated 1 h behind" in camera.reason
    assert "time_zone" not in camera.reason


def test_a_relay_whose_own_clock_is_not_set_learns_nothing(wall: Wall) -> None:
    wall.is_synchronized = False
    camera = camera_clock()
    off_by(wall, camera, -HOUR, count=9)
    assert not camera.reason


async def test_it_is_known_after_a_restart_unless_the_zone_was_set_since(wall: Wall, tmp_path: Path) -> None:
    config = SpoolConfig.model_validate({"path": str(tmp_path / "spool"), "min_free": "1MB"})
    for time_zone, is_known in (("Europe/Copenhagen", True), ("UTC", False)):
        spool = await Spool.open(config, now=wall.now)
        try:
            camera = CameraClock("cam", Notes(spool, "source:cam"), "Europe/Copenhagen", COPENHAGEN)
            off_by(wall, camera, -HOUR)
            await camera.store()
        finally:
            await spool.close()
        spool = await Spool.open(config, now=wall.now)
        try:
            again = CameraClock("cam", Notes(spool, "source:cam"), time_zone, zoneinfo.ZoneInfo(time_zone))
            await again.load()
            assert bool(again.reason) is is_known
        finally:
            await spool.close()


async def test_a_source_says_it_and_the_items_have_our_time(
    wall: Wall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cam").mkdir()
    (tmp_path / "store").mkdir()
    store, memory = Store(tmp_path / "store"), Unkept()
    config = config_for(tmp_path / "cam", name_pattern="gate_{time}.jpg", time_zone="Europe/Copenhagen")
    source = FolderSource("cam", config, store, Surroundings(memory=lambda owner: memory))
    async with running(source, store.put):
        for number in range(4):
            wall.now += 200.0
            utc = datetime.datetime.fromtimestamp(wall.now, datetime.UTC)
            drop(tmp_path / "cam", f"gate_{utc:%Y%m%d_%H%M%S}.jpg")
            await until(partial(lambda count: len(store.items) == count, number + 1), "it is taken")
        await until(lambda: source.view().state == "fault", "it is said")
        assert 'write time_zone = "UTC" in [source.cam]' in source.view().reason
        assert [round(item.captured_at - wall.now) for item in store.items[2:]] == [-200, 0]
    await until(lambda: memory.facts, "it is kept")
    again = FolderSource("cam", config, store, Surroundings(memory=lambda owner: memory))
    async with running(again, store.put):
        await until(lambda: again.view().state == "fault", "it is known after a restart")


@given(st.floats(-1e11, 1e11), st.floats(-1e11, 1e11))
def test_no_difference_breaks_it(one: float, other: float) -> None:
    found = incidents.zone_difference(one, other)
    assert found is None or abs(one - other - found) <= incidents.AGREEING_SECONDS
