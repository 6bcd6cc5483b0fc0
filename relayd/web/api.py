"""The control API: HTTP with JSON over the operations, nothing more.

Promises: whoever serves these routes decides with `admit` who may change something; looking is free. Every answer but
the metrics is JSON, every error `{"error": "sentence"}`. Bodies, lists and requests under way are limited, an uploaded
file is streamed to the disk and never held in memory.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO

from aiohttp import web

from relayd.errors import RelaydError, SpoolFull, SpoolUnwritable, UnknownItem, UnknownName, WrongRequest
from relayd.files import origin_of, text_of
from relayd.model import OpenFile
from relayd.operations import Operations
from relayd.pausing import Pausable
from relayd.threads import in_own_thread
from relayd.web import asked, metrics

log = logging.getLogger("relayd.web")

LARGEST_BODY_BYTES = 1024 * 1024
BLOCK_BYTES = 1024 * 1024
MOST_UNDER_WAY = 32
STALL_SECONDS = 60.0
LEFT_ALONE_BYTES = 16 * 1024 * 1024
"""The last of the disk, which an upload never takes: the database needs it to go on."""

Admit = Callable[[web.Request], Awaitable[None]]
"""Lets a request pass that changes something, or raises `web.HTTPForbidden` with a sentence."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS_OF: tuple[tuple[type[RelaydError], int], ...] = (
    (UnknownItem, 404),
    (UnknownName, 404),
    (WrongRequest, 400),
    (SpoolFull, 507),
    (SpoolUnwritable, 507),
    (RelaydError, 409),
)


def build(operations: Operations, admit: Admit) -> web.Application:
    """The application; `admit` guards everything that is not a GET."""
    handlers = Handlers(operations)
    app = web.Application(
        middlewares=[_errors_in_json, _limited(asyncio.Semaphore(MOST_UNDER_WAY)), _guarded(admit)],
        client_max_size=LARGEST_BODY_BYTES,
    )
    app.add_routes(
        [
            web.get("/api/v1/status", handlers.status),
            web.get("/api/v1/items", handlers.items),
            web.get("/api/v1/items/{id}", handlers.item),
            web.post("/api/v1/items/{id}/retry", handlers.retry_one),
            web.post("/api/v1/items/{id}/resend", handlers.resend_one),
            web.post("/api/v1/items/{id}/drop", handlers.drop_one),
            web.get("/api/v1/incidents", handlers.incidents),
            web.get("/api/v1/incidents/{id}", handlers.incident),
            web.post("/api/v1/incidents/{id}/close", handlers.close_incident),
            web.get("/api/v1/why", handlers.why),
            web.get("/api/v1/cameras", handlers.cameras),
            web.post("/api/v1/retry", handlers.retry),
            web.post("/api/v1/resend", handlers.resend),
            web.post("/api/v1/drop", handlers.drop),
            web.post("/api/v1/pause", handlers.pause),
            web.post("/api/v1/resume", handlers.resume),
            web.post("/api/v1/destinations/{name}/pause", handlers.pause_of("destination")),
            web.post("/api/v1/destinations/{name}/resume", handlers.resume_of("destination")),
            web.post("/api/v1/sources/{name}/pause", handlers.pause_of("source")),
            web.post("/api/v1/sources/{name}/resume", handlers.resume_of("source")),
            web.post("/api/v1/send", handlers.send),
            web.get("/metrics", handlers.metrics),
            web.get("/healthz", handlers.healthz),
        ]
    )
    return app


class Handlers:
    """One handler per route: check what is asked, do it, answer."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    # --- looking

    async def status(self, _: web.Request) -> web.Response:
        return _answer(await self._operations.status())

    async def metrics(self, _: web.Request) -> web.Response:
        text = metrics.text(await self._operations.status())
        return web.Response(body=text.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def healthz(self, _: web.Request) -> web.Response:
        """200 while the relay does its work, 503 when a person is needed."""
        snapshot = await self._operations.status()
        body = {"state": snapshot["state"], "reasons": snapshot["reasons"]}
        return _answer(body, status=503 if snapshot["state"] == "fault" else 200)

    async def items(self, request: web.Request) -> web.Response:
        wanted = asked.by_query(asked.ItemsAsked, request.rel_url.raw_query_string)
        return _answer(await self._operations.items(**wanted.model_dump()))

    async def item(self, request: web.Request) -> web.Response:
        return _answer(await self._operations.item(request.match_info["id"]))

    async def cameras(self, _: web.Request) -> web.Response:
        return _answer(await self._operations.cameras())

    async def incidents(self, request: web.Request) -> web.Response:
        wanted = asked.by_query(asked.IncidentsAsked, request.rel_url.raw_query_string)
        return _answer(await self._operations.incidents(**wanted.model_dump()))

    async def incident(self, request: web.Request) -> web.Response:
        return _answer(await self._operations.incident(request.match_info["id"]))

    async def why(self, request: web.Request) -> web.Response:
        wanted = asked.by_query(asked.WhyAsked, request.rel_url.raw_query_string)
        return _answer(await self._operations.why(wanted.about))

    # --- changing

    async def retry(self, request: web.Request) -> web.Response:
        wanted = await _body(request, asked.RetryAsked)
        return _answer(await self._operations.retry(wanted.items, wanted.destination))

    async def retry_one(self, request: web.Request) -> web.Response:
        wanted = await _body(request, asked.RetryOneAsked)
        return _answer(await self._operations.retry([request.match_info["id"]], wanted.destination))

    async def resend(self, request: web.Request) -> web.Response:
        wanted = await _body(request, asked.ResendAsked)
        return _answer(await self._operations.resend(wanted.wanted(), wanted.to, wanted.urgency()))

    async def resend_one(self, request: web.Request) -> web.Response:
        wanted = await _body(request, asked.ResendOneAsked)
        return _answer(await self._operations.resend([request.match_info["id"]], wanted.to, wanted.urgency()))

    async def drop(self, request: web.Request) -> web.Response:
        wanted = await _body(request, asked.DropAsked)
        return _answer(await self._operations.drop(wanted.items))

    async def drop_one(self, request: web.Request) -> web.Response:
        await _body(request, asked.NothingAsked)
        return _answer(await self._operations.drop([request.match_info["id"]]))

    async def close_incident(self, request: web.Request) -> web.Response:
        await _body(request, asked.NothingAsked)
        return _answer(await self._operations.close_incident(request.match_info["id"]))

    async def pause(self, request: web.Request) -> web.Response:
        wanted = await _body(request, asked.PauseAsked)
        return _answer(await self._operations.pausing.pause(wanted.name, wanted.kind))

    async def resume(self, request: web.Request) -> web.Response:
        wanted = await _body(request, asked.PauseAsked)
        return _answer(await self._operations.pausing.resume(wanted.name, wanted.kind))

    def pause_of(self, kind: Pausable) -> Handler:
        async def pause(request: web.Request) -> web.Response:
            await _body(request, asked.NothingAsked)
            return _answer(await self._operations.pausing.pause(request.match_info["name"], kind))

        return pause

    def resume_of(self, kind: Pausable) -> Handler:
        async def resume(request: web.Request) -> web.Response:
            await _body(request, asked.NothingAsked)
            return _answer(await self._operations.pausing.resume(request.match_info["name"], kind))

        return resume

    async def send(self, request: web.Request) -> web.Response:
        """The body goes to a file inside the spool, and from there the way of every other item."""
        wanted = asked.by_query(asked.SendAsked, request.rel_url.raw_query_string)
        name = text_of(os.fsencode(wanted.name))
        with self._operations.handover.stage() as staged:
            _look_for_room(request, staged)
            await _receive(request, staged)
            if wanted.modified_ns is not None:
                os.utime(staged.fileno(), ns=(wanted.modified_ns, wanted.modified_ns))
            # A path of its own, since the same file may be handed over twice: to two places, or once more.
            origin = origin_of(f"{uuid.uuid4().hex}/{name}".encode(), os.fstat(staged.fileno()))
            file = OpenFile(descriptor=staged.fileno(), origin=origin, is_finished=True)
            result = await self._operations.handover.send(
                file, name, wanted.to, wanted.action, wanted.fields(), wanted.urgency(), wanted.as_it_is
            )
        return _answer(result)


def _look_for_room(request: web.Request, staged: BinaryIO) -> None:
    """Before the first byte: whether all of it fits on the disk. Whether the spool may keep it, `put` decides."""
    if request.content_length is None:
        raise web.HTTPLengthRequired(text="say how long the file is: Content-Length is missing")
    disk = os.fstatvfs(staged.fileno())
    if request.content_length > disk.f_bavail * disk.f_frsize - LEFT_ALONE_BYTES:
        raise SpoolFull("no room on the spool's disk for this file, it was not taken")


async def _receive(request: web.Request, staged: BinaryIO) -> None:
    """The body to the disk, in blocks, off the loop. Raises WrongRequest if it breaks off, SpoolFull without room."""
    try:
        while True:
            async with asyncio.timeout(STALL_SECONDS):
                block = await _block(request)
            if not block:
                break
            await in_own_thread("control-write", _write_all, staged, block)
    except TimeoutError:
        raise WrongRequest(f"nothing came for {STALL_SECONDS:.0f} s, the file was not taken") from None
    except (web.RequestPayloadError, ConnectionError):
        raise WrongRequest("the file broke off in the middle, it was not taken") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpoolFull("no room on the spool's disk for this file, it was not taken") from None
        raise


def _write_all(staged: BinaryIO, block: bytes) -> None:
    left = memoryview(block)
    while left:
        left = left[staged.write(left) :]
    staged.flush()


async def _block(request: web.Request) -> bytes:
    """About BLOCK_BYTES of the body; empty at its end."""
    block = bytearray()
    while len(block) < BLOCK_BYTES:
        piece = await request.content.read(BLOCK_BYTES - len(block))
        if not piece:
            break
        block += piece
    return bytes(block)


async def _body(request: web.Request, model: type[asked.Kind]) -> asked.Kind:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return asked.by_body(model, await request.read())
    except TimeoutError:
        raise WrongRequest(f"the body did not come within {STALL_SECONDS:.0f} s") from None


def _answer(document: dict[str, Any], *, status: int = 200) -> web.Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return web.Response(status=status, body=body, headers=headers)


# --- around every request


@web.middleware
async def _errors_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        answer = _answer({"error": refusal.text or refusal.reason}, status=refusal.status)
        answer.headers.update(
            {name: refusal.headers[name] for name in ("Allow", "Retry-After") if name in refusal.headers}
        )
        return answer
    except RelaydError as error:
        status = next(number for kind, number in _STATUS_OF if isinstance(error, kind))
        return _answer({"error": str(error)}, status=status)


def _limited(room: asyncio.Semaphore) -> Any:
    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        if room.locked():
            raise web.HTTPServiceUnavailable(text="too many requests at once, ask again", headers={"Retry-After": "1"})
        async with room:
            return await handler(request)

    return limited


def _guarded(admit: Admit) -> Any:
    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            await admit(request)
        return await handler(request)

    return guarded
