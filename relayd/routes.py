"""Tells when the machine's network changes: a link came up, an address or a default route appeared.

Promises: one small netlink socket, no polling; bursts of changes are one hint. Where the kernel refuses the socket the
hints simply never come, and the backoff of each destination does the work. Knows nothing of relayd's nouns.
Source: rtnetlink(7).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing

_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
_RTMGRP_IPV6_IFADDR = 0x100
_RTMGRP_IPV6_ROUTE = 0x400
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV6_ROUTE
_CALM_SECONDS = 0.5


async def changes() -> AsyncIterator[None]:
    """Yield after each burst of changes has been calm for half a second. Raises OSError if the kernel refuses."""
    loop = asyncio.get_running_loop()
    with closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)) as news:
        news.setblocking(False)
        news.bind((0, _GROUPS))
        while True:
            await loop.sock_recv(news, 65536)
            await _until_calm(loop, news)
            yield


async def _until_calm(loop: asyncio.AbstractEventLoop, news: socket.socket) -> None:
    for _ in range(20):
        try:
            async with asyncio.timeout(_CALM_SECONDS):
                await loop.sock_recv(news, 65536)
        except TimeoutError:
            return
