"""What the section of every destination that is an HTTP API has in common.

Promises: credentials leave this machine unencrypted only where the configuration says so in so many words.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from relayd.addressguard import is_loopback
from relayd.fields import Duration, Section, Size, written


class HttpConfig(Section):
    """What every destination that is an HTTP API has."""

    url: str
    """Base address of the API; https, or http to this machine itself."""
    ca_file: Path | None = None
    """PEM file with the certificate authorities to trust instead of the system's."""
    allow_plain_http: bool = False
    """Send credentials and media unencrypted to an http address that is not this machine. Only for closed networks."""
    connect_timeout: Duration = written("10s", gt=0)
    """Longest wait for a connection: name, TCP and TLS together."""
    stall_timeout: Duration = written("60s", gt=0)
    """A transfer ends when not one byte has moved for this long; there is no limit on a slow one that moves."""
    answer_timeout: Duration = written("60s", gt=0)
    """Longest wait for an answer once the request is sent, and again for the whole of its body."""
    max_answer: Size = written("1MB", gt=0)
    """Longest answer that is read."""

    @field_validator("url")
    @classmethod
    def _is_base_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or not value.isascii():
            raise ValueError('not a web address, write for example "https://api.example.org"')
        if parts.username is not None or parts.password is not None:
            raise ValueError("an address never carries a user name or password, there are options for them")
        if parts.query or parts.fragment or re.search(r"[\x00-\x20\x7f\\]", value):
            raise ValueError("a base address has no blanks, and no ? or # part")
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("the port is no number from 0 to 65535") from None
        return value.rstrip("/")

    @model_validator(mode="after")
    def _is_encrypted(self) -> HttpConfig:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not (self.allow_plain_http or is_loopback(str(parts.hostname))):
            raise ValueError("url is http: write https, or set allow_plain_http = true if the network is closed")
        return self
