"""Rules: which items go where, how, and how urgently. Pure policy: an item in, orders out; no clock, no I/O.

Promises: every rule that matches applies, once for each incident of the item, or once if it has none; what is asked
for alike (same destination, action, arguments and follow-ups, and the same incident if that matters) is ordered once,
at the more urgent of the two priorities. A condition that fails is said in `Decision.trouble` and counts as not
matched; it never keeps the item or the other rules back. Payloads, names and receipts are data: nothing in them is ever
read as a template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from relayd import incidents
from relayd.model import JSON, Device, Incident, Item, Location, Opening, Order, Priority
from relayd.rendering import context
from relayd.rule_config import INCIDENT_FIELDS, OWN_HEALTH, DeliverConfig, IncidentConfig, RuleConfig
from relayd.template_budget import TemplateError
from relayd.templates import fields_needed, fill_in, is_true, mentions, named_within


class Wires(Protocol):
    """How a destination's actions hang together with incidents; see `destinations.base`."""

    @property
    def opens(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def needs(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the rules say about one item. `trouble` names each rule whose condition could not be answered, and why.
    `held` are orders that mean nothing without an incident, while the item belongs to none."""

    orders: tuple[Order, ...]
    matched: tuple[str, ...]
    trouble: tuple[str, ...]
    held: tuple[Order, ...] = ()


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
    incident: IncidentConfig | None = None

    def judge(self, item: Item, seen: Mapping[str, Any]) -> Verdict:
        if item.source not in self.sources and ("*" not in self.sources or item.source == OWN_HEALTH):
            wanted = ", ".join(sorted(self.sources))
            return Verdict(rule=self.name, is_match=False, reason=f"it takes from {wanted}, not from {item.source}")
        if self.when is None:
            return Verdict(rule=self.name, is_match=True, reason="it has no condition")
        try:
            holds = is_true(self.when, seen)
        except TemplateError as error:
            if seen["incident"] is None and mentions(self.when, "incident", is_condition=True):
                return Verdict(rule=self.name, is_match=False, reason=f"`{self.when}`: it belongs to no incident")
            reason = f"its condition `{self.when}` cannot be answered and counts as not matched: {error}"
            return Verdict(rule=self.name, is_match=False, reason=reason, is_trouble=True)
        return Verdict(rule=self.name, is_match=holds, reason=f"`{self.when}` {'holds' if holds else 'does not hold'}")

    def owns(self, incident: Incident, seen: Mapping[str, Any]) -> bool:
        """Whether what it orders belongs to this incident: a rule that opens one orders for that one only."""
        if self.incident is None:
            return True
        try:
            return _key(self.incident, seen) == incident.key
        except TemplateError:
            return False


class RuleBook:
    """The rules, ready for use; immutable."""

    def __init__(self, rules: Iterable[_Rule]) -> None:
        self._rules = tuple(rules)
        opening = [rule.incident for rule in self._rules if rule.incident is not None]
        self.opens_incidents = bool(opening)
        self.collects_from = frozenset(source for incident in opening for source in incident.collect)

    def decide(
        self, item: Item, device: Device, location: Location | None = None, belongs_to: Sequence[Incident] = ()
    ) -> Decision:
        """What is owed for `item`, urgent first as the rules stand. Never raises. `belongs_to` are its incidents."""
        unbound = context(item, device, location)
        bound = [(incident, context(item, device, location, incident)) for incident in belongs_to]
        orders: list[Order] = []
        held: list[Order] = []
        verdicts: list[Verdict] = []
        for rule in self._rules:
            owners = [(incident, seen) for incident, seen in bound if rule.owns(incident, seen)]
            for incident, seen in owners:
                verdicts.append(verdict := rule.judge(item, seen))
                orders += [_tied(order, incident.id) for order in rule.orders if verdict.is_match]
            if not owners:
                verdicts.append(verdict := rule.judge(item, unbound))
                orders += [order for order in rule.orders if verdict.is_match and not _is_held(order)]
                held += [order for order in rule.orders if verdict.is_match and _is_held(order)]
        said = {f"rule {verdict.rule!r}: {verdict.reason}": None for verdict in verdicts if verdict.is_trouble}
        return Decision(
            orders=_merged(orders),
            matched=tuple(dict.fromkeys(verdict.rule for verdict in verdicts if verdict.is_match)),
            trouble=tuple(said),
            held=tuple(held),
        )

    def takes_from(self, source: str) -> bool:
        """Whether any rule names this source."""
        return any(source in rule.sources for rule in self._rules)

    def openings(
        self, item: Item, device: Device, location: Location | None = None
    ) -> tuple[tuple[Opening, ...], tuple[str, ...]]:
        """Which incidents the item opens, joins or closes, and what kept a rule from saying so. Never raises."""
        found: list[Opening] = []
        trouble: list[str] = []
        seen = context(item, device, location)
        for rule in self._rules:
            if rule.incident is None or not rule.judge(item, seen).is_match:
                continue
            try:
                key = _key(rule.incident, seen)
            except TemplateError as error:
                trouble.append(f"rule {rule.name!r}: no incident is opened, its key cannot be filled in: {error}")
                continue
            found.append(
                Opening(
                    rule=rule.name,
                    key=key,
                    collect=rule.incident.collect,
                    before_seconds=rule.incident.before,
                    after_seconds=rule.incident.after,
                    closes=rule.incident.closes,
                    most_open=rule.incident.most_open,
                )
            )
        return tuple(found), tuple(trouble)

    def explain(
        self, item: Item, device: Device, location: Location | None = None, incident: Incident | None = None
    ) -> list[Verdict]:
        """What each rule says about `item`, in the order of the configuration."""
        seen = context(item, device, location, incident)
        return [rule.judge(item, seen) for rule in self._rules]


def compile_rules(rules: Sequence[RuleConfig], wires: Mapping[str, Wires] | None = None) -> RuleBook:
    """The rule book of `[[rule]]` sections that `config.load` accepted; `wires` are those of each destination."""
    known = wires or {}
    return RuleBook(
        _Rule(
            name=rule.name,
            sources=frozenset(rule.from_),
            when=rule.when,
            orders=tuple(_order(entry, rule.name, Priority[rule.priority.upper()], known) for entry in rule.deliver),
            incident=rule.incident,
        )
        for rule in rules
    )


def _key(incident: IncidentConfig, seen: Mapping[str, Any]) -> str:
    """Raises TemplateError."""
    key = incidents.short(fill_in(incident.key, seen).strip())
    if not key:
        raise TemplateError("it is empty")
    return key


def _order(entry: DeliverConfig, rule: str, priority: Priority, wires: Mapping[str, Wires]) -> Order:
    action = entry.action or ""
    wire = wires.get(entry.to)
    opens = () if wire is None else wire.opens.get(action, ())
    need = None if wire is None else wire.needs.get(action)
    needs = [f"{entry.to}.{need}"] if need is not None and not entry.arguments.get(need) else []
    texts = list(_texts(dict(entry.arguments)))
    own = {name for field in opens for name in (field, f"{entry.to}.{field}")}
    needs += sorted({name for text in texts for name in _remote_needed(text)} - own)
    then = tuple(_order(follower, rule, priority, wires) for follower in entry.then)
    is_tied = bool(needs or opens) or any(mentions(text, "incident") for text in texts)
    return Order(
        destination=entry.to,
        action=action,
        priority=priority,
        rule=rule,
        arguments=dict(entry.arguments),
        then=then,
        needs=tuple(needs),
        opens=opens,
        is_tied=is_tied or any(follower.is_tied for follower in then),
    )


def _remote_needed(text: str) -> frozenset[str]:
    try:
        named = named_within(text, "incident", "remote")
        return (fields_needed(text, "incident") - INCIDENT_FIELDS) | {f"{to}.{name}" for to, name in named}
    except TemplateError:
        return frozenset()  # `check` has refused it; a delivery says so again


def _texts(value: JSON) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _tied(order: Order, incident: str) -> Order:
    return replace(order, incident=incident, then=tuple(_tied(follower, incident) for follower in order.then))


def _is_held(order: Order) -> bool:
    """Without an incident there is nothing that this could be sent to."""
    own = f"{order.destination}."
    return any(need.startswith(own) and not incidents.is_dispensable(need) for need in order.needs)


def _merged(orders: Iterable[Order]) -> tuple[Order, ...]:
    kept: dict[str, Order] = {}
    for order in orders:
        key = likeness(order)
        earlier = kept.setdefault(key, order)
        if order.priority < earlier.priority:
            kept[key] = order
    return tuple(kept.values())


def likeness(order: Order) -> str:
    """What makes two orders the same: everything but the rule, the priority, and an incident that changes nothing."""
    return json.dumps(_alike(order), sort_keys=True)


def _alike(order: Order) -> JSON:
    return [
        order.destination,
        order.action,
        dict(order.arguments),
        order.incident if order.is_tied else "",
        [_alike(follower) for follower in order.then],
    ]
