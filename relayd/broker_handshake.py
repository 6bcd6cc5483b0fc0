"""What is said when a connection to a broker begins, to paho and by it."""

from __future__ import annotations

from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from relayd.broker_settings import Settings, Welcome, Will

OUTGOING = 20
"""Messages under way to the broker at once; what every broker takes unless it says less."""


def will_of(will: Will | None) -> aiomqtt.Will | None:
    return None if will is None else aiomqtt.Will(will.topic, will.payload, will.qos, will.retain)


def connect_properties(settings: Settings) -> Properties | None:
    """What version 5 adds to CONNECT; None for 3.1.1."""
    if not settings.is_version_5:
        return None
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = settings.session_expiry_seconds if settings.keeps_session else 0
    properties.ReceiveMaximum = settings.receive_maximum
    properties.MaximumPacketSize = settings.max_packet_bytes
    return properties


def welcome_of(settings: Settings, *, is_session_present: bool, properties: Properties | None) -> Welcome:
    """What CONNACK says; where it is silent, what the standard says then."""

    def told(name: str, otherwise: Any) -> Any:
        return getattr(properties, name, otherwise)

    return Welcome(
        is_session_present=is_session_present,
        max_packet_bytes=told("MaximumPacketSize", None),
        max_qos=told("MaximumQoS", 2),
        can_retain=bool(told("RetainAvailable", 1)),
        has_identifiers=settings.is_version_5 and bool(told("SubscriptionIdentifierAvailable", 1)),
        outgoing=min(OUTGOING, told("ReceiveMaximum", OUTGOING)),
    )
