"""The destinations by type: one line each. A module is imported when the configuration names its type, not before.

A type is either built (a class that delivers) or planned: its sections and actions are read and checked, and deliveries
to it are kept, but this version cannot deliver them yet. Nothing outside `config` and `app` names a concrete adapter.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from relayd.destinations.base import Destination, DestinationConfig
from relayd.surroundings import Surroundings

TYPES: Mapping[str, str] = {
    "folder": "relayd.destinations.copy:Copy",
    "mqtt": "relayd.destinations.publish:Publish",
    "rapidsos": "relayd.destinations.rapidsos:RapidSOS",
    "webhook": "relayd.destinations.webhook:Webhook",
}
"""Type → the class that delivers."""

PLANNED: Mapping[str, str] = {
    "incidentshare": "relayd.destinations.incidentshare:PLANNED",
    "sayvu": "relayd.destinations.sayvu:PLANNED",
    "cachet": "relayd.destinations.cachet:PLANNED",
    "watcher": "relayd.destinations.watcher:PLANNED",
}
"""Type → its models, where nothing delivers yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What the configuration needs to know of a type. `receipt` None: the server's own JSON, not known beforehand."""

    config: type[DestinationConfig]
    actions: Mapping[str, type[BaseModel]]
    receipt: frozenset[str] | None
    opens: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)


def is_planned(type_name: str) -> bool:
    """Whether this version reads the type's sections but cannot deliver to it."""
    return type_name in PLANNED


def known_types() -> tuple[str, ...]:
    """Every type that a section may name."""
    return (*TYPES, *PLANNED)


def models(type_name: str) -> Models:
    """The models of a known type."""
    if type_name in PLANNED:
        planned: Models = _load(PLANNED[type_name])
        return planned
    built: type[Destination] = _load(TYPES[type_name])
    return Models(
        config=built.Config,
        actions=built.actions,
        receipt=built.receipt_fields,
        opens=built.opens,
        needs=built.needs,
    )


def build(name: str, config: DestinationConfig, surroundings: Surroundings) -> Destination:
    """The destination that `[destination.NAME]` describes. Only for types that are built."""
    made: Destination = _load(TYPES[config.type])(name, config, surroundings)
    return made


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
