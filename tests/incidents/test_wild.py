"""Everything at once, clocks and a full disk included: counters add up, nothing waits in vain, nothing goes twice."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relayd.model import Item, Outcome
from relayd.spool import Spool, check, counting, waiting
from tests.incidents.rig import CLEAR, IMAGE, MEDIA, PRESS, REPORT, Scene
from tests.spool.rig import DAY, NOW, adds_up, config, make_way

T = TypeVar("T")
SMS = {"to": "video", "action": "sms", "phone_number": "1", "notes": "{{ incident.report_id }}"}
RULES: list[dict[str, Any]] = [
    PRESS
    | {"priority": "high", "deliver": [REPORT | {"then": [SMS]}, {"to": "room", "action": "message", "text": "x"}]},
    MEDIA | {"deliver": [IMAGE, {"to": "video", "action": "media", "then": [{"to": "nas", "action": "copy"}]}]},
    CLEAR,
]
BRINGS: dict[str, dict[str, Any]] = {"report": {"report_id": 7}, "sms": {"stream_id": "s"}}


class WildMachine(RuleBasedStateMachine):
    """No model: only what must hold at every moment, and that all of it comes to an end."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(waiting, "MOVED_AT_ONCE", 2)
        self.config = config(Path(self.folder.name))
        self.spool = self.run(Spool.open(self.config, now=NOW))
        self.scene = Scene(self.spool, self.patch, *RULES)
        self.items: list[Item] = []
        self.sent: set[int] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(button=st.sampled_from("AB"), pressed=st.sampled_from([True, True, False]))
    def press(self, button: str, pressed: bool) -> None:
        self.items.append(self.run(self.scene.press(button, pressed=pressed)))

    @rule(ago=st.sampled_from([0.0, 50.0, 1000.0]))
    def photo(self, ago: float) -> None:
        self.items.append(self.run(self.scene.photo(ago=ago)))

    @rule(seconds=st.sampled_from([1.0, 100.0, 700.0, 2 * DAY]))
    def time_passes(self, seconds: float) -> None:
        self.scene.passes(seconds)

    @rule(seconds=st.sampled_from([-NOW + 100, -5000.0, 5000.0, 10 * DAY]))
    def clock_is_set(self, seconds: float) -> None:
        if self.scene.now + seconds > 0:
            self.scene.clock_is_set(seconds)

    @rule(says=st.sampled_from([10.0, NOW, NOW + DAY]), is_synchronized=st.booleans())
    def machine_restarts(self, says: float, is_synchronized: bool) -> None:
        self.kill()
        self.scene.machine_restarts(says)
        self.scene.is_synchronized = is_synchronized

    @rule()
    def kill(self) -> None:
        self.run(self.spool.close())
        self.spool = self.run(Spool.open(self.config, now=self.scene.now))
        self.scene.use(self.spool)

    @rule()
    def look(self) -> None:
        self.run(self.spool.incidents.settle_all(now=self.scene.now))
        self.run(self.scene.look())

    @rule(to=st.sampled_from(["room", "room", "video", "nas"]), answer=st.sampled_from(["yes", "yes", "no", "nothing"]))
    def deliver(self, to: str, answer: str) -> None:
        self.try_one(to, answer)

    def try_one(self, to: str, answer: str) -> bool:
        begun = self.run(self.scene.next(to))
        if begun is None:
            return False
        assert begun.delivery.id not in self.sent
        if answer == "no":
            self.run(self.scene.refuse(begun))
            return True
        self.sent.add(begun.delivery.id)
        fields = BRINGS.get(begun.delivery.action, {}) if answer == "yes" else {}
        self.run(self.scene.deliver(begun, **fields))
        return True

    @rule(to=st.sampled_from(["room", "video"]))
    def fails(self, to: str) -> None:
        begun = self.run(self.scene.next(to))
        if begun is not None:
            self.run(
                self.spool.record_deferred(
                    begun.delivery.id, Outcome.FAILED, "no", due_at=self.scene.now, now=self.scene.now
                )
            )

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.items:
            self.run(self.spool.drop([data.draw(st.sampled_from(self.items)).id], now=self.scene.now))

    @rule(data=st.data(), is_all=st.booleans())
    def retry(self, data: st.DataObject, is_all: bool) -> None:
        if self.items:
            ids = None if is_all else [data.draw(st.sampled_from(self.items)).id]
            self.run(self.spool.retry(ids, None, now=self.scene.now))

    @rule(count=st.integers(min_value=1, max_value=3))
    def evict(self, count: int) -> None:
        self.run(make_way(self.spool, now=self.scene.now, bytes_wanted=30 * count))

    @rule()
    def tidy(self) -> None:
        now = self.scene.now
        self.run(self.spool.expire(now=now, give_up_after=DAY, min_attempts=3))
        self.run(self.spool.expire_unclaimed(now=now, keep_unclaimed=600))
        self.run(self.spool.free_delivered(now=now, keep_content=0, keep_unclaimed=600))
        self.run(self.spool.purge(now=now, keep_delivered=DAY, keep_dead=30 * DAY))

    @rule()
    def close_by_hand(self) -> None:
        for incident in self.run(self.spool.incidents.open())[:1]:
            self.run(self.spool.incidents.close(incident.id, "closed by hand", now=self.scene.now))

    @invariant()
    def counters_say_what_the_rows_say(self) -> None:
        assert adds_up(self.spool)
        assert self.run(self.spool._engine.read(counting.differences)) == []

    @invariant()
    def each_report_is_owed_or_made_once_in_an_incident(self) -> None:
        def twice(db: Any) -> list[Any]:
            rows: list[Any] = db.execute(
                "SELECT incident, action FROM deliveries WHERE opens <> '' AND incident <> ''"
                " AND state IN ('pending', 'delivered') GROUP BY incident, action HAVING count(*) > 1"
            ).fetchall()
            return rows

        assert self.run(self.spool._engine.read(twice)) == []

    def teardown(self) -> None:
        try:
            self.look()
            assert list(self.run(self.spool._engine.read(lambda db: list(waiting.endless(db))))) == []
            self.scene.is_synchronized = True
            if self.scene.now < NOW:
                self.scene.clock_is_set(NOW + 20 * DAY - self.scene.now)
            self.scene.passes(30 * DAY)
            self.look()
            assert self.spool.counters.open_incidents == 0, "an incident is open for ever"
            while any(self.try_one(to, "yes") for to in ("room", "video", "nas")):
                self.scene.passes(20)
                self.look()
            owed = self.spool.counters.destinations.values()
            assert sum(one.pending for one in owed) == 0, "something waits for ever"
        finally:
            self.run(self.spool.close())
            report = check(self.config.path)
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.patch.undo()
            self.folder.cleanup()
        assert report.is_good, report.problems


TestWildMachine = WildMachine.TestCase
TestWildMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
