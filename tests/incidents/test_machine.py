"""Presses, media, answers, refusals, kills, in whatever order: the same things end up at the same report."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from relayd.incidents import AGREEING_SECONDS, RIGHT_FOR_SECONDS
from relayd.model import Delivery, Item, Outcome, State
from relayd.spool import Spool, check
from tests.incidents.rig import CLEAR, IMAGE, MEDIA, PRESS, REPORT, Scene
from tests.spool.rig import adds_up, config

T = TypeVar("T")
BEFORE, AFTER = 60.0, 600.0
CHAT = {"to": "room", "action": "message", "text": "pressed"}


class IncidentMachine(RuleBasedStateMachine):
    """The model knows when presses and photos happened; what must have come of it is worked out at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.patch = pytest.MonkeyPatch()
        self.config = config(Path(self.folder.name))
        self.spool = self.run(Spool.open(self.config, now=0.0))
        self.scene = Scene(
            self.spool, self.patch, PRESS | {"deliver": [REPORT, CHAT]}, MEDIA | {"deliver": [IMAGE]}, CLEAR
        )
        self.presses: list[Item] = []
        self.photos: list[tuple[Item, float, bool]] = []
        self.agreed_at: float | None = None
        self.reports: dict[str, list[int]] = {}
        self.sent: list[tuple[str, str, int]] = []
        self.numbers = 100

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(button=st.sampled_from("AB"))
    def press(self, button: str) -> None:
        self.presses.append(self.run(self.scene.press(button)))

    @rule(button=st.sampled_from("AB"))
    def all_clear(self, button: str) -> None:
        self.run(self.scene.press(button, pressed=False))

    @rule(ago=st.sampled_from([0.0, 5.0, 50.0, 300.0, 2000.0]))
    def photo(self, ago: float) -> None:
        moment = self.scene.now - ago
        is_clock_right = self.agreed_at is not None and self.scene.now - self.agreed_at <= RIGHT_FOR_SECONDS
        self.photos.append((self.run(self.scene.photo(f"{len(self.photos)}.jpg", ago=ago)), moment, is_clock_right))
        self.agreed_at = self.scene.now if ago <= AGREEING_SECONDS else self.agreed_at

    @rule(seconds=st.sampled_from([1.0, 30.0, 200.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.scene.passes(seconds)

    @rule()
    def look(self) -> None:
        self.run(self.scene.look())

    @rule()
    def kill(self) -> None:
        """What was begun is simply due later; nothing else is in memory only."""
        self.run(self.spool.close())
        self.spool = self.run(Spool.open(self.config, now=self.scene.now))
        self.scene.use(self.spool)

    @rule(answer=st.sampled_from(["yes", "yes", "yes", "lost", "no"]))
    def deliver(self, answer: str) -> None:
        begun = self.run(self.scene.next())
        if begun is None:
            return
        assert begun.incident is not None
        if answer == "lost":
            self.run(
                self.spool.record_deferred(
                    begun.delivery.id, Outcome.FAILED, "no answer", due_at=self.scene.now, now=self.scene.now
                )
            )
        elif answer == "no" and begun.delivery.action == "report":
            self.run(self.scene.refuse(begun))
        elif begun.delivery.action == "report":
            self.numbers += 1
            self.reports.setdefault(begun.incident.id, []).append(self.numbers)
            self.run(self.scene.deliver(begun, report_id=self.numbers))
        else:
            number = begun.incident.remote["room"]["report_id"]
            assert isinstance(number, int)
            self.sent.append((begun.item.id, begun.delivery.action, number))
            self.run(self.scene.deliver(begun))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """A person gives a photo up, or a press whose report was not made yet."""
        if self.photos:
            item = data.draw(st.sampled_from(self.photos))
            self.photos.remove(item)
            self.run(self.spool.drop([item[0].id], now=self.scene.now))
        for press in self.presses[:1]:
            if any(one.waits_for for one in self.deliveries(press)):
                self.run(self.spool.drop([press.id], now=self.scene.now))

    @rule()
    def retry_everything(self) -> None:
        self.run(self.spool.retry(None, None, now=self.scene.now))

    def teardown(self) -> None:
        try:
            self.look()
            self.retry_everything()
            while self.run(self.scene.next()) is not None:
                self.scene.passes(20)
                self.deliver("yes")
            self.judge()
        finally:
            self.run(self.spool.close())
            report = check(self.config.path)
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.patch.undo()
            self.folder.cleanup()
        assert report.is_good, report.problems

    def judge(self) -> None:
        incidents = {one.incident.id: one.incident for one in self.run(self.spool.incidents.page(limit=1000))}
        assert all(len(numbers) == 1 for numbers in self.reports.values()), "a report was made twice"
        number_of = {incident: numbers[0] for incident, numbers in self.reports.items()}
        assert len(set(self.sent)) == len(self.sent), "something was sent twice"
        for incident in incidents.values():
            if incident.id in number_of:
                assert incident.remote == {"room": {"report_id": number_of[incident.id]}}
        images = {(item, number) for item, action, number in self.sent if action == "image"}
        for item, moment, is_clock_right in self.photos:
            for incident in incidents.values():
                is_within = incident.starts_at <= moment <= incident.ends_at
                was_there = incident.starts_at <= item.accepted_at <= incident.opened_at
                if incident.id in number_of:
                    came = incident.opened_at <= item.accepted_at <= incident.ends_at and not is_clock_right
                    assert ((item.id, number_of[incident.id]) in images) == (is_within or was_there or came)
        chats = {item for item, action, _ in self.sent if action == "message"}
        for press in self.presses:
            line = next(one for one in self.deliveries(press) if one.action == "message")
            assert (press.id in chats) == (line.state is State.DELIVERED)
            assert press.id in chats or line.incident not in number_of or line.reason == "dropped by hand"
        assert adds_up(self.spool)

    def deliveries(self, item: Item) -> list[Delivery]:
        return [one.delivery for one in self.run(self.scene.deliveries(item))]


TestIncidentMachine = IncidentMachine.TestCase
TestIncidentMachine.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
