"""Home Assistant's MQTT discovery: what it should show of a relay, read from the topics that the fleet reads.

Promises: pure. One retained document a figure, in the form that every version since 2021 reads
(https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery); an empty one in its place removes the figure again.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from relayd.model import Device


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing to show. `value` is an expression over the status snapshot; `more` are keys of Home Assistant's."""

    key: str
    name: str
    value: str
    kind: str = "sensor"
    more: dict[str, Any] = field(default_factory=dict)


_COUNT = {"state_class": "measurement"}
_TOTAL = {"state_class": "total_increasing"}
_DETAIL = {"entity_category": "diagnostic"}
_BYTES = {"device_class": "data_size", "unit_of_measurement": "B", **_DETAIL, **_COUNT}

FIGURES = (
    Figure("state", "State", "value_json.state", more={"device_class": "enum", "options": ["ok", "degraded", "fault"]}),
    Figure(
        "problem",
        "Problem",
        "'ON' if value_json.state == 'fault' else 'OFF'",
        "binary_sensor",
        {
            "device_class": "problem",
        },
    ),
    Figure("reason", "Reason", "value_json.reasons | default([], true) | join('; ') | truncate(250)"),
    Figure("pending", "Pending", "value_json.spool.pending", more=_COUNT),
    Figure(
        "oldest_pending",
        "Oldest pending",
        "value_json.spool.oldest_pending_seconds | default(0, true)",
        more={
            "device_class": "duration",
            "unit_of_measurement": "s",
            **_COUNT,
        },
    ),
    Figure("delivered", "Delivered", "value_json.spool.delivered", more=_TOTAL),
    Figure("dead", "Dead", "value_json.spool.dead", more=_COUNT),
    Figure("evicted", "Evicted", "value_json.spool.evicted", more={**_TOTAL, **_DETAIL}),
    Figure("expired", "Expired", "value_json.spool.expired", more={**_COUNT, **_DETAIL}),
    Figure("unclaimed", "Unclaimed", "value_json.spool.unclaimed", more={**_COUNT, **_DETAIL}),
    Figure("dropped", "Dropped by hand", "value_json.spool.dropped", more={**_COUNT, **_DETAIL}),
    Figure(
        "spool_used",
        "Spool used",
        "(100 * value_json.spool.bytes / value_json.spool.max_bytes) | round(1)",
        more={
            "unit_of_measurement": "%",
            **_DETAIL,
            **_COUNT,
        },
    ),
    Figure("disk_free", "Disk free", "value_json.spool.free_bytes", more=_BYTES),
    Figure(
        "last_success",
        "Last success",
        "value_json.destinations.values() | map(attribute='last_success_at') | select | max | default('None', true)",
        more={"device_class": "timestamp"},
    ),
    Figure("started", "Started", "value_json.started_at", more={"device_class": "timestamp", **_DETAIL}),
    Figure("memory", "Memory", "value_json.process.rss_bytes", more=_BYTES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One relay as Home Assistant shall see it. `base` is the topic of the relay, `prefix` that of Home Assistant."""

    device: Device
    version: str
    base: str
    prefix: str
    health_every_seconds: float

    def documents(self) -> dict[str, dict[str, Any]]:
        """Topic → what to publish there, retained."""
        return {self._topic(figure): self._document(figure) for figure in FIGURES}

    def _topic(self, figure: Figure) -> str:
        return f"{self.prefix}/{figure.kind}/{node_of(self.device.id)}/{figure.key}/config"

    def _document(self, figure: Figure) -> dict[str, Any]:
        node = node_of(self.device.id)
        about: dict[str, Any] = {
            "identifiers": [node],
            "name": self.device.name,
            "manufacturer": "relayd",
            "model": "Edge relay",
            "sw_version": self.version,
        }
        if self.device.site is not None:
            about["suggested_area"] = self.device.site
        return {
            "name": figure.name,
            "unique_id": f"{node}_{figure.key}",
            "state_topic": f"{self.base}/health",
            "value_template": f"{{{{ {figure.value} }}}}",
            "expire_after": max(60, round(3 * self.health_every_seconds)),
            "availability_topic": f"{self.base}/state",
            "availability_template": "{{ 'online' if value_json.state == 'online' else 'offline' }}",
            "qos": 1,
            "device": about,
            "origin": {"name": "relayd", "sw_version": self.version},
            **figure.more,
        }


def node_of(device_id: str) -> str:
    """What Home Assistant may call this relay: letters, digits, `_` and `-` only, and different for different ids."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", device_id)
    if plain == device_id:
        return f"relayd_{plain}"
    return f"relayd_{plain}_{hashlib.sha256(device_id.encode()).hexdigest()[:6]}"
