"""Rules, the intake and the collector on a real spool, in a time that the test walks through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from relayd import destinations
from relayd.incidents import remote_names
from relayd.intake import Intake
from relayd.model import Capture, Device, Item, Kind, Outcome, Receipt, State
from relayd.rule_config import RuleConfig
from relayd.rules import RuleBook, Wires, compile_rules
from relayd.spool import Begun, DeliveryDetail, Spool
from tests.spool.rig import NOW, Machine, begin

DEVICE = Device(id="amb-0417", name="Ambulance 417")


@dataclass(frozen=True)
class StreamWires:
    """A destination whose `sms` opens a stream that `media` needs."""

    opens: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"sms": ("stream_id",)})
    needs: Mapping[str, str] = field(default_factory=lambda: {"media": "stream_id"})


WIRES: dict[str, Wires] = {"room": destinations.models("sayvu"), "video": StreamWires()}
REPORT = {"to": "room", "action": "report", "category": "Violence"}
IMAGE = {"to": "room", "action": "image"}
PRESS = {
    "name": "panic",
    "from": ["panic"],
    "when": "payload.pressed",
    "priority": "emergency",
    "incident": {"key": "panic-{{ payload.button }}", "collect": ["front"], "before": "60s", "after": "10m"},
    "deliver": [REPORT],
}
MEDIA = {"name": "incident media", "from": ["front"], "when": "incident", "priority": "high", "deliver": [IMAGE]}
CLEAR = {
    "name": "all clear",
    "from": ["panic"],
    "when": "not payload.pressed",
    "incident": {"key": "panic-{{ payload.button }}", "closes": True},
}


def book(*rules: Mapping[str, Any]) -> RuleBook:
    return compile_rules([RuleConfig.model_validate(rule) for rule in rules], WIRES)


class Scene(Machine):
    """What happens to one relay."""

    def __init__(self, spool: Spool, patch: pytest.MonkeyPatch, *rules: Mapping[str, Any], now: float = NOW) -> None:
        super().__init__(patch, now)
        self.rules = book(*(rules or (PRESS, MEDIA)))
        self.use(spool)

    def use(self, spool: Spool) -> None:
        """Go on with this one, as after a restart."""
        self.spool = spool
        self.intake = Intake(spool, self.rules, DEVICE)

    def machine_restarts(self, clock_says: float) -> None:
        super().machine_restarts(clock_says)
        self.use(self.spool)

    async def press(self, button: str = "A", *, pressed: bool = True) -> Item:
        payload = f'{{"pressed": {str(pressed).lower()}, "button": "{button}"}}'.encode()
        return await self.intake.put(_capture("panic", "panic", Kind.MESSAGE, payload, self.now))

    async def photo(self, name: str = "a.jpg", *, ago: float = 0.0, source: str = "front") -> Item:
        return await self.intake.put(_capture(source, name, Kind.MEDIA, b"\xff\xd8", self.now - ago))

    async def look(self) -> None:
        await self.intake.collector.look()

    async def deliveries(self, item: Item) -> list[DeliveryDetail]:
        detail = await self.spool.item(item.id)
        assert detail is not None
        return list(detail.deliveries)

    async def actions(self, item: Item) -> list[str]:
        """What is owed of it, as `destination action state`."""
        found = await self.deliveries(item)
        return [f"{one.delivery.destination} {one.delivery.action} {one.delivery.state}" for one in found]

    async def next(self, destination: str = "room") -> Begun | None:
        return await begin(self.spool, destination, now=self.now)

    async def deliver(self, begun: Begun, **receipt: Any) -> None:
        await self.spool.record_delivered(begun.delivery.id, Receipt(proof="200", fields=receipt), now=self.now)

    async def refuse(self, begun: Begun, reason: str = "no such category") -> None:
        await self.spool.record_ended(begun.delivery.id, State.DEAD, Outcome.REJECTED, reason, now=self.now)

    async def incident(self) -> Any:
        """The newest one."""
        return (await self.spool.incidents.page())[0]


def _capture(source: str, name: str, kind: Kind, payload: bytes, captured_at: float) -> Capture:
    kinds = {Kind.MESSAGE: "application/json", Kind.MEDIA: "image/jpeg"}
    return Capture(
        source=source, name=name, kind=kind, content_type=kinds[kind], captured_at=captured_at, payload=payload
    )


def meets(remote: Mapping[str, Mapping[str, Any]], needs: Sequence[str]) -> bool:
    return set(needs) <= remote_names(remote)
