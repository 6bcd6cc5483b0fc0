"""The status snapshot as Prometheus text, derived from its shape: a number added to status is a metric at once.

Promises: every number and truth value of the snapshot is there, nothing else; states are one series per named thing
with the value 1 and a `state` label; what people called their sources and destinations are escaped label values.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAMED = {"sources": "source", "destinations": "destination", "brokers": "broker", "links": "link"}
_NAMED_WITHIN = {("relayd_destination", "cameras"): "camera"}
"""What is named within something that is named."""
_COUNTERS = {
    "relayd_source_captured",
    "relayd_destination_delivered",
    "relayd_destination_bytes_sent",
    "relayd_process_cpu_seconds",
    "relayd_spool_items",
    "relayd_spool_evicted",
}
_IDENTITY = ("device_id", "device_name", "device_site", "version", "session", "config_sha256")

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]


def text(snapshot: Mapping[str, Any]) -> str:
    """All metrics, each with its type line, grouped by name as the format asks for."""
    grouped: dict[str, list[tuple[Labels, float]]] = {}
    for name, labels, value in [_info(snapshot), *_samples("relayd", (), snapshot)]:
        grouped.setdefault(name, []).append((labels, value))
    lines: list[str] = []
    for name, series in grouped.items():
        is_counter = name in _COUNTERS
        full = f"{name}_total" if is_counter else name
        lines.append(f"# TYPE {full} {'counter' if is_counter else 'gauge'}")
        lines.extend(f"{full}{_braced(labels)} {_number(value)}" for labels, value in series)
    return "\n".join(lines) + "\n"


def _samples(prefix: str, labels: Labels, node: Mapping[str, Any]) -> Iterator[Sample]:
    for key, value in node.items():
        name = f"{prefix}_{_metric_word(key)}"
        if prefix == "relayd" and key in _NAMED and isinstance(value, Mapping):
            for own_name, inner in value.items():
                yield from _samples(f"relayd_{_NAMED[key]}", ((_NAMED[key], str(own_name)),), inner)
        elif (prefix, key) in _NAMED_WITHIN and isinstance(value, Mapping):
            word = _NAMED_WITHIN[prefix, key]
            for own_name, inner in value.items():
                yield from _samples(f"relayd_{word}", (*labels, (word, str(own_name))), inner)
        elif isinstance(value, Mapping):
            yield from _samples(name, labels, value)
        elif isinstance(value, bool | int | float):
            yield name, labels, float(value)
        elif key == "state" and isinstance(value, str):
            yield name, (*labels, ("state", value)), 1.0
        elif key.endswith("_at") and isinstance(value, str):
            yield f"{name.removesuffix('_at')}_timestamp_seconds", labels, _unix(value)


def _info(snapshot: Mapping[str, Any]) -> Sample:
    """Who this is, as labels of one series that is always 1."""
    labels = []
    for place in _IDENTITY:
        section, _, key = place.partition("_")
        holder = snapshot.get(section)
        value = holder.get(key) if isinstance(holder, Mapping) else snapshot.get(place)
        if isinstance(value, str):
            labels.append((place, value))
    return "relayd_info", tuple(labels), 1.0


def _metric_word(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", key)


def _unix(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()


def _braced(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
