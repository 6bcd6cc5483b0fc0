"""The sources by type: one line each. A module is imported when the configuration names its type, not before."""

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


def known_types() -> tuple[str, ...]:
    """Every type that a section may name."""
    return tuple(TYPES)


def config_model(type_name: str) -> type[SourceConfig]:
    """The model of the sections of a known type."""
    built: type[Source] = _load(TYPES[type_name])
    return built.Config


def build(name: str, config: SourceConfig, ledger: Ledger, surroundings: Surroundings) -> Source:
    """The source that `[source.NAME]` describes."""
    made: Source = _load(TYPES[config.type])(name, config, ledger, surroundings)
    return made


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
