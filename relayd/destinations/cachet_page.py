"""A status page as this relay's token sees it: calls, the rate limit, and what a refusal means.

Promises: no call while the rate limit has no room; a 404 of one object is told apart from an API that is switched off;
what asks whether the token is good, or what a hidden incident is like, changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from relayd import clock
from relayd.destinations import cachet_api as api
from relayd.destinations.cachet_models import CachetConfig
from relayd.errors import LoginRefused, NotAllowed, Rejected, SecretMissing, Unavailable
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.model import JSON

_TOKEN = re.compile(r"[!-~]+")
_NOBODY = 0
"""No incident has this number: asking for it to be changed shows whether the token is taken, and changes nothing."""


class Page:
    """The API of one status page. Raises what `cachet_api.judge` says an answer means."""

    def __init__(self, config: CachetConfig) -> None:
        self._config = config
        self._free_at = 0.0
        self.client = HttpClient(config)

    async def ask(self, path: str, *, of: str = "", as_guest: bool = False) -> Answer:
        """Read something; `as_guest`: without the token."""
        return await self.send("GET", path, of=of, as_guest=as_guest)

    async def find(self, marker: str, mark: str) -> list[api.Incident]:
        """What the page lists of the incidents that carry a mark, the newest first."""
        try:
            return api.incidents(await self.ask(api.search(marker, mark)))
        except Rejected as error:
            text = f"{error}; this server cannot look for incidents by marker = {marker}"
            remedy = 'set marker = "name"' if marker != "name" else "update Cachet: its version 3 can"
            raise LoginRefused(text, remedy=remedy).harmless() from None

    async def incident(self, number: int) -> api.Incident | None:
        """One incident, also one that is hidden from everybody: the answer to a change of nothing shows it. None if
        there is none."""
        what = f"incident {number}"
        try:
            return api.incident(await self.ask(f"/incidents/{number}", of=what))
        except api.Gone:
            pass
        try:
            return api.incident(
                await self.send("PUT", f"/incidents/{number}", {}, ability=api.MANAGE_INCIDENTS, of=what)
            )
        except api.Gone:
            return None

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, JSON] | None = None,
        *,
        ability: str = "",
        of: str = "",
        as_guest: bool = False,
    ) -> Answer:
        """One call that needs an `ability` of the token, about the object `of`. Raises Gone if only that is missing."""
        answer = await self._exchange(method, path, body, as_guest=as_guest)
        try:
            api.judge(answer, ability=ability, of=of)
        except api.Gone:
            api.judge(await self._exchange("GET", "/incidents?per_page=1", None))
            raise
        return answer

    async def expect_login(self) -> None:
        """Raise LoginRefused unless the token is taken: reading alone works with a wrong one too, and shows less."""
        try:
            await self.send("PUT", f"/incidents/{_NOBODY}", {}, ability=api.MANAGE_INCIDENTS, of="such object")
        except (api.Gone, Rejected, NotAllowed):
            return

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, JSON] | None, *, as_guest: bool = False
    ) -> Answer:
        left = self._free_at - clock.monotonic()
        if left > 0:
            text = f"{self._config.url}: the rate limit is used up for the next {left:.0f} s"
            raise Unavailable(text, retry_after_seconds=left).harmless()
        headers = {"Accept": "application/json, application/vnd.api+json"}
        if not as_guest:
            headers["Authorization"] = f"Bearer {self._token()}"
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
