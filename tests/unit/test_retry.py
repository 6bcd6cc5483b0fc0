"""The retry policy: errors in, verdicts out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import LoginRefused, NotReady, Rejected, Rewind, TryAgain, Unavailable
from relayd.model import Outcome, State
from relayd.retry import REASON_LIMIT, Backoff, judge

BACKOFF = Backoff(first_seconds=1.0, cap_seconds=300.0)


@given(failures=st.integers(min_value=-5, max_value=10**9))
def test_no_wait_is_longer_than_the_cap_whatever_the_number_of_failures(failures: int) -> None:
    assert 0 < BACKOFF.ceiling_seconds(failures) <= BACKOFF.cap_seconds


@given(failures=st.integers(min_value=1, max_value=200))
def test_the_ceiling_never_shrinks_with_more_failures(failures: int) -> None:
    assert BACKOFF.ceiling_seconds(failures) <= BACKOFF.ceiling_seconds(failures + 1)


def test_the_ceiling_doubles_from_the_first() -> None:
    assert [BACKOFF.ceiling_seconds(n) for n in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]


def test_an_unreachable_destination_pauses_and_the_delivery_stays_due_behind_those_that_wait() -> None:
    verdict = judge(Unavailable("connection refused"), attempts=7, backoff=BACKOFF)
    assert verdict.pauses
    assert verdict.delay_seconds == 0.0
    assert verdict.ends_as is None
    assert not verdict.is_fault


@given(wish=st.floats(allow_nan=False))
def test_a_servers_retry_after_is_bounded_by_the_cap_and_by_zero(wish: float) -> None:
    verdict = judge(Unavailable("503", retry_after_seconds=wish), attempts=1, backoff=BACKOFF)
    assert verdict.retry_after_seconds is not None
    assert 0.0 <= verdict.retry_after_seconds <= BACKOFF.cap_seconds


def test_a_refused_login_is_a_fault_of_the_destination_and_keeps_its_items() -> None:
    verdict = judge(LoginRefused("401 twice"), attempts=1, backoff=BACKOFF)
    assert verdict.is_fault
    assert verdict.pauses
    assert verdict.ends_as is None


def test_not_ready_is_no_failure_and_pauses_nothing() -> None:
    verdict = judge(NotReady("no report id yet", retry_after_seconds=10.0), attempts=3, backoff=BACKOFF)
    assert not verdict.counts_as_failure
    assert not verdict.pauses
    assert verdict.delay_seconds == 10.0
    assert verdict.outcome is Outcome.NOT_READY


def test_rewind_forgets_the_step_and_backs_off_alone() -> None:
    verdict = judge(Rewind("slot", "the slot has expired"), attempts=2, backoff=BACKOFF)
    assert verdict.forget_from == "slot"
    assert not verdict.pauses
    assert verdict.ceiling_seconds == 2.0


def test_a_slot_that_expired_while_the_link_was_away_for_long_is_renewed_within_seconds() -> None:
    verdict = judge(Rewind("slot", "the slot has expired"), attempts=500, backoff=BACKOFF)
    assert verdict.ceiling_seconds == 4.0


def test_slots_that_always_expire_trip_the_breaker() -> None:
    assert judge(Rewind("slot", "the slot has expired"), attempts=1, backoff=BACKOFF).counts_as_failure


def test_only_a_rejection_ends_a_delivery_and_only_as_dead() -> None:
    assert judge(Rejected("413"), attempts=1, backoff=BACKOFF).ends_as is State.DEAD
    for error in (TryAgain("500"), Unavailable("x"), Rewind("s", "x"), RuntimeError("bug"), ValueError("bug")):
        assert judge(error, attempts=10**6, backoff=BACKOFF).ends_as is None


def test_a_fault_of_the_code_backs_off_and_asks_for_a_traceback() -> None:
    verdict = judge(KeyError("uri"), attempts=1, backoff=BACKOFF)
    assert verdict.is_unexpected
    assert "KeyError" in verdict.reason
    assert verdict.counts_as_failure


@given(text=st.text(max_size=5000))
def test_a_reason_is_one_bounded_line(text: str) -> None:
    reason = judge(Rejected(text), attempts=1, backoff=BACKOFF).reason
    assert len(reason) <= REASON_LIMIT
    assert len(reason.splitlines()) <= 1


@pytest.mark.parametrize("cap", [0.5, 1.0, math.pi])
def test_a_cap_below_the_first_wait_wins(cap: float) -> None:
    assert Backoff(first_seconds=10.0, cap_seconds=cap).ceiling_seconds(1) == cap
