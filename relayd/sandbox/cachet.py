"""The Cachet stand-in: a status page with incidents, their updates, and components; below `PREFIX`.

Promises: strict about the contract: the token and each of its abilities, the shape of every body, queries that its
version does not know, two rate limits by its own clock: reads by address, writes by user. As at the real one, reading
needs no token and shows only what the reader may see, and what is sent twice is there twice.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from relayd.sandbox import cachet_bodies as bodies
from relayd.sandbox import cachet_records as records
from relayd.sandbox.cachet_bodies import document, refusal
from relayd.sandbox.cachet_records import EVERYBODY, USERS, Incident, Update
from relayd.sandbox.cachet_versions import VERSIONS
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
_STATUS_ONLY = re.compile(r"filter\[status\]")
_FIRST = 41


class StatusPage:
    """One page and one token, with all that they know."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._version = VERSIONS[settings.cachet_version]
        self._asked: dict[str, list[float]] = {"address": [], "user": []}
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
        operation = exchange.entry.operation
        try:
            is_known = self._who(exchange, operation)
        except Refusal as error:
            exchange.entry.note = str(error)
            return error.answer()
        counter = "user" if operation in ABILITY else "address"
        left = self._left(counter, exchange.now)
        try:
            if left < 0:
                raise refusal(429, "Too Many Attempts.")
            answer = await self._answer(exchange, found, is_known=is_known)
        except Refusal as error:
            exchange.entry.note = str(error)
            answer = error.answer()
        answer.headers["X-RateLimit-Limit"] = str(self._settings.cachet_rate_limit)
        answer.headers["X-RateLimit-Remaining"] = str(max(left, 0))
        if left < 0:
            free_at = self._asked[counter][0] + _WINDOW_SECONDS
            answer.headers["Retry-After"] = str(max(1, round(free_at - exchange.now)))
            answer.headers["X-RateLimit-Reset"] = str(round(free_at))
        return answer

    def _who(self, exchange: Exchange, operation: str) -> bool:
        """Whether the token is given and good. Raises before any request is counted."""
        if not self._settings.cachet_enabled:
            raise refusal(404, "Not Found")
        given = exchange.request.headers.get("Authorization", "")
        is_known = hmac.compare_digest(given.encode(), f"Bearer {self._settings.cachet_token}".encode())
        if not is_known and (operation in ABILITY or self._settings.cachet_protected):
            raise refusal(401, "Unauthenticated.")
        return is_known

    async def _answer(self, exchange: Exchange, found: Mapping[str, str], *, is_known: bool) -> web.Response:
        operation = exchange.entry.operation
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
                shown = self._readable(exchange, found, is_known=is_known)
                return document({"data": records.incident_document(shown)})
            case "edit":
                return await self._edit(exchange, self._find(found))
            case "updates":
                return self._list_updates(exchange, self._readable(exchange, found, is_known=is_known))
            case "update":
                return await self._say(exchange, self._find(found))
            case "amend":
                return await self._amend(exchange, self._find(found), int(found["update"]))
            case "components":
                everything = [self._component(number, exchange.now) for number in self.components]
                return document(bodies.page(everything, {}))
            case _:
                return await self._set(exchange, int(found["component"]))

    # --- incidents

    def _list(self, exchange: Exchange, *, is_known: bool) -> web.Response:
        asked = bodies.query(exchange, self._version.filters, self._version.sorts, self._version.includes)
        seen = [each for each in self.incidents.values() if self._is_seen(each, exchange.now, is_known=is_known)]
        for name, wanted in asked.items():
            if name == "filter[name]":
                seen = [each for each in seen if wanted.casefold() in each.name.casefold()]
            elif name == "filter[status]":
                seen = [each for each in seen if str(each.status) == wanted]
            elif name.startswith("filter[meta]"):
                key = name.removeprefix("filter[meta][").removesuffix("]")
                seen = [each for each in seen if str((each.body.meta or {}).get(key)) == wanted]
        sort = asked.get("sort") or "-created_at"
        seen.sort(key=_BY[sort.removeprefix("-")], reverse=sort.startswith("-"))
        if sort == "-created_at":  # of the same second: as they lie
            seen.sort(key=lambda each: -int(each.at))
        with_meta = "meta" in asked.get("include", "").split(",")
        shown = [records.incident_document(each, with_meta=with_meta) for each in seen]
        return document(bodies.page(shown, asked))

    async def _open(self, exchange: Exchange) -> web.Response:
        body = await self._checked(bodies.NewIncident, exchange)
        self._check_references(body)
        self._guard("incident")
        message = body.message or ""
        if body.template is not None:
            message = TEMPLATES[body.template]
            for name, value in (body.template_vars if isinstance(body.template_vars, dict) else {}).items():
                message = message.replace(f"{{{{ {name} }}}}", str(value))
        made = Incident(_FIRST + 1 + len(self.incidents), body, message, exchange.now, self._version)
        made.visible = EVERYBODY if body.visible else USERS
        if self._version.publishes and body.published_at is not None:
            made.published_at = _moment(body.published_at)
        self.incidents[made.id] = made
        exchange.entry.has_effect = True
        exchange.entry.key = str(made.id)
        if body.notifications and not self._settings.cachet_mail:
            raise refusal(500, "Server Error")  # after the commit
        return document({"data": records.incident_document(made)}, 201)

    def _check_references(self, body: bodies.NewIncident) -> None:
        numbers = [impact.id for impact in body.components]
        numbers += [] if body.component_id is None else [body.component_id]
        if any(number not in self.components for number in numbers):
            raise bodies.invalid({"component_id": ["The selected component id is invalid."]})
        if body.template is not None and body.template not in TEMPLATES:
            raise bodies.invalid({"template": ["The selected template is invalid."]})

    async def _edit(self, exchange: Exchange, incident: Incident) -> web.Response:
        change = await self._checked(bodies.IncidentChange, exchange)
        self._guard("edit")
        wanted = change.model_dump(exclude_none=True)
        incident.body = incident.body.model_copy(update=wanted)
        incident.last_status = incident.last_status if change.status is None else change.status
        if change.visible is not None:
            incident.visible = EVERYBODY if change.visible else USERS
        exchange.entry.has_effect = bool(wanted)
        return document({"data": records.incident_document(incident)})

    # --- updates

    def _list_updates(self, exchange: Exchange, incident: Incident) -> web.Response:
        asked = bodies.query(exchange, _STATUS_ONLY, ("status", "created_at"), ("incident",))
        seen = list(incident.updates)
        if asked.get("sort") == "-created_at":
            seen = records.newest_first(seen)
        return document(bodies.page([records.update_document(incident, each) for each in seen], asked))

    async def _say(self, exchange: Exchange, incident: Incident) -> web.Response:
        body = await self._checked(bodies.NewUpdate, exchange)
        self._guard("update")
        number = 1 + sum(len(each.updates) for each in self.incidents.values())
        made = Update(number, body.status, body.message, exchange.now)
        incident.updates.append(made)
        incident.last_status = body.status
        exchange.entry.has_effect = True
        exchange.entry.key = str(incident.id)
        return document({"data": records.update_document(incident, made)}, 201)

    async def _amend(self, exchange: Exchange, incident: Incident, number: int) -> web.Response:
        found = next((each for each in incident.updates if each.id == number), None)
        if found is None:
            raise _missing("Update", number)
        change = await self._checked(bodies.UpdateChange, exchange)
        self._guard("amend")
        found.status = found.status if change.status is None else change.status
        found.message = change.message or found.message
        exchange.entry.has_effect = change != bodies.UpdateChange()
        return document({"data": records.update_document(incident, found)})

    # --- components

    async def _set(self, exchange: Exchange, number: int) -> web.Response:
        if number not in self.components:
            raise _missing("Component", number)
        change = await self._checked(bodies.ComponentChange, exchange)
        self._guard("component")
        if change.status is not None:
            self.components[number] = change.status
        exchange.entry.has_effect = change != bodies.ComponentChange()
        return document({"data": self._component(number, exchange.now)})

    def _component(self, number: int, now: float) -> dict[str, Any]:
        stored = self.components[number]
        shown = records.component_status(number, stored, self.incidents.values(), self._version, now)
        return records.component_document(number, stored, shown)

    # --- who asks, and how often

    async def _checked(self, model: type[bodies.Model], exchange: Exchange) -> bodies.Model:
        return await bodies.checked(model, exchange, is_strict=self._settings.cachet_bodies == "strict")

    def _guard(self, operation: str) -> None:
        """403 if the token may not do this; at the real one this comes after everything else was checked."""
        ability = ABILITY.get(operation)
        if ability is not None and ability not in self._abilities:
            raise refusal(403, "Invalid ability provided.")

    @property
    def _abilities(self) -> list[str]:
        return self._settings.cachet_abilities.split()

    def _left(self, counter: str, now: float) -> int:
        """Count one request: how many more are free in this minute, -1 for none."""
        asked = self._asked[counter] = [at for at in self._asked[counter] if now - at < _WINDOW_SECONDS]
        if len(asked) >= self._settings.cachet_rate_limit:
            return -1
        asked.append(now)
        return self._settings.cachet_rate_limit - len(asked)

    def _is_seen(self, incident: Incident, now: float, *, is_known: bool) -> bool:
        is_manager = is_known and ABILITY["incident"] in self._abilities
        return incident.is_seen_by(user=is_known, manager=is_manager, now=now)

    def _readable(self, exchange: Exchange, found: Mapping[str, str], *, is_known: bool) -> Incident:
        incident = self._find(found)
        if not self._is_seen(incident, exchange.now, is_known=is_known):
            raise _missing("Incident", incident.id)
        return incident

    def _find(self, found: Mapping[str, str]) -> Incident:
        """Also one that is hidden: who may change it, may."""
        incident = self.incidents.get(int(found["incident"]))
        if incident is None:
            raise _missing("Incident", int(found["incident"]))
        return incident


_BY: Mapping[str, Any] = {
    "name": lambda incident: incident.name,
    "status": lambda incident: incident.status,
    "id": lambda incident: incident.id,
    "created_at": lambda incident: int(incident.at),
}


def _missing(model: str, number: int) -> Refusal:
    return refusal(404, f"No query results for model [Cachet\\Models\\{model}] {number}")


def _moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
