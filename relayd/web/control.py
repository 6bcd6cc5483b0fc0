"""The control socket of a running relay: the API's routes, served to whoever the file's mode and group let in.

Promises: one place is used, the best that can be had; a socket that was taken away is made again; every change is
logged with the user and process that asked for it (peer credentials, which the kernel vouches for).
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from relayd import pulse
from relayd.files import printable
from relayd.operations import Operations
from relayd.web import api, place

log = logging.getLogger("relayd.web")

LOOK_SECONDS = 10.0
LISTEN_AGAIN_SECONDS = 30.0
REMEDY = "Run it as the system's service, which has a place in /run/relayd, or move the spool to another disk"
KEEPALIVE_SECONDS = 15.0
SHUTDOWN_SECONDS = 2.0
SPOOL_HEADER = "Relayd-Spool"
"""Every answer says which spool it is about, so that a client never talks to another relay by mistake."""

_CREDENTIALS = struct.Struct("3i")


async def serve(operations: Operations, spool_folder: Path, *, has_own_config: bool = False) -> None:
    """Serve the control API until cancelled. If no place will do, that is said once, and tried again for ever: the
    relay does its work without."""
    is_said = False
    while True:
        try:
            found = listen_on_best(place.offered(spool_folder, has_own_config=has_own_config, environ=os.environ))
        except place.CannotListen as error:
            log.log(logging.DEBUG if is_said else logging.ERROR, "%s: no command reaches this relay. %s", error, REMEDY)
            is_said = True
            pulse.beat(LISTEN_AGAIN_SECONDS)
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)
            continue
        path, listening = found
        await serve_on(operations, spool_folder, path, listening)
        is_said = False
        log.warning("the control socket %s was taken away; making it again", path)


async def serve_on(operations: Operations, spool_folder: Path, path: Path, listening: socket.socket) -> None:
    """Serve on this socket until its file is no longer there, or until cancelled."""
    own = place.identity(path)
    app = api.build(operations, _note_who_asks)
    spool_name = printable(os.fsencode(spool_folder.resolve())).encode("ascii", "backslashreplace").decode()

    async def name_the_spool(_: web.Request, response: web.StreamResponse) -> None:
        response.headers[SPOOL_HEADER] = spool_name

    app.on_response_prepare.append(name_the_spool)
    runner = web.AppRunner(
        app, access_log=None, logger=log, keepalive_timeout=KEEPALIVE_SECONDS, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        log.info("control socket: %s", path)
        while place.identity(path) == own:  # nobody tells us that a file was removed
            pulse.beat(LOOK_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        place.remove(path, own)
        await runner.cleanup()
        listening.close()


def listen_on_best(paths: Sequence[Path]) -> tuple[Path, socket.socket]:
    """The first of these places that can be had."""
    for path in paths[:-1]:
        try:
            return path, place.listen(path)
        except place.CannotListen as error:
            log.warning("%s; trying the next place", error)
    return paths[-1], place.listen(paths[-1])


async def _note_who_asks(request: web.Request) -> None:
    """The socket's mode has decided who may; this only remembers who did."""
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    if connection is None:
        raise web.HTTPForbidden(text="the caller has gone")
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    log.info("%s %s asked by %s, process %d", request.method, printable(request.path), _user(uid), pid)


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
