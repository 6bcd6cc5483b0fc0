"""A link of so many bytes a second that all connections share, packet by packet and in turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType

PACKET_BYTES = 1400
BUFFER_BYTES = 2048
"""What each connection may have in the link beyond its turn: the kernel makes about 4 KiB of it."""


class ThinLink:
    """`async with ThinLink(port, rate) as link:` carries from `link.port` to `port`, both on loopback; only what goes
    up is slowed. `carried` counts it."""

    def __init__(self, port: int, bytes_per_second: float) -> None:
        self._target = port
        self._rate = bytes_per_second
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.carried = 0
        self.port = 0

    async def __aenter__(self) -> ThinLink:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=PACKET_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
            down = asyncio.create_task(self._down(inner_reader, writer))
            try:
                while packet := await reader.read(PACKET_BYTES):
                    async with self._turn:
                        await asyncio.sleep(len(packet) / self._rate)
                    self.carried += len(packet)
                    inner_writer.write(packet)
                    await inner_writer.drain()
                await down
            finally:
                down.cancel()
                inner_writer.close()
                writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while packet := await reader.read(65536):
                writer.write(packet)
                await writer.drain()
