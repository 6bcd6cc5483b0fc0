"""The answers that a broken server, or somebody in between, gives instead of the right one.

Promises: each is what a real client has met in the field; none of them has an effect on what is stored. (`spoiled` and
`truncate` take the place of the right answer, when what was asked for is done.)
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn

from aiohttp import web

from relayd.sandbox.exchange import Dropped, Exchange
from relayd.sandbox.refusal import STATUS_OF_CODE, ApiRefusal, StorageRefusal

PORTAL_PATH = "/portal/login"
MOVED_STORE = "/s3-moved/"
_PORTAL_PAGE = """<!DOCTYPE html>
<html><head><title>Free WiFi</title><meta http-equiv="refresh" content="30"></head>
<body><h1>Welcome on board</h1><form action="/portal/login" method="post"><p>Please accept the terms of use.</p>
<button>Go online</button></form></body></html>
"""
_WARNING = (
    b"<br />\n<b>Warning</b>:  Undefined array key 0 in <b>/var/www/html/wp-content/plugins/share/share.php</b> on"
    b" line <b>217</b><br />\n"
)
_STORAGE_CODES = {500: "InternalError", 503: "SlowDown", 409: "OperationAborted", 404: "NoSuchBucket"}
_API_BODIES: Mapping[int, Mapping[str, object]] = {
    400: {"message": "Request is malformed"},
    401: {"fault": {"faultstring": "Invalid Access Token", "detail": {"errorcode": "scripted"}}},
    429: {"fault": {"faultstring": "Rate limit quota violation", "detail": {"errorcode": "scripted"}}},
}
_CHUNK = 64 * 1024


async def wrong_answer(exchange: Exchange) -> web.StreamResponse | None:
    """The scripted answer instead of the right one; None if the request is to be handled. May raise Dropped."""
    make = _ANSWERS.get(exchange.fault.action) if exchange.fault is not None else None
    return None if make is None else await make(exchange)


def portal_page() -> web.Response:
    """Where a captive portal wants everybody to go."""
    return web.Response(text=_PORTAL_PAGE, content_type="text/html")


def spoiled(exchange: Exchange, right: web.StreamResponse) -> web.StreamResponse:
    """What is said instead of the right answer although it is done: an error in JSON, a text, a page for people, or
    (`warning`) the right answer behind a warning of PHP, which then says that it is a page."""
    options = exchange.fault.options if exchange.fault is not None else {}
    status = int(exchange.fault.amount) if exchange.fault is not None else 500
    match options.get("as", "json"):
        case "text":
            return web.Response(status=status, text="Segmentation fault (core dumped)")
        case "page":
            page = "<!DOCTYPE html><html><body><p>There has been a critical error on this website.</p></body></html>"
            return web.Response(status=status, text=page, content_type="text/html")
        case "warning":
            body = right.body if isinstance(right, web.Response) else b""
            answer = web.Response(status=right.status, body=_WARNING + bytes(body if isinstance(body, bytes) else b""))
            answer.content_type = "text/html"
            return answer
        case _:
            return web.json_response({"code": "internal_server_error", "message": "critical error"}, status=status)


async def slowly(exchange: Exchange, answer: web.Response) -> web.StreamResponse:
    """The same answer, its body at the scripted rate."""
    rate = exchange.fault.amount if exchange.fault is not None else 1.0
    body = bytes(answer.body) if isinstance(answer.body, bytes | bytearray) else b""
    if not body:
        return answer
    stream = web.StreamResponse(status=answer.status, headers=answer.headers)
    stream.content_length = len(body)
    await stream.prepare(exchange.request)
    step = max(1, int(rate / 10))
    for start in range(0, len(body), step):
        await stream.write(body[start : start + step])
        await asyncio.sleep(step / rate)
    await stream.write_eof()
    return stream


def truncate(exchange: Exchange, answer: web.StreamResponse) -> NoReturn:
    """Half of the answer, and the end of the connection: of the body, or of the head where there is no body."""
    body = (
        bytes(answer.body) if isinstance(answer, web.Response) and isinstance(answer.body, bytes | bytearray) else b""
    )
    head = f"HTTP/1.1 {answer.status} {answer.reason}\r\nContent-Type: {answer.content_type}\r\n"
    half = head + f"Content-Length: {len(body)}\r\n\r\n" if body else head[: len(head) // 2]
    _farewell(exchange, half.encode() + body[: len(body) // 2])
    raise Dropped("truncated")


async def _status(exchange: Exchange) -> web.StreamResponse:
    options = exchange.fault.options if exchange.fault is not None else {}
    status = int(exchange.fault.amount) if exchange.fault is not None else 500
    if exchange.entry.operation in ("store", "fetch"):
        code = options.get("code") or _STORAGE_CODES.get(status, "AccessDenied")
        message = options.get("message", "scripted").replace("_", " ")
        answer = StorageRefusal(code, message, status=status or STATUS_OF_CODE.get(code)).answer()
    else:
        answer = ApiRefusal(status, _API_BODIES.get(status, {"message": "scripted"})).answer()
    if "retry_after" in options:
        answer.headers["Retry-After"] = options["retry_after"]
    return answer


async def _refuse(_: Exchange) -> web.StreamResponse:
    raise Dropped("refused")


async def _hang(exchange: Exchange) -> web.StreamResponse:
    await until_gone(exchange, exchange.fault.amount if exchange.fault is not None else 0)
    raise Dropped("hung")


async def until_gone(exchange: Exchange, seconds: float) -> None:
    """Wait so long, or until the client has gone."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (transport := exchange.request.transport) is not None and not transport.is_closing():
        left = deadline - loop.time()
        if left <= 0:
            return
        await asyncio.sleep(min(left, 0.1))


async def _portal(exchange: Exchange) -> web.StreamResponse:
    if exchange.fault is not None and "redirect" in exchange.fault.options:
        return web.Response(status=302, headers={"Location": f"{exchange.origin}{PORTAL_PATH}"})
    return portal_page()


async def _redirect(exchange: Exchange) -> web.StreamResponse | None:
    path = exchange.request.raw_path
    options = exchange.fault.options if exchange.fault is not None else {}
    if path.startswith(MOVED_STORE) and "to" not in options:
        return None
    target = options.get("to") or f"{exchange.origin}{path.replace('/s3/', MOVED_STORE, 1)}"
    status = int(exchange.fault.amount) if exchange.fault is not None else 307
    answer = web.Response(status=status, headers={"Location": target})
    answer.force_close()
    return answer


async def _schema(exchange: Exchange) -> web.StreamResponse:
    if exchange.entry.operation == "store":
        return web.Response(text="<html><body>OK</body></html>", content_type="text/html")
    return web.json_response({"status": "ok", "data": [None, {"uri": 7, "access_token": {"no": "string"}}]})


async def _oversized(exchange: Exchange) -> web.StreamResponse:
    size = int(exchange.fault.amount) if exchange.fault is not None else 0
    stream = web.StreamResponse(headers={"Content-Type": "application/json"})
    stream.content_length = size
    await stream.prepare(exchange.request)
    head = b'{"padding": "'
    await stream.write(head)
    for start in range(len(head), size, _CHUNK):
        await stream.write(b"x" * min(_CHUNK, size - start))
    await stream.write_eof()
    return stream


async def _bomb(exchange: Exchange) -> web.StreamResponse:
    size = int(exchange.fault.amount) if exchange.fault is not None else 0
    body = await asyncio.to_thread(gzip.compress, b'{"padding": "' + b"x" * size + b'"}', 9)
    return web.Response(body=body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})


async def _drip(exchange: Exchange) -> web.StreamResponse:
    every = exchange.fault.amount if exchange.fault is not None else 1.0
    stream = web.StreamResponse(headers={"Content-Type": "application/json"})
    await stream.prepare(exchange.request)
    while (transport := exchange.request.transport) is not None and not transport.is_closing():
        await stream.write(b" ")
        await asyncio.sleep(every)
    raise Dropped("client left")


async def _garbage(exchange: Exchange) -> web.StreamResponse:
    _farewell(exchange, b"\x15\x03\x01\x00\x02\x02\x28 this is not HTTP")
    raise Dropped("garbage")


def _farewell(exchange: Exchange, last: bytes) -> None:
    """These bytes as they are, then the end of the connection."""
    transport = exchange.request.transport
    if transport is not None:
        transport.write(last)
        transport.close()


_ANSWERS: Mapping[str, Callable[[Exchange], Awaitable[web.StreamResponse | None]]] = {
    "status": _status,
    "refuse": _refuse,
    "hang": _hang,
    "portal": _portal,
    "redirect": _redirect,
    "oversized": _oversized,
    "schema": _schema,
    "bomb": _bomb,
    "drip": _drip,
    "garbage": _garbage,
}
