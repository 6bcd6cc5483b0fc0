"""Rules: which items go where, how, and how urgently. Pure policy: an item in, orders out; no clock, no I/O.

Promises: every rule that matches applies; what two rules ask for alike (same destination, action, arguments and
follow-ups) is ordered once, at the more urgent of the two priorities. A condition that fails is said in
`Decision.trouble` and counts as not matched; it never keeps the item or the other rules back. Payloads, names and
receipts are data: nothing in them is ever read as a template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from relayd import jsontext
from relayd.cage import TemplateError
from relayd.clock import rfc3339
from relayd.fields import Duration, Section, written
from relayd.model import JSON, Device, Fields, Item, Kind, Location, Order, Priority
from relayd.templates import Known, fill_in, is_true

__all__ = ["OWN_HEALTH", "Decision", "RuleBook", "RuleConfig", "TemplateError", "Verdict", "compile_rules", "render"]

OWN_HEALTH = "relayd"
"""The source of the relay's own health events; a rule takes them only if it names it."""

ITEM_FIELDS = frozenset({"id", "name", "source", "kind", "size", "content_type", "sha256", "captured_at", "topic"})
KNOWN: Known = {
    "item": ITEM_FIELDS,
    "payload": None,
    "device": frozenset({"id", "name", "site", "location"}),
    "location": frozenset({"latitude", "longitude", "accuracy_meters", "age_seconds"}),
    "incident": None,
}
"""What conditions and texts see; `receipt` comes along in `then`, the names of a path template along in `item`."""


class DeliverConfig(Section):
    """One delivery. Every key besides `to`, `action`, `then` is an argument of the action; its texts are templates."""

    model_config = ConfigDict(extra="allow")

    to: Annotated[str, Field(examples=["rapidsos"])]
    """Name of the destination."""
    action: Annotated[str | None, Field(examples=["upload"])] = None
    """What to do there; may be left out where the destination's type has only one action."""
    then: tuple[DeliverConfig, ...] = ()
    """Deliveries that follow once this one has arrived; their texts also see `receipt`."""

    @property
    def arguments(self) -> Fields:
        """The arguments as written: texts are still templates."""
        return self.model_extra or {}


class IncidentConfig(Section):
    """Ties items together into one incident: what arrives under the same key, and the media around it."""

    key: Annotated[str, Field(min_length=1, examples=["panic-{{ device.id }}"])]
    """Template; items with the same key belong to the same open incident."""
    collect: tuple[str, ...] = ()
    """Sources whose items belong to the incident while it is open."""
    before: Duration = written("60s", ge=0)
    """Items captured up to this long before the incident belong to it too."""
    after: Duration = written("10m", gt=0)
    """The incident closes this long after the last message under its key."""


class RuleConfig(Section):
    """One rule: items of these sources, on this condition, are delivered like this."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["incident media"])]
    """Shown by `explain`, `items` and `why`; each rule has its own."""
    from_: Annotated[tuple[str, ...], Field(alias="from", min_length=1, examples=[["front-camera"]])]
    """Names of sources; `"*"` stands for every configured source, `"relayd"` for the relay's own health events."""
    when: Annotated[str | None, Field(min_length=1, examples=["payload.pressed"])] = None
    """One expression over `item`, `payload`, `device`, `location` and `incident`; absent: always."""
    priority: Literal["emergency", "high", "normal", "bulk"] = "normal"
    """How urgent the deliveries are."""
    metered: bool | None = None
    """Whether the deliveries may use metered links; absent: only those of priority `high` and `emergency`."""
    incident: IncidentConfig | None = None
    """Opens an incident, or adds to the one that is open under the same key."""
    deliver: tuple[DeliverConfig, ...] = ()
    """What is owed for each item that matches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the rules say about one item. `trouble` names each rule whose condition could not be answered, and why."""

    orders: tuple[Order, ...]
    matched: tuple[str, ...]
    trouble: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one rule says about one item, and why; for `explain`. `is_trouble`: the condition could not be answered."""

    rule: str
    is_match: bool
    reason: str
    is_trouble: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    name: str
    sources: frozenset[str]
    when: str | None
    orders: tuple[Order, ...]

    def judge(self, item: Item, seen: Mapping[str, Any]) -> Verdict:
        if item.source not in self.sources and ("*" not in self.sources or item.source == OWN_HEALTH):
            wanted = ", ".join(sorted(self.sources))
            return Verdict(rule=self.name, is_match=False, reason=f"it takes from {wanted}, not from {item.source}")
        if self.when is None:
            return Verdict(rule=self.name, is_match=True, reason="it has no condition")
        try:
            holds = is_true(self.when, seen)
        except TemplateError as error:
            reason = f"its condition `{self.when}` cannot be answered: {error}"
            return Verdict(rule=self.name, is_match=False, reason=reason, is_trouble=True)
        return Verdict(rule=self.name, is_match=holds, reason=f"`{self.when}` {'holds' if holds else 'does not hold'}")


class RuleBook:
    """The rules, ready for use; immutable."""

    def __init__(self, rules: Iterable[_Rule]) -> None:
        self._rules = tuple(rules)

    def decide(self, item: Item, device: Device, location: Location | None = None) -> Decision:
        """What is owed for `item`, urgent first as the rules stand. Never raises."""
        verdicts = self.explain(item, device, location)
        matched = [rule for rule, verdict in zip(self._rules, verdicts, strict=True) if verdict.is_match]
        return Decision(
            orders=_merged(order for rule in matched for order in rule.orders),
            matched=tuple(rule.name for rule in matched),
            trouble=tuple(f"rule {verdict.rule!r}: {verdict.reason}" for verdict in verdicts if verdict.is_trouble),
        )

    def takes_from(self, source: str) -> bool:
        """Whether any rule names this source."""
        return any(source in rule.sources for rule in self._rules)

    def explain(self, item: Item, device: Device, location: Location | None = None) -> list[Verdict]:
        """What each rule says about `item`, in the order of the configuration."""
        seen = context(item, device, location)
        return [rule.judge(item, seen) for rule in self._rules]


def compile_rules(rules: Sequence[RuleConfig]) -> RuleBook:
    """The rule book of `[[rule]]` sections that `config.load` accepted."""
    return RuleBook(
        _Rule(
            name=rule.name,
            sources=frozenset(rule.from_),
            when=rule.when,
            orders=tuple(_order(entry, rule.name, Priority[rule.priority.upper()]) for entry in rule.deliver),
        )
        for rule in rules
    )


def context(
    item: Item,
    device: Device,
    location: Location | None = None,
    incident: Mapping[str, JSON] | None = None,
    receipt: Fields | None = None,
) -> dict[str, Any]:
    """What conditions and texts see. `location` is where the item was captured, else the newest fix given, else where
    the device stands; `receipt` is there only in follow-ups."""
    found = item.location or location or device.location
    seen: dict[str, Any] = {
        "item": {
            **item.attributes,
            "id": item.id,
            "name": item.name,
            "source": item.source,
            "kind": item.kind.value,
            "size": item.size_bytes,
            "content_type": item.content_type,
            "sha256": item.sha256,
            "captured_at": rfc3339(item.captured_at),
            "topic": item.topic,
        },
        "payload": _payload(item),
        "device": {"id": device.id, "name": device.name, "site": device.site, "location": _place(device.location)},
        "location": _place(found),
        "incident": None if incident is None else dict(incident),
    }
    return seen if receipt is None else seen | {"receipt": dict(receipt)}


def render(arguments: Fields, context: Mapping[str, Any]) -> Fields:
    """The arguments with every text filled in. Raises TemplateError, which names the argument."""
    filled: dict[str, JSON] = {}
    for name, value in arguments.items():
        try:
            filled[name] = _rendered(value, context)
        except TemplateError as error:
            raise TemplateError(f"{name}: {error}") from None
    return filled


def _rendered(value: JSON, context: Mapping[str, Any]) -> JSON:
    if isinstance(value, str):
        return fill_in(value, context)
    if isinstance(value, list):
        return [_rendered(one, context) for one in value]
    if isinstance(value, dict):
        return {key: _rendered(one, context) for key, one in value.items()}
    return value


def _order(entry: DeliverConfig, rule: str, priority: Priority) -> Order:
    return Order(
        destination=entry.to,
        action=entry.action or "",
        priority=priority,
        rule=rule,
        arguments=dict(entry.arguments),
        then=tuple(_order(follower, rule, priority) for follower in entry.then),
    )


def _merged(orders: Iterable[Order]) -> tuple[Order, ...]:
    kept: dict[str, Order] = {}
    for order in orders:
        key = json.dumps(_likeness(order), sort_keys=True)
        earlier = kept.setdefault(key, order)
        if order.priority < earlier.priority:
            kept[key] = order
    return tuple(kept.values())


def _likeness(order: Order) -> JSON:
    """What makes two orders the same: everything but the rule and the priority."""
    return [order.destination, order.action, dict(order.arguments), [_likeness(follower) for follower in order.then]]


def _place(location: Location | None) -> dict[str, Any] | None:
    return None if location is None else asdict(location)


def _payload(item: Item) -> JSON:
    """A message as parsed JSON, or as text if it is none; None for media and for bytes that are no text."""
    if item.kind is not Kind.MESSAGE or item.payload is None:
        return None
    return jsontext.parsed(item.payload).value
