"""What must not be done twice at IncidentShare: noted before it is sent, looked for where an answer is missing.

Promises: an effect that the site lists is never brought about again. The note (step `sending`) is written before the
request leaves, and closed only where it is certain that nothing happened; what is left open is looked for, for
`look_for` since the first look, in lists that begin well before the sending by the site's own clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from relayd import clock
from relayd.destinations.base import Attempt, Step
from relayd.destinations.incidentshare_models import IncidentShareConfig
from relayd.destinations.incidentshare_site import NoLook, Site
from relayd.errors import DeliveryError, LoginRefused, NotReady, Rejected, TryAgain

LOOK_EVERY_SECONDS = 5.0
MOST_LOOKS = 5
"""Looks that fail, or that show no stream, before one goes on without."""
NEAR_SECONDS = 600.0
"""How much earlier than the sending a list begins: clocks differ, and an answer's `Date` is good to seconds only."""
FAR_SECONDS = 86400.0
"""The same for the last look: a site may keep its dates in another time zone."""

Send = Callable[[int], Awaitable[Step]]
"""Bring it about; given how many earlier tries may have."""
Find = Callable[[Step, bool], Awaitable[Step | None]]
"""Given what was noted, and whether this is the last look: what is found of the effect, None if it is not there."""


class Once:
    """Effects at one site."""

    def __init__(self, config: IncidentShareConfig, site: Site) -> None:
        self._config = config
        self._site = site

    async def bring_about(self, attempt: Attempt, send: Send, find: Find, is_absence_certain: bool) -> Step:
        """The effect, unless an earlier try has had it. `is_absence_certain`: what the site does not list is not
        there; else it may be there all the same, and `on_unknown` decides."""
        noted = attempt.recall("sending") or {}
        doubts = int(str(noted.get("doubts", 0)))
        if noted.get("is_open"):
            found, is_absent = await self._look(attempt, noted, find)
            if found is not None:
                return {**found, "proof": f"{found['proof']}, though an answer was lost"}
            if not (is_absent and is_absence_certain):
                doubts += 1
                await self._ask_if_wanted(attempt, doubts)
        begun: Step = {"doubts": doubts, "at": clock.now(), "server_at": self._site.server_now()}
        await attempt.note("sending", {"is_open": True, **begun})
        try:
            return await send(doubts)
        except DeliveryError as error:
            if error.nothing_happened:
                await attempt.note("sending", {"is_open": False, **begun})
            raise

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

    async def _look(self, attempt: Attempt, noted: Step, find: Find) -> tuple[Step | None, bool]:
        """What is there of the effect, and whether the site showed that nothing is. Raises NotReady to look again."""
        now = clock.now()
        since = noted.get("looking_since")
        if not isinstance(since, (int, float)) or since > now:  # a clock that was put back must not make it endless
            since = now
            await attempt.note("sending", {**noted, "looking_since": since})
        left = self._config.look_for - (now - since)
        try:
            found = await find(noted, left <= 0)
        except NoLook:
            return None, False
        except (TryAgain, LoginRefused):
            if await attempt.count("look", MOST_LOOKS) < MOST_LOOKS:
                raise
            return None, False
        if found is None and left > 0:
            raise NotReady(
                "the answer to an earlier try was lost, and the site does not show what came of it yet: looking again",
                retry_after_seconds=min(left, LOOK_EVERY_SECONDS),
            )
        return found, found is None

    async def _ask_if_wanted(self, attempt: Attempt, doubts: int) -> None:
        """Raise Rejected under "ask"."""
        if self._config.on_unknown == "retry":
            return
        await attempt.note("sending", {"is_open": False, "doubts": doubts})
        raise Rejected(
            "the answer to an earlier try was lost, and the site does not tell what came of it: look there; if nothing"
            f" came, `relayd retry {attempt.item.id}` sends it again, if it did, `relayd drop` it"
        )
