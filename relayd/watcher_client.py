"""A Flussonic Watcher as its clients see it: one login for all calls, every refusal sorted once, lists page by page.

Promises: Basic goes to `/login` alone, everything else carries the token. On a 401 the refresh token is tried, then the
password, once; a second 401 is LoginRefused. Neither password nor token is ever in an error. Ids are whole numbers of
any length, also where they come as text.

How an answer is sorted, beyond `HttpClient`: 403 is NotAllowed and names the right; 404 that the API says itself is
Missing; any other 404 is a wrong url (LoginRefused); any other 4xx is Rejected, in the API's own words.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated
from urllib.parse import quote, urlencode

from pydantic import Field

from relayd.errors import DeliveryError, LoginRefused, NotAllowed, Rejected, SecretMissing, TryAgain, Unavailable
from relayd.fields import Secret
from relayd.httpanswer import Answer, scrubbed
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from relayd.model import JSON

MOST_PAGES = 1_000
_SHOWN_ERRORS = 3
_UNPROCESSED = frozenset({425, 429})
_TOKEN = re.compile(r"[!-~]{1,8192}")
_NUMBER = re.compile(r"[0-9]{1,20}")

Document = dict[str, JSON]


class WatcherLogin(HttpConfig):
    """Where a Watcher is, and who we are there; `url` ends in `/watcher/client-api/v3`."""

    login: Annotated[str, Field(min_length=1, pattern=r"^[^:\x00-\x1f]+$", examples=["gateway"])]
    """Name of the user."""
    password: Secret
    """Where the password is."""


class Missing(Rejected):
    """The API says that there is no such object."""


class WatcherClient:
    """One user of one server."""

    def __init__(self, config: WatcherLogin) -> None:
        self.http = HttpClient(config)
        self._config = config
        self._access = ""
        self._refresh = ""
        self._turn = asyncio.Lock()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, JSON] | None = None,
        may: str = "do this",
        is_repeatable: bool = True,
        believes_gateways: bool = True,
    ) -> Document:
        """One call: the object that was answered, empty for an empty answer. `path` is percent-encoded below the base;
        `may` says in words which right it takes. Without `believes_gateways` a 503 proves that nothing happened only
        where it is the API's own. Raises DeliveryError."""
        answer = await self._authorized(method, path + _query_string(query), body, is_repeatable=is_repeatable)
        self._judge(answer, may, believes_gateways=believes_gateways)
        if not answer.body.strip():
            return {}
        found = answer.json()
        if not isinstance(found, dict) or found.get("errors"):
            raise TryAgain(f"{answer.where} answered {answer.status} with something that is no answer of Watcher")
        return found

    async def pages(
        self, path: str, key: str, query: Mapping[str, str | int] | None = None, *, may: str = "list this"
    ) -> AsyncIterator[list[Document]]:
        """The pages of a list, each as the objects below `key`, following `next`. Raises DeliveryError."""
        asked: dict[str, str | int] = dict(query or {})
        seen: set[str] = set()
        for _ in range(MOST_PAGES):
            found = await self.ask("GET", path, query=asked, may=may)
            entries, following = found.get(key), found.get("next")
            if not isinstance(entries, list):
                raise TryAgain(f"{path} answered without a list of {key}")
            yield [entry for entry in entries if isinstance(entry, dict)]
            if not isinstance(following, str) or not following:
                return
            if following in seen:
                raise TryAgain(f"{path}: its pages go round in a circle")
            seen.add(following)
            asked["cursor"] = following
        raise TryAgain(f"{path} has more than {MOST_PAGES} pages")

    async def whole(
        self, path: str, key: str, query: Mapping[str, str | int] | None = None, *, may: str = "list this"
    ) -> list[Document]:
        """Every entry of a list that is short enough to be held."""
        return [entry async for page in self.pages(path, key, query, may=may) for entry in page]

    async def log_in(self) -> None:
        """Log in with the password now, whatever is known; for `check --online`."""
        self._access = self._refresh = ""
        await self._token(refused="")

    async def close(self) -> None:
        await self.http.close()

    # --- the login

    async def _authorized(
        self, method: str, target: str, body: Mapping[str, JSON] | None, *, is_repeatable: bool
    ) -> Answer:
        """A 401 says that nothing happened, so what must not be repeated may go again with a new token."""
        token = await self._token(refused="")
        answer = await self._send(method, target, body, f"Bearer {token}", is_repeatable=is_repeatable)
        if answer.status != 401:
            return answer
        token = await self._token(refused=token)
        answer = await self._send(method, target, body, f"Bearer {token}", is_repeatable=is_repeatable)
        if answer.status == 401:
            self._access = self._refresh = ""
            raise LoginRefused(f"{refusal(answer)}, with a new token too: check what the user may do").harmless()
        return answer

    async def _token(self, *, refused: str) -> str:
        """The token in use, or a new one if there is none or it was just refused; all who wait share one login."""
        async with self._turn:
            if not self._access or self._access == refused:
                try:
                    await self._renew()
                except TryAgain as error:  # a login that fails is nobody's item's fault
                    raise Unavailable(f"no login: {error}").harmless() from None
                except DeliveryError as error:
                    raise error.harmless() from None
            return self._access

    async def _renew(self) -> None:
        self._access, refresh, self._refresh = "", self._refresh, ""
        if refresh:
            answer = await self._send("POST", "/login", None, f"Bearer {refresh}")
            answer.raise_for_outage()
            if answer.status < 300:
                self._take_tokens(answer, refresh)
                return
        try:
            password = self._config.password.reveal()
        except SecretMissing as error:
            raise LoginRefused(f"password cannot be had: {error}") from None
        both = base64.b64encode(f"{self._config.login}:{password}".encode()).decode()
        answer = await self._send("POST", "/login", None, f"Basic {both}")
        answer.raise_for_outage()
        if answer.status >= 400:
            said = refusal(answer).replace(password, "***")
            raise LoginRefused(f"login refused: {said}; check login, password and url")
        self._take_tokens(answer, "")

    def _take_tokens(self, answer: Answer, refresh: str) -> None:
        """A refresh token that is not replaced stays good."""
        found = answer.json()
        access = found.get("access_token") if isinstance(found, dict) else None
        renewed = found.get("refresh_token") if isinstance(found, dict) else None
        if not isinstance(access, str) or _TOKEN.fullmatch(access) is None:
            raise Unavailable(f"{answer.where} answered the login without a usable access_token: is url right?")
        is_usable = isinstance(renewed, str) and _TOKEN.fullmatch(renewed) is not None
        self._access, self._refresh = access, str(renewed) if is_usable else refresh

    async def _send(
        self,
        method: str,
        target: str,
        body: Mapping[str, JSON] | None,
        authorization: str,
        *,
        is_repeatable: bool = True,
    ) -> Answer:
        headers = {"Accept": "application/json", "Authorization": authorization}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = b"" if body is None else json.dumps(body).encode()
        return await self.http.send(
            method, self.http.url(target), headers=headers, body=data, is_repeatable=is_repeatable
        )

    def _judge(self, answer: Answer, may: str, *, believes_gateways: bool) -> None:
        try:
            answer.raise_for_outage()
        except DeliveryError as error:
            is_refused = answer.is_own_503 or (answer.status == 503 and believes_gateways)
            if is_refused or answer.status in _UNPROCESSED or 300 <= answer.status < 400:
                raise error.harmless() from None
            raise
        if answer.status == 403:
            login = self._config.login
            raise NotAllowed(f"{refusal(answer)}: the user {login} needs the right to {may}").harmless()
        if answer.status in (404, 405, 410):
            if not _errors(answer):
                raise LoginRefused(f"{refusal(answer)}; check url").harmless()
            raise Missing(refusal(answer)).harmless()
        if answer.status >= 400:
            raise Rejected(refusal(answer)).harmless()


def number(found: object) -> int | None:
    """A whole number as Watcher writes ids: also one that comes as text; None for anything else."""
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    return int(found) if isinstance(found, str) and _NUMBER.fullmatch(found) else None


def segment(name: str) -> str:
    """A stream's name as one part of a path. Raises Rejected for one that would be none."""
    if not name or name in (".", ".."):
        raise Rejected(f"{name!r} is no name of a stream")
    return quote(name, safe="")


def refusal(answer: Answer) -> str:
    """A 4xx in words: `HOST/PATH refuses with 400: bad_request (title must not be empty, /title)`."""
    said = "; ".join(_in_words(error) for error in _errors(answer)[:_SHOWN_ERRORS])
    return f"{answer.where} refuses with {answer.status}: {said}" if said else answer.refusal()


def _in_words(error: Mapping[str, JSON]) -> str:
    source = error.get("source")
    place = source.get("pointer") or source.get("parameter") if isinstance(source, dict) else None
    details = ", ".join(scrubbed(str(part)) for part in (error.get("title"), place) if part)
    code = scrubbed(str(error.get("code") or error.get("status") or "error"), 64)
    return f"{code} ({details})" if details else code


def _errors(answer: Answer) -> list[Document]:
    try:
        found = json.loads(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    errors = found.get("errors") if isinstance(found, dict) else None
    return [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def _query_string(query: Mapping[str, str | int] | None) -> str:
    return "?" + urlencode(query) if query else ""
