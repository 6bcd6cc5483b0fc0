"""The Cachet stand-in: a status page with incidents, their updates, and components; below `PREFIX`.

Promises: strict about the contract: the token and each of its abilities, the shape of every body, queries it does not
know, a rate limit by its own clock. As at the real one, reading needs no token and shows only what the reader may see,
what is sent twice is there twice, and a status that is put is hidden by any update.
"""

from __future__ import annotations

import hmac
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from relayd.sandbox import cachet_bodies as bodies
from relayd.sandbox.cachet_bodies import document, refusal
from relayd.sandbox.exchange import Exchange
from relayd.sandbox.refusal import Refusal
from relayd.sandbox.routes import Route, route
from relayd.sandbox.settings import Settings

PREFIX = "/api"
_ONE = "/incidents/(?P<incident>[0-9]+)"
ROUTES: tuple[Route, ...] = (
    route("ping", "GET", PREFIX, "/ping"),
    route("incidents", "GET", PREFIX, "/incidents"),
    route("incident", "POST", PREFIX, "/incidents"),
    route("shown", "GET", PREFIX, _ONE),
    route("edit", "PUT", PREFIX, _ONE),
    route("updates", "GET", PREFIX, f"{_ONE}/updates"),
    route("update", "POST", PREFIX, f"{_ONE}/updates"),
    route("amend", "PUT", PREFIX, f"{_ONE}/updates/(?P<update>[0-9]+)"),
    route("components", "GET", PREFIX, "/components"),
    route("component", "PUT", PREFIX, "/components/(?P<component>[0-9]+)"),
)
ABILITY = {
    "incident": "incidents.manage",
    "edit": "incidents.manage",
    "update": "incident-updates.manage",
    "amend": "incident-updates.manage",
    "component": "components.manage",
}
TEMPLATES = {"gateway-fault": "Gateway {{ gateway }} reports: {{ reason }}"}
_WINDOW_SECONDS = 60
_FIRST = 41


@dataclass(slots=True)
class Update:
    """One update of an incident."""

    id: int
    status: int
    message: str
    at: float


@dataclass(slots=True)
class Incident:
    """One incident: `body` as it was sent; `updates` in order."""

    id: int
    body: bodies.NewIncident
    message: str
    at: float
    updates: list[Update] = field(default_factory=list)
    guid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def name(self) -> str:
        return self.body.name

    @property
    def status(self) -> int:
        """What the page shows: the newest update's, else its own."""
        return self.updates[-1].status if self.updates else self.body.status


class StatusPage:
    """One page and one token, with all that they know."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked: list[float] = []
        self.incidents: dict[int, Incident] = {}
        self.components: dict[int, int] = {1: 1, 2: 1}

    @property
    def duplicates(self) -> int:
        """How many incidents have the name of another one, plus how many updates say what another of theirs says."""
        names = Counter(incident.name for incident in self.incidents.values())
        said = Counter(
            (incident.id, update.status, update.message)
            for incident in self.incidents.values()
            for update in incident.updates
        )
        return sum(names.values()) - len(names) + sum(said.values()) - len(said)

    async def take(self, exchange: Exchange, found: Mapping[str, str]) -> web.StreamResponse:
        """One request, by its operation."""
        left = self._left(exchange.now)
        try:
            answer = await self._answer(exchange, found, left)
        except Refusal as error:
            exchange.entry.note = str(error)
            answer = error.answer()
        answer.headers["X-RateLimit-Limit"] = str(self._settings.cachet_rate_limit)
        answer.headers["X-RateLimit-Remaining"] = str(max(left, 0))
        if left < 0:
            free_at = self._asked[0] + _WINDOW_SECONDS
            answer.headers["Retry-After"] = str(max(1, round(free_at - exchange.now)))
            answer.headers["X-RateLimit-Reset"] = str(round(free_at))
        return answer

    async def _answer(self, exchange: Exchange, found: Mapping[str, str], left: int) -> web.Response:
        operation = exchange.entry.operation
        is_known = self._is_known(exchange)
        if not self._settings.cachet_enabled:
            raise refusal(404, "Not Found")
        if not is_known and (operation in ABILITY or self._settings.cachet_protected):
            raise refusal(401, "Unauthenticated.")
        if left < 0:
            raise refusal(429, "Too Many Attempts.")
        if self._settings.cachet_rights == "first":
            self._guard(operation)
        match operation:
            case "ping":
                return web.json_response({"data": "Pong!"})
            case "incidents":
                return self._list(exchange, is_known=is_known)
            case "incident":
                return await self._open(exchange)
            case "shown":
                return document({"data": _incident(self._find(found, is_known=is_known))})
            case "edit":
                return await self._edit(exchange, self._find(found))
            case "updates":
                return self._list_updates(exchange, self._find(found, is_known=is_known))
            case "update":
                return await self._say(exchange, self._find(found))
            case "amend":
                return await self._amend(exchange, self._find(found), int(found["update"]))
            case "components":
                return document(bodies.page([self._component(number) for number in self.components], {}))
            case _:
                return await self._set(exchange, int(found["component"]))

    # --- incidents

    def _list(self, exchange: Exchange, *, is_known: bool) -> web.Response:
        asked = bodies.query(
            exchange,
            knows_meta=self._settings.cachet_meta,
            sorts=("name", "status", "id", "created_at"),
            includes=("components", "components.group", "updates", "user", "meta"),
        )
        seen = [each for each in reversed(self.incidents.values()) if is_known or each.body.visible]
        for name, wanted in asked.items():
            if name == "filter[name]":
                seen = [each for each in seen if wanted.casefold() in each.name.casefold()]
            elif name == "filter[status]":
                seen = [each for each in seen if str(each.status) == wanted]
            elif name.startswith("filter[meta]"):
                key = name.removeprefix("filter[meta][").removesuffix("]")
                seen = [each for each in seen if str((each.body.meta or {}).get(key)) == wanted]
        with_meta = "meta" in asked.get("include", "").split(",")
        return document(bodies.page([_incident(each, with_meta=with_meta) for each in seen], asked))

    async def _open(self, exchange: Exchange) -> web.Response:
        body = await bodies.checked(bodies.NewIncident, exchange)
        self._check_references(body)
        self._guard("incident")
        message = body.message or ""
        if body.template is not None:
            message = TEMPLATES[body.template]
            for name, value in (body.template_vars if isinstance(body.template_vars, dict) else {}).items():
                message = message.replace(f"{{{{ {name} }}}}", str(value))
        made = Incident(_FIRST + 1 + len(self.incidents), body, message, exchange.now)
        self.incidents[made.id] = made
        exchange.entry.has_effect = True
        exchange.entry.key = str(made.id)
        return document({"data": _incident(made)}, 201)

    def _check_references(self, body: bodies.NewIncident) -> None:
        numbers = [impact.id for impact in body.components]
        numbers += [] if body.component_id is None else [body.component_id]
        if any(number not in self.components for number in numbers):
            raise bodies.invalid({"component_id": ["The selected component id is invalid."]})
        if body.template is not None and body.template not in TEMPLATES:
            raise bodies.invalid({"template": ["The selected template is invalid."]})

    async def _edit(self, exchange: Exchange, incident: Incident) -> web.Response:
        change = await bodies.checked(bodies.IncidentChange, exchange)
        self._guard("edit")
        wanted = change.model_dump(exclude_none=True)
        incident.body = incident.body.model_copy(update=wanted)
        exchange.entry.has_effect = bool(wanted)
        return document({"data": _incident(incident)})

    # --- updates

    def _list_updates(self, exchange: Exchange, incident: Incident) -> web.Response:
        asked = bodies.query(exchange, knows_meta=False, sorts=("status", "created_at"), includes=("incident",))
        seen = list(incident.updates)
        if asked.get("sort") == "-created_at":
            seen.reverse()
        return document(bodies.page([_update(incident, each) for each in seen], asked))

    async def _say(self, exchange: Exchange, incident: Incident) -> web.Response:
        body = await bodies.checked(bodies.NewUpdate, exchange)
        self._guard("update")
        number = 1 + sum(len(each.updates) for each in self.incidents.values())
        made = Update(number, body.status, body.message, exchange.now)
        incident.updates.append(made)
        exchange.entry.has_effect = True
        exchange.entry.key = str(incident.id)
        return document({"data": _update(incident, made)}, 201)

    async def _amend(self, exchange: Exchange, incident: Incident, number: int) -> web.Response:
        found = next((each for each in incident.updates if each.id == number), None)
        if found is None:
            raise refusal(404, "Not Found")
        change = await bodies.checked(bodies.UpdateChange, exchange)
        self._guard("amend")
        found.status = found.status if change.status is None else change.status
        found.message = change.message or found.message
        exchange.entry.has_effect = change != bodies.UpdateChange()
        return document({"data": _update(incident, found)})

    # --- components

    async def _set(self, exchange: Exchange, number: int) -> web.Response:
        if number not in self.components:
            raise refusal(404, "Not Found")
        change = await bodies.checked(bodies.ComponentChange, exchange)
        self._guard("component")
        if change.status is not None:
            self.components[number] = change.status
        exchange.entry.has_effect = change != bodies.ComponentChange()
        return document({"data": self._component(number)})

    def _component(self, number: int) -> dict[str, Any]:
        status = {"human": f"Status {self.components[number]}", "value": self.components[number]}
        attributes = {"id": number, "name": f"Component {number}", "status": status, "latest_status": status}
        return {"id": str(number), "type": "components", "attributes": attributes}

    # --- who asks, and how often

    def _is_known(self, exchange: Exchange) -> bool:
        given = exchange.request.headers.get("Authorization", "")
        return hmac.compare_digest(given.encode(), f"Bearer {self._settings.cachet_token}".encode())

    def _guard(self, operation: str) -> None:
        """403 if the token may not do this; at the real one this comes after everything else was checked."""
        ability = ABILITY.get(operation)
        if ability is not None and ability not in self._settings.cachet_abilities.split():
            raise refusal(403, "Invalid ability provided.")

    def _left(self, now: float) -> int:
        """Count one request: how many more are free in this minute, -1 for none."""
        self._asked = [at for at in self._asked if now - at < _WINDOW_SECONDS]
        if len(self._asked) >= self._settings.cachet_rate_limit:
            return -1
        self._asked.append(now)
        return self._settings.cachet_rate_limit - len(self._asked)

    def _find(self, found: Mapping[str, str], *, is_known: bool = True) -> Incident:
        incident = self.incidents.get(int(found["incident"]))
        if incident is None or not (is_known or incident.body.visible):
            raise refusal(404, "Not Found")
        return incident


def _incident(incident: Incident, *, with_meta: bool = False) -> dict[str, Any]:
    body = incident.body
    attributes: dict[str, Any] = {
        "id": incident.id,
        "guid": incident.guid,
        "name": body.name,
        "message": incident.message,
        "visible": int(body.visible),
        "stickied": body.stickied,
        "notifications": body.notifications,
        "status": bodies.status(incident.status),
        "occurred": {"human": None, "string": body.occurred_at},
        "created": bodies.moment(incident.at),
        "updated": bodies.moment(incident.at),
    }
    if with_meta:
        attributes["meta"] = body.meta or {}
    return {"id": str(incident.id), "type": "incidents", "attributes": attributes}


def _update(incident: Incident, update: Update) -> dict[str, Any]:
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
