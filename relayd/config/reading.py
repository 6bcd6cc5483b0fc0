"""The document's sections as models, each for itself; every fault of each is collected, none stops the rest.

Promises: what comes out in `Sections` is checked alone; what belongs together is checked in `together`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relayd import destinations, sources
from relayd.broker import BrokerConfig
from relayd.config.locate import Path
from relayd.config.sections import DeviceConfig, ReloadConfig, WebConfig
from relayd.config.words import Fault, M, validate
from relayd.destinations.base import DestinationConfig
from relayd.faults import HealthConfig
from relayd.fields import Section
from relayd.links import LinkConfig
from relayd.reporter import FleetConfig
from relayd.rule_config import OWN_HEALTH, RuleConfig
from relayd.sources.base import SourceConfig
from relayd.spool import SpoolConfig
from relayd.templates import did_you_mean

SINGLE: Mapping[str, type[Section]] = {
    "device": DeviceConfig,
    "spool": SpoolConfig,
    "health": HealthConfig,
    "fleet": FleetConfig,
    "web": WebConfig,
    "reload": ReloadConfig,
}
ALWAYS = ("device", "spool", "health")
"""Those that are there, all defaults, where nothing is written."""
NAMED = ("broker", "link", "source", "destination")
TOP = (*SINGLE, *NAMED, "rule")
MOST_OF_A_KIND = 1_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LINK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,14}")


@dataclass(slots=True)
class Sections:
    """What the document says. `table` is the document itself; a section with faults is only there."""

    table: Mapping[str, Any]
    faults: list[Fault] = field(default_factory=list)
    single: dict[str, Section] = field(default_factory=dict)
    broker: dict[str, BrokerConfig] = field(default_factory=dict)
    link: dict[str, LinkConfig] = field(default_factory=dict)
    source: dict[str, SourceConfig] = field(default_factory=dict)
    destination: dict[str, DestinationConfig] = field(default_factory=dict)
    rule: dict[int, RuleConfig] = field(default_factory=dict)

    def names(self, kind: str) -> list[str]:
        """The names of all `[kind.NAME]`, also of those with faults."""
        section = self.table.get(kind)
        return list(section) if isinstance(section, dict) else []

    def type_of(self, kind: str, name: str) -> str | None:
        """The type that `[kind.NAME]` says, if it is a known one."""
        section = self.table.get(kind)
        entry = section.get(name) if isinstance(section, dict) else None
        value = entry.get("type") if isinstance(entry, dict) else None
        known = sources.known_types() if kind == "source" else destinations.known_types(value)
        return value if isinstance(value, str) and value in known else None

    def rules(self) -> list[tuple[int, dict[str, Any]]]:
        """Every rule as written, with its position; also those with faults."""
        written = self.table.get("rule")
        listed = written if isinstance(written, list) else []
        return [(index, rule) for index, rule in enumerate(listed) if isinstance(rule, dict)]


def read_sections(table: Mapping[str, Any]) -> Sections:
    """Every section of the document, and every fault that a section has by itself."""
    found = Sections(table)
    for key in table:
        if key not in TOP:
            found.faults.append(((key,), f"unknown section{did_you_mean(key, TOP)}"))
    for key, model in SINGLE.items():
        section = _one(found, model, table.get(key, {} if key in ALWAYS else None), (key,))
        if section is not None:
            found.single[key] = section
    for name, raw in _named(found, "broker", _NAME).items():
        _keep(found.broker, name, _one(found, BrokerConfig, raw, ("broker", name)))
    for name, raw in _named(found, "link", _LINK_NAME).items():
        _keep(found.link, name, _one(found, LinkConfig, raw, ("link", name)))
    for name, raw in _named(found, "source", _NAME).items():
        _keep(found.source, name, _source(found, raw, ("source", name)))
    for name, raw in _named(found, "destination", _NAME).items():
        _keep(found.destination, name, _destination(found, raw, ("destination", name)))
    _rules(found)
    return found


def _one(found: Sections, model: type[M], raw: object, path: Path) -> M | None:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        found.faults.append((path, f"must be a table, write [{path[-1]}] and its keys below"))
        return None
    section, faults = validate(model, raw, path)
    found.faults += faults
    return section


def _keep(sections: dict[str, M], name: str, section: M | None) -> None:
    if section is not None:
        sections[name] = section


def _named(found: Sections, kind: str, pattern: re.Pattern[str]) -> dict[str, Any]:
    """The tables below `[kind]`, as far as their names can be used."""
    raw = found.table.get(kind, {})
    if not isinstance(raw, dict):
        found.faults.append(((kind,), f"each {kind} has a name, write [{kind}.NAME] and its keys below"))
        return {}
    if len(raw) > MOST_OF_A_KIND:
        found.faults.append(((kind,), f"there are {len(raw)} of them, at most {MOST_OF_A_KIND} are possible"))
        return {}
    named = {}
    for name, value in raw.items():
        if not isinstance(value, dict):
            found.faults.append(((kind, name), f"each {kind} has a name, write [{kind}.NAME] above its keys"))
        elif kind == "source" and name == OWN_HEALTH:
            found.faults.append(((kind, name), f'"{OWN_HEALTH}" is the relay itself, choose another name'))
        elif not pattern.fullmatch(name):
            found.faults.append(((kind, name), f"is no name for a {kind}: write letters, digits, - and _, no spaces"))
        else:
            named[name] = value
    return named


def _source(found: Sections, raw: dict[str, Any], path: Path) -> SourceConfig | None:
    kind = _type(found, raw, path, sources.known_types())
    return None if kind is None else _one(found, sources.config_model(kind), raw, path)


def _destination(found: Sections, raw: dict[str, Any], path: Path) -> DestinationConfig | None:
    kind = _type(found, raw, path, destinations.known_types(raw.get("type")))
    return None if kind is None else _one(found, destinations.models(kind).config, raw, path)


def _type(found: Sections, raw: dict[str, Any], path: Path, known: tuple[str, ...]) -> str | None:
    listed = ", ".join(f'"{word}"' for word in known)
    if "type" not in raw:
        found.faults.append(((*path, "type"), f"is missing, write type = one of {listed}"))
        return None
    kind = raw["type"]
    if isinstance(kind, str) and kind in known:
        return kind
    near = did_you_mean(kind, known) if isinstance(kind, str) else ""
    hint = near if near.startswith(", did") else ""
    given = f'"{kind[:40]}" is not known here' if isinstance(kind, str) else "must be text in quotes"
    found.faults.append(((*path, "type"), f"{given}{hint} (type is one of {listed})"))
    return None


def _rules(found: Sections) -> None:
    raw = found.table.get("rule", [])
    if not isinstance(raw, list):
        found.faults.append((("rule",), "rules are a list, write [[rule]] with two brackets"))
        return
    if len(raw) > MOST_OF_A_KIND:
        found.faults.append((("rule",), f"there are {len(raw)} rules, at most {MOST_OF_A_KIND} are possible"))
        return
    for index, rule in enumerate(raw):
        section = _one(found, RuleConfig, rule, ("rule", index))
        if section is not None:
            found.rule[index] = section
