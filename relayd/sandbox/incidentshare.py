"""The IncidentShare stand-in: a site that sends links by SMS and mail, takes files to their streams, and lists both.

Promises: strict about the contract: tokens that end, the spelling of `Bearer`, the shape of each body and query
(nothing unknown in it), streams that are there, the one part of an upload. A link sent twice is two messages to a
person, and a file sent twice is there twice, as at the real one; both are counted.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote

from aiohttp import web

from relayd.sandbox import incidentshare_bodies as bodies
from relayd.sandbox import multipart
from relayd.sandbox.exchange import Exchange
from relayd.sandbox.incidentshare_bodies import refusal, unauthorized
from relayd.sandbox.incidentshare_lists import Archive, Link, Media, text_of
from relayd.sandbox.refusal import ApiRefusal
from relayd.sandbox.routes import Route
from relayd.sandbox.settings import Settings

_PREFIX = r"(?P<prefix>(?:/[A-Za-z0-9._-]+)*)"
_REST = _PREFIX + "/incidentshare/rest/v1"
ROUTES: tuple[Route, ...] = (
    ("sharetoken", "POST", re.compile("/")),
    ("sms", "POST", re.compile(_REST + "/sms")),
    ("email", "POST", re.compile(_REST + "/email")),
    ("media", "POST", re.compile(_REST + "/stream_id/(?P<stream>[^/]+)/media_file")),
    ("links", "GET", re.compile(_REST + "/transmissions")),
    ("latest", "GET", re.compile(_REST + "/(?P<what>transmissions)/latest")),
    ("files", "GET", re.compile(_PREFIX + "/v1/media-files")),
    ("latest", "GET", re.compile(_PREFIX + "/v1/(?P<what>media-files)/latest")),
    ("channels", "GET", re.compile(_PREFIX + "/incidentshare-appconfig/v2/channels")),
)

_FIRST_ID = 1207
_FORM = "application/x-www-form-urlencoded"


class Site:
    """One site; `archive` is what it has sent and taken."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens: dict[str, float] = {}
        self.archive = Archive()

    def revoke(self) -> None:
        """From now on no token issued so far is honoured."""
        self._tokens.clear()

    async def take(self, exchange: Exchange, found: Mapping[str, str]) -> web.StreamResponse:
        """One request, by its operation."""
        operation = exchange.entry.operation
        if operation == "sharetoken":
            return await self._token(exchange)
        is_of_files = operation == "files" or found.get("what") == "media-files"
        if found["prefix"] != (self._settings.share_files_prefix if is_of_files else self._settings.share_prefix):
            raise refusal(404, "rest_no_route", "No route was found matching the URL and request method.")
        self._authorize(exchange)
        query = bodies.query_of(exchange)
        match operation:
            case "sms":
                return await self._send(exchange, bodies.checked(bodies.SmsBody, await bodies.json_body(exchange)))
            case "email":
                return await self._send(exchange, bodies.checked(bodies.EmailBody, await bodies.json_body(exchange)))
            case "media":
                return await self._store(exchange, unquote(found["stream"]))
            case "latest":
                return self._latest(found["what"])
            case "channels":
                return self._channels(exchange)
            case _:
                return self._list(exchange, query)

    # --- login

    async def _token(self, exchange: Exchange) -> web.StreamResponse:
        request, settings = exchange.request, self._settings
        if request.query_string != "oauth=token":
            raise refusal(404, "not_found", "This is the home page.")
        kind, wanted = request.content_type, settings.share_token_body
        if kind not in (_FORM, "application/json") or (wanted != "any" and (kind == _FORM) != (wanted == "form")):
            raise ApiRefusal(settings.token_refusal, {"error": "invalid_request", "error_description": "wrong body"})
        if "Authorization" in request.headers:
            raise ApiRefusal(400, {"error": "invalid_request", "error_description": "client data in the header"})
        body = await exchange.read(bodies.BODY_LIMIT)
        given = bodies.form_of(body) if kind == _FORM else bodies.object_of(body)
        if set(given) != {"grant_type", "client_id", "client_secret"}:
            raise ApiRefusal(400, {"error": "invalid_request", "error_description": f"it has {sorted(given)}"})
        if given["grant_type"] != "client_credentials":
            raise ApiRefusal(400, {"error": "unsupported_grant_type"})
        if (given["client_id"], given["client_secret"]) != (settings.client_id, settings.client_secret):
            said = {"error": "invalid_client", "error_description": "The client credentials are invalid"}
            raise ApiRefusal(400, said)
        life = exchange.fault.amount if exchange.fault and exchange.meets("expired") else settings.token_seconds
        token = secrets.token_hex(20)
        self._tokens[token] = exchange.now + life
        exchange.entry.has_effect = True
        claim = int(settings.token_seconds if settings.token_claim is None else settings.token_claim)
        stated = claim if settings.token_shape == "numbers" else str(claim)  # noqa: S105
        return web.json_response(
            {"access_token": token, "expires_in": stated, "token_type": "bearer", "scope": "basic"}
        )

    def _authorize(self, exchange: Exchange) -> None:
        given = exchange.request.headers.getall("Authorization", [])
        settings = self._settings
        if len(given) != 1 or not settings.share_rights:
            raise unauthorized("The request needs one Authorization, or has no permission")
        basic = base64.b64encode(f"{settings.client_id}:{settings.client_secret}".encode()).decode()
        if settings.share_basic and hmac.compare_digest(given[0].encode(), f"Basic {basic}".encode()):
            return
        ends_at = self._tokens.get(given[0].removeprefix("Bearer ")) if given[0].startswith("Bearer ") else None
        if ends_at is None or ends_at <= exchange.now:
            raise unauthorized("The access token provided has expired" if ends_at else "The access token is unknown")

    # --- links

    async def _send(self, exchange: Exchange, body: bodies.SmsBody | bodies.EmailBody) -> web.StreamResponse:
        if self._settings.share_refuses is not None:
            return self._refused()
        is_sms = isinstance(body, bodies.SmsBody)
        chosen = body.incident_id if isinstance(body, bodies.SmsBody) else None
        number = _FIRST_ID + len(self.archive.links)
        asked = body.model_dump(exclude_unset=True)
        link = Link("sms" if is_sms else "email", chosen or secrets.token_hex(6), number, asked, exchange.now)
        self.archive.links.append(link)
        exchange.entry.has_effect = True
        exchange.entry.key = link.stream_id
        if is_sms or self._settings.share_email_stream:
            return web.json_response({"success": True, "stream_id": link.stream_id, "id": link.number})
        return web.json_response({"success": True})

    def _refused(self) -> web.Response:
        return web.json_response({"success": False, "message": self._settings.share_refuses})

    # --- media

    async def _store(self, exchange: Exchange, stream: str) -> web.StreamResponse:
        if stream not in self._streams():
            raise refusal(404, "unknown_stream", "There is no such stream.")
        if "Content-Length" not in exchange.request.headers:
            raise refusal(411, "length_required", "Length Required")
        body = await exchange.read(self._settings.share_file_bytes)
        try:
            found = multipart.parts(exchange.request.headers.get("Content-Type", ""), body)
        except multipart.MalformedForm as error:
            raise refusal(400, "rest_invalid_param", str(error)) from None
        if [part.name for part in found] != ["media_file"]:
            raise refusal(400, "rest_missing_callback_param", "Missing parameter(s): media_file")
        part = found[0]
        if part.file_name is None or part.content_type is None or not part.content:
            raise refusal(400, "rest_invalid_param", "media_file has no name, no Content-Type, or no content")
        if self._settings.share_refuses is not None:
            return self._refused()
        digest = hashlib.sha256(part.content).hexdigest()
        name = self._named(part.file_name)
        self.archive.media.append(Media(stream, name, part.content_type, len(part.content), digest, exchange.now))
        exchange.entry.has_effect = True
        exchange.entry.key = f"{stream}/{name}"
        return web.json_response({"success": True})

    def _named(self, name: str) -> str:
        if self._settings.share_names == "kept":
            return name
        name = name.lower()
        stem, dot, extension = name.rpartition(".")
        taken = {each.name for each in self.archive.media}
        choices = (f"{stem or extension}-{number}{dot}{extension}" for number in range(1, len(taken) + 2))
        return name if name not in taken else next(choice for choice in choices if choice not in taken)

    def _streams(self) -> set[str]:
        return {*self._settings.share_channels.split(","), *(link.stream_id for link in self.archive.links)}

    # --- lists

    def _list(self, exchange: Exchange, query: Mapping[str, str]) -> web.StreamResponse:
        if exchange.entry.operation == "links" and query.get("include_media_files") != "true":
            raise refusal(400, "rest_missing_callback_param", "Missing parameter(s): include_media_files")
        shown = self.archive.groups(
            after=self._after(query.get("saved_date_after")),
            until=exchange.now - self._settings.share_lag_seconds,
            is_whole=query.get("include_older_group_files") == "true",
            lists_empty=self._settings.share_lists_empty,
        )
        size = self._settings.share_page
        if size is None:
            return web.json_response(shown)
        page = int(query.get("page", "1"))
        pages = {"X-WP-Total": str(len(shown)), "X-WP-TotalPages": str(math.ceil(len(shown) / size))}
        return web.json_response(shown[(page - 1) * size : page * size], headers=pages)

    def _after(self, text: str | None) -> float:
        if text is None or self._settings.share_dates == "off":
            return 0.0
        try:
            if self._settings.share_dates == "seconds":
                return float(int(text))
            return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        except ValueError:
            raise refusal(400, "rest_invalid_param", "Invalid parameter(s): saved_date_after") from None

    def _latest(self, what: str) -> web.Response:
        latest = max((each.at for each in self.archive.media), default=None)
        if latest is None:
            return web.json_response({"success": True, "latest": ""})
        text = text_of(latest) if what == "transmissions" else str(int(latest))
        return web.json_response({"success": True, "latest": text})

    def _channels(self, exchange: Exchange) -> web.Response:
        host = exchange.request.host
        names = self._settings.share_channels.split(",")
        return web.json_response(
            [
                {"name": name, "url": f"https://{host}/live/{name}", "app_name": "live", "is_live": True}
                for name in names
            ]
        )
