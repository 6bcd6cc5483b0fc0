"""The vehicle's broker, played: MQTT 5 on loopback, QoS 0 and 1, sessions that outlive a connection.

Promises: strict about the standard: what is malformed or out of place ends the connection. A message waits for every
session that subscribed until that client acknowledges it. What is not played (other versions, QoS 2, retained messages,
wills, logins) is refused in the protocol's own words. It is no part of the link: a dead zone does not reach it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

from relayd import clock
from relayd.sandbox.mqtt_packets import Kind, Malformed, Packet, packed, read, text

_HELLO_SECONDS = 10.0
_MOST_WAITING = 1000
"""So many messages wait for one client; what comes on top is let go, as by a real broker with its usual settings."""
_LAST_NUMBER = 65_535
_CANNOT_DO = bytes((0x24, 1, 0x25, 0, 0x29, 0, 0x2A, 0))
"""In CONNACK: QoS 1 at most, nothing retained, no subscription identifiers, no shared subscriptions."""
_CLEAN_START, _SESSION_EXPIRY, _ASSIGNED_ID, _IDENTIFIER = 0x02, 0x11, b"\x12", 0x0B
_UNSUPPORTED_VERSION, _NOT_PLAYED, _TAKEN_OVER, _NO_SUCH_SUBSCRIPTION = 0x84, 0x83, 0x8E, 0x11


@dataclass(slots=True)
class Published:
    """One message: when it came, and when each client to which it is owed acknowledged it (None: not yet)."""

    topic: str
    payload: str
    at: float
    acknowledged: dict[str, float | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Due:
    message: Published
    payload: bytes
    qos: int
    is_sent: bool = False


@dataclass(slots=True)
class _Session:
    client_id: str
    is_kept: bool = False
    filters: dict[str, int] = field(default_factory=dict)
    due: dict[int, _Due] = field(default_factory=dict)
    last_number: int = 0
    writer: asyncio.StreamWriter | None = None


class Broker:
    """`await start()`, then `port` is known; `close` ends every connection."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.messages: list[Published] = []
        self._sessions: dict[str, _Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Raises OSError if the port is taken."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(self, topic: str, payload: bytes, qos: int = 1) -> Published:
        """Hand a message to whoever subscribed, as it comes from a button or from another client."""
        made = Published(topic, payload.decode("utf-8", "replace"), clock.now())
        self.messages.append(made)
        for session in self._sessions.values():
            granted = [most for pattern, most in session.filters.items() if _lets_through(pattern, topic)]
            if not granted or len(session.due) >= _MOST_WAITING:
                continue
            due, number = _Due(made, payload, min(qos, max(granted))), 0
            if due.qos:
                number = _free_number(session)
                session.due[number] = due
                made.acknowledged[session.client_id] = None
            _send(session, number, due)
        return made

    # --- one connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, session = asyncio.current_task(), None
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                session, silence_seconds = self._greet(await read(reader), writer)
            while True:
                await writer.drain()
                async with asyncio.timeout(silence_seconds):
                    packet = await read(reader)
                if packet is None or packet.kind is Kind.DISCONNECT or session.writer is not writer:
                    return
                writer.write(self._answer(session, packet))
        except (Malformed, TimeoutError, ConnectionError):
            return
        finally:
            if session is not None and session.writer is writer:
                self._forget(session)
            writer.close()

    def _greet(self, packet: Packet | None, writer: asyncio.StreamWriter) -> tuple[_Session, float | None]:
        """The session, and how long its client may be silent. Raises Malformed for whom is not taken."""
        if packet is None or packet.kind is not Kind.CONNECT or packet.text() != "MQTT":
            raise Malformed("no MQTT client")
        version, flags, keepalive = packet.number(1), packet.number(1), packet.number(2)
        refusal = _UNSUPPORTED_VERSION if version != 5 else _NOT_PLAYED if flags & ~_CLEAN_START else 0
        if refusal:
            writer.write(packed(Kind.CONNACK, bytes((0, refusal, 0))))
            raise Malformed(f"CONNECT refused with {refusal:#x}")
        expiry = packet.properties().get(_SESSION_EXPIRY, 0)
        given = packet.text()
        name = given or f"client-{secrets.token_hex(4)}"
        _end(packet)
        session = self._take_over(name, is_clean=bool(flags & _CLEAN_START))
        is_present, session.is_kept, session.writer = session.is_kept, expiry > 0, writer
        properties = _CANNOT_DO if given else _CANNOT_DO + _ASSIGNED_ID + text(name)
        writer.write(packed(Kind.CONNACK, bytes((is_present, 0, len(properties))), properties))
        for number, due in session.due.items():
            _send(session, number, due)
        return session, keepalive * 1.5 or None

    def _take_over(self, name: str, *, is_clean: bool) -> _Session:
        """The client's session from before, unless it wants a new one; who still holds it is put out."""
        before = self._sessions.get(name)
        if before is not None and before.writer is not None:
            before.writer.write(packed(Kind.DISCONNECT, bytes((_TAKEN_OVER, 0))))
            before.writer.close()
            before.writer = None
        if before is None or is_clean or not before.is_kept:
            self._sessions[name] = _Session(name)
        return self._sessions[name]

    def _forget(self, session: _Session) -> None:
        session.writer = None
        if not session.is_kept:
            del self._sessions[session.client_id]

    def _answer(self, session: _Session, packet: Packet) -> bytes:
        match packet.kind:
            case Kind.PUBLISH:
                return self._published(packet)
            case Kind.PUBACK:
                return _acknowledged(session, packet)
            case Kind.SUBSCRIBE | Kind.UNSUBSCRIBE:
                return _subscribed(session, packet)
            case Kind.PINGREQ:
                return packed(Kind.PINGRESP)
        raise Malformed(f"{packet.kind.name} from a client that is connected")

    def _published(self, packet: Packet) -> bytes:
        qos, topic = (packet.flags >> 1) & 3, packet.text()
        if qos > 1 or packet.flags & 1 or not topic or set(topic) & set("+#"):
            raise Malformed("QoS 2, a retained message, or a topic that is none")
        number = packet.take(2) if qos else b""
        packet.properties()
        self.publish(topic, packet.rest(), qos)
        return packed(Kind.PUBACK, number) if qos else b""


def _acknowledged(session: _Session, packet: Packet) -> bytes:
    due = session.due.pop(packet.number(2), None)
    if due is None or not due.is_sent:
        raise Malformed("PUBACK for what was not sent")
    if not packet.has_more or packet.number(1) < 0x80:
        due.message.acknowledged[session.client_id] = clock.now()
    return b""


def _subscribed(session: _Session, packet: Packet) -> bytes:
    """SUBSCRIBE or UNSUBSCRIBE: a code for each filter."""
    is_new, number, codes = packet.kind is Kind.SUBSCRIBE, packet.take(2), bytearray()
    if _IDENTIFIER in packet.properties():
        raise Malformed("a subscription identifier, though none are taken here")
    while packet.has_more:
        pattern = packet.text()
        levels = pattern.split("/")
        if not pattern or "#" in levels[:-1] or any(set(one) & set("+#") and one not in ("+", "#") for one in levels):
            raise Malformed(f"{pattern!a} is no filter")
        if is_new:
            session.filters[pattern] = min(packet.number(1) & 3, 1)
            codes.append(session.filters[pattern])
        else:
            codes.append(_NO_SUCH_SUBSCRIPTION if session.filters.pop(pattern, None) is None else 0)
    if not codes:
        raise Malformed(f"{packet.kind.name} without a filter")
    return packed(Kind.SUBACK if is_new else Kind.UNSUBACK, number, b"\0", bytes(codes))


def _send(session: _Session, number: int, due: _Due) -> None:
    """Now, if the client is there; else when it is back."""
    if session.writer is None or session.writer.is_closing():
        return
    head = text(due.message.topic) + (number.to_bytes(2, "big") if due.qos else b"") + b"\0"
    flags = due.qos << 1 | (8 if due.is_sent else 0)
    session.writer.write(packed(Kind.PUBLISH, head, due.payload, flags=flags))
    due.is_sent = True


def _free_number(session: _Session) -> int:
    session.last_number = session.last_number % _LAST_NUMBER + 1
    while session.last_number in session.due:
        session.last_number = session.last_number % _LAST_NUMBER + 1
    return session.last_number


def _lets_through(pattern: str, topic: str) -> bool:
    wanted, found = pattern.split("/"), topic.split("/")
    for index, one in enumerate(wanted):
        if one == "#":
            return True
        if index >= len(found) or one not in ("+", found[index]):
            return False
    return len(wanted) == len(found)


def _end(packet: Packet) -> None:
    if packet.has_more:
        raise Malformed(f"{packet.kind.name} has something at its end that does not belong there")
