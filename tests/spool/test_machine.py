"""The spool against a model of a few dictionaries: whatever is done in whatever order, reopened at any point."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.model import Kind, Outcome, Priority, Receipt, State
from relayd.spool import Spool, check
from relayd.spool.states import state_of
from tests.spool.rig import DAY, NOW, adds_up, begin, config, make_way, media_names, message, order

T = TypeVar("T")
DESTINATIONS = ("api", "nas")
COLLECTED = "ring"
"""A source from which incidents collect."""


@dataclass
class Owed:
    """One delivery, as the model sees it."""

    item: str
    destination: str
    priority: Priority
    due_at: float
    owed_since: float
    state: State = State.PENDING
    attempts: int = 0
    follow_up: bool = False
    steps: list[str] = field(default_factory=list)


@dataclass
class Kept:
    """One item."""

    kind: Kind
    accepted_at: float
    has_content: bool = True
    ended: State | None = None  # for an item without deliveries
    ended_at: float | None = None


class SpoolMachine(RuleBasedStateMachine):
    """Each rule does one thing to both; the invariants compare."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.config = config(Path(self.folder.name))
        self.lives = 0
        self.now = NOW
        self.items: dict[str, Kept] = {}
        self.purged: dict[State, int] = dict.fromkeys(State, 0)
        self.owed: dict[int, Owed] = {}
        self.spool = self.opened()

    def opened(self) -> Spool:
        spool = self.run(Spool.open(self.config, now=self.now))
        spool.incidents.keep_delivered_of([COLLECTED])
        return spool

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.spool.close())
        report = check(self.config.path)
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()
        assert report.is_good, report.problems

    # --- rules

    @rule(seconds=st.sampled_from([0.0, 1.0, 40.0, DAY, 31 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        kind=st.sampled_from(Kind),
        to=st.lists(st.tuples(st.sampled_from(DESTINATIONS), st.sampled_from(Priority), st.booleans()), max_size=2),
        source=st.sampled_from(["panic", COLLECTED]),
    )
    def put(self, kind: Kind, to: list[tuple[str, Priority, bool]], source: str) -> None:
        orders = [
            order(name, priority, *([order("nas", Priority.HIGH)] if follow_up else []))
            for name, priority, follow_up in to
        ]
        source = "panic" if orders else source
        item = self.run(self.spool.put(message(b"content", kind=kind, source=source), orders, now=self.now))
        if not orders and source != COLLECTED:
            self.purged[State.UNCLAIMED] += 1
            return
        self.items[item.id] = Kept(kind=kind, accepted_at=self.now)
        self.learn_deliveries(item.id)

    @rule(name=st.sampled_from(DESTINATIONS), probe=st.booleans())
    def begin(self, name: str, probe: bool) -> None:
        found = self.run(begin(self.spool, name, now=self.now, delay=lambda _: 30.0, probe=probe))
        due = [
            owed
            for owed in self.owed.values()
            if owed.destination == name and owed.state is State.PENDING and owed.due_at <= self.now
        ]
        if probe:
            due += [owed for owed in self.owed.values() if owed not in due and self.backs_off(owed, name)]
        if found is None:
            assert due == []
            return
        owed = self.owed[found.delivery.id]
        assert owed in due
        best = min(other.priority for other in due)
        assert owed.priority == best
        if not probe:
            assert owed.due_at == min(other.due_at for other in due if other.priority == best)
        assert list(found.steps) == owed.steps
        owed.attempts += 1
        owed.due_at = self.now + 30.0
        assert (found.delivery.attempts, found.delivery.due_at) == (owed.attempts, owed.due_at)

    def backs_off(self, owed: Owed, name: str) -> bool:
        """Whether it is urgent and would be due but for a try that failed."""
        is_pending = owed.destination == name and owed.state is State.PENDING
        return is_pending and owed.priority <= Priority.HIGH and owed.attempts > 0

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        number, owed = self.some(data)
        self.run(self.spool.record_delivered(number, Receipt(proof="", fields={"n": number}), now=self.now))
        if owed.state is not State.DELIVERED:
            self.move(owed, State.DELIVERED)
            owed.steps = []
            self.learn_deliveries(owed.item)
            self.settle(owed.item)

    @precondition(lambda self: self.owed)
    @rule(data=st.data(), rewind=st.booleans())
    def defer(self, data: st.DataObject, rewind: bool) -> None:
        number, owed = self.some(data)
        name = owed.steps[0] if rewind and owed.steps else None
        self.run(
            self.spool.record_deferred(
                number, Outcome.FAILED, "no", due_at=self.now + 5, now=self.now, forget_from=name
            )
        )
        if owed.state is State.PENDING:
            owed.due_at = self.now + 5
            owed.steps = [] if name is not None else owed.steps

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        number, owed = self.some(data)
        self.run(self.spool.record_ended(number, State.DEAD, Outcome.REJECTED, "no", now=self.now))
        if owed.state is State.PENDING:
            self.move(owed, State.DEAD)
            self.settle(owed.item)

    @precondition(lambda self: self.owed)
    @rule(data=st.data(), name=st.sampled_from(["slot", "upload"]))
    def step(self, data: st.DataObject, name: str) -> None:
        number, owed = self.some(data)
        if owed.state is State.PENDING:
            self.run(self.spool.store_step(number, name, {"a": 1}))
            owed.steps = [*owed.steps, *({name} - set(owed.steps))]

    @rule(name=st.sampled_from([None, *DESTINATIONS]))
    def retry(self, name: str | None) -> None:
        able = [
            owed
            for owed in self.owed.values()
            if owed.state in (State.DEAD, State.EXPIRED, State.EVICTED)
            and self.items[owed.item].has_content
            and name in (None, owed.destination)
        ]
        assert self.run(self.spool.retry(None, name, now=self.now)) == len(able)
        for owed in able:
            self.move(owed, State.PENDING)
            owed.due_at = owed.owed_since = self.now
            self.settle(owed.item)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        item_id = data.draw(st.sampled_from(sorted(self.items)))
        state = self.state(item_id)
        self.run(self.spool.drop([item_id], now=self.now))
        if state in (State.DELIVERED, State.EVICTED):
            return
        for owed in self.of(item_id):
            if owed.state in (State.PENDING, State.DEAD, State.EXPIRED):
                self.move(owed, State.DROPPED)
        if not self.of(item_id) and state is State.UNCLAIMED:
            self.end(item_id, State.DROPPED)
        self.settle(item_id)
        self.items[item_id].has_content = False

    @rule()
    def expire(self) -> None:
        old = [
            owed
            for owed in self.owed.values()
            if owed.state is State.PENDING and owed.attempts >= 3 and owed.owed_since <= self.now - 30 * DAY
        ]
        assert self.run(self.spool.expire(now=self.now, give_up_after=30 * DAY)) == len(old)
        for owed in old:
            self.move(owed, State.EXPIRED)
            self.settle(owed.item)

    @rule()
    def expire_unclaimed(self) -> None:
        old = [
            item_id
            for item_id, kept in self.items.items()
            if not self.of(item_id) and kept.ended is None and kept.accepted_at <= self.now - 600
        ]
        assert self.run(self.spool.expire_unclaimed(now=self.now, keep_unclaimed=600)) == len(old)
        for item_id in old:
            self.purged[State.UNCLAIMED] += 1
            del self.items[item_id]

    @rule()
    def purge(self) -> None:
        old = [
            item_id
            for item_id, kept in self.items.items()
            if kept.ended_at is not None
            and kept.ended_at <= self.now - (DAY if self.state(item_id) is State.DELIVERED else 30 * DAY)
        ]
        assert self.run(self.spool.purge(now=self.now, keep_delivered=DAY, keep_dead=30 * DAY)) == len(old)
        for item_id in old:
            self.purged[self.state(item_id)] += 1
            del self.items[item_id]
            self.owed = {number: owed for number, owed in self.owed.items() if owed.item != item_id}

    @rule(count=st.integers(min_value=1, max_value=3))
    def evict(self, count: int) -> None:
        """As for an emergency that needs that many files' room."""
        before = {item_id for item_id, kept in self.items.items() if kept.has_content}
        self.run(make_way(self.spool, now=self.now, inodes_wanted=count))
        for item_id in sorted(before):
            detail = self.run(self.spool.item(item_id))
            if detail is None:
                state = self.state(item_id)
                assert state in (State.DELIVERED, State.UNCLAIMED)
                self.purged[state] += 1
                del self.items[item_id]
                self.owed = {number: owed for number, owed in self.owed.items() if owed.item != item_id}
            elif not detail.has_content:
                owing = [owed for owed in self.of(item_id) if owed.state is State.PENDING]
                assert all(owed.priority > Priority.EMERGENCY for owed in owing)
                for owed in owing:
                    self.move(owed, State.EVICTED)
                self.settle(item_id)
                self.items[item_id].has_content = False

    @rule(by_crash=st.booleans())
    def reopen(self, by_crash: bool) -> None:
        """A crash leaves the folder as it is at that moment, its write-ahead log included."""
        before = self.spool.counters
        if by_crash:
            self.run(self.spool._engine.settled())
            self.lives += 1
            left = Path(self.folder.name) / f"life-{self.lives}" / "spool"
            shutil.copytree(self.config.path, left)
            self.config = config(left.parent)
        self.run(self.spool.close())
        self.spool = self.opened()
        after = self.spool.counters
        assert (after.sources, after.destinations, after.bytes) == (before.sources, before.destinations, before.bytes)

    # --- invariants

    @invariant()
    def counters_say_what_the_model_says(self) -> None:
        counters = self.spool.counters
        states = [self.state(item_id) for item_id in self.items]
        for state in State:
            assert getattr(counters, state) == states.count(state) + self.purged[state], state
        assert adds_up(self.spool)
        assert counters.stored == len(self.items)
        assert counters.bytes == sum(7 for kept in self.items.values() if kept.has_content)
        for name in DESTINATIONS:
            found = [owed for owed in self.owed.values() if owed.destination == name]
            counted = counters.destinations.get(name)
            for state in (State.PENDING, State.DEAD, State.EVICTED, State.EXPIRED, State.DROPPED):
                expected = sum(owed.state is state for owed in found)
                assert (getattr(counted, state) if counted else 0) == expected, (name, state)

    @invariant()
    def media_is_there_for_exactly_what_is_kept(self) -> None:
        self.run(self.spool._engine.settled())
        kept = [key for key, item in self.items.items() if item.has_content and item.kind is Kind.MEDIA]
        assert media_names(self.config.path) == sorted(kept)

    @invariant()
    def items_and_deliveries_say_what_the_model_says(self) -> None:
        for summary in self.run(self.spool.items(limit=1000)):
            assert summary.state is self.state(summary.item.id)
            assert summary.has_content is self.items[summary.item.id].has_content
            for delivery in summary.deliveries:
                assert delivery.state is self.owed[delivery.id].state

    # --- the model

    def some(self, data: st.DataObject) -> tuple[int, Owed]:
        number = data.draw(st.sampled_from(sorted(self.owed)))
        return number, self.owed[number]

    def of(self, item_id: str) -> list[Owed]:
        return [owed for owed in self.owed.values() if owed.item == item_id]

    def state(self, item_id: str) -> State:
        ended = self.items[item_id].ended
        return state_of({owed.state for owed in self.of(item_id)}) if ended is None else ended

    def move(self, owed: Owed, state: State) -> None:
        owed.state = state

    def end(self, item_id: str, state: State) -> None:
        self.items[item_id].ended = state
        self.items[item_id].ended_at = self.now

    def settle(self, item_id: str) -> None:
        kept = self.items[item_id]
        state = self.state(item_id)
        if state is State.DELIVERED and kept.kind is Kind.MEDIA:
            kept.has_content = False
        if kept.ended is None:
            changed = state is not kept.__dict__.get("last")
            kept.__dict__["last"] = state
            if state in (State.PENDING, State.UNCLAIMED):
                kept.ended_at = None
            elif changed:
                kept.ended_at = self.now

    def learn_deliveries(self, item_id: str) -> None:
        """Ids are the spool's; what they should be like follows from what was ordered."""
        detail = self.run(self.spool.item(item_id))
        assert detail is not None
        for one in detail.deliveries:
            if one.delivery.id not in self.owed:
                assert one.delivery.due_at == self.now
                self.owed[one.delivery.id] = Owed(
                    item=item_id,
                    destination=one.delivery.destination,
                    priority=one.delivery.priority,
                    due_at=self.now,
                    owed_since=self.now,
                )


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
