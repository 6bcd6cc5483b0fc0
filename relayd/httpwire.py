"""The part of the HTTP client that knows aiohttp; imported by `httpclient` at the first call.

Promises: see `httpclient`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import cast

import aiohttp
from yarl import URL

from relayd import __version__, tls
from relayd.addressguard import AddressGuard, AddressInfo, SocketRefused, where
from relayd.errors import DeliveryError, TryAgain, Unavailable, Unreachable
from relayd.httpanswer import Answer
from relayd.httpconfig import HttpConfig
from relayd.httpflow import Body, Flow, current, pump
from relayd.resolver import Resolver
from relayd.trips import Trips

KEEPALIVE_SECONDS = 30.0
READ_BYTES = 65536

_OS_WORDS = {
    errno.ECONNREFUSED: "refuses connections",
    errno.ECONNRESET: "resets connections",
    errno.EHOSTUNREACH: "cannot be reached (no route to host)",
    errno.ENETUNREACH: "cannot be reached (no network)",
    errno.ENETDOWN: "cannot be reached (the network is down)",
    errno.ETIMEDOUT: "does not answer",
}
_DNS_WORDS = {
    socket.EAI_NONAME: "its name is unknown",
    socket.EAI_NODATA: "its name has no address",
    socket.EAI_AGAIN: "the name server does not answer",
    socket.EAI_FAIL: "the name server fails",
}


class _WatchedRequest(aiohttp.ClientRequest):
    """Tells the flow which connection its request goes out on."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        flow = current.get()
        if flow is not None:
            flow.begin(conn.transport)
        return await super().send(conn)


class Wire:
    """The connections of one client."""

    def __init__(self, config: HttpConfig, guard: AddressGuard | None) -> None:
        try:
            context = tls.client_context(config.ca_file)
        except tls.NoAuthorities as error:
            raise Unavailable(str(error)).harmless() from None
        self._config = config
        self._guard = guard
        self._trips = Trips()
        self._resolver = Resolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=context,
                limit=0,
                keepalive_timeout=KEEPALIVE_SECONDS,
                socket_factory=self._open_socket,
                resolver=cast("aiohttp.abc.AbstractResolver", self._resolver),
            ),
            request_class=_WatchedRequest,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=config.connect_timeout, sock_connect=config.connect_timeout, sock_read=None
            ),
            headers={"User-Agent": f"relayd/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    async def exchange(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | Body, *, is_repeatable: bool
    ) -> Answer:
        """One request, one answer. Raises Unavailable or TryAgain, or what the body raised while it was read."""
        answer = await self._try(method, url, headers, body, may_give_up=is_repeatable)
        if answer is None:
            answer = await self._try(method, url, headers, body, may_give_up=False)
        if answer is None:
            raise TryAgain(f"{where(url)}: the connection broke")
        return answer

    async def _try(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | Body, *, may_give_up: bool
    ) -> Answer | None:
        """None, if `may_give_up`, for a kept connection that turned out to be dead."""
        total = len(body) if isinstance(body, bytes) else body.length
        timeout = asyncio.timeout(None)
        flow = Flow(self._config, timeout, total, self._trips)
        previous = current.set(flow)
        try:
            async with timeout:
                return await self._exchange(method, url, headers, body, flow)
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            if timeout.expired():
                raise _as_far_as_it_came(flow.standstill(where(url)), flow) from None
            is_stale = isinstance(error, aiohttp.ClientConnectionError) and flow.may_have_met_a_dead_connection
            if may_give_up and is_stale:
                return None
            raise _as_far_as_it_came(self._classified(error, flow, url), flow) from None
        finally:
            flow.end()
            current.reset(previous)

    async def _exchange(
        self, method: str, url: URL, headers: Mapping[str, str], body: bytes | Body, flow: Flow
    ) -> Answer:
        sent_headers = dict(headers)
        if isinstance(body, bytes):
            flow.handed = len(body)
            data: bytes | AsyncIterator[bytes] | None = body or None
        else:
            sent_headers["Content-Length"] = str(body.length)
            data = pump(body, flow)
        response = await self._session.request(
            method, url, headers=sent_headers, data=data, allow_redirects=False, compress=None
        )
        try:
            is_early = not flow.is_sent
            flow.answered()
            content = await self._read(response, where(url))
        except BaseException:
            response.close()
            raise
        if is_early:
            response.close()
        else:
            response.release()
        return Answer(
            status=response.status, headers=response.headers, body=content, where=where(url), is_early=is_early
        )

    async def _read(self, response: aiohttp.ClientResponse, place: str) -> bytes:
        """The body, bounded, expanded if a server compressed it unasked."""
        limit = self._config.max_answer
        content = bytearray()
        try:
            async for chunk in response.content.iter_chunked(READ_BYTES):
                content += chunk
                if len(content) > limit:
                    raise TryAgain(f"{place} answered {response.status} with more than {limit} bytes")
        except aiohttp.ClientError:
            if response.status < 400:
                raise
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        return bytes(content) if encoding in ("identity", "") else _expanded(content, encoding, limit, place)

    def _open_socket(self, info: AddressInfo) -> socket.socket:
        flow = current.get()
        if flow is not None:
            flow.is_connection_new = True
        try:
            if self._guard is not None:
                return self._guard.open_socket(info)
            return socket.socket(info[0], info[1], info[2])
        except SocketRefused as refusal:
            if flow is not None:
                flow.refusal = str(refusal)
            raise

    def _classified(self, error: Exception, flow: Flow, url: URL) -> DeliveryError:
        place = where(url)
        if flow.fault is not None:
            return flow.fault
        if not flow.is_begun:
            return Unreachable(self._unreachable(error, flow, url)).harmless()
        if isinstance(error, aiohttp.ClientResponseError):
            return TryAgain(f"{place} answered with something that is no HTTP")
        if isinstance(error, aiohttp.ClientPayloadError):
            return TryAgain(f"{place}: the answer was cut short")
        return TryAgain(f"{place}: the connection broke before the answer came")

    def _unreachable(self, error: Exception, flow: Flow, url: URL) -> str:
        place = where(url)
        if flow.refusal:
            return f"{place}: {flow.refusal}: a captive portal, or an on-site server (then set upload_private = true)"
        if isinstance(error, TimeoutError) and self._resolver.is_asking(url.raw_host or ""):
            return f"{place}: the name server does not answer (nothing within {self._config.connect_timeout:g} s)"
        if isinstance(error, TimeoutError):
            return f"{place}: no connection within {self._config.connect_timeout:g} s"
        if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)):
            return f"{place}: {'; '.join(tls.words(_tls_cause(error)))}"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return f"{place}: {_DNS_WORDS.get(error.os_error.errno or 0, 'its name cannot be resolved')}"
        return f"{place} {_os_words(error)}"


def _as_far_as_it_came(error: DeliveryError, flow: Flow) -> DeliveryError:
    return error if flow.is_handed_over else error.harmless()


def _expanded(content: bytearray, encoding: str, limit: int, place: str) -> bytes:
    """gzip or deflate, never past the limit."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise TryAgain(f"{place} answered in an encoding that was not asked for")
    expander = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = expander.decompress(content, limit + 1)
    except zlib.error:
        raise TryAgain(f"{place} answered with broken compression") from None
    if len(plain) > limit:
        raise TryAgain(f"{place} answered with more than {limit} bytes")
    return plain


def _tls_cause(error: Exception) -> Exception:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return cause if isinstance(cause, Exception) else error


def _os_words(error: Exception) -> str:
    cause = getattr(error, "os_error", None)
    if isinstance(cause, ConnectionError) and cause.errno is None:
        return "hangs up while TLS is agreed on: it must speak TLS 1.2 or newer; a captive portal may be in the way"
    number = getattr(error, "errno", None)
    return _OS_WORDS.get(number or 0, f"cannot be reached ({errno.errorcode.get(number or 0, type(error).__name__)})")
