"""Prism, a mock server run from the API's OpenAPI description, behind a small proxy that watches and forces answers."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientSession, web

from tests.system.processes import Peer, free_port

PRISM = "@stoplight/prism-cli@5.14.2"
DESCRIPTIONS = Path(__file__).parent / "openapi"
DESCRIBED_ORIGIN = "http://127.0.0.1:4010"
LARGEST_BODY_BYTES = 10 * 1024 * 1024
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One exchange that went through the proxy."""

    method: str
    path: str
    status: int
    forced: str


@dataclass(slots=True)
class Proxy:
    """Stands before Prism: `url` is where the adapter sends to, `seen` what went through, `stored` the files by key,
    `received` all of them in order (Prism gives every file the same key).

    Prism cannot know a file, so the proxy puts the right ETag into its answer; `spoils_etag` leaves Prism's own, which
    is that of an empty file.
    """

    url: str
    target: str
    log: Path
    seen: list[Seen] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)
    spoils_etag: bool = False
    _orders: list[tuple[str, str]] = field(default_factory=list)

    def force(self, ending: str, *prefers: str) -> None:
        """The next requests whose path ends so get these `Prefer` headers, one each: `code=429`, `example=numbers`."""
        self._orders.extend((ending, prefer) for prefer in prefers)

    @property
    def violations(self) -> list[str]:
        """What Prism had to say against requests: every line names what breaks the description."""
        return [line for line in self.log.read_text().splitlines() if "Violation: request" in line]

    def statuses(self, ending: str) -> list[int]:
        return [exchange.status for exchange in self.seen if exchange.path.endswith(ending)]

    def _store(self, content_type: str, body: bytes) -> str:
        parts = form_parts(content_type, body)
        self.stored[parts["key"].decode()] = parts["file"]
        self.received.append(parts["file"])
        return f'"{hashlib.md5(parts["file"]).hexdigest()}"'

    def _order_for(self, path: str) -> str:
        found = next((order for order in self._orders if path.endswith(order[0])), None)
        if found is None:
            return ""
        self._orders.remove(found)
        return found[1]

    async def handle(self, session: ClientSession, request: web.Request) -> web.Response:
        """Pass one request on as it came, with `Prefer` where one is ordered."""
        forced = self._order_for(request.path)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        if forced:
            headers["Prefer"] = forced
        body = await request.read()
        async with session.request(
            request.method,
            self.target + request.raw_path,
            headers=headers,
            data=io.BytesIO(body),
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
            self.seen.append(Seen(request.method, request.path, answer.status, forced))
            kept = {name.lower(): value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if request.path.startswith("/s3/") and answer.status == 204:
                etag = self._store(request.headers["Content-Type"], body)
                kept["etag"] = kept["etag"] if self.spoils_etag else etag
            return web.Response(status=answer.status, headers=kept, body=content)


def form_parts(content_type: str, body: bytes) -> dict[str, bytes]:
    """Name → content of every part of a multipart form."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    parts = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        found = re.search(rb' name="([^"]*)"', head)
        assert found is not None, head
        parts[found[1].decode()] = content
    return parts


@contextmanager
def running_prism(folder: Path, slot_origin: str) -> Iterator[tuple[str, Path]]:
    """Prism with the description of RapidSOS; its slots point at `slot_origin`. Yields its address and its log."""
    description = folder / "rapidsos.yaml"
    text = (DESCRIPTIONS / "rapidsos.yaml").read_text()
    assert DESCRIBED_ORIGIN in text
    description.write_text(text.replace(DESCRIBED_ORIGIN, slot_origin))
    with running_prism_with(description, folder) as running:
        yield running


@contextmanager
def running_prism_with(description: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Prism with request checks as errors. Yields its address and its log, which is in `folder`."""
    port = free_port()
    command = ["npx", "--yes", PRISM, "mock", str(description), "--errors", "-h", "127.0.0.1", "-p", str(port)]
    log = folder / "prism.log"
    peer = Peer(command, log)
    try:
        peer.wait_for_port(port, seconds=180)
        yield f"http://127.0.0.1:{port}", log
    finally:
        peer.stop()


@asynccontextmanager
async def running_proxy(target: str, log: Path, port: int) -> AsyncIterator[Proxy]:
    """The proxy on `port` of loopback."""
    log.write_bytes(b"")  # Prism appends
    proxy = Proxy(f"http://127.0.0.1:{port}", target, log)
    async with ClientSession(auto_decompress=False) as session:

        async def handle(request: web.Request) -> web.Response:
            return await proxy.handle(session, request)

        app = web.Application(client_max_size=LARGEST_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield proxy
        finally:
            await asyncio.shield(runner.cleanup())
