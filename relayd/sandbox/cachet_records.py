"""What is on the Cachet stand-in's page, and how the API shows it.

Promises: what was sent is kept as it was sent; times are to the second, as at the real one, so that several may be
equal; who may see something is asked here, in one place.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from relayd.sandbox import cachet_bodies as bodies
from relayd.sandbox.cachet_versions import Version

USERS, EVERYBODY, NOBODY = 0, 1, 2
"""Who sees an incident."""
FIXED = 4
_SEVERITY = {1: 0, 5: 1, 6: 2, 2: 3, 3: 4, 4: 5}


@dataclass(slots=True)
class Update:
    """One update of an incident."""

    id: int
    status: int
    message: str
    at: float


@dataclass(slots=True)
class Incident:
    """One incident: `body` as it was sent; `updates` in order; `visible` as a person may have set it since;
    `last_status` what was last said of it, where the server keeps that."""

    id: int
    body: bodies.NewIncident
    message: str
    at: float
    version: Version
    published_at: float = 0.0
    visible: int = USERS
    last_status: int | None = None
    updates: list[Update] = field(default_factory=list)
    guid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def name(self) -> str:
        return self.body.name

    @property
    def status(self) -> int:
        """What the page shows."""
        if self.version.is_canonical:
            return self.body.status if self.last_status is None else self.last_status
        if not self.updates:
            return self.body.status
        return newest_first(self.updates)[0].status

    def is_seen_by(self, *, user: bool, manager: bool, now: float) -> bool:
        """Whether it is listed and can be read."""
        if not self.version.hides:
            return True
        is_published = self.published_at <= now or manager
        return is_published and self.visible in ((USERS, EVERYBODY) if user else (EVERYBODY,))


def newest_first(updates: Iterable[Update]) -> list[Update]:
    """By the second in which they were made; of the same second, the one that came first."""
    return sorted(updates, key=lambda update: -int(update.at))


def component_status(number: int, baseline: int, incidents: Iterable[Incident], version: Version, now: float) -> int:
    """What the page shows of a component: the worst that incidents say of it which everybody can see; before that was
    so, the newest of any."""
    said = [
        (incident, status)
        for incident in incidents
        if incident.status != FIXED
        for status in [_impact(incident.body, number)]
        if status is not None
    ]
    if not version.is_canonical:
        return said[-1][1] if said else baseline
    seen = [status for incident, status in said if incident.is_seen_by(user=False, manager=False, now=now)]
    return max([baseline, *seen], key=lambda status: _SEVERITY[status])


def _impact(body: bodies.NewIncident, number: int) -> int | None:
    if body.component_id == number:
        return body.component_status
    return next((impact.status for impact in body.components if impact.id == number), None)


def incident_document(incident: Incident, *, with_meta: bool = False) -> dict[str, Any]:
    body, version = incident.body, incident.version
    attributes: dict[str, Any] = {
        "id": incident.id,
        "guid": incident.guid,
        "name": body.name,
        "message": incident.message,
        "visible": incident.visible,
        "stickied": body.stickied,
        "notifications": int(body.notifications),
        "status": bodies.status(incident.status),
        "occurred": {"human": None, "string": body.occurred_at},
        "created": bodies.moment(incident.at),
        "updated": bodies.moment(incident.at),
    }
    if version.publishes:
        attributes["published"] = bodies.moment(incident.published_at or incident.at)
    if version.has_component_id:
        attributes["component_id"] = body.component_id
    if with_meta:
        attributes["meta"] = body.meta or []  # an empty array of PHP
    return {"id": str(incident.id), "type": "incidents", "attributes": attributes}


def update_document(incident: Incident, update: Update) -> dict[str, Any]:
    attributes = {
        "id": update.id,
        "updateable_id": incident.id,
        "updateable_type": "incident",
        "message": update.message,
        "status": bodies.status(update.status),
        "created": bodies.moment(update.at),
        "updated": bodies.moment(update.at),
    }
    return {"id": str(update.id), "type": "updates", "attributes": attributes}


def component_document(number: int, stored: int, shown: int) -> dict[str, Any]:
    attributes = {
        "id": number,
        "name": f"Component {number}",
        "status": {"human": f"Status {stored}", "value": stored},
        "latest_status": {"human": f"Status {shown}", "value": shown},
    }
    return {"id": str(number), "type": "components", "attributes": attributes}
