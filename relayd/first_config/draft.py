"""The configuration that is being written: sections as they will stand in the file, and the file.

Promises: each key stands below one line that says what it is, taken from the models that will read it; what is written
is what `config.load` reads, or it is not written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from relayd import destinations, sources
from relayd.broker import BrokerConfig
from relayd.config import Loaded, load_text
from relayd.config.reading import SINGLE
from relayd.config.words import toml_text
from relayd.rule_config import RuleConfig

LONGEST_COMMENT = 110
SINGLES = ("device", "spool", "fleet")
NAMED = ("broker", "source", "destination")
KINDS = {
    "rapidsos": "RapidSOS: files for the emergency center, by reference",
    "incidentshare": "IncidentShare: media streams, links for live video",
    "sayvu": "SayVU: reports in a control center",
    "cachet": "Cachet: incidents on a status page",
    "watcher": "Flussonic Watcher: cameras and messages",
    "webhook": "an address of your own that takes JSON",
    "folder": "a USB disk or a network drive",
    "mqtt": "another MQTT broker",
}
"""What each type of destination is, in a few words."""
HEAD = """\
# Configuration of relayd, first written by `relayd init`. What is not here has its default; `man relayd.toml` explains
# every option. After a change: `relayd check`, then `systemctl reload relayd`.
"""


@dataclass(slots=True)
class Draft:
    """Sections by name; keys and values as TOML has them."""

    single: dict[str, dict[str, Any]] = field(default_factory=dict)
    broker: dict[str, dict[str, Any]] = field(default_factory=dict)
    source: dict[str, dict[str, Any]] = field(default_factory=dict)
    destination: dict[str, dict[str, Any]] = field(default_factory=dict)
    rule: list[dict[str, Any]] = field(default_factory=list)

    def text(self) -> str:
        """The file."""
        return "\n".join([HEAD, *self._sections()])

    def tables(self) -> dict[str, Any]:
        """What the sections say, rules left out: they name no secrets."""
        return {**self.single, **{kind: getattr(self, kind) for kind in NAMED}}

    def load(self, path: Path) -> Loaded:
        """As the relay will read it. Raises ConfigError."""
        return load_text(path, self.text())

    def alone(self, kind: str, name: str) -> Draft:
        """Only this section and what it refers to: for trying it while the rest is still missing."""
        one = Draft(single=dict(self.single), broker=dict(self.broker))
        getattr(one, kind)[name] = getattr(self, kind)[name]
        return one

    def _sections(self) -> Iterator[str]:
        for name in SINGLES:
            if self.single.get(name):
                yield _section(name, self.single[name], SINGLE[name])
        for kind in NAMED:
            for name, table in getattr(self, kind).items():
                yield _section(f"{kind}.{_key(name)}", table, model_of(kind, table))
        for rule in self.rule:
            yield _section("rule", rule, RuleConfig, is_list=True)


def model_of(kind: str, table: Mapping[str, Any]) -> type[BaseModel]:
    """What will read a section."""
    if kind == "broker":
        return BrokerConfig
    return sources.config_model(table["type"]) if kind == "source" else destinations.models(table["type"]).config


def free_name(usual: str, taken: Mapping[str, Any]) -> str:
    """The usual name, or one with a number behind it."""
    return next(name for name in (usual, *(f"{usual}-{n}" for n in range(2, 2000))) if name not in taken)


def comment_of(words: str | None) -> str:
    """The first sentence of a description, on one line."""
    line = " ".join((words or "").split())
    first = re.split(r"(?<=[.;:])\s", line, maxsplit=1)[0] if len(line) > LONGEST_COMMENT else line
    return first if len(first) <= LONGEST_COMMENT else first[: LONGEST_COMMENT - 3].rstrip() + "..."


def _section(name: str, table: Mapping[str, Any], model: type[BaseModel], *, is_list: bool = False) -> str:
    fields = {one.alias or key: one for key, one in model.model_fields.items()}
    about = KINDS.get(table.get("type", ""), "") if name.startswith("destination.") else ""
    lines = [f"# {about or comment_of(model.__doc__)}", f"[[{name}]]" if is_list else f"[{name}]"]
    for key, value in table.items():
        if key in fields:
            lines.append(f"# {comment_of(fields[key].description)}")
        lines.append(f"{key} = {_value(key, value)}")
    return "\n".join([*lines, ""])


def _value(key: str, value: Any) -> str:
    if key == "deliver":
        return "[\n" + "".join(f"  {toml_text(one)},\n" for one in value) + "]"
    return toml_text(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_text(name)
