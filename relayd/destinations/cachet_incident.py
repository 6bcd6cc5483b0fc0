"""One fault on a status page: opened, updated, resolved by one delivery after the other, each effect once.

Promises: before anything is sent, the page is asked what it shows of the fault, and by its number for the incident that
this relay has opened. What is sent is sent at most once (see `at_most_once`): found again by the marker of an incident,
or by what an update says and that it is newer than all there were. While something is in doubt, the same is sent again
and nothing more. An end resolves every open incident of the fault, also one that a lost request has opened besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from relayd.destinations import cachet_api as api
from relayd.destinations import cachet_events as events
from relayd.destinations.at_most_once import Doubt, Once, Terms
from relayd.destinations.base import Attempt, Step
from relayd.destinations.cachet_body import incident_body
from relayd.destinations.cachet_events import Event
from relayd.destinations.cachet_models import FIXED, CachetConfig
from relayd.destinations.cachet_opened import Opened
from relayd.destinations.cachet_page import Page
from relayd.errors import NotReady
from relayd.httpanswer import Answer
from relayd.model import JSON

DONE = "done"
_SAME_SECOND_SECONDS = 1.5


class Telling:
    """One delivery's turn. `me` is what it says of the fault, `rest` what came after it, in order."""

    def __init__(
        self,
        page: Page,
        config: CachetConfig,
        opened: Opened,
        attempt: Attempt,
        me: Event,
        rest: Sequence[Event],
    ) -> None:
        self._page = page
        self._config = config
        self._opened = opened
        self._attempt = attempt
        self._me = me
        self._rest = rest
        self._mark = events.mark(me.key)
        self._episode = attempt.key("incident").replace("-", "")[:8]
        self._once = Once(
            attempt,
            Terms(
                doubt_wait=config.doubt_wait,
                most_unknown=config.most_unknown,
                unknown_wait=config.unknown_wait,
                where="the status page",
                item=attempt.item.id,
            ),
        )

    async def run(self) -> Step:
        """What was brought about: `incident_id` (None: nothing is open), `proof`, and `covers`, the ids of the
        deliveries that it did the work of."""
        done = self._attempt.recall(DONE)
        return done or await self._attempt.step(DONE, self._tell)

    async def _tell(self) -> Step:
        known = await self._known()
        made = self._once.made or await self._once.look(partial(self._found, known))
        if made is None:
            made = await self._bring_about(known)
        await self._remember(made, known)
        return await self._once.settled(made, self._undo)

    # --- what is there

    async def _known(self) -> list[api.Incident]:
        """Every incident of the fault, the newest first; the one that we have opened, also where it is not listed."""
        found = await self._page.find(self._config.marker, self._mark)
        known = [incident for incident in found if self._mark in self._marks(incident)]
        number = await self._opened.of(self._mark)
        if number is None or any(incident.id == number for incident in known):
            return known
        unlisted = await self._page.incident(number)
        return known if unlisted is None else [unlisted, *known]

    def _marks(self, incident: api.Incident) -> str:
        if self._config.marker == "name":
            return incident.name
        return f"{incident.meta.get('relay_key')} {incident.meta.get('relay_episode')}"

    async def _updates(self, incident: api.Incident) -> list[api.Update]:
        """The newest first; none of what is hidden from everybody."""
        if incident.visible == api.NOBODY:
            return []
        path = f"/incidents/{incident.id}/updates?per_page={api.PER_PAGE}&sort=-created_at"
        return api.updates(await self._page.ask(path, of=f"incident {incident.id}"))

    async def _found(self, known: Sequence[api.Incident], doubt: Doubt) -> Step | None:
        """What a lost answer would have told."""
        facts = doubt.facts
        number = facts.get("incident_id")
        if number is None:
            made = next((incident for incident in known if self._episode in self._marks(incident)), None)
            return (
                None if made is None else {**facts, "incident_id": made.id, "proof": f"the page shows {_called(made)}"}
            )
        incident = next((each for each in known if each.id == number), None)
        if incident is None:
            return None
        if incident.visible == api.NOBODY:  # its updates are shown to nobody
            return {**facts, "proof": f"{_called(incident)} is so"} if incident.status == facts.get("status") else None
        same = [update.id for update in await self._updates(incident) if _is_it(update, facts)]
        return {**facts, "proof": f"incident {number} shows update {same[-1]}"} if same else None

    # --- doing

    async def _bring_about(self, known: Sequence[api.Incident]) -> Step:
        group = [self._me, *self._rest]
        facts = self._once.facts
        if facts is not None:  # an earlier try may still arrive: say the same again
            covers = facts.get("covers")
            of_it = covers if isinstance(covers, list) else []
            group = [self._me, *(each for each in self._rest if each.delivery_id in of_it)]
        shown = next((incident for incident in known if incident.status != FIXED), None)
        if shown is not None:
            return await self._say(shown, _until_over(group))
        if not self._me.is_end:
            return await self._open(group)
        await self._page.expect_login()
        last = f"its last incident, {known[0].id}, is fixed" if known else "it has no incident of this fault"
        proof = f"nothing of this fault is open on the page: {last}"
        return {"covers": [], "incident_id": known[0].id if known else None, "status": FIXED, "proof": proof}

    async def _open(self, group: Sequence[Event]) -> Step:
        """One incident that tells all of these, in the state of the last one."""
        facts: Step = {
            "covers": [event.delivery_id for event in group],
            "incident_id": None,
            "status": group[-1].status,
        }
        body = incident_body(self._config, group, self._mark, self._episode)

        async def send(_: int) -> Step:
            answer = await self._page.send("POST", "/incidents", body, ability=api.MANAGE_INCIDENTS)
            made = api.incident(answer)
            end = ", fixed already" if group[-1].is_end else ""
            proof = f"{_said(answer)} incident {made.id}{end}{_of_many(group)}"
            return {**facts, "incident_id": made.id, "proof": proof}

        return await self._once.send(send, facts)

    async def _say(self, shown: api.Incident, group: Sequence[Event]) -> Step:
        """One update of an incident that tells all of these; none if they say nothing new."""
        there = await self._updates(shown)
        text, status = events.trimmed(events.told(group)), group[-1].status
        facts: Step = {
            "covers": [event.delivery_id for event in group],
            "incident_id": shown.id,
            "status": status,
            "after": there[0].id if there else 0,
            "digest": events.digest(text),
        }
        newest = there[0].message if there else shown.message
        if status == shown.status and events.gist(newest) == events.gist(text):
            return {**facts, "proof": f"the page shows that {_called(shown)} says so already"}

        async def send(_: int) -> Step:
            answer, made = await self._post_update(shown.id, status, text)
            await self._expect_shown(shown, status, made, there)
            what = "which resolves" if status == FIXED else "of"
            proof = f"{_said(answer)} update {made.id}, {what} {_called(shown)}{_of_many(group)}"
            return {**facts, "proof": proof}

        return await self._once.send(send, facts)

    async def _post_update(self, number: int, status: int, text: str) -> tuple[Answer, api.Update]:
        body: dict[str, JSON] = {"status": status, "message": text}
        path = f"/incidents/{number}/updates"
        answer = await self._page.send("POST", path, body, ability=api.MANAGE_UPDATES, of=f"incident {number}")
        return answer, api.update(answer)

    async def _expect_shown(
        self, shown: api.Incident, status: int, made: api.Update, there: Sequence[api.Update]
    ) -> None:
        """Of two updates of the same second, servers before July 2026 show the status of any: then it is said again."""
        if not (there and made.created and made.created == there[0].created):
            return
        now = await self._page.incident(shown.id)
        if now is not None and now.status != status:
            raise NotReady(
                f"incident {shown.id} shows an older update of the same second: the newest one is said again",
                retry_after_seconds=_SAME_SECOND_SECONDS,
            ).harmless()

    # --- what is there besides

    async def _remember(self, made: Step, known: Sequence[api.Incident]) -> None:
        """The number of what is open; at an end, nothing of the fault is left open."""
        number = made.get("incident_id")
        if made.get("status") != FIXED:
            if isinstance(number, int):
                await self._opened.keep(self._mark, number)
            return
        if made["covers"]:
            await self._resolve([each for each in known if each.id != number and each.status != FIXED], "It is over.")
        await self._opened.forget(self._mark)

    async def _resolve(self, others: Sequence[api.Incident], text: str) -> None:
        """What is resolved twice is resolved: nothing has to be noted."""
        for incident in others:
            await self._post_update(incident.id, FIXED, text)

    async def _undo(self, made: Step) -> str:
        """Resolve what a request has opened that went on while we sent it again, and say again what one has undone."""
        number, status = made.get("incident_id"), made.get("status")
        known = await self._known()
        twice = [each for each in known if each.id != number and self._episode in self._marks(each)]
        await self._resolve(
            [each for each in twice if each.status != FIXED], f"Opened twice by mistake, see incident {number}."
        )
        said = [f"resolved incident {each.id}, which came twice" for each in twice]
        mine = next((each for each in known if each.id == number), None)
        if mine is not None and "digest" in made:
            same = [each for each in await self._updates(mine) if _is_it(each, made)]
            said += [f"update {each.id} came twice" for each in same[:-1]]
            if mine.status != status and isinstance(status, int) and same[:-1] and mine.status is not None:
                await self._post_update(mine.id, status, same[-1].message)
        return "; ".join(said)


def _is_it(update: api.Update, facts: Step) -> bool:
    """Whether this is the update that was sent."""
    is_new = update.id > int(str(facts.get("after", 0))) and update.status == facts.get("status")
    return is_new and events.digest(update.message) == facts.get("digest")


def _until_over(group: Sequence[Event]) -> Sequence[Event]:
    """Up to the first end: what comes after it is another incident."""
    end = next((place for place, event in enumerate(group) if event.is_end), len(group) - 1)
    return group[: end + 1]


def _called(incident: api.Incident) -> str:
    hidden = ", which somebody has hidden from everybody" if incident.visible == api.NOBODY else ""
    return f"incident {incident.id}{hidden}"


def _said(answer: Answer) -> str:
    return f"{answer.where} answered {answer.status} with"


def _of_many(group: Sequence[Event]) -> str:
    return f", which tells {len(group)} messages at once" if len(group) > 1 else ""
