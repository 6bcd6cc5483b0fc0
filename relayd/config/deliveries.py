"""Rules against the rest: sources and destinations they name, actions, arguments, conditions and texts.

Promises: works on rules as written, so that a rule with one fault still has its other faults said. A text that is
filled in later is not judged by its type, only as a template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from relayd import destinations
from relayd.config.locate import Path
from relayd.config.reading import Sections
from relayd.config.together import unknown
from relayd.config.words import Fault, fields_of, validate
from relayd.rule_config import INCIDENT_FIELDS, KNOWN, OWN_HEALTH, DeliverConfig, RuleConfig
from relayd.sources.base import SourceConfig
from relayd.sources.folder_config import FolderConfig
from relayd.sources.name_pattern import NamePattern
from relayd.templates import Known, did_you_mean, faults_of_condition, faults_of_text, is_template

OWN_KEYS = frozenset({"to", "action", "then"})
DEEPEST_THEN = 8


def faults_of_rules(sections: Sections) -> Iterator[Fault]:
    """Every fault of the rules that has to do with other sections, or with templates."""
    yield from _names_twice(sections)
    for index, rule in sections.rules():
        path: Path = ("rule", index)
        known = _known(sections, rule.get("from"))
        yield from _sources(sections, rule.get("from"), (*path, "from"), may_be_own=True)
        if isinstance(rule.get("when"), str):
            yield from (((*path, "when"), _said(text)) for text in faults_of_condition(rule["when"], known))
        yield from _incident(sections, rule.get("incident"), (*path, "incident"), known)
        yield from _deliveries(sections, rule.get("deliver"), (*path, "deliver"), known)


def resolved(rule: RuleConfig, sections: Sections) -> RuleConfig:
    """The rule with every action named, also where it was left out because there is only one."""
    return rule.model_copy(update={"deliver": tuple(_resolved(entry, sections) for entry in rule.deliver)})


def _resolved(entry: DeliverConfig, sections: Sections) -> DeliverConfig:
    kind = sections.type_of("destination", entry.to)
    only = next(iter(destinations.models(kind).actions)) if kind is not None else ""
    then = tuple(_resolved(follower, sections) for follower in entry.then)
    return entry.model_copy(update={"action": entry.action or only, "then": then})


def _names_twice(sections: Sections) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, rule in sections.rules():
        name = rule.get("name")
        if isinstance(name, str) and name in seen:
            yield ("rule", index, "name"), f'another rule is called "{name[:64]}" too, give each its own name'
        elif isinstance(name, str):
            seen.add(name)


def _known(sections: Sections, names: object) -> Known:
    """What the rule's templates see: the fields of every item, and those that its sources read from file names."""
    listed = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    wanted = sections.source if "*" in listed else {name for name in listed if name in sections.source}
    fields = {field for name in wanted for field in _attributes(sections.source[name])}
    return {
        **KNOWN,
        "item": (KNOWN["item"] or frozenset()) | fields,
        "incident": INCIDENT_FIELDS | _remote_ids(sections),
    }


def _remote_ids(sections: Sections) -> frozenset[str]:
    """What the configured destinations may call an incident."""
    kinds = {section.type for section in sections.destination.values()}
    return frozenset(name for kind in kinds for names in destinations.models(kind).opens.values() for name in names)


def _attributes(source: SourceConfig) -> tuple[str, ...]:
    if not isinstance(source, FolderConfig) or source.name_pattern is None:
        return ()
    return NamePattern(source.name_pattern).fields


def _sources(sections: Sections, names: object, path: Path, *, may_be_own: bool) -> Iterator[Fault]:
    known = [*sections.names("source"), *([OWN_HEALTH] if may_be_own else [])]
    for position, name in enumerate(names if isinstance(names, list) else []):
        if isinstance(name, str) and name != "*" and name not in known:
            yield (*path, position), unknown("source", name, sections.names("source"))


def _incident(sections: Sections, raw: object, path: Path, known: Known) -> Iterator[Fault]:
    if not isinstance(raw, dict):
        return
    yield from _sources(sections, raw.get("collect"), (*path, "collect"), may_be_own=False)
    yield from _texts(raw.get("key"), (*path, "key"), known)


def _deliveries(sections: Sections, raw: object, path: Path, known: Known, depth: int = 0) -> Iterator[Fault]:
    if depth > DEEPEST_THEN:
        yield path, f"follow-ups go at most {DEEPEST_THEN} deep"
        return
    for position, entry in enumerate(raw if isinstance(raw, list) else []):
        if isinstance(entry, dict):
            yield from _delivery(sections, entry, (*path, position), known, depth)


def _delivery(sections: Sections, entry: Mapping[str, Any], path: Path, known: Known, depth: int) -> Iterator[Fault]:
    name = entry.get("to")
    if isinstance(name, str) and name not in sections.names("destination"):
        yield (*path, "to"), unknown("destination", name, sections.names("destination"))
    for key, value in entry.items():
        if key not in OWN_KEYS:
            yield from _texts(value, (*path, key), known)
    kind = sections.type_of("destination", name) if isinstance(name, str) else None
    receipt: frozenset[str] | None = None
    if kind is not None:
        models = destinations.models(kind)
        receipt = models.receipt
        yield from _action(entry, path, models, kind)
    yield from _deliveries(sections, entry.get("then"), (*path, "then"), {**known, "receipt": receipt}, depth + 1)


def _action(entry: Mapping[str, Any], path: Path, models: destinations.Models, kind: str) -> Iterator[Fault]:
    action = entry.get("action")
    listed = ", ".join(f'"{word}"' for word in models.actions)
    if action is None and len(models.actions) > 1:
        yield (*path, "action"), f"is missing, write action = one of {listed}"
        return
    if action is None:
        action = next(iter(models.actions))
    if not isinstance(action, str):
        return
    if action not in models.actions:
        hint = did_you_mean(action, models.actions)
        yield (*path, "action"), f'type {kind} has no action "{action[:40]}"{hint}'
        return
    arguments = {key: value for key, value in entry.items() if key not in OWN_KEYS}
    for where, text in validate(models.actions[action], arguments, path)[1]:
        if not _is_filled_in_later(arguments, where[len(path) :]):
            yield where, _about_argument(str(where[-1]), text, action, models)


def _about_argument(key: str, text: str, action: str, models: destinations.Models) -> str:
    if not text.startswith("unknown key"):
        return text
    near = did_you_mean(key, OWN_KEYS)
    hint = near if near.startswith(", did") else did_you_mean(key, fields_of(models.actions[action]))
    return f"action {action} has no such argument{hint}"


def _is_filled_in_later(arguments: Mapping[str, Any], path: Path) -> bool:
    value: Any = arguments
    for part in path:
        try:
            value = value[part]
        except (LookupError, TypeError):
            return False
    return isinstance(value, str) and is_template(value)


def _texts(value: object, path: Path, known: Known) -> Iterator[Fault]:
    """Every text within an argument, as a template."""
    if isinstance(value, str):
        yield from ((path, _said(text)) for text in faults_of_text(value, known))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key), known)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _texts(inner, (*path, position), known)


def _said(text: str) -> str:
    if text.startswith('there is no variable "receipt"'):
        return "a receipt is only there in `then`, after the delivery has arrived"
    return text
