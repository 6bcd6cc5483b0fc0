"""A byte-level TCP proxy for what goes wrong below HTTP: also between a client and a server that speak TLS.

Promises: knows nothing of what it carries; every connection has its own counters; the weather can change while
connections are open; nothing outlives `close`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType

from relayd.sandbox.exchange import drop

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What happens to a connection. Byte counts are per connection and direction, from when the weather was set.

    `up` is what the client sends, `down` what it gets. `down_cut_after=0` loses the answer: the server has it, counted
    it and replied, and the client sees a reset.
    """

    is_refusing: bool = False
    is_hanging: bool = False
    bytes_per_second: float | None = None
    up_cut_after: int | None = None
    down_cut_after: int | None = None
    up_corrupt_at: int | None = None
    down_corrupt_at: int | None = None

    def cut_after(self, *, is_up: bool) -> int | None:
        return self.up_cut_after if is_up else self.down_cut_after

    def corrupt_at(self, *, is_up: bool) -> int | None:
        return self.up_corrupt_at if is_up else self.down_corrupt_at


FAIR = Weather()
LOSE_ANSWER = Weather(down_cut_after=0)


class Proxy:
    """`async with Proxy(host, port) as proxy:` listens on `proxy.port` of 127.0.0.1 and carries to host and port."""

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self._target = (host, port)
        self.port = listen_port
        self.weather = FAIR
        self.connections = 0
        self._queue: list[Weather] = []
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Listen; after `shut`, on the same port again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """A dead zone: nobody listens, and every open connection is reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    async def close(self) -> None:
        """Shut, and wait for the last task."""
        await self.shut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, weather: Weather = FAIR) -> None:
        """From now on, for open and coming connections; counters start at zero."""
        self.weather = weather
        for line in self._lines:
            line.set(weather)

    def next(self, *weathers: Weather) -> None:
        """One weather each for the next connections; after them `weather` holds again."""
        self._queue.extend(weathers)

    def reset(self) -> None:
        """Reset every open connection."""
        for line in self._lines:
            line.reset()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        weather = self._queue.pop(0) if self._queue else self.weather
        task = asyncio.create_task(self._carry(_Line(reader, writer, weather)), name="proxy line")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, line: _Line) -> None:
        self._lines.add(line)
        try:
            await line.carry(*self._target)
        finally:
            self._lines.discard(line)
            line.reset()


class _Line:
    """One connection: two pipes, and the weather over them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weather: Weather) -> None:
        self._client = (reader, writer)
        self._server_writer: asyncio.StreamWriter | None = None
        self._weather = weather
        self._carried = {True: 0, False: 0}
        self._changed = asyncio.Event()

    def set(self, weather: Weather) -> None:
        self._weather = replace(weather)
        self._carried = {True: 0, False: 0}
        self._changed.set()

    def reset(self) -> None:
        for writer in (self._client[1], self._server_writer):
            if writer is not None:
                drop(writer.transport)

    async def carry(self, host: str, port: int) -> None:
        """Until one side ends, or the weather does it."""
        if self._weather.is_refusing:
            return
        with contextlib.suppress(ConnectionError, OSError):
            reader, writer = await asyncio.open_connection(host, port)
            self._server_writer = writer
            pipes = [
                asyncio.ensure_future(self._pipe(self._client[0], writer, is_up=True)),
                asyncio.ensure_future(self._pipe(reader, self._client[1], is_up=False)),
            ]
            try:
                await self._wait_for_end(pipes)
            finally:
                for pipe in pipes:
                    pipe.cancel()
                await asyncio.gather(*pipes, return_exceptions=True)

    async def _wait_for_end(self, pipes: Iterable[asyncio.Future[bool]]) -> None:
        """A half-close is carried on; a cut or a broken pipe ends both ways."""
        left = set(pipes)
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            if any(pipe.exception() is not None or not pipe.result() for pipe in done):
                return

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> bool:
        """True at the end of the stream, False after a cut."""
        while True:
            await self._until_not_hanging()
            rate = self._weather.bytes_per_second
            chunk = await reader.read(_CHUNK if rate is None else max(1, int(rate / 10)))
            if not chunk:
                if writer.can_write_eof():
                    writer.write_eof()
                return True
            await self._until_not_hanging()
            allowed = self._allowed(chunk, is_up=is_up)
            writer.write(allowed)
            await writer.drain()
            if len(allowed) < len(chunk):
                return False
            if rate is not None:
                await asyncio.sleep(len(chunk) / rate)

    async def _until_not_hanging(self) -> None:
        while self._weather.is_hanging:
            self._changed.clear()
            await self._changed.wait()

    def _allowed(self, chunk: bytes, *, is_up: bool) -> bytes:
        """What of a chunk gets through, altered where the weather says so."""
        start = self._carried[is_up]
        cut = self._weather.cut_after(is_up=is_up)
        wrong = self._weather.corrupt_at(is_up=is_up)
        if wrong is not None and start <= wrong < start + len(chunk):
            at = wrong - start
            chunk = chunk[:at] + bytes([chunk[at] ^ 0xFF]) + chunk[at + 1 :]
        allowed = chunk if cut is None else chunk[: max(0, cut - start)]
        self._carried[is_up] = start + len(allowed)
        return allowed
