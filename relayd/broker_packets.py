"""A message as it comes over the wire: the one MQTT packet that relayd reads by itself.

Promises: whatever the bytes, the outcome is a `Message` or `Malformed`; a topic that is no UTF-8 is shown escaped.
"""

from __future__ import annotations

from dataclasses import dataclass


class Malformed(Exception):
    """These bytes are no MQTT packet."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as the broker sent it. `mid` (packet id) is 0 for QoS 0. `is_redelivery`: the broker says that it has
    sent it before. `subscriptions` are identifiers of the subscriptions it comes by, where the broker tells."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    is_retained: bool
    is_redelivery: bool
    content_type: str | None = None
    subscriptions: tuple[int, ...] = ()


def length_of(data: bytearray | bytes, at: int) -> tuple[int, int]:
    """A number of variable length at `at`, and where it ends; the end is -1 if not all of it is there."""
    value, shift = 0, 0
    for place in range(at, min(at + 4, len(data))):
        value |= (data[place] & 0x7F) << shift
        if not data[place] & 0x80:
            return value, place + 1
        shift += 7
    if len(data) - at >= 4:
        raise Malformed
    return 0, -1


def publish_of(command: int, packet: bytes, *, has_properties: bool) -> Message:
    """The message in a PUBLISH packet. Raises Malformed."""
    qos = (command >> 1) & 3
    body = 2 + int.from_bytes(packet[:2], "big")
    end = body + (2 if qos else 0)
    if qos == 3 or len(packet) < end:
        raise Malformed
    mid = int.from_bytes(packet[body:end], "big")
    content_type: str | None = None
    subscriptions: tuple[int, ...] = ()
    if has_properties:
        size, start = length_of(packet, end)
        end = start + size
        if start < 0 or end > len(packet):
            raise Malformed
        if size:
            content_type, subscriptions = _properties(packet[start:end])
    return Message(
        packet[2:body].decode("utf-8", "backslashreplace"),
        packet[end:],
        qos,
        mid,
        bool(command & 1),
        bool(command & 8),
        content_type,
        subscriptions,
    )


_FIXED = {0x01: 1, 0x02: 4, 0x23: 2}
_TEXTS = {0x03: 1, 0x08: 1, 0x09: 1, 0x26: 2}
_CONTENT_TYPE, _SUBSCRIPTION = 0x03, 0x0B


def _properties(data: bytes) -> tuple[str | None, tuple[int, ...]]:
    content_type: str | None = None
    subscriptions: list[int] = []
    at = 0
    while at < len(data):
        kind, at = data[at], at + 1
        if kind == _SUBSCRIPTION:
            identifier, at = length_of(data, at)
            if at < 0:
                raise Malformed
            subscriptions.append(identifier)
        elif kind in _FIXED:
            at += _FIXED[kind]
        elif kind in _TEXTS:
            for _ in range(_TEXTS[kind]):
                size = int.from_bytes(data[at : at + 2], "big")
                if kind == _CONTENT_TYPE:
                    content_type = data[at + 2 : at + 2 + size].decode("utf-8", "replace")
                at += 2 + size
        else:
            raise Malformed
    return content_type, tuple(subscriptions)
