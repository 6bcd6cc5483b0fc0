"""paho's client with the reading side replaced; only `broker_wire` uses it.

Promises: whole blocks are read instead of single bytes. A QoS 2 message is handed over when it comes, and answered with
PUBREC by `acknowledge`: paho alone answers at once and keeps it in memory, where a crash loses it. A refused QoS 2
message ends with the refusal. Packets over the limit are skipped unread. While reading is paused, silence is no sign
that the broker is gone.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from relayd import clock
from relayd.broker_packets import Malformed, Message, length_of, publish_of
from relayd.broker_valve import Valve
from relayd.trips import Trips

BLOCK_BYTES = 64 * 1024
_PUBACK, _PUBREC = 0x40, 0x50


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Who is told, in the loop: `arrived` of every message, `too_large` of one that was skipped (topic, QoS, packet id,
    bytes), `confirmed` when the broker has seen everything that was sent before the matching `probe`."""

    arrived: Callable[[Message], None]
    too_large: Callable[[str, int, int, int], None]
    confirmed: Callable[[], None]


class PatientPaho(mqtt.Client):
    """paho's client with the reading side replaced."""

    def attach(self, events: Events, max_packet_bytes: int) -> None:
        self._events = events
        self._max_packet_bytes = max_packet_bytes
        self._unread = bytearray()
        self._to_skip = 0
        self._probes: deque[bool] = deque()
        self._bytes_written = 0
        self._refused = 0
        self._trips = Trips()
        self.valve = Valve(self.bytes_gone, self._trip_seconds)
        self.is_paused = False
        self.tls_error: str | None = None

    # --- reading

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Take one block from the socket and handle every whole packet that has come."""
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            data = self._sock_recv(BLOCK_BYTES)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError as error:
            self.tls_error = error.reason if isinstance(error, ssl.SSLError) else None
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        self._last_bytes_received = clock.monotonic()
        self._ping_t = 0.0  # whoever sends is alive
        self._unread += data
        return self.handle_what_came()

    def handle_what_came(self) -> MQTTErrorCode:
        """Handle the packets that were read, up to the one that makes us pause."""
        try:
            rc = self._handle_packets()
        except (Malformed, struct.error, IndexError, UnicodeDecodeError):
            rc = MQTTErrorCode.MQTT_ERR_PROTOCOL
        return self._loop_rc_handle(rc) if rc else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_packets(self) -> MQTTErrorCode:
        unread, at = self._unread, 0
        rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        while len(unread) - at >= 2 and self._sock is not None and not rc and not self.is_paused:
            if self._to_skip:
                step = min(self._to_skip, len(unread) - at)
                at, self._to_skip = at + step, self._to_skip - step
                continue
            length, body = length_of(unread, at + 1)
            if body < 0:
                break
            if length > self._max_packet_bytes:
                if not self._skip(unread, at, body, length):
                    break
                at = body
                continue
            end = body + length
            if end > len(unread):
                break
            rc = self._handle(unread[at], bytes(unread[body:end]))
            at = end
        del unread[:at]
        return rc

    def _skip(self, unread: bytearray, at: int, body: int, length: int) -> bool:
        """Leave out a packet that is too large; False: not even its topic is there yet."""
        if unread[at] & 0xF0 != 0x30:
            raise Malformed
        head = bytes(unread[body : body + length])
        topic_end = 2 + int.from_bytes(head[:2], "big") if len(head) >= 2 else len(head) + 1
        if len(head) < topic_end + 2:
            return False
        qos = (unread[at] >> 1) & 3
        mid = int.from_bytes(head[topic_end : topic_end + 2], "big") if qos else 0
        self._to_skip = length
        self._events.too_large(head[2:topic_end].decode("utf-8", "replace"), qos, mid, length)
        return True

    def _handle(self, command: int, packet: bytes) -> MQTTErrorCode:
        if command & 0xF0 == 0x30:
            self._events.arrived(publish_of(command, packet, has_properties=self._protocol == mqtt.MQTTv5))
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._in_packet = {
            "command": command,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(packet),
            "packet": bytearray(packet),
            "to_process": 0,
            "pos": 0,
        }
        return self._packet_handle()

    def _handle_pubrel(self) -> MQTTErrorCode:
        """PUBREC went out after the commit, so nothing is open here."""
        return self._send_pubcomp(int.from_bytes(self._in_packet["packet"][:2], "big"))

    def _handle_pubrec(self) -> MQTTErrorCode:
        """A refused QoS 2 message ends here; paho would go on as if it had been taken."""
        packet = self._in_packet["packet"]
        code = packet[2] if len(packet) > 2 else 0
        mid = int.from_bytes(packet[:2], "big")
        if code >= 0x80 and mid in self._out_messages:
            properties = Properties(PacketTypes.PUBREC)  # type: ignore[no-untyped-call]
            return self._do_on_publish(mid, ReasonCode(PacketTypes.PUBREC, identifier=code), properties)
        return super()._handle_pubrec()

    # --- probing

    def probe(self) -> None:
        """Ask for a sign of life; `confirmed` follows when it comes."""
        self._send_pingreq_marked(is_probe=True)

    def _send_pingreq(self) -> MQTTErrorCode:
        return self._send_pingreq_marked(is_probe=False)

    def _send_pingreq_marked(self, *, is_probe: bool) -> MQTTErrorCode:
        self._probes.append(is_probe)
        return super()._send_pingreq()

    def _handle_pingresp(self) -> MQTTErrorCode:
        rc = super()._handle_pingresp()
        if self._probes and self._probes.popleft():
            self._events.confirmed()
        return rc

    def loop_misc(self) -> MQTTErrorCode:
        """While we do not read, silence says nothing about the broker."""
        if self.is_paused:
            self._ping_t = 0.0
            self._last_bytes_received = clock.monotonic()
        return super().loop_misc()

    # --- opening, writing, closing

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        """As paho does it, but nothing stays open when the handshake fails."""
        if self._ssl_context is None:
            raise ValueError("TLS without a context")
        sock = self._ssl_context.wrap_socket(tcp_sock, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            sock.settimeout(self._connect_timeout)
            sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return sock

    def _sock_send(self, buf: bytes | bytearray) -> int:
        allowed = max(self.valve.take(len(buf)), self._refused)  # TLS takes no shorter piece after a refusal
        if not allowed:
            raise BlockingIOError
        try:
            written = super()._sock_send(buf if allowed >= len(buf) else bytes(buf[:allowed]))
        except BlockingIOError:
            self._refused = allowed
            raise
        self._refused = 0
        self._bytes_written += written
        self.valve.wrote(written)
        return written

    def _trip_seconds(self) -> float:
        return 0.0 if self._sock is None else self._trips.seconds(cast(socket.socket, self._sock))

    def bytes_given(self) -> int:
        """How much there is to write over this connection, from its beginning to now."""
        return self._bytes_written + sum(packet["to_process"] for packet in self._out_packet)

    def bytes_gone(self) -> int:
        """How much the other end has taken of what we wrote over this connection."""
        if self._sock is None:
            return self._bytes_written
        waiting = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return self._bytes_written - int.from_bytes(waiting, sys.byteorder)

    def acknowledge(self, acks: Iterable[tuple[int, int]]) -> None:
        """(QoS, packet id) of each message that is safe now: all in one write, in this order."""
        packets = b"".join(struct.pack("!BBH", _PUBACK if qos == 1 else _PUBREC, 2, mid) for qos, mid in acks)
        self._packet_queue(_PUBACK, packets, 0, 1)

    def abandon(self) -> None:
        """Close the socket, at once and without a word."""
        self._sock_close()

    def next_probe_fits(self) -> bool:
        return self._sock is not None and True not in self._probes
