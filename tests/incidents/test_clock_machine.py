"""A relay whose clock is set by seconds to decades, both ways, while it takes, tries, tidies up, evicts, and restarts
with or without its machine: in real time nothing young is given up or forgotten, nothing that is due waits, no footage
is missed, and no incident ends early or lasts for years."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from relayd import housekeeping
from relayd.clock import Stamp
from relayd.model import Outcome, Priority, Receipt, State
from relayd.spool import Spool, check
from tests.incidents.rig import MEDIA, PRESS, Scene
from tests.spool.rig import DAY, NOW, adds_up, begin, config, message, order

T = TypeVar("T")
HOUR, YEAR = 3600.0, 365 * DAY
KEPT, UNCLAIMED_KEPT, BEFORE_PRESS, AFTER_PRESS = 30 * DAY, 600.0, 60.0, 600.0
BACKOFF = 60.0
SLACK = 2 * Stamp.SMALLEST_SECONDS
"""A clock that is set by less is not followed; so much a model in real time may be off."""
STEPS = [1.0, 5.0, 60.0, HOUR, 2 * HOUR, DAY, 60 * DAY, 5 * YEAR, 60 * YEAR]


@dataclass
class Life:
    """One item, in real time."""

    taken: float
    starts: int
    due: float = 0.0
    attempts: int = 0
    ended: float | None = None


class ClockMachine(RuleBasedStateMachine):
    """`real` is the time that nobody in the relay knows."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.config = config(Path(self.folder.name), keep_delivered="30d")
        self.real = 0.0
        self.patch.setattr("relayd.clock.now", lambda: NOW)
        self.spool = self.run(Spool.open(self.config, now=NOW))
        self.scene = Scene(self.spool, self.patch, PRESS, MEDIA)
        self.owed: dict[str, Life] = {}
        self.photos: dict[str, Life] = {}
        self.pressed: tuple[float, int] | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            self.tidy()
            assert adds_up(self.spool)
        finally:
            self.run(self.spool.close())
            report = check(self.config.path)
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.patch.undo()
            self.folder.cleanup()
        assert report.is_good, report.problems

    # --- time

    @rule(seconds=st.sampled_from([0.5, 7.0, 45.0, 100.0, 700.0, 4 * HOUR, 3 * DAY, 31 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.real += seconds
        self.scene.passes(seconds)

    @rule(by=st.sampled_from([*STEPS, *(-step for step in STEPS)]), is_synchronized=st.booleans())
    def the_clock_is_set(self, by: float, is_synchronized: bool) -> None:
        self.scene.clock_is_set(max(by, 10.0 - self.scene.now))
        self.scene.is_synchronized = is_synchronized

    @rule()
    def relayd_restarts(self) -> None:
        self.run(self.spool.close())
        self.spool = self.run(Spool.open(self.config, now=self.scene.now))
        self.scene.use(self.spool)

    @rule(
        off=st.sampled_from([0.0, HOUR, 90 * DAY]),
        ahead=st.sampled_from([None, 0.0, -60.0, HOUR, 60 * DAY, 60 * YEAR]),
        is_synchronized=st.booleans(),
    )
    def the_machine_restarts(self, off: float, ahead: float | None, is_synchronized: bool) -> None:
        """Its clock says 1970, or something around what it said before."""
        self.run(self.spool.close())
        self.scene.machine_restarts(10.0 if ahead is None else max(self.scene.now + ahead, 10.0))
        self.scene.is_synchronized = is_synchronized
        self.real += off + 10.0
        self.spool = self.run(Spool.open(self.config, now=self.scene.now))
        self.scene.use(self.spool)
        for life in self.owed.values():
            life.due = min(life.due, self.real)

    # --- the relay

    @rule(priority=st.sampled_from(Priority))
    def put(self, priority: Priority) -> None:
        item = self.run(self.spool.put(message(), [order("api", priority)], now=self.scene.now))
        self.owed[item.id] = Life(self.real, self.scene.starts, due=self.real)

    @rule(end=st.sampled_from(["fails", "fails", "fails", "is cut", "dies", "is delivered"]), count=st.integers(1, 4))
    def work(self, end: str, count: int) -> None:
        for _ in range(count):
            begun = self.run(begin(self.spool, "api", now=self.scene.now, delay=lambda _: BACKOFF))
            if begun is None:
                waiting = [life for life in self.owed.values() if life.ended is None]
                assert all(life.due > self.real - SLACK for life in waiting), "something that is due waits"
                return
            life, number, now = self.owed[begun.item.id], begun.delivery.id, self.scene.now
            assert life.due <= self.real + SLACK, "it was told to wait"
            life.attempts, life.due = life.attempts + 1, self.real + BACKOFF
            if end == "fails":
                due_at = now + BACKOFF
                self.run(self.spool.record_deferred(number, Outcome.FAILED, "no", due_at=due_at, now=now))
            elif end == "dies":
                self.run(self.spool.record_ended(number, State.DEAD, Outcome.REJECTED, "no", now=now))
                life.ended = self.real
            elif end == "is delivered":
                self.run(self.spool.record_delivered(number, Receipt(proof="200"), now=now))
                life.ended = self.real

    @rule()
    def tidy(self) -> None:
        self.run(housekeeping.tidy(self.spool, self.config))
        self.judge()

    @rule()
    def a_disk_fills_up(self) -> None:
        self.spool.adopt(self.config.model_copy(update={"min_free": 2**60, "when_full": "evict-oldest"}))
        self.run(self.spool.evict_if_needed(now=self.scene.now))
        self.spool.adopt(self.config)
        for name in list(self.owed):
            if self.state(name) in (State.EVICTED, None):
                del self.owed[name]
        self.photos = {name: life for name, life in self.photos.items() if self.has_content(name)}

    @rule()
    def photo(self) -> None:
        item = self.run(self.scene.photo(f"{len(self.photos)}.jpg"))
        self.photos[item.id] = Life(self.real, self.scene.starts)

    @rule()
    def press(self) -> None:
        before = len(self.run(self.spool.incidents.page(limit=1000)))
        item = self.run(self.scene.press())
        self.run(self.scene.look())
        opened = len(self.run(self.spool.incidents.page(limit=1000))) - before
        assert opened == len(self.run(self.scene.deliveries(item)))
        if self.pressed is not None and self.pressed[1] == self.scene.starts:
            ago = self.real - self.pressed[0]
            if abs(ago - AFTER_PRESS) > SLACK:
                assert opened == (ago > AFTER_PRESS), "an incident ended early, or did not end"
        self.pressed = (self.real, self.scene.starts)
        for name, life in self.photos.items():
            if life.starts == self.scene.starts and self.real - life.taken < BEFORE_PRESS - SLACK:
                assert self.is_claimed(name), "footage of seconds ago was missed"

    # --- judging

    def judge(self) -> None:
        for name, life in list(self.owed.items()):
            state = self.state(name)
            if state is None:
                assert life.ended is not None, "it was forgotten though it was owed"
                assert self.real - life.ended >= KEPT - SLACK, "it was forgotten though it ended just now"
                del self.owed[name]
            elif state is State.EXPIRED and life.ended is None:
                assert life.attempts >= housekeeping.MIN_ATTEMPTS
                assert self.real - life.taken >= KEPT - SLACK, "it was given up though it was young"
                life.ended = self.real
            elif life.ended is None and life.attempts >= housekeeping.MIN_ATTEMPTS:
                is_of_this_start = life.starts == self.scene.starts
                assert not is_of_this_start or self.real - life.taken <= KEPT + SLACK, "it is never given up"
        for name, life in list(self.photos.items()):
            if not self.has_content(name):
                assert self.real - life.taken >= UNCLAIMED_KEPT - SLACK, "footage was let go early"
                del self.photos[name]
            elif not self.is_claimed(name) and life.starts == self.scene.starts:
                assert self.real - life.taken <= UNCLAIMED_KEPT + SLACK, "footage is kept for ever"

    def state(self, name: str) -> State | None:
        detail = self.run(self.spool.item(name))
        return None if detail is None else detail.state

    def has_content(self, name: str) -> bool:
        detail = self.run(self.spool.item(name))
        return detail is not None and detail.has_content

    def is_claimed(self, name: str) -> bool:
        detail = self.run(self.spool.item(name))
        return detail is not None and bool(detail.deliveries)


TestClockMachine = ClockMachine.TestCase
TestClockMachine.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
