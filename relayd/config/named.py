"""Which secrets a configuration names, and in which of its keys; also in one that has faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from relayd.config.locate import Path
from relayd.config.merge import read_document_leniently
from relayd.fields import Secret

PLACES = frozenset(Secret.model_fields)


@dataclass(frozen=True, slots=True)
class NamedSecret:
    """`key` as the technician reads it, `destination.rapidsos.client_secret`; `kind` is credential, file or env."""

    key: str
    kind: str
    name: str


def secrets_named(files: Sequence[FilePath] | None) -> list[NamedSecret]:
    """Every secret of the configuration, in the order of the file."""
    document = read_document_leniently(files)
    return [
        NamedSecret(document.key_of(path), kind, name)
        for section, table in document.table.items()
        if section != "rule"
        for path, kind, name in _secrets(table, (section,))
    ]


def secrets_in(table: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Kind and name of every secret in a table that is as TOML has it."""
    return {(kind, name) for _, kind, name in _secrets(dict(table), ())}


def credentials_named(files: Sequence[FilePath] | None) -> dict[str, list[str]]:
    """Name of a credential → the keys that name it."""
    found: dict[str, list[str]] = {}
    for one in secrets_named(files):
        if one.kind == "credential":
            found.setdefault(one.name, []).append(one.key)
    return found


def _secrets(value: Any, path: Path) -> Iterator[tuple[Path, str, str]]:
    if isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _secrets(inner, (*path, position))
    elif isinstance(value, dict):
        (kind, name) = next(iter(value.items())) if len(value) == 1 else (None, None)
        if kind in PLACES and isinstance(name, str):
            yield path, kind, name
            return
        for key, inner in value.items():
            yield from _secrets(inner, (*path, key))
