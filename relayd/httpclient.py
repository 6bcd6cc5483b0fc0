"""HTTP as relayd speaks it: one small client per destination, and every way a call can fail sorted once, here.

Promises: nothing waits without a limit and nothing is read without one; a slow upload lives as long as bytes flow. No
redirect is followed, no cookie kept, no environment variable looked at, no compressed answer expanded past its limit.
Errors name host and path, never a query string, a header or a body that carries a secret.

How a failed call is sorted:
* nobody there (DNS, refused, no route, TLS, no connection in time): Unavailable, the destination pauses;
* the connection broke or stood still after the request was on its way (the answer may be lost): TryAgain, this
  delivery backs off alone, so that one poisonous upload cannot pause the rest; five in a row pause the destination all
  the same;
* 408 425 429 502 503 504 and their kin, a captive portal (511, a redirect, HTML where JSON was promised): Unavailable;
* 500 and other 5xx, an answer that is too large, broken or no JSON: TryAgain;
* any other 4xx is the adapter's to judge (`refusal` puts it into words).
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from relayd import addressguard, clock
from relayd.errors import TryAgain, Unavailable
from relayd.fields import Duration, Section, Size, written
from relayd.model import JSON

if TYPE_CHECKING:
    from yarl import URL

    from relayd.httpwire import Wire

LONGEST_RETRY_AFTER_SECONDS = 86400.0
_UNAVAILABLE = frozenset({407, 408, 425, 429, 502, 503, 504, 507, 509, 511, *range(520, 531)})
_TOKENLIKE = re.compile(r"[A-Za-z0-9+/_=.~%-]{24,}")
_HTML = re.compile(rb"\s*(?:<!doctype\s+html|<html|<head|<body|<meta|<script)", re.IGNORECASE)
_MESSAGE_KEYS = ("message", "error_description", "faultstring", "Error", "error", "fault", "errors", "title")


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
        if parts.scheme == "http" and not (self.allow_plain_http or addressguard.is_loopback(str(parts.hostname))):
            raise ValueError("url is http: write https, or set allow_plain_http = true if the network is closed")
        return self


class Body(Protocol):
    """A request body of known length whose chunks can be asked for again. Chunks are never changed once handed out."""

    length: int

    def chunks(self) -> Iterable[bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said. `headers` are looked up without regard to case; `body` is whole, unless `status` is 4xx or
    5xx and the server hung up early. `where` is host and path of the request.

    `is_early`: it came before the request was sent completely, so it cannot acknowledge the request.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    where: str
    is_early: bool

    @property
    def is_html(self) -> bool:
        """Whether this is a page for people, where an API speaks to programs."""
        return self.headers.get("Content-Type", "").lower().startswith("text/html") or bool(_HTML.match(self.body))

    @property
    def is_about_the_request(self) -> bool:
        """Whether this is a 4xx that the same request will meet again."""
        return 400 <= self.status < 500 and self.status not in _UNAVAILABLE

    def json(self) -> JSON:
        """The body as JSON. Raises Unavailable for a page (a captive portal), TryAgain for anything else."""
        try:
            parsed: JSON = json.loads(self.body.decode("utf-8-sig"), parse_constant=_no_number)
        except (ValueError, RecursionError):
            if self.is_html:
                raise Unavailable(f"{self.where} answered with a web page: a captive portal, or url is wrong") from None
            raise TryAgain(f"{self.where} answered {self.status} with something that is no JSON") from None
        return parsed

    def texts(self) -> list[str]:
        """Every text in a body of unknown shape, those named uri or url first; the body itself if it is no JSON."""
        text = self.body.decode("utf-8", "replace")
        try:
            return _texts(json.loads(text))
        except (ValueError, RecursionError):
            return [text]

    def raise_for_outage(self) -> None:
        """Raise Unavailable or TryAgain for a status that says nothing about the request itself."""
        status = self.status
        if status in _UNAVAILABLE:
            reason = "the network asks for a login: a captive portal" if status == 511 else f"answers {status}"
            raise Unavailable(f"{self.where}: {reason}{self._said()}", retry_after_seconds=self.retry_after_seconds())
        if 300 <= status < 400:
            raise Unavailable(f"{self.where} redirects elsewhere ({status}): a captive portal, or url is wrong")
        if status >= 500 or status < 200:
            raise TryAgain(f"{self.where} answered {status}{self._said()}")
        if status < 300 and self.is_early:
            raise TryAgain(f"{self.where} answered {status} before it had the whole request")

    def refusal(self) -> str:
        """A 4xx in words: host, path, status and what the server says, without anything that looks like a secret."""
        return f"{self.where} refuses with {self.status}{self._said()}"

    def retry_after_seconds(self) -> float | None:
        """What the server asks for, between 0 and a day; None if it asks for nothing readable."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return min(float(text[:12]), LONGEST_RETRY_AFTER_SECONDS)
        until = parse_date(text)
        if until is None:
            return None
        now = parse_date(self.headers.get("Date", ""))
        return min(max(until - (clock.now() if now is None else now), 0.0), LONGEST_RETRY_AFTER_SECONDS)

    def _said(self) -> str:
        text = "" if self.is_html else _message(self.body)
        return f": {text}" if text else ""


class HttpClient:
    """Calls to one API. Connections are made at the first call and kept for the next; `close` ends them."""

    def __init__(self, config: HttpConfig, *, guard: addressguard.AddressGuard | None = None) -> None:
        """With `guard`, connections go only to the addresses that it lets through."""
        self.config = config
        self._guard = guard
        self._wire: Wire | None = None
        self._skew: tuple[float, float] | None = None

    def url(self, path: str) -> URL:
        """An address of this API: the configured base plus `path`, which is already percent-encoded."""
        return addressguard.parse_url(self.config.url + path)

    async def send(
        self, method: str, url: URL, *, headers: Mapping[str, str] | None = None, body: bytes | Body = b""
    ) -> Answer:
        """One exchange; any status is returned. Only for requests that may be repeated: if a kept connection turns out
        to be dead, the request is sent once more on a fresh one. Raises Unavailable or TryAgain."""
        if self._wire is None:
            from relayd.httpwire import Wire  # aiohttp is 14 MB and 0.1 s, which only those pay who send

            self._wire = Wire(self.config, self._guard)
        answer = await self._wire.exchange(method, url, headers or {}, body)
        date = parse_date(answer.headers.get("Date", ""))
        if date is not None:
            self._skew = (date, clock.monotonic())
        return answer

    def server_now(self) -> float | None:
        """Unix seconds by the server's clock, as its last answer told; None before the first. Good to a few seconds."""
        if self._skew is None:
            return None
        date, at = self._skew
        return date + clock.monotonic() - at

    async def close(self) -> None:
        """End every connection."""
        if self._wire is not None:
            await self._wire.close()
            self._wire = None


def parse_date(text: str) -> float | None:
    """Unix seconds of an HTTP date; None if it is none."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if 20 <= len(text) <= 40 else None
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def scrubbed(text: str, limit: int = 200) -> str:
    """A stranger's text for a reason: one line, printable ASCII, bounded, nothing that may be a secret."""
    line = " ".join(text[: 4 * limit].split())
    return _TOKENLIKE.sub("…", line.encode("ascii", "backslashreplace").decode())[:limit]


def _message(body: bytes) -> str:
    """The first sentence that an error body has, whatever its shape."""
    try:
        found: JSON = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return ""
    for _ in range(4):
        if isinstance(found, list):
            found = found[0] if found else None
        elif isinstance(found, dict):
            found = next((found[key] for key in _MESSAGE_KEYS if found.get(key)), None)
    return scrubbed(found) if isinstance(found, str) else ""


def _texts(found: JSON) -> list[str]:
    if isinstance(found, str):
        return [found]
    if isinstance(found, dict):
        usual = [found[key] for key in ("uri", "url") if key in found]
        return [text for value in (*usual, *found.values()) for text in _texts(value)]
    return [text for value in found for text in _texts(value)] if isinstance(found, list) else []


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
