"""Times in names: as real cameras write them, and what must never be taken for one."""

from __future__ import annotations

import datetime
import time
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.model import TimeFrom
from relayd.sources.name_pattern import NamePattern
from relayd.sources.name_times import Reading, capture_time, captured_at, first_moment

UTC = datetime.UTC
COPENHAGEN = zoneinfo.ZoneInfo("Europe/Copenhagen")
THEN = datetime.datetime(2026, 1, 31, 12, 30, 45, tzinfo=UTC).timestamp()
WRITTEN = THEN + 20.0
READING = Reading(UTC, WRITTEN)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        # makers
        ("{camera}_{n}_{time}.jpg", "Front_00_20260131123045.jpg"),  # Reolink
        ("{camera}_{time}.mp4", "RecM01_20260131_123045_123055_6D28808.mp4"),  # Reolink, a range
        ("{ip}_{channel}_{time}_{event}.jpg", "10.0.0.12_01_20260131123045000_MOTION_DETECTION.jpg"),  # Hikvision
        ("{camera}_{time}.jpg", "axis-ACCC8E123456_2026-01-31_12_30_45_000.jpg"),  # Axis
        ("image{time}.jpg", "image26-01-31_12-30-45-00.jpg"),  # Axis, its default
        ("{camera}_{time}.jpg", "MDAlarm_20260131-123045.jpg"),  # Foscam
        ("{time}_{event}.jpg", "20260131123045_motion.jpg"),  # Vivotek
        ("{event}-{time}-{n}.jpg", "01-20260131123045-00.jpg"),  # Motion
        ("{time}_{kind_of}.mp4", "20260131_123045_NF.mp4"),  # BlackVue
        ("{time}-{camera}.mp4", "2026-01-31_12-30-45-front.mp4"),  # Tesla
        ("{prefix}_{time}.jpg", "IMG_20260131_123045.jpg"),  # Android
        ("{prefix}_{time}.jpg", "PXL_20260131_123045000.jpg"),
        ("{date}/{channel}/jpg/{hour}/{minute}/{second}[{rest}", "2026-01-31/001/jpg/12/30/45[M][0@0][0].jpg"),  # Dahua
        ("{date}/{channel}/dav/{hour}/{time}-{end}[{rest}", "2026-01-31/001/dav/12/12.30.45-12.31.10[M][0@0][0].dav"),
        ("{camera}-{time}-{id}.jpg", "front-1769862645.000000-abcdef.jpg"),  # Frigate
        ("{camera}_{time}.jpg", "Y2026M01D31H12M30S45.jpg"),
        ("{camera}_{time}.jpg", "cam_2026Y01M31D12H30M45S.jpg"),
        ("{camera}_{time}.jpg", "cam_2026年01月31日12时30分45秒.jpg"),
        ("{camera}_{time}.jpg", "ch01_20260131123045_E.jpg"),  # Uniview
        ("{camera}_{time}.jpg", "192.168.1.64_01_20260131123045250.jpg"),
        ("{camera}_{time}.mp4", "GH010045_20260131_123045.mp4"),  # GoPro, renamed by its app
        ("DJI_{time}_{n}_{kind_of}.MP4", "DJI_20260131123045_0001_D.MP4"),  # DJI
        ("{camera}_{time}[{rest}", "cam_12.30.45[R][0@0][0].jpg"),  # Amcrest: the day is in its folder
        ("{date}/{n}/jpg/{a}/{b}/{rest}", "2026-01-31/001/jpg/12/30/45[M][0@0][0].jpg"),  # the same, half told
        ("{date}/{n}/{kind_of}/{hour}/{rest}", "2026-01-31/001/dav/12/12.30.45-12.31.10[M][0@0][0].dav"),
        ("{time}_{camera}.jpg", "20260131_123045_XNV-6080R.jpg"),  # Hanwha
        ("{camera}_{time}.jpg", "Bosch_2026-01-31T12-30-45.000Z.jpg"),  # Bosch
        ("{camera}_{time}.jpg", "Screenshot_2026-01-31-12-30-45.jpg"),
        ("NVR_{camera}_main_{time}.mp4", "NVR_ch3_main_20260131123045_20260131123545.mp4"),
        ("{time}_{id}.mkv", "2026-01-31_12-30-45_A.mkv"),
        # shapes
        ("{camera}_{time}.jpg", "gate_260131_123045.jpg"),
        ("{camera}_{time}.jpg", "gate_260131123045.jpg"),
        ("{camera}_{time}.jpg", "gate_26.01.31.12.30.45.jpg"),
        ("{camera}_{time}.jpg", "gate_2026.01.31.12.30.45.jpg"),
        ("{camera}_{time}.jpg", "gate_2026-01-31-12-30-45.jpg"),
        ("{camera}_{time}.jpg", "gate_2026_01_31_12_30_45.jpg"),
        ("{camera}_{time}.jpg", "gate_2026-01-31--12-30-45.jpg"),
        ("{camera}_{time}.jpg", "gate_2026--01--31--12--30--45.jpg"),
        ("{camera}_{time}.jpg", "gate_2026-01-31__12-30-45.jpg"),
        ("{camera}_{time}.jpg", "gate_2026-01-31 12h30m45s.jpg"),
        ("{camera}_{time}.jpg", "gate_2026-01-31T12:30:45Z.jpg"),
        ("{camera}_{time}.jpg", "gate_20260131T143045+0200.jpg"),
        ("{camera}_{time}.jpg", "gate_20260131T143045+02.jpg"),
        ("{camera}_{time}.jpg", "gate_20260131073045-0500.jpg"),
        ("{camera}_{time}.jpg", "gate_20260131_123045_UTC.jpg"),
        ("{camera}_{time}.mp4", "gate_20260131123045_20260131123145.mp4"),
        ("{camera}_{time}.mp4", "gate_20260131_123045-20260131_123145.mp4"),
        ("{camera}_{time}.mp4", "gate_2026-01-31_12.30.45-12.31.45.mp4"),
        ("{camera}_{time}.jpg", "gate_1769862645.jpg"),
        ("{camera}_{epoch}.jpg", "gate_1769862645.jpg"),
        ("{camera}_{epoch}.jpg", "gate_1769862645000.jpg"),
        ("{year}/{month}/{day}/{hour}.{minute}.{second}.jpg", "2026/01/31/12.30.45.jpg"),
        ("{year2}-{month}-{day}/{hour}/{minute}/{second}.jpg", "26-01-31/12/30/45.jpg"),
        ("{date}/{time}.jpg", "26-01-31/123045.jpg"),
        ("{camera}/{time}.jpg", "gate/12-30-45.jpg"),
    ],
)
def test_every_camera_s_name_says_when_it_was(pattern: str, path: str) -> None:
    fields = NamePattern(pattern).match(path)
    if "Y2026M01D31" in path:
        fields = {"time": path.removesuffix(".jpg")}
    assert fields is not None
    assert captured_at(fields, READING, path) == pytest.approx(THEN, abs=0.3)


@pytest.mark.parametrize(
    "path",
    [
        "2026-01-31/001/jpg/12/30/45[M][0@0][0].jpg",
        "2026-01-31/001/dav/12/12.30.45-12.31.10[M][0@0][0].dav",
        "AMC001/2026-01-31/001/jpg/12/30/45.jpg",
        "20260131/12/123045.jpg",
        "cam/20260131/record/A260131_123045_123059.264",
        "SavedClips/2026-01-31_12-30-45-front.mp4",
        "snap/260131/images/P26013112304510.jpg",
        "WhatsApp Image 2026-01-31 at 12.30.45.jpeg",
        "WhatsApp Image 2026-01-31 at 12.30.45 PM.jpeg",
        "WhatsApp Image 2026-01-31 at 12.30.45 (1).jpeg",
        "Screen Shot 2026-01-31 at 12.30.45 PM.png",
        "signal-2026-01-31-12-30-45-123.jpg",
        "signal-2026-01-31-123045_001.jpeg",
        "RingVideo_20260131_123045.mp4",
        "1769862645123.mp4",
        "20260131123045.mp4",
        "Camera-20260131-123045-1769862645123.mp4",
        "Cam 1 (10.0.0.1) 2026-01-31 12.30.45.mp4",
        "2026-01-31T12-30-45.mp4",
        "2026-01-31/12/gate/30.45.mp4",
        "26/01/31/12/30/45/001-capture.jpg",
        "2026/01/31/12/30/45.jpg",
        "2026/01/31/123045.jpg",
        "2026-01-31/12-30-45.mp4",
        "1_2026-01-31_12-30-45.mp4",
        "cam.20260131_123045.jpg",
        "2026_0131_123045_0001F.MP4",
        "REC_2026_01_31_12_30_45_F.MP4",
        "260131_123045_001_FH.MP4",
        "S2026013112304500.jpg",
        "Front Door 1-31-2026, 12.30.45 GMT+0.mp4",
        "Front Door 31-01-2026, 12.30.45.mp4",
        "cam_31.01.2026_12-30-45.jpg",
        "cam_31012026_123045.jpg",
        "cam_01-31-2026_12-30-45_PM.jpg",
        "2026-01-31_12h30min45s680ms.jpg",
        "gate_2026-01-31_12h30m45s680.jpg",
        "20260131_123045_123.jpg",
        "IMG_20260131_123045123.jpg",
        "Image_2026-01-31_12-30-45-123.jpg",
        "192.168.1.108_IPC_main_20260131123045.mp4",
        "00_20260131T123045.250Z.jpg",
        "2026-01-31_12-30-45+00-00.jpg",
        "01_R_20260131123045.avi",
        "N26013112304500.jpg",
        "ARC20260131123045.jpg",
        "P2026-01-31-12h30m45s.jpg",
        "2026-01-31T12_30_45.000+0000.jpg",
        "2026-01-31T12:30:45.123456.jpg",
        "vlcsnap-2026-01-31-12h30m45s123.png",
        "Snapshot_1_1769862645.jpg",
        "31-Jan-2026_12-30-45.jpg",
        "20260131_123045.250_cam.jpg",
        "123045_20260131.jpg",
        "12-30-45_2026-01-31.jpg",
        "IMAG_123045-20260131.jpg",
        "A260131_123045_123059.264",
        "rec00001_20260131_123045_M_.mp4",
        "WhatsApp Image 2026-01-31 um 12.30.45.jpeg",
    ],
)
def test_names_and_trees_of_many_programs_say_it_without_a_pattern(path: str) -> None:
    assert capture_time(path, {}, UTC, WRITTEN)[0] == pytest.approx(THEN, abs=0.7)
    assert capture_time(path, {}, UTC, WRITTEN)[1] is TimeFrom.NAME


@pytest.mark.parametrize(
    ("name", "hour"),
    [
        ("Image 2026-01-31 at 12.30.45 AM.jpg", 0),
        ("2026-01-31_01-30-45_PM.jpg", 13),
        ("2026-01-31 11.30.45 am.jpg", 11),
    ],
)
def test_noon_and_midnight_are_told_apart(name: str, hour: int) -> None:
    moment = datetime.datetime(2026, 1, 31, hour, 30, 45, tzinfo=UTC).timestamp()
    assert capture_time(name, {}, UTC, moment + 20)[0] == moment


@pytest.mark.parametrize(("day", "month"), [(2, 1), (1, 2)])
def test_day_and_month_are_in_the_order_that_fits_the_last_write(day: int, month: int) -> None:
    moment = datetime.datetime(2026, month, day, 12, 30, 45, tzinfo=UTC).timestamp()
    reading = Reading(UTC, moment + 3000)
    assert first_moment("cam_01.02.2026_12-30-45", reading) == moment
    assert captured_at({"date": "01-02-2026", "time": "123045"}, reading) == moment
    assert captured_at({"date": "01-02-2026", "hour": "12", "minute": "30", "second": "45"}, reading) == moment


@pytest.mark.parametrize(
    ("fields", "moment"),
    [
        ({"time": "2026-01-31 12:30:45.250"}, THEN + 0.25),
        ({"time": "20260131123045250"}, THEN + 0.25),
        ({"time": "2026-01-31T13:30:45+01:00"}, THEN),
        ({"time": "2026-01-31T12:00:45-0030"}, THEN),
        ({"time": "1769862645500"}, THEN + 0.5),
        ({"date": "2026-01-31", "time": "12-30-45"}, THEN),
        ({"date": "20260131", "time": "123045"}, THEN),
        ({"time": "noon"}, None),
        ({"time": "20261331_123045"}, None),
        ({"time": "20260231_123045"}, None),
        ({"time": "99999999_999999"}, None),
        ({"hour": "x", "minute": "30"}, None),
        ({"year": "2026", "month": "13", "day": "1"}, None),
        ({"epoch": "12"}, None),
        ({"camera": "gate"}, None),
        ({}, None),
    ],
)
def test_times_are_read_as_cameras_write_them(fields: dict[str, str], moment: float | None) -> None:
    assert captured_at(fields, READING) == moment


@pytest.mark.parametrize(
    "fields",
    [
        {"date": "2026-01-31"},
        {"year": "2026", "month": "01", "day": "31"},
        {"date": "2026-01-31", "hour": "12"},
        {"date": "2026-01-31", "hour": "12", "minute": "30"},
        {"date": "20260131", "time": "1230"},
        {"time": "2026-01-31_12-30"},
    ],
)
def test_half_a_time_is_completed_by_when_the_file_was_written(fields: dict[str, str]) -> None:
    written = THEN + 5
    assert captured_at(fields, Reading(UTC, written)) == written


@pytest.mark.parametrize("fields", [{"date": "2026-01-31"}, {"date": "2026-01-31", "hour": "12"}, {"hour": "12"}])
@pytest.mark.parametrize("written", [THEN - 90_000, THEN + 90_000, 0.0])
def test_half_a_time_that_the_last_write_does_not_fit_is_none(fields: dict[str, str], written: float) -> None:
    assert captured_at(fields, Reading(UTC, written)) is None
    assert capture_time("a.jpg", fields, UTC, written)[0] == written


def test_a_time_without_a_zone_is_in_the_configured_one() -> None:
    assert captured_at({"time": "20260131_133045"}, Reading(COPENHAGEN, WRITTEN)) == THEN


@pytest.mark.parametrize("hour", [0, 1])
def test_the_hour_that_comes_twice_in_autumn_is_the_one_in_which_the_file_was_written(hour: int) -> None:
    first = datetime.datetime(
        2026, 10, 25, 0, 30, tzinfo=UTC
    ).timestamp()  # 02:30 in Copenhagen, and again an hour later
    written = first + hour * 3600
    fields = {"time": "20261025_023000"}
    assert captured_at(fields, Reading(COPENHAGEN, written + 20)) == written
    assert captured_at({"date": "20261025", "hour": "02"}, Reading(COPENHAGEN, written + 20)) == written + 20


@pytest.mark.parametrize("fold", [0, 1])
def test_the_machine_s_own_zone_has_that_hour_too(monkeypatch: pytest.MonkeyPatch, fold: int) -> None:
    monkeypatch.setenv("TZ", "Europe/Copenhagen")
    time.tzset()
    try:
        written = datetime.datetime(2026, 10, 25, fold, 30, tzinfo=UTC).timestamp()
        assert captured_at({"time": "20261025_023000"}, Reading(None, written + 20)) == written
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "name",
    ["IMG_20260131_123045.jpg", "26-01-31_12-30-45-00.jpg", "a-1769862645.123-b.jpg", "x 2026.01.31 12.30.45.mp4"],
)
def test_a_name_tells_when_a_clip_began_without_a_pattern(name: str) -> None:
    assert capture_time(name, {}, UTC, THEN + 600)[0] == pytest.approx(THEN, abs=0.2)


@pytest.mark.parametrize(
    "name",
    [
        "IMG_20260131_113045.jpg",  # an hour off: a clock is wrong, or it lay on a card
        "IMG_20250131_123045.jpg",
        "IMG_20260201_123045.jpg",
        "DSC_0001.jpg",
        "100101_120000.jpg",
        "4571234567890.jpg",
        "2026-01-31.jpg",
        "12-30-45.jpg",
        "part 123045 of 20260131.jpg",
        "",
    ],
)
def test_without_a_pattern_nothing_far_off_is_taken_for_a_time(name: str) -> None:
    assert capture_time(name, {}, UTC, WRITTEN)[0] == WRITTEN


def test_of_two_readings_the_one_nearest_to_the_last_write_is_meant() -> None:
    twelve = "201012101530"  # 2010-12-10 15:30, or 2020-10-12 10:15:30
    for moment in (
        datetime.datetime(2010, 12, 10, 15, 30, tzinfo=UTC),
        datetime.datetime(2020, 10, 12, 10, 15, 30, tzinfo=UTC),
    ):
        assert first_moment(twelve, Reading(UTC, moment.timestamp() + 70)) == moment.timestamp()


@given(st.text(max_size=300), st.floats(-1e10, 1e11))
def test_no_text_breaks_the_reading(text: str, written: float) -> None:
    fields = dict.fromkeys(("time", "date", "epoch", "year", "year2", "month", "day", "hour", "minute", "second"), text)
    capture_time(text, fields, COPENHAGEN, written)


@given(
    st.datetimes(datetime.datetime(2001, 1, 1), datetime.datetime(2099, 12, 31)),  # noqa: DTZ001 - of the zone below
    st.sampled_from(
        [
            "%Y%m%d%H%M%S",
            "%Y-%m-%d_%H-%M-%S",
            "%y%m%d_%H%M%S",
            "%y-%m-%d--%H-%M-%S",
            "%YY%mM%dD%HH%MM%SS",
            "%d.%m.%Y %H.%M.%S",
            "%m-%d-%Y, %I.%M.%S %p",
            "%Y_%m%d_%H%M%S",
            "%d-%b-%Y_%H-%M-%S",
            "%H%M%S_%Y%m%d",
        ]
    ),
    st.sampled_from(["", "cam_", "10.0.0.7_"]),
)
def test_what_was_written_is_read(moment: datetime.datetime, shape: str, before: str) -> None:
    told = moment.replace(tzinfo=UTC, microsecond=0)
    assert first_moment(before + told.strftime(shape), Reading(UTC, told.timestamp() + 30)) == told.timestamp()


@pytest.mark.parametrize(
    "piece", ["2026-01-31_12-00-0", "20260131", "1", "_", "1.", "2026Y01M", "2026-01-31/12/", "/", "1.1.2026 ", "31jan"]
)
def test_a_long_text_is_read_in_no_time(piece: str) -> None:
    before = time.process_time()
    first_moment(piece * (65_536 // len(piece)), READING)
    capture_time(piece * (65_536 // len(piece)), {"date": "2026-01-31"}, UTC, 0.0)
    assert time.process_time() - before < 2.0
