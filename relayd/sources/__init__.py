"""The sources by type: one line each. A module is imported when the configuration names its type, not before.

A type is either built (a class that runs) or planned: its sections are read and checked, and have no effect yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from relayd.sources.base import Ledger, Source, SourceConfig
from relayd.surroundings import Surroundings

TYPES: Mapping[str, str] = {
    "folder": "relayd.sources.folder:FolderSource",
    "mqtt": "relayd.sources.topic:TopicSource",
    "watcher-episodes": "relayd.sources.episodes:EpisodesSource",
}
"""Type → the class that runs."""

PLANNED: Mapping[str, str] = {}
"""Type → the model of its section, where nothing runs yet."""


def is_planned(type_name: str) -> bool:
    """Whether this version reads the type's sections but takes nothing from it."""
    return type_name in PLANNED


def known_types() -> tuple[str, ...]:
    """Every type that a section may name."""
    return (*TYPES, *PLANNED)


def config_model(type_name: str) -> type[SourceConfig]:
    """The model of the sections of a known type."""
    if type_name in PLANNED:
        planned: type[SourceConfig] = _load(PLANNED[type_name])
        return planned
    built: type[Source] = _load(TYPES[type_name])
    return built.Config


def build(name: str, config: SourceConfig, ledger: Ledger, surroundings: Surroundings) -> Source:
    """The source that `[source.NAME]` describes. Only for types that are built."""
    made: Source = _load(TYPES[config.type])(name, config, ledger, surroundings)
    return made


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
