"""A status page as this relay's token sees it: calls, the rate limit, and what a refusal means.

Promises: no call while the rate limit has no room; a 404 of one object is told apart from an API that is switched off;
what asks whether the token is good changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from relayd import clock
from relayd.destinations import cachet_api as api
from relayd.destinations.cachet_models import CachetConfig
from relayd.errors import DeliveryError, LoginRefused, NotAllowed, Rejected, SecretMissing, Unavailable
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.model import JSON, Finding

_TOKEN = re.compile(r"[!-~]+")
_NOBODY = 0
"""The number that no incident and no component has: asking for it to be changed shows who may, and changes nothing."""
_ABILITIES = {
    api.MANAGE_INCIDENTS: f"/incidents/{_NOBODY}",
    api.MANAGE_UPDATES: f"/incidents/{_NOBODY}/updates/{_NOBODY}",
    api.MANAGE_COMPONENTS: f"/components/{_NOBODY}",
}


class Page:
    """The API of one status page. Raises what `cachet_api.judge` says an answer means."""

    def __init__(self, config: CachetConfig) -> None:
        self._config = config
        self._free_at = 0.0
        self.client = HttpClient(config)

    async def ask(self, path: str, *, of: str = "") -> Answer:
        """Read something."""
        return await self.send("GET", path, of=of)

    async def send(
        self, method: str, path: str, body: Mapping[str, JSON] | None = None, *, ability: str = "", of: str = ""
    ) -> Answer:
        """One call that needs an `ability` of the token, about the object `of`. Raises Gone if only that is missing."""
        answer = await self._exchange(method, path, body)
        try:
            api.judge(answer, ability=ability, of=of)
        except api.Gone:
            api.judge(await self._exchange("GET", "/incidents?per_page=1", None))
            raise
        return answer

    async def expect_login(self) -> None:
        """Raise LoginRefused unless the token is taken: reading alone works with a wrong one too, and shows less."""
        try:
            await self._try_to_change_nobody(api.MANAGE_INCIDENTS)
        except NotAllowed:
            return

    async def log_in(self) -> None:
        """Whether there is an API, and whether it takes the token."""
        api.incidents(await self.ask("/incidents?per_page=1"))
        await self.expect_login()

    async def rights(self, name: str) -> Finding:
        """Which abilities the server says are missing, without doing anything."""
        missing = []
        for ability in _ABILITIES:
            try:
                await self._try_to_change_nobody(ability)
            except NotAllowed:
                missing.append(ability)
            except DeliveryError as error:
                return Finding(subject=f"{name}: rights", is_good=False, text=str(error), remedy="run this again")
        lacking, needed = ", ".join(missing), ", ".join(_ABILITIES)
        if missing:
            remedy = f"grant {lacking} to the API key in Cachet's settings, or make a new one with them"
            return Finding(subject=f"{name}: rights", is_good=False, text=f"the token lacks {lacking}", remedy=remedy)
        text = f"none is refused; needed are {needed} (many servers name a missing one only when something is done)"
        return Finding(subject=f"{name}: rights", is_good=True, text=text)

    async def _try_to_change_nobody(self, ability: str) -> None:
        try:
            await self.send("PUT", _ABILITIES[ability], {}, ability=ability, of="such object")
        except (api.Gone, Rejected):
            return

    async def _exchange(self, method: str, path: str, body: Mapping[str, JSON] | None) -> Answer:
        left = self._free_at - clock.monotonic()
        if left > 0:
            text = f"{self._config.url}: the rate limit is used up for the next {left:.0f} s"
            raise Unavailable(text, retry_after_seconds=left).harmless()
        headers = {"Accept": "application/json, application/vnd.api+json", "Authorization": f"Bearer {self._token()}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = b"" if body is None else json.dumps(body).encode()
        url = self.client.url(path)
        answer = await self.client.send(method, url, headers=headers, body=data, is_repeatable=method != "POST")
        if api.is_used_up(answer):
            self._free_at = clock.monotonic() + api.free_after_seconds(answer)
        return answer

    def _token(self) -> str:
        try:
            token = self._config.token.reveal()
        except SecretMissing as error:
            raise LoginRefused(f"token cannot be had: {error}").harmless() from None
        if _TOKEN.fullmatch(token) is None:
            raise LoginRefused(
                f"token cannot be used: what is in {self._config.token.place} is no token: it has blanks"
            ).harmless()
        return token
