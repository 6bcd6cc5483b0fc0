"""OAuth client credentials: one token per API, fetched once however many ask, renewed early and once on a 401.

Promises: lifetimes are counted by a clock that never jumps; a server's word on them is bounded. The secret is read when
it is needed and leaves only in the body of the login; neither it nor a token is ever in an error.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from relayd import clock
from relayd.errors import LoginRefused, SecretMissing, TryAgain, Unavailable
from relayd.fields import Secret
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.httpflow import Body
from relayd.model import JSON

if TYPE_CHECKING:
    from yarl import URL

LONGEST_LIFETIME_SECONDS = 86400.0
UNSTATED_LIFETIME_SECONDS = 300.0
"""For a token that comes without a readable `expires_in`."""
LONGEST_MARGIN_SECONDS = 300.0
MARGIN_SHARE = 0.1
"""A token is renewed when this share of its life is left, but never earlier than the longest margin."""

FORM = "application/x-www-form-urlencoded"
AS_JSON = "application/json"
_TOKEN = re.compile(r"[!-~]{1,8192}")
_ABOUT_TOKEN = re.compile(rb"access[ _]token|invalid_token|expired_token|token_(?:expired|revoked)", re.IGNORECASE)
LARGE_BYTES = 64 * 1024
"""What is larger is not sent to find out whether a login is honoured."""


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    renew_at: float
    """Monotonic seconds."""


class ClientCredentials:
    """Logs in at `path` of an API and makes calls with the token.

    `first` is the body form (FORM or AS_JSON) to try first; the other one is tried once on 400 or 415, and whichever
    worked is remembered. Once both were refused, each further login tries one, in turn: sites that count failures lock
    people out. `probe` is the path of something small that takes a login.
    """

    def __init__(
        self,
        client: HttpClient,
        path: str,
        client_id: str,
        client_secret: Secret,
        first: str = FORM,
        *,
        probe: str | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._client_id = client_id
        self._client_secret = client_secret
        self._forms = [FORM, AS_JSON] if first == FORM else [AS_JSON, FORM]
        self._probe = probe
        self._is_doubtful = False
        self._are_all_refused = False
        self._token: _Token | None = None
        self._login = asyncio.Lock()

    async def send(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body = b"",
        is_repeatable: bool = True,
    ) -> Answer:
        """One authorized exchange, as `HttpClient.send`; on a 401, or a 403 that is about the token, once more with a
        new one, then LoginRefused. `nothing_happened` says where it got no further than the login; a 401 counts as
        that. While a login is in doubt, `probe` is asked for before something large is sent."""
        token = await self._current(refused=None)
        is_large = self._probe is not None and _size_bytes(body) > LARGE_BYTES
        if not (is_large and self._is_doubtful):
            answer = await self._send_with(token, method, url, headers, body, is_repeatable=is_repeatable)
            if not _refuses_token(answer):
                self._is_doubtful = False
                return answer
            self._is_doubtful = True
            token = await self._current(refused=token)
        if is_large:
            await self._look(token)
        answer = await self._send_with(token, method, url, headers, body, is_repeatable=is_repeatable)
        if _refuses_token(answer):
            raise self._refused(token, answer)
        self._is_doubtful = False
        return answer

    async def log_in(self) -> None:
        """Fetch a token now, whatever is cached; for `check --online`."""
        self._token = None
        await self._current(refused=None)

    def renew(self) -> None:
        """Fetch a new token at the next call: this one was refused in other words than a 401."""
        self._token = None

    async def _send_with(
        self,
        token: _Token,
        method: str,
        url: URL,
        headers: Mapping[str, str] | None,
        body: bytes | Body,
        *,
        is_repeatable: bool,
    ) -> Answer:
        authorized = {**(headers or {}), "Authorization": f"Bearer {token.value}"}
        return await self._client.send(method, url, headers=authorized, body=body, is_repeatable=is_repeatable)

    async def _current(self, *, refused: _Token | None) -> _Token:
        """The cached token, unless it is about to end or is the one just refused; all who wait share one login."""
        async with self._login:
            cached = self._token
            if cached is None or cached is refused or clock.monotonic() >= cached.renew_at:
                try:
                    cached = self._token = await self._fetch()
                except TryAgain as error:  # a login that fails is nobody's item's fault
                    raise Unavailable(f"no login: {error}").harmless() from None
                except Unavailable as error:  # and nothing but the login was tried
                    raise error.harmless() from None
            return cached

    async def _look(self, token: _Token) -> None:
        """Raises LoginRefused if the token is refused for something small, too."""
        answer = await self._send_with(token, "GET", self._client.url(str(self._probe)), None, b"", is_repeatable=True)
        if _refuses_token(answer):
            raise self._refused(token, answer)

    def _refused(self, token: _Token, answer: Answer) -> LoginRefused:
        if self._token is token:
            self._token = None
        return LoginRefused(
            f"{answer.refusal()}, with a new token too: this client_id may lack the permission, or something in front"
            f" of the API takes the Authorization header away"
        ).harmless()

    async def _fetch(self) -> _Token:
        try:
            secret = self._client_secret.reveal()
        except SecretMissing as error:
            raise LoginRefused(f"client_secret cannot be had: {error}") from None
        credentials = {"client_id": self._client_id, "client_secret": secret, "grant_type": "client_credentials"}
        url = self._client.url(self._path)
        for form in self._forms[:1] if self._are_all_refused else list(self._forms):
            body = urlencode(credentials) if form == FORM else json.dumps(credentials)
            asked_at = clock.monotonic()
            answer = await self._client.send(
                "POST", url, headers={"Content-Type": form, "Accept": "application/json"}, body=body.encode()
            )
            answer.raise_for_outage()
            if answer.status not in (400, 415):
                break
        if answer.status >= 400:
            self._are_all_refused = answer.status in (400, 415)
            self._forms.reverse()
            said = answer.refusal().replace(secret, "***")
            raise LoginRefused(f"login refused: {said}; check client_id, client_secret and url")
        token = _read_token(answer.json(may_follow_text=True), answer.where, asked_at)
        self._are_all_refused = False
        self._forms.sort(key=lambda known: known != form)
        return token


def _refuses_token(answer: Answer) -> bool:
    """A 401, or a 403 in whose words, or in whose WWW-Authenticate, it is the token."""
    said = answer.headers.get("WWW-Authenticate", "").encode() + answer.body[:4096]
    return answer.status == 401 or (answer.status == 403 and _ABOUT_TOKEN.search(said) is not None)


def _size_bytes(body: bytes | Body) -> int:
    return len(body) if isinstance(body, bytes) else body.length


def _read_token(answered: JSON, place: str, asked_at: float) -> _Token:
    value = answered.get("access_token") if isinstance(answered, dict) else None
    if not isinstance(answered, dict) or not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
        raise Unavailable(f"{place} answered the login without a usable access_token: is url right?")
    lifetime = _lifetime_seconds(answered.get("expires_in"))
    margin = min(LONGEST_MARGIN_SECONDS, lifetime * MARGIN_SHARE)
    return _Token(value, asked_at + lifetime - margin)


def _lifetime_seconds(stated: JSON) -> float:
    """`3600`, `"3599"`, `"3599.0"`; anything else counts as unstated."""
    try:
        seconds = float(stated) if isinstance(stated, (int, float, str)) and not isinstance(stated, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if math.isnan(seconds):
        return UNSTATED_LIFETIME_SECONDS
    return min(max(seconds, 0.0), LONGEST_LIFETIME_SECONDS)
