"""Flap damping of what the fleet is told."""

from __future__ import annotations

from relayd.faults import GONE_FOR_SECONDS, Fault, FaultWatch, Turn

BROKEN = {"source camera": Fault("the folder is gone", 2.0)}


def test_a_fault_is_told_once_after_it_has_lasted_and_its_end_after_it_has_stayed_away() -> None:
    watch = FaultWatch({})
    assert watch.look(BROKEN, at=0.0) == []
    assert watch.look(BROKEN, at=1.9) == []
    assert watch.look(BROKEN, at=2.0) == [Turn("source camera", "the folder is gone", is_raised=True)]
    assert watch.look(BROKEN, at=100.0) == []
    assert watch.look({}, at=101.0) == []
    assert watch.look({}, at=101.0 + GONE_FOR_SECONDS) == [Turn("source camera", "the folder is gone", is_raised=False)]
    assert watch.look({}, at=200.0) == []


def test_what_flickers_is_told_once() -> None:
    watch = FaultWatch({})
    told = [turn for second in range(600) for turn in watch.look(BROKEN if second % 10 < 5 else {}, at=float(second))]
    assert [turn.is_raised for turn in told] == [True]
    watch = FaultWatch({})
    assert [turn for second in range(600) for turn in watch.look({} if second % 2 else BROKEN, at=float(second))] == []


def test_what_another_process_told_is_not_told_again_and_its_end_is() -> None:
    watch = FaultWatch({"source camera": "the folder is gone", "broker local": "not allowed"})
    assert watch.look(BROKEN, at=5.0) == []
    assert watch.look(BROKEN, at=10.0) == []
    assert watch.look(BROKEN, at=10.0 + GONE_FOR_SECONDS) == [Turn("broker local", "not allowed", is_raised=False)]
    assert watch.told == {"source camera": "the folder is gone"}
