"""The bytes of MQTT 5 as the broker stand-in reads and writes them. Nothing of the relay's own reading is used.

Promises: whatever the bytes, the outcome is a packet or `Malformed`.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum

LARGEST_BYTES = 256 * 1024
_SIZES = {
    **dict.fromkeys((0x01, 0x17, 0x19), 1),
    **dict.fromkeys((0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_TEXTS = {**dict.fromkeys((0x03, 0x08, 0x09, 0x15, 0x16, 0x1F), 1), 0x26: 2}
_VARIABLE = 0x0B


class Kind(IntEnum):
    """What a packet is: the upper half of its first byte."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class Malformed(Exception):
    """These bytes are not MQTT 5, or not what a client may send here."""


class Packet:
    """One packet, whose body is taken piece by piece. `flags` are the lower half of its first byte."""

    def __init__(self, kind: Kind, flags: int, body: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self._rest = body

    @property
    def has_more(self) -> bool:
        return bool(self._rest)

    def take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        if len(taken) < size:
            raise Malformed(f"{self.kind.name} ends too early")
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def length(self) -> int:
        """A number of variable length."""
        value = 0
        for shift in range(0, 28, 7):
            digit = self.number(1)
            value |= (digit & 0x7F) << shift
            if not digit & 0x80:
                return value
        raise Malformed("a length of more than four bytes")

    def text(self) -> str:
        try:
            found = self.take(self.number(2)).decode()
        except UnicodeDecodeError:
            raise Malformed(f"{self.kind.name} has a text that is no UTF-8") from None
        if "\0" in found:
            raise Malformed(f"{self.kind.name} has a text with a null in it")
        return found

    def properties(self) -> dict[int, int]:
        """Those that are numbers; texts are read over."""
        own = Packet(self.kind, 0, self.take(self.length()))
        found: dict[int, int] = {}
        while own.has_more:
            kind = own.number(1)
            if kind in _TEXTS:
                for _ in range(_TEXTS[kind]):
                    own.take(own.number(2))
            elif kind == _VARIABLE:
                found[kind] = own.length()
            elif kind in _SIZES:
                found[kind] = own.number(_SIZES[kind])
            else:
                raise Malformed(f"{self.kind.name} has the property {kind:#x}")
        return found

    def rest(self) -> bytes:
        return self.take(len(self._rest))


async def read(stream: asyncio.StreamReader) -> Packet | None:
    """The next packet; None at the end of the connection. Raises Malformed."""
    try:
        head = await stream.readexactly(2)
        while head[-1] & 0x80 and len(head) < 5:
            head += await stream.readexactly(1)
        size = Packet(Kind.CONNECT, 0, head[1:]).length()
        if size > LARGEST_BYTES:
            raise Malformed(f"a packet of {size} bytes")
        body = await stream.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    kind, flags = head[0] >> 4, head[0] & 0x0F
    if kind not in set(Kind):
        raise Malformed(f"a packet of kind {kind}")
    if kind != Kind.PUBLISH and flags != (2 if kind in (Kind.SUBSCRIBE, Kind.UNSUBSCRIBE) else 0):
        raise Malformed(f"{Kind(kind).name} with flags {flags}")
    return Packet(Kind(kind), flags, body)


def packed(kind: Kind, *parts: bytes, flags: int = 0) -> bytes:
    """A packet to be sent."""
    body = b"".join(parts)
    length, rest = bytearray(), len(body)
    while not length or rest:
        rest, digit = divmod(rest, 128)
        length.append(digit | (0x80 if rest else 0))
    return bytes([kind << 4 | flags]) + bytes(length) + body


def text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded
