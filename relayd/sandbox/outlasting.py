"""Requests that go on at the server after the client has lost sight of them: behind a gateway that gave up, say.

Promises: the client has its answer, or none, before anything is done; what was asked for is done all the same, so much
later, also while the next request comes. None is left running when the sandbox closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from relayd.sandbox.exchange import Dropped, Exchange
from relayd.sandbox.refusal import Refusal

LARGEST_BYTES = 64 * 1024 * 1024
Do = Callable[[Exchange], Awaitable[object]]


class Outlasting:
    """Those that are under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._now = asyncio.Event()

    async def begin(self, exchange: Exchange, do: Do) -> web.Response:
        """Read the request, have it done later, and answer as a gateway does that has waited long enough."""
        await exchange.keep(LARGEST_BYTES)
        fault = exchange.fault
        seconds = fault.amount if fault is not None else 0.0
        status = int(fault.options.get("status", "504")) if fault is not None else 504
        task = asyncio.create_task(self._finish(exchange, do, seconds), name=f"outlast {exchange.entry.operation}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if status == 0:
            raise Dropped("outlasted")
        return web.Response(status=status, text="<html><h1>Gateway Time-out</h1></html>", content_type="text/html")

    async def finish(self) -> None:
        """Do at once what is still running, and return when it is done."""
        self._now.set()
        await asyncio.gather(*self._tasks)
        self._now.clear()

    async def close(self) -> None:
        """What is not done by now never is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _finish(self, exchange: Exchange, do: Do, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._now.wait()
        except TimeoutError:
            exchange.entry.note = "done after it was answered"
        try:
            await do(exchange)
        except (Refusal, Dropped) as error:
            exchange.entry.note = str(error)
