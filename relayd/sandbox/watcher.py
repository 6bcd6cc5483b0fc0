"""The Watcher stand-in: logins, activation of cameras, streams, commands, messages, episodes; below `PREFIX`.

Promises: strict about the contract: tokens expire, a refresh token is good once, ids and rights are checked, nothing
unknown is in a body or an address. A camera is there only after somebody has shown its token to it (`scan`). What is
done twice is there twice.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from relayd.sandbox import watcher_bodies as bodies
from relayd.sandbox.exchange import Exchange
from relayd.sandbox.routes import Route, route
from relayd.sandbox.settings import Settings
from relayd.sandbox.watcher_bodies import refusal
from relayd.sandbox.watcher_catalog import Catalog

PREFIX = "/watcher/client-api/v3"
ROUTES: tuple[Route, ...] = (
    route("signin", "POST", PREFIX, "/login"),
    route("profile", "GET", PREFIX, "/profile"),
    route("organizations", "GET", PREFIX, "/organizations"),
    route("folders", "GET", PREFIX, "/organizations/(?P<organization>[^/]+)/folders"),
    route("presets", "GET", PREFIX, "/presets"),
    route("activate", "POST", PREFIX, "/agent_activation_token"),
    route("activation", "GET", PREFIX, "/agent_activation_token/(?P<token>[^/]+)"),
    route("stream", "GET", PREFIX, "/streams/(?P<name>[^/]+)"),
    route("save", "PUT", PREFIX, "/streams/(?P<name>[^/]+)"),
    route("ptz", "POST", PREFIX, "/streams/(?P<name>[^/]+)/ptz"),
    route("reboot", "POST", PREFIX, "/streams/(?P<name>[^/]+)/reboot"),
    route("tell", "POST", PREFIX, "/messages"),
    route("episodes", "GET", PREFIX, "/episodes"),
)

USERS = frozenset({12, 13})


@dataclass(slots=True)
class Activation:
    """A token, what was wished for with it, and the stream once a camera has seen it."""

    token: str
    wish: dict[str, Any]
    stream: str | None = None


@dataclass(slots=True)
class Stream:
    """A camera as the server knows it. `commands` is what was done with it, in order; `saves` each body of a PUT."""

    config: dict[str, Any]
    alive: bool = True
    commands: list[dict[str, Any]] = field(default_factory=list)
    saves: list[dict[str, Any]] = field(default_factory=list)


class Watcher:
    """One server and one user, with all that they know."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalog = Catalog(settings)
        self._access: dict[str, float] = {}
        self._refresh: set[str] = set()
        self._changed = asyncio.Condition()
        self.activations: dict[str, Activation] = {}
        self.streams: dict[str, Stream] = {}
        self.messages: list[dict[str, Any]] = []
        self.episodes: list[dict[str, Any]] = []

    # --- what a test or a trainer does

    def revoke(self, *, refresh: bool = False) -> None:
        """From now on no access token (and, if wished, no refresh token) issued so far is honoured."""
        self._access.clear()
        if refresh:
            self._refresh.clear()

    def scan(self, token: str | None = None) -> str:
        """Show a token to a camera: its stream's name. Without one: the newest that waits. Raises KeyError."""
        waiting = [each for each in self.activations.values() if each.stream is None]
        if token is None and not waiting:
            raise KeyError("no token waits for a camera")
        activation = waiting[-1] if token is None else self.activations[token]
        if activation.stream is None:
            activation.stream = f"cam-{hashlib.sha256(activation.token.encode()).hexdigest()[:10]}"
            self.streams[activation.stream] = Stream(_config_of(activation.wish))
        return activation.stream

    async def add_episode(self, **told: Any) -> dict[str, Any]:
        """Something happened before a camera, or goes on (the same `episode_id`)."""
        self.episodes = [each for each in self.episodes if each["episode_id"] != told["episode_id"]] + [told]
        async with self._changed:
            self._changed.notify_all()
        return told

    @property
    def spare_tokens(self) -> int:
        """How many tokens wait although another one with the same wish was made after them."""
        wishes = [json.dumps(each.wish, sort_keys=True) for each in self.activations.values()]
        return len(wishes) - len(set(wishes))

    # --- requests

    async def take(self, exchange: Exchange, found: Mapping[str, str]) -> web.StreamResponse:
        """One request, by its operation."""
        if exchange.entry.operation == "signin":
            return await self._sign_in(exchange)
        self._check_access(exchange)
        match exchange.entry.operation:
            case "profile":
                return web.json_response({"name": self._settings.watcher_login, "is_readonly": False})
            case "organizations" | "folders" | "presets":
                return self._catalog.listed(exchange, found.get("organization", ""))
            case "activate":
                return await self._activate(exchange)
            case "activation":
                return self._look_at(exchange, unquote(found["token"]))
            case "tell":
                return await self._tell(exchange)
            case "episodes":
                return await self._episodes(exchange)
            case _:
                return await self._with_stream(exchange, unquote(found["name"]))

    async def _sign_in(self, exchange: Exchange) -> web.StreamResponse:
        await bodies.no_body(exchange)
        bodies.query_of(exchange, bodies.NoQuery)
        scheme, _, given = exchange.request.headers.get("Authorization", "").partition(" ")
        right = f"{self._settings.watcher_login}:{self._settings.watcher_password}".encode()
        refresh = None
        if scheme == "Bearer" and given in self._refresh:
            refresh = given if self._settings.watcher_refresh == "same" else None
            self._refresh -= {given} - {refresh}
        elif scheme != "Basic" or given.encode() != base64.b64encode(right):
            raise refusal(401)
        access = f"eyJhbGciOiJIUzI1NiJ9.{secrets.token_urlsafe(24)}.{secrets.token_urlsafe(24)}"
        self._access[access] = exchange.now + self._settings.watcher_token_seconds
        answer = {"access_token": access}
        if self._settings.watcher_refresh != "none":
            answer["refresh_token"] = refresh or secrets.token_hex(16)
            self._refresh.add(answer["refresh_token"])
        return web.json_response(answer)

    def _check_access(self, exchange: Exchange) -> None:
        scheme, _, token = exchange.request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or self._access.get(token, 0.0) <= exchange.now:
            raise refusal(401)

    def _may(self, right: str) -> None:
        if right not in self._settings.watcher_rights.split():
            raise refusal(403)

    async def _activate(self, exchange: Exchange) -> web.StreamResponse:
        wish = (await bodies.body_of(exchange, bodies.NewToken)).model_dump(exclude_none=True)
        self._may("can_edit_streams")
        self._catalog.check_ids(wish, self._catalog.organization(wish.get("organization_id"), 400))
        token = secrets.token_hex(8)
        self.activations[token] = Activation(token, wish)
        exchange.entry.has_effect = True
        exchange.entry.key = token
        return web.json_response({"token": token})

    def _look_at(self, exchange: Exchange, token: str) -> web.StreamResponse:
        bodies.query_of(exchange, bodies.NoQuery)
        activation = self.activations.get(token)
        if activation is None:
            raise refusal(404)
        answer = {"token": token}
        if activation.stream is not None:
            answer[self._settings.watcher_provisioned] = activation.stream
        return web.json_response(answer)

    async def _with_stream(self, exchange: Exchange, name: str) -> web.StreamResponse:
        stream = self.streams.get(name)
        if stream is None:
            raise refusal(404)
        match exchange.entry.operation:
            case "save":
                await self._save(exchange, stream)
            case "ptz":
                wish = (await bodies.body_of(exchange, bodies.Ptz)).model_dump(by_alias=True)
                self._may("can_use_ptz")
                stream.commands.append(wish)
                exchange.entry.has_effect = True
                return web.Response(status=204)
            case "reboot":
                await bodies.no_body(exchange)
                self._may("can_use_actions")
                stream.commands.append({"command": "reboot"})
                exchange.entry.has_effect = True
                return web.Response(status=204)
            case _:
                bodies.query_of(exchange, bodies.NoQuery)
        return web.json_response(self._shown(name, stream, exchange.now))

    async def _save(self, exchange: Exchange, stream: Stream) -> None:
        change = (await bodies.body_of(exchange, bodies.StreamChange)).model_dump(exclude_none=True)
        self._may("can_edit_streams")
        both = {**stream.config, **change}
        self._catalog.check_ids(both, self._catalog.organization(both.get("organization_id"), 400))
        stream.saves.append(dict(change))
        if both.get("preset_id") == 3:
            change.pop("dvr", None)  # a preset that is not adjustable: taken, and not done
        dvr = {**stream.config.get("dvr", {}), **change.pop("dvr", {})}
        stream.config |= {**change, "dvr": dvr, "last_change": _changed_by(self._settings, exchange.now)}
        exchange.entry.has_effect = True

    def _shown(self, name: str, stream: Stream, now: float) -> dict[str, Any]:
        status = {"alive": stream.alive, "status": "running" if stream.alive else "error"}
        seen = {"last_dts_at": int(now * 1000)} if stream.alive else {}
        return {
            "name": name,
            **self._catalog.spelt(stream.config),
            "stats": {**status, **seen, "playback_token": "once"},
        }

    async def _tell(self, exchange: Exchange) -> web.StreamResponse:
        message = (await bodies.body_of(exchange, bodies.NewMessage)).model_dump(exclude_none=True)
        self._may("can_send_messages")
        if message["user_id"] not in USERS:
            raise refusal(404, "no such user")
        self.messages.append(message)
        exchange.entry.has_effect = True
        return web.json_response({"id": len(self.messages), **message, "devices": 0})

    async def _episodes(self, exchange: Exchange) -> web.StreamResponse:
        """Those that fit, oldest change first; held until there is one, or `poll_timeout` is over."""
        query = bodies.query_of(exchange, bodies.EpisodeQuery)
        try:
            async with asyncio.timeout(query.poll_timeout or None), self._changed:
                if query.poll_timeout:
                    await self._changed.wait_for(lambda: bool(self._matching(query)))
        except TimeoutError:
            pass
        return self._catalog.page("episodes", self._matching(query), query)

    def _matching(self, query: bodies.EpisodeQuery) -> list[Mapping[str, Any]]:
        found = [
            each
            for each in self.episodes
            if each["updated_at"] > (query.updated_at_gt or 0)
            and query.media in (None, each["media"])
            and query.episode_type in (None, each.get("episode_type"))
        ]
        return sorted(found, key=lambda each: int(each["updated_at"]))


def _config_of(wish: Mapping[str, Any]) -> dict[str, Any]:
    """A stream as a token asked for it."""
    config = {key: value for key, value in wish.items() if key not in ("enabled", "dvr_depth", "dvr_space")}
    dvr = {"expiration": wish.get("dvr_depth", 1) * 86400}
    if "dvr_space" in wish:
        dvr["storage_limit"] = wish["dvr_space"] * 2**30
    return {"static": True, "disabled": not wish.get("enabled", True), **config, "dvr": dvr}


def _changed_by(settings: Settings, now: float) -> dict[str, Any]:
    return {"user": settings.watcher_login, "created_at": int(now * 1000)}
