"""`[broker.NAME]`: a broker and how to log in there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from relayd import addressguard
from relayd.fields import Duration, Secret, Section, Size, written


class BrokerConfig(Section):
    """A broker, and how to log in there."""

    url: Annotated[str, Field(examples=["mqtts://fleet.example.org:8883"])]
    """`mqtts://HOST:PORT`, or `mqtt://HOST:PORT` without encryption."""
    username: Annotated[str | None, Field(examples=["amb-0417"])] = None
    """Absent: no login."""
    password: Secret | None = None
    """Where the password is."""
    client_id: Annotated[str | None, Field(min_length=1, max_length=128, examples=["relayd-amb-0417"])] = None
    """Stays the same for ever, or the broker forgets what it keeps for this relay; absent: from the device id."""
    ca_file: Annotated[Path | None, Field(examples=["/etc/relayd/fleet-ca.pem"])] = None
    """PEM file with the certificate authorities to trust instead of the system's."""
    cert_file: Annotated[Path | None, Field(examples=["/etc/relayd/amb-0417.pem"])] = None
    """PEM file with this relay's own certificate, for brokers that ask for one."""
    key_file: Annotated[Path | None, Field(examples=["/etc/relayd/amb-0417.key"])] = None
    """PEM file with its key."""
    allow_plain_login: bool = False
    """Send the password unencrypted to a broker that is not this machine. Only for closed networks."""
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    """Version of MQTT; `auto` tries 5 first."""
    keepalive: Duration = written("30s", ge=5, le=3600)
    """A silent connection is probed this often."""
    connect_timeout: Duration = written("10s", gt=0)
    """Longest wait for a connection."""
    session_expiry: Duration = written("7d", ge=0)
    """How long the broker keeps messages for this relay while it is away."""
    receive_maximum: Annotated[int, Field(ge=1, le=65_535)] = 500
    """How many messages may be under way before one is acknowledged."""
    max_waiting: Size = written("16MB", gt=0)
    """Reading stops while more than this has come and is not stored yet, whatever the broker sends."""
    max_packet: Size = written("1MB", gt=0)
    """Larger packets are not taken, nor sent."""

    @property
    def host(self) -> str:
        return str(urlsplit(self.url).hostname)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (8883 if self.is_encrypted else 1883)

    @property
    def is_encrypted(self) -> bool:
        return urlsplit(self.url).scheme == "mqtts"

    @field_validator("url")
    @classmethod
    def _is_broker_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError('not the address of a broker, write for example "mqtts://broker.example.org:8883"')
        if parts.username is not None or parts.password is not None:
            raise ValueError("an address never carries a user name or password, write username and password instead")
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("the port is no number from 0 to 65535") from None
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> BrokerConfig:
        parts = urlsplit(self.url)
        if self.password is not None and self.username is None:
            raise ValueError("there is a password but no username, write both")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together, write both")
        is_open = parts.scheme == "mqtt" and not addressguard.is_loopback(str(parts.hostname))
        if is_open and self.password is not None and not self.allow_plain_login:
            raise ValueError("the password would travel unencrypted: write mqtts://, or set allow_plain_login = true")
        return self
