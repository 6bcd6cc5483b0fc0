"""Sizes, spans and moments as people read them."""

import pytest

from relayd import clock
from relayd.cli import phrases

NOON = 1_800_000_000.0


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (99_960_000, "100 MB"),
        (999_600_000, "1.0 GB"),
        (20_000_000_000, "20.0 GB"),
        (5e18, "5000 PB"),
    ],
)
def test_a_size_is_written_as_in_the_configuration(size_bytes: float, words: str) -> None:
    assert phrases.size(size_bytes) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
        (30 * 86400, "30 d"),
    ],
)
def test_a_span_has_at_most_two_units(seconds: float, words: str) -> None:
    assert phrases.span(seconds) == words


@pytest.mark.parametrize(
    ("offset", "words"), [(-180, "3 min ago"), (12, "in 12 s"), (0.2, "now"), (-0.2, "now"), (-7500, "2 h 5 min ago")]
)
def test_a_moment_is_told_from_now(offset: float, words: str) -> None:
    assert phrases.relative(clock.rfc3339(NOON + offset), NOON) == words


def test_a_moment_that_never_was_is_said_so() -> None:
    assert phrases.relative(None, NOON) == "never"
    assert phrases.when(None, NOON, never="-") == "-"


def test_another_day_is_shown_with_its_date_and_today_without() -> None:
    assert phrases.local(clock.rfc3339(NOON), NOON).count("-") == 0
    assert phrases.local(clock.rfc3339(NOON - 5 * 86400), NOON).count("-") == 2


@pytest.mark.parametrize("year", [-62_135_596_800.0, 0.0, 253_402_300_799.0])
def test_a_clock_from_another_age_does_not_stop_the_screen(year: float) -> None:
    assert phrases.when(clock.rfc3339(year), NOON)
