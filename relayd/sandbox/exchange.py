"""One request on its way through the sandbox: its body as the script lets it through, and its line in the log.

Promises: the body is read with an idle limit, cut or slowed as scripted; what is logged never holds a secret.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web

from relayd.sandbox.faults import Fault
from relayd.sandbox.refusal import ApiRefusal, StorageRefusal

_CHUNK = 64 * 1024
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(slots=True, kw_only=True)
class Entry:
    """One line of the log. `outcome` is what the client saw, `has_effect` whether the thing was done all the same."""

    number: int
    at: float
    operation: str
    method: str
    path: str
    headers: dict[str, str]
    fault: str | None = None
    status: int | None = None
    outcome: str = "open"
    has_effect: bool = False
    received_bytes: int = 0
    key: str | None = None
    note: str = ""
    ended_at: float | None = field(default=None)


class Dropped(Exception):
    """The connection ends here without an answer; the text is the outcome."""


class Exchange:
    """A request, the fault it meets, and the sandbox's time when it came."""

    def __init__(self, request: web.BaseRequest, entry: Entry, fault: Fault | None, now: float) -> None:
        self.request = request
        self.entry = entry
        self.fault = fault
        self.now = now
        self._is_continued = False
        self._kept: bytes | None = None

    async def keep(self, limit: int) -> None:
        """Read the whole body now, for whoever reads it later; the connection may be gone by then."""
        self._kept = await self.read(limit)

    def meets(self, action: str) -> bool:
        """Whether the script wants this fault here."""
        return self.fault is not None and self.fault.action == action

    @property
    def origin(self) -> str:
        """Scheme and host as the client wrote them, so that a proxy in front stays in front."""
        return f"{self.request.scheme}://{self.request.host}"

    async def read(self, limit: int) -> bytes:
        """The whole body of an API request; a bigger one is refused."""
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > limit:
                raise ApiRefusal(413, {"message": "Request entity too large"})
        return bytes(body)

    async def chunks(self, idle_seconds: float = 20.0) -> AsyncIterator[bytes]:
        """The body as it comes, or as the script slows or cuts it."""
        if self._kept is not None:
            yield self._kept
            return
        self._continue()
        rate = self.fault.amount if self.fault and self.meets("slow") else None
        left = int(self.fault.amount) if self.fault and self.meets("cut") else None
        while left != 0:
            size = min(_CHUNK, _CHUNK if rate is None else max(1, int(rate / 10)), _CHUNK if left is None else left)
            chunk = await self._read_some(size, idle_seconds)
            if not chunk:
                return
            self.entry.received_bytes += len(chunk)
            if rate is not None:
                await asyncio.sleep(len(chunk) / rate)
            if left is not None:
                left -= len(chunk)
            yield chunk
        raise Dropped("cut")

    async def _read_some(self, size: int, idle_seconds: float) -> bytes:
        try:
            async with asyncio.timeout(idle_seconds):
                return await self.request.content.read(size)
        except TimeoutError:
            message = (
                "Your socket connection to the server was not read from or written to within the timeout period. "
                "Idle connections will be closed."
            )
            raise StorageRefusal("RequestTimeout", message) from None
        except (ConnectionError, web.RequestPayloadError):
            raise Dropped("client left") from None

    def _continue(self) -> None:
        """Ask for the body, if the client waits to be asked; only now, so that a refusal saves sending it."""
        expects = self.request.headers.get("Expect", "").lower() == "100-continue"
        if expects and not self._is_continued and self.request.transport is not None:
            self._is_continued = True
            self.request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def new_entry(request: web.BaseRequest, number: int, operation: str, now: float) -> Entry:
    """The log line of a request that has just come."""
    headers = {name: "***" if name.lower() in _SECRET_HEADERS else value for name, value in request.headers.items()}
    return Entry(
        number=number, at=now, operation=operation, method=request.method, path=request.raw_path, headers=headers
    )


def drop(transport: asyncio.BaseTransport | None) -> None:
    """End a connection with a reset, at once and without a farewell."""
    if transport is None or transport.is_closing():
        return
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
