"""The way to one site of IncidentShare: login, calls, lists with their pages, and what a technician wants to know.

Promises: a list that is looked through to its end is one that the site gave whole; else `NoLook` says that nothing can
be concluded from it. No two looks have the same address. Moments are told in the server's own time, as far as it is
known.
"""

from __future__ import annotations

import base64
import datetime
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import urlencode

from relayd import clock, httpcheck
from relayd.destinations import incidentshare_api as api
from relayd.destinations.at_most_once import NoLook
from relayd.destinations.incidentshare_models import IncidentShareConfig
from relayd.errors import DeliveryError, LoginRefused, SecretMissing, TryAgain, Unavailable
from relayd.httpanswer import Answer, scrubbed
from relayd.httpclient import HttpClient
from relayd.httpflow import Body
from relayd.model import Finding
from relayd.oauth import AS_JSON, ClientCredentials

REST = "/incidentshare/rest/v1"
LINKS = f"{REST}/transmissions"
CHANNELS = "/incidentshare-appconfig/v2/channels"
FILES = "/v1/media-files"
DATE = "saved_date_after"
MOST_PAGES = 50
FRESH = "_"
"""A parameter that WordPress does not know, of another value each time: a list that a cache has kept shows nothing new.
"""
FRESH_SECONDS = 60.0
"""For the same reason lists begin so much earlier, at random, where they are asked for by date."""
GUESSED_PREFIXES = ("", "/wp-json", "/?rest_route=", "/incidentshare/rest", "/wp-json/incidentshare/rest")
"""Where sites have been thought to serve their paths; tried by `check` alone."""


class Site:
    """Calls to one site."""

    def __init__(self, config: IncidentShareConfig) -> None:
        self._config = config
        self._client = HttpClient(config)
        self._login = ClientCredentials(
            self._client,
            config.token_path,
            config.client_id,
            config.client_secret,
            first=AS_JSON,
            probe=config.path_prefix + CHANNELS,
        )

    @property
    def files_prefix(self) -> str:
        prefix = self._config.media_files_prefix
        return self._config.path_prefix if prefix is None else prefix

    async def close(self) -> None:
        await self._client.close()

    def server_now(self) -> float | None:
        return self._client.server_now()

    async def call(
        self,
        method: str,
        path: str,
        *,
        content_type: str | None = None,
        body: bytes | Body = b"",
        is_repeatable: bool = True,
    ) -> Answer:
        """One authorized exchange; `path` has its prefix. Any status but a second 401 is returned."""
        headers = {"Accept": "application/json"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        url = self._client.url(path)
        if self._config.auth == "basic":
            headers["Authorization"] = f"Basic {self._basic()}"
            return await self._client.send(method, url, headers=headers, body=body, is_repeatable=is_repeatable)
        return await self._login.send(method, url, headers=headers, body=body, is_repeatable=is_repeatable)

    def forget_login(self) -> None:
        """What was used to log in was refused inside an answer: log in anew next time."""
        self._login.renew()

    async def pages(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Answer]:
        """A list, page by page, each judged; whole where the site does not take the date. Raises NoLook if the site
        refuses it, or has too many pages."""
        page, last, is_fresh = 1, 1, True
        while page <= last:
            asked = {**query, **({} if page == 1 else {"page": str(page)})}
            if is_fresh and DATE not in query:
                asked[FRESH] = secrets.token_hex(4)
            try:
                answer = await self._listed(f"{path}{'&' if '?' in path else '?'}{urlencode(asked)}" if asked else path)
            except NoLook:
                if FRESH not in asked and DATE not in query:
                    raise
                is_fresh = DATE in query
                query = {key: value for key, value in query.items() if key != DATE}
                continue
            last = api.pages(answer)
            if last > MOST_PAGES:
                raise NoLook(f"{answer.where} has {last} pages")
            yield answer
            page += 1

    def since(self, moment: float | None) -> dict[str, str]:
        """The query for what came after `moment` of the server's time; empty for everything."""
        form = self._config.saved_date_after
        if moment is None or form == "off":
            return {}
        moment = max(moment - clock.jitter(FRESH_SECONDS), 0.0)
        if form == "seconds":
            return {DATE: str(int(moment))}
        return {DATE: datetime.datetime.fromtimestamp(moment, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")}

    async def is_there(self, path: str) -> bool:
        """Whether the site serves this path at all. Raises for an outage and for a refused login."""
        answer = await self.call("GET", path)
        if answer.status == 404:
            return False
        api.judge(answer, "path_prefix")
        return True

    async def _listed(self, path: str) -> Answer:
        answer = await self.call("GET", path)
        if answer.is_about_the_request and answer.status not in (401, 403):
            raise NoLook(answer.refusal())
        api.judge(answer, "path_prefix and media_files_prefix")
        try:
            api.groups(answer)
        except Unavailable:  # a page of the site itself, which let us log in: it shows pages where its API was
            raise TryAgain(f"{answer.where} answered with a web page instead of a list") from None
        return answer

    def _basic(self) -> str:
        try:
            secret = self._config.client_secret.reveal()
        except SecretMissing as error:
            raise LoginRefused(f"client_secret cannot be had: {error}").harmless() from None
        return base64.b64encode(f"{self._config.client_id}:{secret}".encode()).decode()

    # --- for people

    async def findings(self, name: str) -> list[Finding]:
        """Name, TCP, TLS, login and clock; then, if the login works, channels, links and media files, which show
        prefixes that are wrong and permissions that are missing. Leaves no trace."""
        remedy = "compare client_id and client_secret with what the site's administrator gave; is url the right site?"
        log_in = self._login.log_in if self._config.auth == "oauth" else self._try_basic
        found = await httpcheck.findings(name, self._client, log_in, remedy=remedy)
        if not any(each.is_good and each.subject == f"{name}: login" for each in found):
            return found
        prefix = self._config.path_prefix
        latest, files = f"{LINKS}/latest", f"{FILES}/latest"
        return [
            *found,
            await self._tried(f"{name}: channels", prefix, CHANNELS, "path_prefix", self._channels_in_words),
            await self._tried(f"{name}: links", prefix, latest, "path_prefix", _latest_in_words),
            await self._tried(f"{name}: media files", self.files_prefix, files, "media_files_prefix", _latest_in_words),
        ]

    async def _try_basic(self) -> None:
        answer = await self.call("GET", self._config.path_prefix + CHANNELS)
        if answer.status != 404:
            api.judge(answer, "path_prefix")

    async def _tried(
        self, subject: str, prefix: str, path: str, setting: str, in_words: Callable[[Answer], str]
    ) -> Finding:
        try:
            answer = await self.call("GET", prefix + path)
            if answer.status in (404, 405):
                text, remedy = await self._elsewhere(prefix, path, setting)
                return Finding(subject=subject, is_good=False, text=text, remedy=remedy)
            api.judge(answer, setting)
            return Finding(subject=subject, is_good=True, text=in_words(answer))
        except LoginRefused as error:
            remedy = "ask the site's administrator to give this client the permission for it"
            return Finding(subject=subject, is_good=False, text=str(error), remedy=remedy)
        except DeliveryError as error:
            remedy = f"check url and {setting}; if they are right, wait for the provider"
            return Finding(subject=subject, is_good=False, text=str(error), remedy=remedy)

    async def _elsewhere(self, prefix: str, path: str, setting: str) -> tuple[str, str]:
        """The path is not there: where it is instead, if it is at one of the places that have been thought of."""
        text = f"the site has no {prefix}{path}"
        for other in GUESSED_PREFIXES:
            if other != prefix and (await self.call("GET", other + path)).status < 400:
                return text, f'it is at {other}{path}: set {setting} = "{other}"'
        return text, f"ask the site's administrator for the address of the API, and set {setting}"

    def _channels_in_words(self, answer: Answer) -> str:
        found = api.groups(answer)
        live = sum(channel.get("is_live") is True for channel in found)
        text = f"{len(found)} channel{'' if len(found) == 1 else 's'}, {live} live"
        own = self._config.stream_id
        if own is None or any(channel.get("name") == own for channel in found):
            return text
        return f"{text}; stream_id {own!a} is none of them, so it must be the stream of a link"


def _latest_in_words(answer: Answer) -> str:
    found = api.judge_success(answer) if b"success" in answer.body else answer.json()
    if not isinstance(found, dict) or not isinstance(found.get("latest"), (str, int, type(None))):
        raise TryAgain(f"{answer.where} answered {answer.status} with something that is no answer of IncidentShare")
    latest = scrubbed(str(found.get("latest") or ""), 40)
    return f"the newest file is of {latest}" if latest else "no file has been added yet"
