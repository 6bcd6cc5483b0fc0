"""Which faults stand, and what is to be told of them to whom."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relayd.faults import Fault, FaultWatch, Standing, Turn, after, from_document, to_document, turns

LASTS, GONE_FOR = 2.0, 30.0
CAMERA = "source camera"
BROKEN = {CAMERA: Fault(reason="the folder is gone", needs_person=True, lasts_seconds=LASTS)}
STARTED = 1_800_000_000.0


def look(watch: FaultWatch, present: dict[str, Fault], at: float, unknown: tuple[str, ...] = ()) -> bool:
    return watch.look(present, unknown, at=at, now=STARTED + at, gone_for_seconds=GONE_FOR)


def test_a_fault_stands_once_it_has_lasted_and_is_over_once_it_has_stayed_away() -> None:
    watch = FaultWatch({})
    assert [look(watch, BROKEN, at) for at in (5.0, 6.9, 7.0, 100.0)] == [False, False, True, False]
    assert watch.standing == {CAMERA: Standing("the folder is gone", STARTED + 5.0)}
    assert [look(watch, {}, at) for at in (101.0, 130.9, 131.0, 200.0)] == [False, False, True, False]
    assert watch.standing == {}


def test_what_flickers_stands_once_or_never() -> None:
    watch = FaultWatch({})
    assert sum(look(watch, BROKEN if second % 10 < 5 else {}, float(second)) for second in range(600)) == 1
    watch = FaultWatch({})
    assert not any(look(watch, {} if second % 2 else BROKEN, float(second)) for second in range(600))


def test_what_stood_before_a_restart_goes_on_and_ends_as_if_there_had_been_none() -> None:
    before = {CAMERA: Standing("the folder is gone", STARTED - 99.0), "broker local": Standing("not allowed", 5.0)}
    watch = FaultWatch(from_document(to_document(before)))
    assert [look(watch, BROKEN, at) for at in (5.0, 10.0)] == [False, False]
    assert look(watch, BROKEN, 5.0 + GONE_FOR)
    assert watch.standing == {CAMERA: before[CAMERA]}


def test_of_what_is_not_known_yet_nothing_changes() -> None:
    watch = FaultWatch({CAMERA: Standing("the folder is gone", STARTED)})
    assert not any(look(watch, {}, float(second), unknown=(CAMERA,)) for second in range(600))
    assert not look(watch, {}, 600.0)
    assert look(watch, {}, 600.0 + GONE_FOR)


def test_what_is_no_reason_to_tell_keeps_what_was_told_and_raises_nothing() -> None:
    quiet = {CAMERA: Fault(reason="only its own trouble waits", needs_person=False, lasts_seconds=None)}
    watch = FaultWatch({})
    assert not any(look(watch, quiet, float(second)) for second in range(600))
    watch = FaultWatch({CAMERA: Standing("the folder is gone", STARTED)})
    assert not any(look(watch, quiet, float(second)) for second in range(600))


def test_a_turn_has_the_fields_that_are_published() -> None:
    turn = Turn(part="destination rapidsos", reason="away", since=0.0, is_raised=True)
    assert (turn.type, turn.fields()) == (
        "fault_raised",
        {
            "part": "destination rapidsos",
            "kind": "destination",
            "destination": "rapidsos",
            "reason": "away",
            "since": "1970-01-01T00:00:00.000Z",
        },
    )
    assert Turn(part="spool", reason="", since=0.0, is_raised=False).fields()["kind"] == "spool"


PARTS = ("source a", "destination b", "spool")
LOOKS = st.lists(
    st.tuples(st.floats(0.1, 60.0), st.sets(st.sampled_from(PARTS)), st.sets(st.sampled_from(PARTS))), max_size=60
)


@given(LOOKS, st.sets(st.sampled_from(PARTS)), st.lists(st.booleans(), max_size=60))
def test_whatever_comes_and_goes_everybody_hears_in_turns_and_in_the_end_what_lasts(
    looks: list[tuple[float, set[str], set[str]]], lasting: set[str], hears: list[bool]
) -> None:
    """Between looks the relay may be killed (its memory of moments is lost), and the listener may be unable to take."""
    watch, told, heard, at = FaultWatch({}), dict[str, Standing](), list[Turn](), 0.0
    chances = [*hears[: len(looks)], *([True] * (len(looks) + 4))]
    steady: list[tuple[float, set[str], set[str]]] = [(31.0, lasting, set())] * 4
    for number, (step, present, unknown) in enumerate([*looks, *steady]):
        at += step
        faults = {part: Fault(reason=str(number), needs_person=True, lasts_seconds=LASTS) for part in present}
        look(watch, faults, at, tuple(unknown - present))
        for turn in turns(told, watch.standing) if chances[number] else ():
            told = after(turn, told)
            heard.append(turn)
        if number % 7 == 6:
            watch = FaultWatch(from_document(to_document(watch.standing)))
    assert set(watch.standing) == lasting == set(told)
    for part in PARTS:
        own = [turn for turn in heard if turn.part == part]
        assert [turn.is_raised for turn in own] == [index % 2 == 0 for index in range(len(own))]
        assert all(
            (later.reason, later.since) == (earlier.reason, earlier.since)
            for earlier, later in pairwise(own)
            if earlier.is_raised
        )


@given(st.lists(st.tuples(st.floats(0.1, 20.0), st.booleans()), max_size=80))
def test_nothing_stands_that_did_not_last_and_nothing_is_over_that_came_back_in_time(
    looks: list[tuple[float, bool]],
) -> None:
    watch, at, began, gone_at = FaultWatch({}), 0.0, None, None
    for step, is_present in looks:
        at += step
        began = (at if began is None else began) if is_present else None
        stood = CAMERA in watch.standing
        gone_at = None if is_present or not stood else (at if gone_at is None else gone_at)
        look(watch, BROKEN if is_present else {}, at)
        stands = CAMERA in watch.standing
        if stands and not stood:
            assert began is not None
            assert at - began >= LASTS
        if stood and not stands:
            assert gone_at is not None
            assert at - gone_at >= GONE_FOR
        gone_at = gone_at if stands else None
