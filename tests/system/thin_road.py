"""Two network namespaces with a thin road between them: the relay is in one, what it delivers to in the other.

`async with ThinRoad(bits_per_second, near=…, far=…) as road:` builds them. What goes up is slowed by `tc tbf`, which
lets a queue build up as a modem does; answers come back after `ANSWERS_AFTER_SECONDS`. Servers of this process are
reached from the relay's side by `HOST`, which a name server on the far side knows: even the name is asked for over the
road.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import cast

HOST = "far.test"
NEAR_ADDRESS, FAR_ADDRESS = "10.99.7.1", "10.99.7.2"
QUEUE_BYTES = 64 * 1024
"""How much waits before the road at most, 2 s at 256 kbit/s: beyond that packets are dropped."""
ANSWERS_AFTER_SECONDS = 0.05
_NEW_NET = 0x40000000
_BLOCK = 65536


class ThinRoad:
    """`near` are ports of this machine that are there in the relay's namespace, on loopback; `far` those at HOST."""

    def __init__(self, bits_per_second: int, *, near: Mapping[int, int], far: Mapping[int, int]) -> None:
        """Both map the port there to the one on this machine's own loopback."""
        self._rate = bits_per_second
        self._ports = {"near": near, "far": far}
        self._names = {side: f"relayd-{side}-{os.getpid()}" for side in ("near", "far")}
        self._settings = Path("/etc/netns") / self._names["near"]
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._name_server: asyncio.DatagramTransport | None = None

    @property
    def prefix(self) -> list[str]:
        """Put before a command, this runs it on the near side."""
        return ["ip", "netns", "exec", self._names["near"]]

    async def __aenter__(self) -> ThinRoad:
        try:
            self._build()
            for side, address in (("near", "127.0.0.1"), ("far", FAR_ADDRESS)):
                for port, target in self._ports[side].items():
                    await self._serve(self._bound(side, socket.SOCK_STREAM, (address, port)), target)
            sock = self._bound("far", socket.SOCK_DGRAM, (FAR_ADDRESS, 53))
            loop = asyncio.get_running_loop()
            self._name_server, _ = await loop.create_datagram_endpoint(_NameServer, sock=sock)
        except BaseException:
            await self._tear_down()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._tear_down()

    # --- namespaces

    def _build(self) -> None:
        near, far = self._names.values()
        ends = [f"rl{end}{os.getpid()}" for end in "nf"]
        for name in (near, far):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", ends[0], "netns", near, "type", "veth", "peer", "name", ends[1], "netns", far)
        for name, end, address in ((near, ends[0], NEAR_ADDRESS), (far, ends[1], FAR_ADDRESS)):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
        slow = f"tbf rate {self._rate}bit burst 3200 limit {QUEUE_BYTES}"
        _run("tc", "-n", near, "qdisc", "add", "dev", ends[0], "root", *slow.split())
        self._settings.mkdir(parents=True)
        (self._settings / "resolv.conf").write_text(f"nameserver {FAR_ADDRESS}\n")

    def _clear(self) -> None:
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, timeout=30)
        shutil.rmtree(self._settings, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._settings.parent.rmdir()

    async def _tear_down(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._name_server is not None:
            self._name_server.close()
        self._clear()

    def _bound(self, side: str, kind: socket.SocketKind, address: tuple[str, int]) -> socket.socket:
        """A socket of that namespace, made in a thread that enters it and ends there."""
        made: list[socket.socket] = []

        def make() -> None:
            namespace = os.open(f"/run/netns/{self._names[side]}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEW_NET) == 0:
                    made.append(socket.socket(socket.AF_INET, kind))
            finally:
                os.close(namespace)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        assert made, f"cannot enter {self._names[side]}"
        made[0].bind(address)
        made[0].setblocking(False)
        return made[0]

    # --- what goes through

    async def _serve(self, listening: socket.socket, target: int) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(_join(reader, writer, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._servers.append(await asyncio.start_server(accept, sock=listening))


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
    with contextlib.suppress(ConnectionError):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", target)
        back = asyncio.create_task(_copy(inner_reader, writer, ANSWERS_AFTER_SECONDS))
        try:
            await _copy(reader, inner_writer, 0.0)
            await back
        finally:
            back.cancel()
            inner_writer.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, after_seconds: float) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(_BLOCK):
            await asyncio.sleep(after_seconds)
            writer.write(block)
            await writer.drain()
        writer.write_eof()


class _NameServer(asyncio.DatagramProtocol):
    """Knows one IPv4 address, for whatever name it is asked."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(0, 12) + 5
        is_ipv4 = data[end - 4 : end - 2] == b"\0\1"
        answer = struct.pack("!HHHLH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(FAR_ADDRESS) if is_ipv4 else b""
        head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_ipv4), 0, 0)
        self._transport.sendto(head + data[12:end] + answer, addr)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
