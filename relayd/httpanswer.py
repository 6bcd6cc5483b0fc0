"""What an HTTP server said, and what it means when it says that it cannot help.

Promises: an answer's own words reach a reason only as one short printable line, without anything that may be a secret.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from relayd import clock
from relayd.errors import TryAgain, Unavailable
from relayd.files import printable
from relayd.model import JSON
from relayd.secrecy import hidden

LONGEST_RETRY_AFTER_SECONDS = 86400.0
_UNAVAILABLE = frozenset({407, 408, 425, 429, 502, 503, 504, 507, 509, 511, *range(520, 531)})
_LONGEST_SECRET = 8192
"""Read beyond the end of what is shown, so that no secret is cut in two there."""
_TOKENLIKE = re.compile(r"[A-Za-z0-9+/_=.~%-]{24,}")
_HTML = re.compile(rb"\s*(?:<!doctype\s+html|<html|<head|<body|<meta|<script)", re.IGNORECASE)
_MESSAGE_KEYS = ("message", "error_description", "faultstring", "Error", "error", "fault", "errors", "title")


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
        if not self.body.strip():
            return False
        return self.headers.get("Content-Type", "").lower().startswith("text/html") or bool(_HTML.match(self.body))

    @property
    def is_own_503(self) -> bool:
        """Whether the API itself says 503; that of a gateway may be about a request that goes on behind it."""
        return self.status == 503 and not self.is_html and bool(self.body.strip())

    @property
    def is_about_the_request(self) -> bool:
        """Whether this is a 4xx that the same request will meet again."""
        return 400 <= self.status < 500 and self.status not in _UNAVAILABLE

    def json(self, *, may_follow_text: bool = False) -> JSON:
        """The body as JSON; with `may_follow_text` also where a server prints warnings before it, on lines of their
        own. Raises Unavailable for a page (a captive portal), TryAgain for anything else."""
        try:
            parsed: JSON = json.loads(self.body.decode("utf-8-sig"), parse_constant=_no_number)
        except (ValueError, RecursionError):
            followed = _after_text(self.body) if may_follow_text else None
            if followed is not None:
                return followed
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
            to = _site(self.headers.get("Location", ""))
            whither = f"to {to}" if to else "elsewhere"
            raise Unavailable(f"{self.where} redirects {whither} ({status}): a captive portal, or url is wrong")
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


def parse_date(text: str) -> float | None:
    """Unix seconds of an HTTP date; None if it is none."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if 20 <= len(text) <= 40 else None
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def scrubbed(text: str, limit: int = 200) -> str:
    """A stranger's text for a reason: one line, printable ASCII, bounded, nothing that may be a secret."""
    known = hidden(text[: 4 * limit + _LONGEST_SECRET])
    line = printable(" ".join(known[: 4 * limit].split()))
    return _TOKENLIKE.sub("…", line.encode("ascii", "backslashreplace").decode())[:limit]


def _site(address: str) -> str:
    """Scheme and host of an address: its path may be a secret. Empty for one that names no host."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return ""
    return printable(f"{parts.scheme}://{host}")[:120] if host and parts.scheme in ("http", "https") else ""


def _after_text(body: bytes) -> JSON:
    """The object or list that the last line ends with; None if there is none."""
    line = body.decode("utf-8", "replace").strip().rpartition("\n")[2]
    start = re.search(r"[{\[]", line)
    try:
        found: JSON = json.loads(line[start.start() :], parse_constant=_no_number) if start else None
    except (ValueError, RecursionError):
        return None
    return found


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
