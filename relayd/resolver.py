"""Names to addresses, in threads of their own: a name server that does not answer holds up who asks it, nobody else.

Promises: each client has its own threads, so that its look-ups wait for nobody else's. A look-up that somebody gave up
goes on, and whoever asks the same next gets its answer. `is_asking` tells a name server that does not answer from a
peer that does not.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from relayd.threads import PartThreads, in_own_thread

THREADS = 4
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

Info = tuple[Any, Any, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` gives it."""


class Resolver:
    """What aiohttp asks for addresses (its `AbstractResolver`, by shape: importing it costs 14 MB)."""

    def __init__(self) -> None:
        self._threads = PartThreads("names", THREADS)
        self._asked: dict[tuple[str, int, int], asyncio.Task[list[Info]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[dict[str, Any]]:
        """Every address. Raises OSError (socket.gaierror)."""
        key = (host, port, int(family))
        asked = self._asked.get(key)
        if asked is None:
            what = f"the name server is asked for {host}"
            asking = self._threads.run(what, _look_up, host, port, family, socket.AI_ADDRCONFIG)
            asked = asyncio.create_task(asking, name=what)
            self._asked[key] = asked
        await asyncio.wait({asked})
        self._asked.pop(key, None)
        return [_entry(host, info) for info in asked.result()]

    def is_asking(self, host: str) -> bool:
        """Whether no answer has come yet for this name."""
        return any(name == host and not asked.done() for (name, _, _), asked in self._asked.items())

    async def close(self) -> None:
        for asked in self._asked.values():
            asked.cancel()
        self._threads.close()


class NoAnswer(OSError):
    """The name server said nothing, not even that it does not know the name."""

    def __init__(self, host: str, seconds: float) -> None:
        super().__init__(f"the name server does not answer: nothing on {host} within {seconds:g} s")


async def addresses(host: str, port: int, timeout_seconds: float) -> list[Info]:
    """For who connects by himself. Raises NoAnswer, OSError or UnicodeError."""
    try:
        async with asyncio.timeout(timeout_seconds):
            return await in_own_thread("the name server is asked", _look_up, host, port, socket.AF_UNSPEC)
    except TimeoutError:
        raise NoAnswer(host, timeout_seconds) from None


def _look_up(host: str, port: int, family: int, flags: int = 0) -> list[Info]:
    """Blocks, for as long as the name server takes."""
    found: Sequence[Any] = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
    return [_numeric(info) for info in found]


def _numeric(info: Any) -> Info:
    """A link-local address with its interface, as whoever connects wants it."""
    family, kind, proto, name, address = info
    if family == socket.AF_INET6 and address[3]:
        host, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        address = (host, *address[1:])
    return family, kind, proto, name, address


def _entry(host: str, info: Info) -> dict[str, Any]:
    family, _, proto, _, address = info
    return {
        "hostname": host,
        "host": address[0],
        "port": address[1],
        "family": family,
        "proto": proto,
        "flags": _NUMERIC,
    }
