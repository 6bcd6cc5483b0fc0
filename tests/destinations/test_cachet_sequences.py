"""Cachet, whatever happens in between: faults that come and go, lost answers, refusals, power cuts, in any order."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relayd.errors import LoginRefused, Rejected
from relayd.sandbox import Sandbox
from relayd.sandbox.cachet import PREFIX
from relayd.sandbox.cachet_records import Incident
from tests.destinations.driver import Line, PowerCut, line
from tests.destinations.test_cachet import drain, fault, make

PARTS = ("source front", "clock")
LOSSES = ("lose", "truncate", "garbage", "refuse", "status 500", "status 503", "status 429", "status 502", "portal")
OPERATIONS = ("incidents", "incident", "updates", "update", "any")
STEPS = ("sending", "done", "told")

Op = tuple[Any, ...]
OPS: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("turn"), st.sampled_from(PARTS[:1] * 4 + PARTS[1:])),
    st.tuples(st.just("turn"), st.just(PARTS[0])),
    st.tuples(st.just("again"), st.sampled_from(PARTS)),
    st.tuples(st.just("try"), st.sampled_from(OPERATIONS), st.sampled_from(LOSSES)),
    st.tuples(st.just("try"), st.just("any"), st.just("")),
    st.tuples(st.just("cut"), st.sampled_from(STEPS), st.booleans()),
    st.tuples(st.just("drain")),
)


class Story:
    """What was put since the page was last up to date, by part, and what the page may show of it then."""

    def __init__(self, sandbox: Sandbox, relay: Line) -> None:
        self.sandbox = sandbox
        self.relay = relay
        self.is_faulty: dict[str, bool] = dict.fromkeys(PARTS, False)
        self.was_open: dict[str, bool] = dict.fromkeys(PARTS, False)
        self.since: dict[str, list[bool]] = defaultdict(list)
        self.least: dict[str, int] = dict.fromkeys(PARTS, 0)
        self.most: dict[str, int] = dict.fromkeys(PARTS, 0)
        self.is_tried = False
        self.number = 0

    async def put(self, part: str, *, over: bool) -> None:
        self.number += 1
        at = f"2026-01-01T{self.number // 60:02}:{self.number % 60:02}:00Z"
        await fault(self.relay, over=over, part=part, at=at)
        self.is_faulty[part] = not over
        self.since[part].append(over)

    async def play(self, op: Op) -> None:
        match op:
            case ("turn", part):
                await self.put(part, over=self.is_faulty[part])
            case ("again", part):
                await self.put(part, over=not self.is_faulty[part])
            case ("try", operation, loss):
                self.is_tried = True
                self.sandbox.script(f"{operation}#1 {loss}" if loss else "")
                outcome = await self.relay.attempt()
                assert not isinstance(outcome, Rejected | LoginRefused)
                self.sandbox.script()
            case ("cut", step, is_stored):
                self.is_tried = True
                with contextlib.suppress(PowerCut):
                    await self.relay.attempt(dies_at=step, is_stored=is_stored)
                await self.relay.restart()
            case _:
                await drain(self.relay, 300)
                self.check()

    def of(self, part: str) -> list[Incident]:
        words = {"source front": "nothing comes from front", "clock": "the clock of the relay is wrong"}[part]
        return [each for each in self.sandbox.cachet.incidents.values() if words in each.name]

    def check(self) -> None:
        """The page is up to date."""
        assert self.sandbox.cachet.duplicates == 0
        for part in PARTS:
            told, until_now = self.of(part), self._episodes(part)
            self.least[part] += until_now[0]
            self.most[part] += until_now[1]
            assert self.least[part] <= len(told) <= self.most[part]
            self.least[part] = self.most[part] = len(told)
            assert [each.status != 4 for each in told] == [False] * (len(told) - 1) + [self.is_faulty[part]] * bool(
                told
            )
            for each in told:
                states = [each.body.status, *(update.status for update in each.updates)]
                assert states.count(4) == (each.status == 4)
                assert 4 not in states[:-1]
            self.was_open[part] = self.is_faulty[part]
        self.since.clear()
        self.is_tried = False

    def _episodes(self, part: str) -> tuple[int, int]:
        """How many incidents what was put since must and may have made."""
        is_open, most, ended = self.was_open[part], 0, not self.was_open[part]
        least = 0
        for over in self.since[part]:
            if not over and ended:
                least = 1
            if not over and not is_open:
                most += 1
            is_open = not over
            ended = ended or over
        return least, most if self.is_tried else least


async def told(ops: list[Op], folder: Path) -> None:
    async with Sandbox() as sandbox, line(lambda: make(sandbox.url + PREFIX), folder / "spool") as relay:
        story = Story(sandbox, relay)
        for op in [*ops, ("drain",)]:
            await story.play(op)


TURN, DRAIN = ("turn", PARTS[0]), ("drain",)


@example([TURN, DRAIN, TURN, TURN, DRAIN])
@example([TURN, DRAIN, TURN, TURN, TURN, TURN, ("try", "update", "lose"), TURN])
@example([TURN, ("try", "incident", "lose"), TURN, ("try", "incidents", "status 500"), DRAIN, TURN])
@example([TURN, TURN, ("cut", "told", False), TURN, ("cut", "done", False), DRAIN])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(ops=st.lists(OPS, max_size=14))
def test_one_incident_for_each_episode_resolved_exactly_if_it_is_over_and_nothing_twice(ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("RELAYD_TEST_TOKEN", "1|sandbox")
        asyncio.run(told(ops, Path(folder)))
