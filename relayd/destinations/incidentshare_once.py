"""What must not be done twice at IncidentShare: noted before it is sent, looked for where an answer is missing.

Promises: those of `at_most_once`, with `look_for` as the wait; lists begin well before the sending by the site's own
clock, since ours may be wrong.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from relayd import clock
from relayd.destinations.at_most_once import SENDING, Doubt, NoLook, Send, Terms, once
from relayd.destinations.base import Attempt, Step
from relayd.destinations.incidentshare_models import IncidentShareConfig
from relayd.destinations.incidentshare_site import Site
from relayd.errors import LoginRefused, TryAgain

NEAR_SECONDS = 600.0
"""How much earlier than the sending a list begins: clocks differ, and an answer's `Date` is good to seconds only."""
FAR_SECONDS = 86400.0
"""The same for the last look: a site may keep its dates in another time zone."""

Find = Callable[[Step, bool], Awaitable[Step | None]]
"""Given what was noted, and whether this is the last look: what is found of the effect, None if it is not there."""
Count = Callable[[Step], Awaitable[int]]
"""Given what was noted: how often the site lists the effect."""


class Once:
    """The effects of one site."""

    def __init__(self, config: IncidentShareConfig, site: Site) -> None:
        self._config = config
        self._site = site

    async def bring_about(
        self,
        attempt: Attempt,
        name: str,
        send: Send,
        find: Find,
        *,
        is_absence_certain: bool,
        count: Count | None = None,
    ) -> Step:
        """The effect, unless an earlier try has had it. `is_absence_certain`: what the site does not list is not
        there; else it may be there all the same, and `on_unknown` decides. With `count` what was sent again is looked
        at once more, so that the receipt says whether it came twice: the site lets nobody take it back."""
        terms = Terms(
            doubt_wait=self._config.look_for,
            on_unknown=self._config.on_unknown,
            most_unknown=self._config.most_unknown,
            unknown_wait=self._config.unknown_wait,
            is_absence_certain=is_absence_certain,
            where="the site",
            item=attempt.item.id,
        )

        async def look(doubt: Doubt) -> Step | None:
            return await find(doubt.facts, doubt.is_last)

        async def twice(_: Step) -> str:
            return "" if count is None else await self._twice(attempt, count)

        undo = None if count is None else twice
        return await once(attempt, name, send, look, terms=terms, facts=self._facts, undo=undo)

    async def _twice(self, attempt: Attempt, count: Count) -> str:
        facts = (attempt.recall(SENDING) or {}).get("facts")
        try:
            found = await count(dict(facts) if isinstance(facts, dict) else {})
        except (TryAgain, LoginRefused, NoLook) as error:
            return f"it was sent more than once, and whether it came twice cannot be known: {error}"
        return "" if found < 2 else f"it was sent more than once and came twice: the site lists {found}"

    def _facts(self) -> Step:
        return {"at": clock.now(), "server_at": self._site.server_now()}

    def since(self, noted: Step, *, is_last: bool) -> dict[str, str]:
        """The query for what came since the effect was noted, by the site's clock; ours may be wrong."""
        margin = FAR_SECONDS if is_last else NEAR_SECONDS
        server_at, at = noted.get("server_at"), noted.get("at")
        if isinstance(server_at, (int, float)):
            return self._site.since(server_at - margin)
        server_now = self._site.server_now()
        if is_last and server_now is None:
            return {}
        now = clock.now()
        passed = max(now - at, 0.0) if isinstance(at, (int, float)) else FAR_SECONDS
        return self._site.since((now if server_now is None else server_now) - passed - margin)
