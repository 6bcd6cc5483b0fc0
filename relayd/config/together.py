"""What must fit together across sections: names that refer to one another, folders that must not overlap.

Promises: works on what is there, also if other sections have faults of their own, so that every error is said at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from relayd.config.locate import Path
from relayd.config.reading import Sections
from relayd.config.words import Fault
from relayd.rule_config import ITEM_FIELDS
from relayd.sources.name_pattern import NamePattern
from relayd.templates import did_you_mean


def faults_between(sections: Sections) -> Iterator[Fault]:
    """Every fault between sections other than rules."""
    yield from _brokers(sections)
    yield from _watchers(sections)
    yield from _folders(sections)
    yield from _patterns(sections)


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """`there is no source "frnt", did you mean "front"?`"""
    names = list(known)
    hint = did_you_mean(str(name), names) if names else f"; write a [{kind}.{name}] section"
    return f'there is no {kind} "{str(name)[:64]}"{hint}'


def _brokers(sections: Sections) -> Iterator[Fault]:
    """Wherever a section names a broker."""
    known = sections.names("broker")
    for path in (("device", "location_topic", "broker"), ("fleet", "broker")):
        yield from _broker(sections, path, known)
    for kind in ("source", "destination"):
        for name in sections.names(kind):
            if sections.type_of(kind, name) == "mqtt":
                yield from _broker(sections, (kind, name, "broker"), known)


def _broker(sections: Sections, path: Path, known: list[str]) -> Iterator[Fault]:
    name = _at(sections, path)
    if isinstance(name, str) and name and name not in known:
        yield path, unknown("broker", name, known)


def _patterns(sections: Sections) -> Iterator[Fault]:
    """A field of a pattern that is called like a word of every item could never be seen."""
    for name, source in sections.source.items():
        for key in ("name_pattern", "topic_pattern"):
            pattern = getattr(source, key, None)
            for field in NamePattern(pattern).fields if pattern else ():
                if field in ITEM_FIELDS:
                    hint = f"item.{field} is a word that every item has already, write for example {{the_{field}}}"
                    yield ("source", name, key), hint


def _watchers(sections: Sections) -> Iterator[Fault]:
    known = [name for name in sections.names("destination") if sections.type_of("destination", name) == "watcher"]
    for name in sections.names("source"):
        path = ("source", name, "watcher")
        watcher = _at(sections, path) if sections.type_of("source", name) == "watcher-episodes" else None
        if isinstance(watcher, str) and watcher and watcher not in known:
            hint = did_you_mean(watcher, known) if known else '; write a [destination.NAME] with type = "watcher"'
            yield path, f'there is no destination "{watcher[:64]}" of type watcher{hint}'


def _at(sections: Sections, path: Path) -> object:
    value: object = sections.table
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that a part of the relay works in, and where that is written."""

    key: Path
    place: str
    owner: str
    is_deep: bool = False


def _folders(sections: Sections) -> Iterator[Fault]:
    """Two parts of the relay must not work in the same folder: they would take one another's files."""
    drops = [
        _Folder(("source", name, "path"), _place(source), f"source {name}", bool(getattr(source, "recursive", False)))
        for name, source in sections.source.items()
        if source.type == "folder"
    ]
    kept = [
        _Folder(("destination", name, "path"), _place(destination), f"destination {name}")
        for name, destination in sections.destination.items()
        if destination.type == "folder"
    ]
    if "spool" in sections.single:
        kept.append(_Folder(("spool", "path"), _place(sections.single["spool"]), "the spool"))
    for position, drop in enumerate(drops):
        yield from _overlaps(drop, drops[:position], kept)


def _overlaps(drop: _Folder, others: list[_Folder], kept: list[_Folder]) -> Iterator[Fault]:
    for other in others:
        if drop.place == other.place:
            yield drop.key, f"is the folder of {other.owner} too: each source needs a folder of its own"
        elif (drop.is_deep and _is_within(other.place, drop.place)) or (
            other.is_deep and _is_within(drop.place, other.place)
        ):
            yield drop.key, f"overlaps with the folder of {other.owner} ({other.place}), and one of them is recursive"
    for keeper in kept:
        if _is_within(drop.place, keeper.place):
            yield drop.key, f"lies within the folder of {keeper.owner} ({keeper.place}): move one of them"
        elif _is_within(keeper.place, drop.place):
            yield keeper.key, f"lies within the drop folder of {drop.owner} ({drop.place}): move one of them"


def _place(section: object) -> str:
    return os.path.normpath(str(getattr(section, "path", "")))


def _is_within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
