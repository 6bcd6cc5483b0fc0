"""The destinations by type: one line each. A module is imported when the configuration names its type, not before.

Nothing outside `config` and `app` names a concrete adapter. An installed package may bring types of its own, by an
entry point of the group `relayd.destinations`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from relayd.destinations.base import Destination, DestinationConfig
from relayd.incidents import dispensable
from relayd.surroundings import Surroundings

TYPES: Mapping[str, str] = {
    "cachet": "relayd.destinations.cachet:Cachet",
    "folder": "relayd.destinations.copy:Copy",
    "incidentshare": "relayd.destinations.incidentshare:IncidentShare",
    "mqtt": "relayd.destinations.publish:Publish",
    "rapidsos": "relayd.destinations.rapidsos:RapidSOS",
    "sayvu": "relayd.destinations.sayvu:SayVU",
    "watcher": "relayd.destinations.watcher:Watcher",
    "webhook": "relayd.destinations.webhook:Webhook",
}
"""Type → the class that delivers."""

GROUP = "relayd.destinations"
"""Entry points of this group name the types of other packages, `NAME = "package.module:Class"`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What the configuration needs to know of a type. `receipt` None: the server's own JSON, not known beforehand."""

    config: type[DestinationConfig]
    actions: Mapping[str, type[BaseModel]]
    receipt: frozenset[str] | None
    opens: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    spares: Mapping[str, str] = field(default_factory=dict)


def known_types(asked: object = None) -> tuple[str, ...]:
    """Every type that a section may name; other packages are not looked through for one of our own that is `asked`."""
    ours = tuple(TYPES)
    return ours if asked in ours else (*ours, *_brought_along())


def models(type_name: str) -> Models:
    """The models of a known type."""
    built = _class_of(type_name)
    return Models(
        config=built.Config,
        actions=built.actions,
        receipt=built.receipt_fields,
        opens=built.opens,
        needs=built.needs,
        spares=built.spares,
    )


def wired(section: DestinationConfig) -> Models:
    """The models of a section's type, with `needs` as this section has them: what it has a spare for is dispensable."""
    found = models(section.type)
    spared = {action for action, option in found.spares.items() if getattr(section, option) is not None}
    needs = {action: dispensable(need) if action in spared else need for action, need in found.needs.items()}
    return replace(found, needs=needs)


def build(name: str, config: DestinationConfig, surroundings: Surroundings) -> Destination:
    """The destination that `[destination.NAME]` describes."""
    made: Destination = _class_of(config.type)(name, config, surroundings)
    return made


def _class_of(type_name: str) -> Any:
    """The class of one of our types, or of a type that another package brings."""
    return _load(TYPES[type_name] if type_name in TYPES else _brought_along()[type_name])


def _brought_along() -> Mapping[str, str]:
    """Types of other packages. None of them takes the place of one of ours."""
    found = importlib.metadata.entry_points(group=GROUP)
    return {entry.name: entry.value for entry in found if entry.name not in TYPES}


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
