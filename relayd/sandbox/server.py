"""The sandbox itself: one HTTP server on loopback that plays every API, meets the script and keeps the log.

START HERE. A request goes: link → script (a wrong answer?) → route → the stand-in → the answer, late, slow or lost.
Promises: listens on loopback only; an effect and its line in the log are one; what it opened it closes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import shutil
import ssl
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from relayd import clock
from relayd.sandbox import cachet, control, incidentshare, mqtt, sayvu, watcher, webhook, wrong_answers
from relayd.sandbox.exchange import Dropped, Entry, Exchange, drop, new_entry
from relayd.sandbox.faults import Fault, Script
from relayd.sandbox.outlasting import Outlasting
from relayd.sandbox.refusal import ApiRefusal, Refusal, StorageRefusal
from relayd.sandbox.resource_manager import ResourceManager
from relayd.sandbox.routes import Route
from relayd.sandbox.settings import Settings
from relayd.sandbox.shelf import Shelf, StoredObject
from relayd.sandbox.storage import Storage

_ROUTES: tuple[Route, ...] = (
    ("token", "POST", re.compile(r"/oauth/token")),
    ("slot", "POST", re.compile(r"/v1/resources")),
    ("resolve", "GET", re.compile(r"/v1/resources/(?P<reference>.+)/resolve")),
    ("store", "POST", re.compile(r"/s3(?:-moved)?/(?P<bucket>[^/]+)")),
    ("fetch", "GET", re.compile(r"/s3/(?P<bucket>[^/]+)/(?P<key>.+)")),
    ("webhook", "POST", re.compile(webhook.PATH)),
    ("look", "HEAD", re.compile(webhook.PATH)),
    ("categories", "GET", re.compile(r"/categories")),
    ("report", "POST", re.compile(r"/reports")),
    ("message", "POST", re.compile(r"/reports/(?P<report>[^/]+)/chat/messages")),
    ("image", "POST", re.compile(r"/reports/(?P<report>[^/]+)/images")),
    *watcher.ROUTES,
    *cachet.ROUTES,
    *incidentshare.ROUTES,
)
_OF_WATCHER = frozenset(operation for operation, _, _ in watcher.ROUTES)
_OF_INCIDENTSHARE = frozenset(operation for operation, _, _ in incidentshare.ROUTES)
_OF_CACHET = frozenset(operation for operation, _, _ in cachet.ROUTES)
_LOG_LIMIT = 200_000


class Sandbox:
    """`async with Sandbox(...) as sandbox:` serves until the end of the block; switches are those of `Settings`."""

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1:0",
        state: Path | None = None,
        faults: str = "",
        seed: int = 0,
        tls: ssl.SSLContext | None = None,
        mqtt_port: int | None = None,
        **switches: Any,
    ) -> None:
        """`mqtt_port`: play a broker there too (0: any port)."""
        self._host, self._port = _loopback(listen)
        self._is_temporary = state is None
        self._tls = tls
        self._seed = seed
        self._script = Script(faults, seed)
        self.settings = Settings(**switches)
        self.folder = state or Path(tempfile.mkdtemp(prefix="relayd-sandbox-"))
        self._shelf = Shelf(self.folder)
        self._manager = ResourceManager(self.settings, self._shelf)
        self._storage = Storage(self.settings, self._shelf)
        self._hook = webhook.Hook(self.settings)
        self._center = sayvu.ControlCenter(self.settings)
        self.watcher = watcher.Watcher(self.settings)
        self.cachet = cachet.StatusPage(self.settings)
        self.share = incidentshare.Site(self.settings)
        self.broker = None if mqtt_port is None else mqtt.Broker(mqtt_port)
        self._outlasting = Outlasting()
        self._transports: set[asyncio.Transport] = set()
        self._skew_seconds = 0.0
        self._number = 0
        self._changed = asyncio.Condition()
        self._runner: web.ServerRunner | None = None
        self.log: deque[Entry] = deque(maxlen=_LOG_LIMIT)
        self.is_up = True

    async def __aenter__(self) -> Sandbox:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; `url` is known from here on. Raises OSError if a port is taken."""
        if self.broker is not None:
            await self.broker.start()
        server = web.Server(self._handle, access_log=None, auto_decompress=False, lingering_time=2.0)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls)
        await site.start()
        self._port = self._runner.addresses[0][1]
        (self.folder / "url").write_text(self.url + "\n", encoding="utf-8")

    async def close(self) -> None:
        """Drop every connection; a folder of its own goes with it."""
        self._drop_connections()
        await self._outlasting.close()
        if self.broker is not None:
            await self.broker.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self._port}"

    @property
    def objects(self) -> Mapping[str, StoredObject]:
        """What is stored, by key."""
        return self._shelf.objects

    @property
    def webhook_taken(self) -> Mapping[str, webhook.Taken]:
        """What was posted to the webhook, by Idempotency-Key."""
        return self._hook.taken

    @property
    def reports(self) -> Mapping[int, sayvu.Report]:
        """What was reported to the control center, by report id."""
        return self._center.reports

    @property
    def report_duplicates(self) -> int:
        """How many of them say the same as one before."""
        return self._center.duplicates

    @property
    def faults(self) -> tuple[Fault, ...]:
        return self._script.faults

    def script(self, text: str = "") -> None:
        """Replace the script; calls are counted anew. Without text: no faults any more. Raises FaultError."""
        self._script = Script(text, self._seed)

    def set_link(self, *, up: bool) -> None:
        """Down: every connection is reset, and each new request too, until the link is up again."""
        self.is_up = up
        if not up:
            self._drop_connections()

    def revoke_tokens(self) -> None:
        """From now on no token issued so far is honoured."""
        self._manager.revoke()
        self.watcher.revoke()
        self.share.revoke()

    async def finish(self) -> None:
        """What goes on though its client has given it up is done now."""
        await self._outlasting.finish()

    def advance(self, seconds: float) -> None:
        """Move the sandbox's clock against the machine's."""
        self._skew_seconds += seconds

    def now(self) -> float:
        """The time the sandbox believes in."""
        return clock.now() + self._skew_seconds

    def count(self, operation: str, *, effect: bool | None = None) -> int:
        """How many requests of an operation came; with `effect`, how many of them did (not) do something."""
        return sum(
            entry.operation == operation and (effect is None or entry.has_effect == effect) for entry in self.log
        )

    async def wait_for(self, holds: Callable[[], bool], timeout_seconds: float = 10.0) -> None:
        """Return as soon as `holds()`, looked at after every request; raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds), self._changed:
            await self._changed.wait_for(holds)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == control.PREFIX or request.path.startswith(control.PREFIX + "/"):
            return await control.answer(self, request)
        operation, found = _route(request)
        self._number += 1
        entry = new_entry(request, self._number, operation, self.now())
        self.log.append(entry)
        transport = request.transport
        if transport is not None:
            self._transports.add(transport)
        try:
            return await self._answer(request, entry, found)
        except Dropped as dropped:
            entry.outcome = str(dropped)
            if entry.outcome not in ("garbage", "truncated"):
                drop(transport)
            return web.Response(status=503)
        finally:
            entry.ended_at = self.now()
            await self._forget_closed()

    async def _answer(self, request: web.BaseRequest, entry: Entry, found: Mapping[str, str]) -> web.StreamResponse:
        if not self.is_up:
            raise Dropped("link down")
        fault = self._script.next(entry.operation)
        entry.fault = fault.text if fault else None
        exchange = Exchange(request, entry, fault, self.now())
        answer = await wrong_answers.wrong_answer(exchange)
        if answer is None and exchange.meets("outlast"):
            answer = await self._outlasting.begin(exchange, lambda later: self._done_later(later, found))
        if answer is None:
            answer = await self._right_answer(exchange, found)
        if exchange.meets("spoil"):
            answer = wrong_answers.spoiled(exchange, answer)
        entry.status = answer.status
        if not answer.prepared:
            answer.headers["Date"] = formatdate(self.now(), usegmt=True)
        if exchange.meets("lose"):
            raise Dropped("lost")
        if exchange.meets("truncate"):
            wrong_answers.truncate(exchange, answer)
        if exchange.meets("mute"):
            await wrong_answers.until_gone(exchange, 3600)
            raise Dropped("mute")
        if not self.is_up:
            raise Dropped("link down")
        entry.outcome = "answered"
        if exchange.meets("slow") and isinstance(answer, web.Response):
            return await wrong_answers.slowly(exchange, answer)
        return answer

    async def _done_later(self, exchange: Exchange, found: Mapping[str, str]) -> None:
        exchange.now = self.now()
        await self._right_answer(exchange, found)
        await self._forget_closed()

    async def _right_answer(self, exchange: Exchange, found: Mapping[str, str]) -> web.StreamResponse:
        entry = exchange.entry
        try:
            match entry.operation:
                case "token":
                    return await self._manager.token(exchange)
                case "slot":
                    return await self._manager.slot(exchange)
                case "resolve":
                    return await self._manager.resolve(exchange, found["reference"])
                case "store":
                    return await self._storage.store(exchange, found["bucket"])
                case "fetch":
                    return await self._storage.fetch(exchange, found["bucket"], found["key"])
                case "webhook":
                    return await self._hook.post(exchange)
                case "look":
                    return web.Response(status=405, headers={"Allow": "POST"})
                case "categories" | "report" | "message" | "image":
                    return await self._center.take(exchange, found.get("report", ""))
                case operation if operation in _OF_WATCHER:
                    return await self.watcher.take(exchange, found)
                case operation if operation in _OF_CACHET:
                    return await self.cachet.take(exchange, found)
                case operation if operation in _OF_INCIDENTSHARE:
                    return await self.share.take(exchange, found)
        except Refusal as refusal:
            entry.note = str(refusal)
            return refusal.answer()
        if exchange.request.path == wrong_answers.PORTAL_PATH:
            return wrong_answers.portal_page()
        if exchange.request.path.startswith(("/s3/", "/s3-moved/")):
            return StorageRefusal("MethodNotAllowed", "The specified method is not allowed here.").answer()
        return ApiRefusal.not_found().answer()

    def _drop_connections(self) -> None:
        for transport in self._transports:
            drop(transport)
        self._transports.clear()

    async def _forget_closed(self) -> None:
        self._transports = {each for each in self._transports if not each.is_closing()}
        async with self._changed:
            self._changed.notify_all()


def _route(request: web.BaseRequest) -> tuple[str, Mapping[str, str]]:
    path = request.raw_path.partition("?")[0]
    for operation, method, pattern in _ROUTES:
        match = pattern.fullmatch(path)
        if match is not None and request.method == method:
            return operation, match.groupdict()
    return "other", {}


def _loopback(listen: str) -> tuple[str, int]:
    """`HOST:PORT` of a loopback address; raises ValueError for anything else."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{listen!r} is no address, write for example 127.0.0.1:8490")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError(f"the sandbox serves loopback only, {host!r} is not: write 127.0.0.1:PORT")
    return host, int(port)
