"""Times as people write them on the command line."""

from __future__ import annotations

import datetime
import time

import pytest

from relayd.cli.moments import read

NOW = datetime.datetime(2026, 3, 10, 9, 30, tzinfo=datetime.UTC).timestamp()


@pytest.fixture(autouse=True)
def _in_copenhagen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds_ago"),
    [
        ("10:00", 1800.0),
        ("9:00", 5400.0),
        ("23:30", 11 * 3600.0),
        ("12h", 12 * 3600.0),
        ("1h30m", 5400.0),
        ("2026-03-10T09:00:00Z", 1800.0),
        ("2026-03-10T10:00", 1800.0),
        ("2026-03-10", 10.5 * 3600.0),
        ("2026-03-10T11:00:00+02:00", 1800.0),
    ],
)
def test_a_time_of_day_is_the_last_one_and_everything_else_is_as_written(text: str, seconds_ago: float) -> None:
    assert read(text, NOW) == NOW - seconds_ago


@pytest.mark.parametrize("text", ["", "24:00", "12", "2026-13-01", "soon", "-1h", "2026"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(text, NOW)
