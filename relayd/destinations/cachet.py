"""Cachet v3: a status page that shows one incident for each fault, and the status of components.

Promises: an incident carries a marker, so that after a lost answer it is looked for before anything is sent again, and
so that the end of a fault finds it; its number is remembered too. What is known of a fault when its turn comes is told
at once: one that came and went while the link was away is one finished incident, however often. Deliveries of one fault
go in their order; an end never overtakes its beginning. Resolved is by an update with status 4, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from relayd import httpcheck
from relayd.destinations import cachet_api as api
from relayd.destinations.base import Attempt, Destination, Sibling, Step
from relayd.destinations.cachet_check import Check
from relayd.destinations.cachet_events import Event, event_of, key_of
from relayd.destinations.cachet_incident import DONE, Telling
from relayd.destinations.cachet_models import CachetConfig, ComponentArguments, IncidentArguments
from relayd.destinations.cachet_opened import Opened
from relayd.destinations.cachet_order import TOLD, later
from relayd.destinations.cachet_page import Page
from relayd.errors import Rejected, TryAgain
from relayd.memory import Unkept
from relayd.model import Finding, Receipt

if TYPE_CHECKING:
    from relayd.surroundings import Surroundings


class Cachet(Destination):
    """One status page."""

    Config = CachetConfig
    actions: ClassVar[Mapping[str, type[BaseModel]]] = {
        "incident": IncidentArguments,
        "component": ComponentArguments,
    }
    receipt_fields = frozenset({"incident_id"})
    alarms = frozenset({"incident"})

    def __init__(self, name: str, config: CachetConfig, surroundings: Surroundings | None = None) -> None:
        self.name = name
        self._config = config
        self._page = Page(config)
        memory = Unkept() if surroundings is None else surroundings.memory(f"destination:{name}")
        self._opened = Opened(memory)

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Receipt: `incident_id`; None for a component, and where there is nothing to resolve."""
        told = attempt.recall(TOLD)
        if told is not None:
            return _receipt(told)
        act = self._component if attempt.delivery.action == "component" else self._incident
        done, with_me, after_me = await act(attempt)
        await attempt.tell(with_me, TOLD, {**done, "proof": f"told together with an earlier message: {done['proof']}"})
        await attempt.tell(after_me[:1], TOLD, None)
        return _receipt(done)

    async def check(self) -> list[Finding]:
        """Name, TCP, TLS, whether there is an API that takes the token and can be searched, the rights, the guests."""
        remedy = "compare url and token with Cachet's settings"
        looked = Check(self.name, self._config, self._page)
        found = await httpcheck.findings(self.name, self._page.client, looked.log_in, remedy=remedy)
        if all(finding.is_good for finding in found):
            found += await looked.findings()
        return found

    async def close(self) -> None:
        await self._page.client.close()

    async def _incident(self, attempt: Attempt) -> tuple[Step, list[Sibling], list[Sibling]]:
        """What was done, and of those that came later about the same fault those that it was done for, and the rest."""

        def key(one: Attempt | Sibling) -> str:
            return key_of(one.item, one.delivery, one.arguments or {}, attempt.device)

        def said(one: Attempt | Sibling) -> Event:
            return event_of(one.item, one.delivery, one.arguments or {}, attempt.device)

        mine = key(attempt)
        rest = await later(attempt, lambda sibling: key(sibling) == mine)
        told = [said(each) for each in rest]
        done = await Telling(self._page, self._config, self._opened, attempt, said(attempt), told).run()
        covers = done["covers"] if isinstance(done["covers"], list) else []
        with_me = [sibling for sibling in rest if sibling.delivery.id in covers]
        return done, with_me, [sibling for sibling in rest if sibling.delivery.id not in covers]

    async def _component(self, attempt: Attempt) -> tuple[Step, list[Sibling], list[Sibling]]:
        """The newest status that is wanted of the component; the same again changes nothing."""
        number = ComponentArguments.model_validate(dict(attempt.arguments)).component_id
        rest = await later(attempt, lambda sibling: (sibling.arguments or {}).get("component_id") == number)
        newest = attempt.arguments if not rest else rest[-1].arguments or {}
        status = ComponentArguments.model_validate(dict(newest)).status
        return await attempt.step(DONE, self._set, number, status), rest, []

    async def _set(self, number: int, status: int) -> Step:
        what = f"component {number}"
        try:
            answer = await self._page.send(
                "PUT", f"/components/{number}", {"status": status}, ability=api.MANAGE_COMPONENTS, of=what
            )
        except api.Gone as error:
            raise Rejected(f"{error}: look for its number on the status page") from None
        found = api.component_status(answer)
        if found != status:
            raise TryAgain(f"{answer.where} answered {answer.status}, and that {what} has status {found}, not {status}")
        return {"incident_id": None, "proof": f"{answer.where} answered {answer.status}: {what} has status {status}"}


def _receipt(done: Step) -> Receipt:
    return Receipt(proof=str(done["proof"]), fields={"incident_id": done["incident_id"]})
