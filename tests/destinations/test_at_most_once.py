"""What must not be there twice: lost answers, requests that go on without us, deaths at every seam, and a far side that
cannot be asked."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relayd import clock
from relayd.destinations.at_most_once import MOST_UNREAD, Doubt, NoLook, Terms, once
from relayd.destinations.base import Attempt, Destination, Step
from relayd.errors import DeliveryError, NotReady, Rejected, TryAgain, Unavailable
from relayd.fields import Section
from relayd.model import Finding, Receipt
from tests.destinations.driver import Line, PowerCut, line

WAIT = 20.0


class FarSide:
    """A server that does what it is asked at once, or later; `clock` is its time and ours."""

    def __init__(self) -> None:
        self.uptime = 1000.0
        self.there: list[int] = []
        self.running: list[tuple[float, int]] = []
        self.asked = 0
        self.how: Callable[[], None] = lambda: None
        self.look: Callable[[], None] = lambda: None

    def advance(self, seconds: float) -> None:
        self.uptime += seconds
        for until, number in [each for each in self.running if each[0] <= self.uptime]:
            self.running.remove((until, number))
            self.there.append(number)

    async def take(self, doubts: int) -> Step:
        self.asked += 1
        self.how()
        self.there.append(self.asked)
        return {"number": self.asked, "proof": f"it is number {self.asked}, {doubts} doubts"}

    async def find(self, doubt: Doubt) -> Step | None:
        assert doubt.facts == {"mark": "m"}
        self.look()
        return {"number": self.there[0], "proof": f"it shows number {self.there[0]}"} if self.there else None

    async def undo(self, made: Step) -> str:
        self.look()
        twice = [number for number in self.there if number != made["number"]]
        self.there = [number for number in self.there if number == made["number"]]
        return f"took back {twice}" if twice else ""

    def lose(self, after_seconds: float | None) -> Callable[[], None]:
        """It is done so much later, or never; the answer is lost at once."""

        def how() -> None:
            if after_seconds == 0:
                self.there.append(self.asked)
            elif after_seconds is not None:
                self.running.append((self.uptime + after_seconds, self.asked))
            raise TryAgain("lost")

        return how


def fail(error: DeliveryError) -> Callable[[], None]:
    def how() -> None:
        raise error

    return how


class Sender(Destination):
    """Has one effect on a far side."""

    actions: ClassVar[Any] = {"do": Section}
    name = "far"

    def __init__(self, far: FarSide, terms: Terms, *, looks: bool, undoes: bool) -> None:
        self._far = far
        self._terms = terms
        self._find = far.find if looks else None
        self._undo = far.undo if undoes else None

    async def deliver(self, attempt: Attempt) -> Receipt:
        far = self._far
        made = await once(
            attempt, "made", far.take, self._find, terms=self._terms, facts=lambda: {"mark": "m"}, undo=self._undo
        )
        return Receipt(proof=str(made["proof"]), fields={"number": made["number"]})

    async def check(self) -> list[Finding]:
        return []


@asynccontextmanager
async def sending(
    folder: Path, patched: pytest.MonkeyPatch, *, looks: bool = True, undoes: bool = True, **terms: Any
) -> AsyncIterator[tuple[FarSide, Line]]:
    far = FarSide()
    patched.setattr(clock, "since_boot", lambda: far.uptime)
    agreed = Terms(**{"doubt_wait": WAIT, "where": "the far side", **terms})
    async with line(lambda: Sender(far, agreed, looks=looks, undoes=undoes), folder / "spool") as made:
        await made.put(b"x")
        yield far, made


async def test_what_is_answered_is_noted_once_before_and_once_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch) as (far, relay):
        receipt = await relay.attempt(dies_at=3, is_stored=False)
        assert isinstance(receipt, Receipt)
        assert receipt.proof == "it is number 1, 0 doubts"
        assert far.there == [1]


async def test_a_request_that_goes_on_after_its_answer_was_lost_is_waited_for_and_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch) as (far, relay):
        far.how = far.lose(8)
        assert isinstance(await relay.attempt(), TryAgain)
        for _ in range(3):
            outcome = await relay.attempt()
            assert isinstance(outcome, NotReady)
            assert 0 < outcome.retry_after_seconds <= 5
        await relay.restart()
        far.advance(8)
        receipt = await relay.attempt()
        assert isinstance(receipt, Receipt)
        assert receipt.proof == "it shows number 1, though an answer was lost"
        assert (far.there, far.asked) == ([1], 1)


async def test_what_is_not_there_after_the_wait_is_sent_again_and_what_came_all_the_same_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch) as (far, relay):
        far.how = far.lose(30)
        assert isinstance(await relay.attempt(), TryAgain)
        far.advance(WAIT)
        far.how = lambda: None
        outcome = await relay.attempt()
        assert isinstance(outcome, NotReady)
        assert outcome.retry_after_seconds == WAIT
        assert far.there == [2]
        await relay.restart()
        far.advance(WAIT)
        receipt = await relay.attempt()
        assert isinstance(receipt, Receipt)
        assert receipt.proof == "it is number 2, 0 doubts; took back [1]"
        assert far.there == [2]


async def test_a_repeat_that_is_lost_too_and_found_is_looked_at_for_the_first_one_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch) as (far, relay):
        far.how = far.lose(35)
        assert isinstance(await relay.attempt(), TryAgain)
        far.advance(WAIT)
        far.how = far.lose(0)
        assert isinstance(await relay.attempt(), TryAgain)
        assert isinstance(await relay.attempt(), NotReady)
        far.advance(WAIT)
        await relay.deliver(tries=1)
        assert far.there == [2]


async def test_a_look_that_cannot_be_read_never_counts_as_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch) as (far, relay):
        far.how, far.look = far.lose(0), fail(TryAgain("no JSON"))
        assert isinstance(await relay.attempt(), TryAgain)
        for _ in range(5 * MOST_UNREAD):
            far.advance(WAIT)
            assert "no JSON" in str(await relay.attempt())
        far.look = lambda: None
        await relay.deliver(tries=1)
        assert (far.there, far.asked) == ([1], 1)


async def test_where_looks_cannot_be_read_it_is_sent_again_twice_at_most_with_time_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch, on_unknown="retry", unknown_wait=300.0) as (far, relay):
        far.how, far.look = far.lose(0), fail(TryAgain("no JSON"))
        outcomes = [await relay.attempt() for _ in range(3 * MOST_UNREAD)]
        assert far.asked == 2
        assert isinstance(outcomes[-1], NotReady)
        assert 0 < outcomes[-1].retry_after_seconds <= 300
        far.advance(300)
        await relay.attempt()
        assert far.asked == 3
        far.advance(1e6)
        outcomes = [await relay.attempt() for _ in range(MOST_UNREAD)]
        assert isinstance(outcomes[-1], Rejected)
        assert "look in the far side" in str(outcomes[-1])
        assert far.asked == 3
        assert await relay.attempt() is None


async def test_what_is_never_shown_is_sent_twice_more_with_minutes_between_looked_for_once_more_and_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch) as (far, relay):
        far.how = far.lose(None)
        sent_at = []
        for _ in range(400):
            asked, outcome = far.asked, await relay.attempt()
            sent_at += [far.uptime] * (far.asked - asked)
            if isinstance(outcome, Rejected):
                break
            far.advance(min(outcome.retry_after_seconds, 60) if isinstance(outcome, NotReady) else 1)
        assert isinstance(outcome, Rejected)
        assert "it was sent 3 times, every answer got lost, and it is not shown" in str(outcome)
        assert [round(later - sooner) // 60 for sooner, later in itertools.pairwise(sent_at)] == [0, 5]
        far.there.append(1)
        assert await relay.spool.retry(None, None, now=clock.now()) == 1
        far.how = lambda: None
        assert isinstance(await relay.attempt(), Receipt)


async def test_an_outage_while_looking_spends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sending(tmp_path, monkeypatch, on_unknown="retry") as (far, relay):
        far.how, far.look = far.lose(0), fail(Unavailable("down"))
        for _ in range(5 * MOST_UNREAD):
            await relay.attempt()
        assert far.asked == 1


@pytest.mark.parametrize("looks", [True, False])
async def test_what_cannot_be_looked_up_is_repeated_at_once_then_later_then_left_to_a_person_who_may_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    async with sending(tmp_path, monkeypatch, on_unknown="retry", unknown_wait=60.0, looks=looks) as (far, relay):
        far.how, far.look = far.lose(0), fail(NoLook("there is no list"))
        await relay.attempt()
        await relay.attempt()
        assert far.asked == 2
        assert isinstance(await relay.attempt(), NotReady)
        far.advance(60)
        await relay.attempt()
        assert far.asked == 3
        far.advance(1e6)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert str(outcome).startswith("the answers to 3 tries got lost, and nobody can tell what came of it")
        assert "(the last time: lost): look in the far side" in str(outcome)
        assert await relay.spool.retry(None, None, now=clock.now()) == 1
        far.how = lambda: None
        assert (await relay.deliver(tries=1)).proof == "it is number 4, 3 doubts"


async def test_under_ask_nothing_that_is_unknown_is_sent_again_without_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch, on_unknown="ask", looks=False) as (far, relay):
        far.how = far.lose(0)
        await relay.attempt()
        assert isinstance(await relay.attempt(), Rejected)
        assert far.asked == 1


async def test_a_refusal_that_had_no_effect_leaves_an_earlier_doubt_as_it_was_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch, on_unknown="ask", looks=False) as (far, relay):
        far.how = fail(Unavailable("busy").harmless())
        for _ in range(3):
            assert isinstance(await relay.attempt(), Unavailable)
        assert far.asked == 3
    async with sending(tmp_path / "2", monkeypatch) as (far, relay):
        far.how = far.lose(25)
        await relay.attempt()
        far.advance(WAIT)
        far.how = fail(Unavailable("busy").harmless())
        assert isinstance(await relay.attempt(), Unavailable)
        far.advance(5)
        far.how = lambda: None
        await relay.deliver(tries=1)
        assert (far.there, far.asked) == ([1], 2)


async def test_after_a_restart_of_the_machine_what_has_passed_since_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sending(tmp_path, monkeypatch) as (far, relay):
        far.how = far.lose(None)
        await relay.attempt()
        far.uptime = 5.0
        outcome = await relay.attempt()
        assert isinstance(outcome, NotReady)
        far.uptime = WAIT
        far.how = lambda: None
        await relay.attempt()
        assert far.there == [2]


Op = tuple[Any, ...]
OPS: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("lose"), st.sampled_from([0, 3, 15, None])),
    st.tuples(st.just("harmless")),
    st.tuples(st.just("unread")),
    st.tuples(st.just("answer")),
    st.tuples(st.just("cut"), st.integers(1, 4), st.booleans(), st.sampled_from([0, 3, 15, None])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 4.0, WAIT])),
)


async def played(ops: list[Op], folder: Path, patched: pytest.MonkeyPatch) -> None:
    async with sending(folder, patched) as (far, relay):
        for op in ops:
            far.how, far.look = (lambda: None), (lambda: None)
            match op:
                case ("wait", seconds):
                    far.advance(seconds)
                    continue
                case ("lose", after):
                    far.how = far.lose(after)
                case ("harmless",):
                    far.how = fail(Unavailable("busy").harmless())
                case ("unread",):
                    far.how, far.look = far.lose(0), fail(TryAgain("no JSON"))
                case ("cut", commit, is_stored, after):
                    far.how = far.lose(after) if not is_stored else far.how
                    try:
                        await relay.attempt(dies_at=commit, is_stored=is_stored)
                    except PowerCut:
                        await relay.restart()
                    continue
            await relay.attempt()
            assert len(far.there) <= 1, "what needs less than the wait is never there twice"
        far.how, far.look = (lambda: None), (lambda: None)
        for _ in range(200):
            outcome = await relay.attempt()
            if outcome is None:
                break
            if isinstance(outcome, Rejected):  # sent three times and never there: a person looks, and has it sent
                assert far.there == []
                assert await relay.spool.retry(None, None, now=clock.now()) == 1
            far.advance(WAIT / 2)
        assert await relay.attempt() is None
        assert len(far.there) == 1


@example([("cut", 1, True, None), ("answer",), ("wait", WAIT), ("answer",)])
@example([("cut", 2, False, 15), ("cut", 1, False, None), ("wait", 4.0), ("answer",)])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(ops=st.lists(OPS, max_size=10))
def test_whatever_is_lost_and_wherever_it_dies_the_effect_is_there_once(ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        asyncio.run(played(ops, Path(folder), patched))
