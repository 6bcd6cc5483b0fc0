"""What a connection to a broker needs, and what comes of asking for it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


class ConnectionLost(Exception):
    """The connection ended or never came about. `code` is the broker's own reason, if it gave one; `is_tls`: it was the
    broker's end of TLS that refused."""

    def __init__(self, text: str, *, code: int | None = None, is_tls: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.is_tls = is_tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the broker publishes for us when the connection breaks."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that one attempt to connect needs."""

    host: str
    port: int
    client_id: str
    is_version_5: bool
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None
    will: Will | None = None
    keepalive_seconds: int = 30
    timeout_seconds: float = 10.0
    keeps_session: bool = True
    session_expiry_seconds: int = 0
    receive_maximum: int = 500
    max_packet_bytes: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the broker said when it took the connection."""

    is_session_present: bool
    max_packet_bytes: int | None
    max_qos: int
    can_retain: bool
    has_identifiers: bool
    outgoing: int
