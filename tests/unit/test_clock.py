"""The clock's forms."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from relayd import clock


@given(moment=st.floats(allow_nan=False))
def test_every_moment_has_an_rfc_3339_form_even_absurd_ones(moment: float) -> None:
    text = clock.rfc3339(moment)
    assert text.endswith("Z")
    assert datetime.datetime.fromisoformat(text).tzinfo is not None


def test_the_form_has_milliseconds_and_says_utc() -> None:
    assert clock.rfc3339(0.1234) == "1970-01-01T00:00:00.123Z"


@given(upper=st.floats(min_value=0, max_value=1e6))
def test_jitter_stays_between_zero_and_its_upper_end(upper: float) -> None:
    assert 0.0 <= clock.jitter(upper) <= upper


def test_the_kernel_says_whether_its_clock_is_right_or_nothing() -> None:
    sync = clock.synchronization()
    assert sync.is_synchronized in (True, False, None)
    assert sync.offset_seconds is None or abs(sync.offset_seconds) < 3600
