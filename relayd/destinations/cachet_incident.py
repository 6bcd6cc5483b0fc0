"""One fault on a status page: opened, updated, resolved by one delivery after the other, each effect once.

Promises: before anything is sent, the page is asked what it shows of the fault; what is about to be sent is noted, and
taken back where it is certain that nothing happened. A later try looks for what an earlier one may have brought about,
by the marker of an incident, or by what an update says and that it is newer than all there were. While that is in
doubt, the same is sent again and nothing more.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from relayd.destinations import cachet_api as api
from relayd.destinations import cachet_events as events
from relayd.destinations.base import Attempt, Step
from relayd.destinations.cachet_events import Event
from relayd.destinations.cachet_models import FIXED, CachetConfig
from relayd.destinations.cachet_page import Page
from relayd.errors import DeliveryError
from relayd.httpanswer import Answer
from relayd.model import JSON

DONE, SENDING = "done", "sending"
LAST_YEAR_SECONDS = 4_102_444_800.0
"""No incident is said to begin after 2099, whatever a sensor's clock says."""


class Telling:
    """One delivery's turn. `me` is what it says of the fault, `rest` what came after it, in order."""

    def __init__(self, page: Page, config: CachetConfig, attempt: Attempt, me: Event, rest: Sequence[Event]) -> None:
        self._page = page
        self._config = config
        self._attempt = attempt
        self._me = me
        self._rest = rest
        self._mark = events.mark(me.key)
        self._episode = attempt.key("incident").replace("-", "")[:8]

    async def run(self) -> Step:
        """What was brought about: `incident_id` (None: nothing is open), `proof`, and `covers`, the ids of the
        deliveries that it did the work of."""
        done = self._attempt.recall(DONE)
        if done is not None:
            return done
        known = await self._known()

        async def find() -> Step | None:
            return await self._found(known)

        return await self._attempt.step(DONE, self._tell, known, find=find)

    async def _known(self) -> list[api.Incident]:
        """Every incident of the fault, the newest first."""
        found = await self._page.find(self._config.marker, self._mark)
        return [incident for incident in found if self._mark in self._marks(incident)]

    def _marks(self, incident: api.Incident) -> str:
        if self._config.marker == "name":
            return incident.name
        return f"{incident.meta.get('relay_key')} {incident.meta.get('relay_episode')}"

    # --- doing

    async def _tell(self, known: Sequence[api.Incident]) -> Step:
        group = [self._me, *self._rest]
        noted = self._noted()
        if noted.get("is_open"):  # an earlier try may still arrive: say the same again
            covers = noted.get("covers")
            group = [
                self._me,
                *(each for each in self._rest if isinstance(covers, list) and each.delivery_id in covers),
            ]
        shown = next((incident for incident in known if incident.status != FIXED), None)
        if shown is not None:
            return await self._say(shown, _until_over(group))
        if not self._me.is_end:
            return await self._open(group)
        await self._page.expect_login()
        last = f"its last incident, {known[0].id}, is fixed" if known else "it has no incident of this fault"
        proof = f"nothing of this fault is open on the page: {last}"
        return {"covers": [], "incident_id": known[0].id if known else None, "proof": proof}

    async def _open(self, group: Sequence[Event]) -> Step:
        """One incident that tells all of these, in the state of the last one."""
        note: Step = {"covers": [event.delivery_id for event in group], "incident_id": None}
        answer = await self._write("/incidents", self._incident(group), note, ability=api.MANAGE_INCIDENTS)
        made = api.incident(answer)
        end = ", fixed already" if group[-1].is_end else ""
        return {**note, "incident_id": made.id, "proof": f"{_said(answer)} incident {made.id}{end}{_of_many(group)}"}

    async def _say(self, shown: api.Incident, group: Sequence[Event]) -> Step:
        """One update of an incident that tells all of these; none if they say nothing new."""
        there = await self._updates(shown.id)
        text, status = events.told(group).strip(), group[-1].status
        note: Step = {"covers": [event.delivery_id for event in group], "incident_id": shown.id}
        newest = there[0].message if there else shown.message
        if status == shown.status and events.gist(newest) == events.gist(text):
            return {**note, "proof": f"the page shows that incident {shown.id} says so already"}
        after = there[0].id if there else 0
        answer = await self._write(
            f"/incidents/{shown.id}/updates",
            {"status": status, "message": text},
            {**note, "after": after, "status": status, "digest": events.digest(text)},
            ability=api.MANAGE_UPDATES,
            of=f"incident {shown.id}",
        )
        made = api.update(answer)
        what = "which resolves" if status == FIXED else "of"
        return {**note, "proof": f"{_said(answer)} update {made.id}, {what} incident {shown.id}{_of_many(group)}"}

    async def _write(self, path: str, body: Mapping[str, JSON], note: Step, *, ability: str, of: str = "") -> Answer:
        """Send what must not be there twice."""
        was_open = bool(self._noted().get("is_open"))
        await self._attempt.note(SENDING, {**note, "is_open": True})
        try:
            return await self._page.send("POST", path, body, ability=ability, of=of)
        except DeliveryError as error:
            if error.nothing_happened and not was_open:
                await self._attempt.note(SENDING, {**note, "is_open": False})
            raise

    # --- looking for what a lost answer would have told

    async def _found(self, known: Sequence[api.Incident]) -> Step | None:
        noted = self._noted()
        if not noted.get("is_open"):
            return None
        what: Step = {"covers": noted.get("covers"), "incident_id": noted.get("incident_id")}
        if noted.get("incident_id") is None:
            made = next((incident for incident in known if self._episode in self._marks(incident)), None)
            proof = "" if made is None else f"the page shows incident {made.id}, though the answer to it was lost"
            return None if made is None else {**what, "incident_id": made.id, "proof": proof}
        try:
            there = await self._updates(noted["incident_id"])
        except api.Gone:
            return None
        for update in there:
            is_new = update.id > int(str(noted.get("after", 0))) and update.status == noted.get("status")
            if is_new and events.digest(update.message) == noted.get("digest"):
                proof = f"incident {noted['incident_id']} shows update {update.id}, though the answer to it was lost"
                return {**what, "proof": proof}
        return None

    async def _updates(self, incident: JSON) -> list[api.Update]:
        path = f"/incidents/{incident}/updates?per_page={api.PER_PAGE}&sort=-created_at"
        return api.updates(await self._page.ask(path, of=f"incident {incident}"))

    def _noted(self) -> Step:
        return self._attempt.recall(SENDING) or {}

    # --- the body

    def _incident(self, group: Sequence[Event]) -> dict[str, JSON]:
        """As the first of these wishes it to be."""
        first, given = group[0], group[0].arguments
        is_marked = self._config.marker == "name"
        meta: dict[str, JSON] = dict(given.meta or {})
        if not is_marked:
            meta |= {"relay_key": self._mark, "relay_episode": self._episode}
        body: dict[str, JSON] = {
            "name": events.title(first.name, f"{self._mark}-{self._episode}" if is_marked else ""),
            "status": group[-1].status,
            "visible": self._config.visible if given.visible is None else given.visible,
            "stickied": given.stickied,
            "notifications": given.notifications,
            "occurred_at": self._server_time(first.at),
        }
        if given.template:
            body |= {"template": given.template, "template_vars": dict(given.template_vars or {})}
        else:
            body["message"] = events.told(group)
        published_at = events.moment(given.published_at)
        if published_at is not None:
            body["published_at"] = self._server_time(published_at)
        if given.component_id is not None:
            body |= {"component_id": given.component_id, "component_status": given.component_status}
        if given.components:
            body["components"] = [component.model_dump() for component in given.components]
        return body | ({"meta": meta} if meta else {})

    def _server_time(self, at: float) -> str:
        zone = UTC if self._config.time_zone == "UTC" else zoneinfo.ZoneInfo(self._config.time_zone)
        return datetime.fromtimestamp(min(max(at, 0.0), LAST_YEAR_SECONDS), tz=zone).strftime("%Y-%m-%d %H:%M:%S")


def _until_over(group: Sequence[Event]) -> Sequence[Event]:
    """Up to the first end: what comes after it is another incident."""
    end = next((place for place, event in enumerate(group) if event.is_end), len(group) - 1)
    return group[: end + 1]


def _said(answer: Answer) -> str:
    return f"{answer.where} answered {answer.status} with"


def _of_many(group: Sequence[Event]) -> str:
    return f", which tells {len(group)} messages at once" if len(group) > 1 else ""
