"""What `check --online` finds out about a status page: can it be searched, what may the token do, what do guests see?

Promises: leaves no trace. Objects that exist are asked to be changed in nothing: the server answers 403 or 200, and
changes nothing; what does not exist says nothing about rights, since a 404 comes before a 403.
"""

from __future__ import annotations

from collections.abc import Awaitable

from relayd.destinations import cachet_api as api
from relayd.destinations.cachet_models import CachetConfig
from relayd.destinations.cachet_page import Page
from relayd.errors import DeliveryError, LoginRefused, NotAllowed, Rejected
from relayd.model import Finding

_NOBODYS = "rk-0000000000"
"""A mark that no incident carries."""
_MOST_TRIED = 3
"""Incidents that are looked through for an update."""
Trial = tuple[bool, str, str]
"""Whether it is good, in words, and what to do."""


class Check:
    """One page, looked at once."""

    def __init__(self, name: str, config: CachetConfig, page: Page) -> None:
        self._name = name
        self._config = config
        self._page = page

    async def log_in(self) -> None:
        """Whether there is an API, whether it takes the token, and whether it can be searched as a delivery does it."""
        api.incidents(await self._page.ask("/incidents?per_page=1"))
        await self._page.expect_login()
        await self._page.find(self._config.marker, _NOBODYS)

    async def findings(self) -> list[Finding]:
        """What the token lacks, and what everybody sees."""
        return [await self._tried("rights", self._rights()), await self._tried("guests", self._guests())]

    async def _tried(self, what: str, trial: Awaitable[Trial]) -> Finding:
        try:
            is_good, text, remedy = await trial
        except DeliveryError as error:
            is_good, text, remedy = False, str(error), "run this again"
        return Finding(subject=f"{self._name}: {what}", is_good=is_good, text=text, remedy=remedy)

    # --- what the token may do

    async def _rights(self) -> Trial:
        missing, untried = [], []
        for ability, path in (await self._objects()).items():
            if path is None:
                untried.append(ability)
            elif not await self._may(ability, path):
                missing.append(ability)
        if missing:
            lacking = ", ".join(missing)
            remedy = f"grant {lacking} to the API key in Cachet's settings, or make a new one with them"
            return False, f"the token lacks {lacking}", remedy
        if untried:
            return True, f"nothing is refused; {', '.join(untried)} could not be tried: the page has nothing yet", ""
        return True, "the token has every right that is needed", ""

    async def _objects(self) -> dict[str, str | None]:
        """For each ability something on the page that it takes to change it; None if there is nothing."""
        found: dict[str, str | None] = dict.fromkeys(api.ABILITIES)
        incidents = api.incidents(await self._page.ask(f"/incidents?per_page={_MOST_TRIED}&sort=-id"))
        components = api.numbers(await self._page.ask("/components?per_page=1"))
        if incidents:
            found[api.MANAGE_INCIDENTS] = f"/incidents/{incidents[0].id}"
        for incident in incidents[:_MOST_TRIED]:
            path = f"/incidents/{incident.id}/updates"
            updates = api.updates(await self._page.ask(f"{path}?per_page=1", of=f"incident {incident.id}"))
            if updates:
                found[api.MANAGE_UPDATES] = f"{path}/{updates[0].id}"
                break
        if components:
            found[api.MANAGE_COMPONENTS] = f"/components/{components[0]}"
        return found

    async def _may(self, ability: str, path: str) -> bool:
        try:
            await self._page.send("PUT", path, {}, ability=ability, of="such object")
        except NotAllowed:
            return False
        except (api.Gone, Rejected):
            return True
        return True

    # --- what everybody sees

    async def _guests(self) -> Trial:
        if self._config.visible:
            return True, "see every incident, as `visible` says", ""
        try:
            seen = api.incidents(await self._page.ask(f"/incidents?per_page={api.PER_PAGE}", as_guest=True))
        except LoginRefused:
            return True, "see nothing: the API is protected", ""
        if await self._is_new() and all(incident.visible == api.EVERYBODY for incident in seen):
            return True, "see nothing that is not visible", ""
        text = "servers before 2026-07-13 show incidents that are not visible to everybody who asks their API"
        return False, text, "update Cachet (GHSA-6ghm-wf22-pvx5), or have its API protected in its settings"

    async def _is_new(self) -> bool:
        """Servers know metadata since the day since which they hide what is not visible."""
        try:
            await self._page.ask("/incidents?per_page=1&include=meta")
        except Rejected:
            return False
        return True
