"""The body by which an incident is opened: what the rule says of it, and the marker by which it is found again.

Promises: pure; times in the server's own zone, and none that a server refuses.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence
from datetime import UTC, datetime

from relayd.destinations import cachet_events as events
from relayd.destinations.cachet_events import Event
from relayd.destinations.cachet_models import CachetConfig
from relayd.model import JSON

LAST_YEAR_SECONDS = 4_102_444_800.0
"""No incident is said to begin after 2099, whatever a sensor's clock says."""


def incident_body(config: CachetConfig, group: Sequence[Event], mark: str, episode: str) -> dict[str, JSON]:
    """One incident for all of these events, as the first of them wishes it to be, in the state of the last one."""
    first, given = group[0], group[0].arguments
    is_marked = config.marker == "name"
    meta: dict[str, JSON] = dict(given.meta or {})
    if not is_marked:
        meta |= {"relay_key": mark, "relay_episode": episode}
    body: dict[str, JSON] = {
        "name": events.title(first.name, f"{mark}-{episode}" if is_marked else ""),
        "status": group[-1].status,
        "visible": config.visible if given.visible is None else given.visible,
        "stickied": given.stickied,
        "notifications": given.notifications,
        "occurred_at": _server_time(config, first.at),
    }
    if given.template:
        body |= {"template": given.template, "template_vars": dict(given.template_vars or {})}
    else:
        body["message"] = events.told(group)
    published_at = events.moment(given.published_at)
    if published_at is not None:
        body["published_at"] = _server_time(config, published_at)
    if given.component_id is not None:
        body |= {"component_id": given.component_id, "component_status": given.component_status}
    if given.components:
        body["components"] = [component.model_dump() for component in given.components]
    return body | ({"meta": meta} if meta else {})


def _server_time(config: CachetConfig, at: float) -> str:
    zone = UTC if config.time_zone == "UTC" else zoneinfo.ZoneInfo(config.time_zone)
    return datetime.fromtimestamp(min(max(at, 0.0), LAST_YEAR_SECONDS), tz=zone).strftime("%Y-%m-%d %H:%M:%S")
