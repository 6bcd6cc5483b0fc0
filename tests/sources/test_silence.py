"""`expect_every`, alike for every source: pure time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relayd import clock
from relayd.model import SourceView
from relayd.sources.silence import GRACE_SECONDS, Silence

OK = SourceView(state="ok", reason="", last_at=None)
EXPECTED = 600.0


class Time:
    """A machine that was started `boot` seconds ago; its wall clock says what it likes."""

    def __init__(self) -> None:
        self.wall, self.steady, self.boot = 1_800_000_000.0, 5_000.0, 5_000.0

    def pass_by(self, seconds: float) -> None:
        self.wall, self.steady, self.boot = self.wall + seconds, self.steady + seconds, self.boot + seconds


UNKNOWN = replace(OK, is_known=False)
"""Nobody says that it is whole before it has brought something: it may have been silent before a restart."""


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "now", lambda: time.wall)
    monkeypatch.setattr(clock, "monotonic", lambda: time.steady)
    monkeypatch.setattr(clock, "since_boot", lambda: time.boot)
    return time


def test_silence_longer_than_expected_is_a_fault_until_something_comes(time: Time) -> None:
    silence = Silence(EXPECTED, "file")
    time.pass_by(EXPECTED)
    assert silence.judge(OK) == UNKNOWN
    time.pass_by(1.0)
    found = silence.judge(OK)
    assert (found.state, found.reason, found.is_known) == (
        "fault",
        "no file for 10 min, expected one every 10 min",
        True,
    )
    silence.heard()
    assert silence.judge(OK) == OK


def test_a_leap_of_the_wall_clock_is_no_silence(time: Time) -> None:
    silence = Silence(EXPECTED, "file")
    time.wall += 1e8
    assert silence.judge(OK) == UNKNOWN


def test_where_nothing_is_expected_silence_is_normal_and_what_is_wrong_already_comes_first(time: Time) -> None:
    away = SourceView(state="waiting", reason="broker local: away", last_at=None)
    for silence, view in ((Silence(None, "file"), OK), (Silence(EXPECTED, "file"), away)):
        time.pass_by(1e6)
        assert silence.judge(view) == view


def test_a_restart_does_not_start_the_count_anew(time: Time) -> None:
    silence = Silence(EXPECTED, "file")
    silence.resume(time.wall - 590.0)
    assert silence.judge(OK) == OK
    time.pass_by(GRACE_SECONDS + 1.0)
    assert silence.judge(OK).reason == "no file for 10 min, expected one every 10 min"


def test_after_a_restart_it_is_not_known_for_a_moment_whether_what_was_silent_still_is(time: Time) -> None:
    silence = Silence(EXPECTED, "file")
    silence.resume(time.wall - 700.0)
    found = silence.judge(OK)
    assert (found.state, found.is_known) == ("ok", False)
    time.pass_by(GRACE_SECONDS)
    assert silence.judge(OK).state == "fault"


@pytest.mark.parametrize("elapsed", [40_000.0, -5.0], ids=["parked overnight", "the clock was ahead"])
def test_what_was_before_the_machine_was_started_does_not_count(time: Time, elapsed: float) -> None:
    silence = Silence(EXPECTED, "file")
    silence.resume(time.wall - elapsed)
    time.pass_by(EXPECTED)
    assert silence.judge(OK) == UNKNOWN
    time.pass_by(1.0)
    assert silence.judge(OK).state == "fault"


def test_a_source_that_never_brought_anything_is_silent_from_the_start(time: Time) -> None:
    silence = Silence(1.0, "message")
    silence.resume(None)
    time.pass_by(1.5)
    assert silence.judge(OK).state == "fault"
