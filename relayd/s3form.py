"""Presigned form uploads (S3 POST Object): the slot a server gives, the body that is sent, the answer that proves it.

Promises: the fields go out unchanged and in the order received, the file last, with an exact length; nothing about them
is assumed but that they are text. A policy that can be read is believed before a byte is sent. What storage answers is
judged by its XML code, and only what it must say counts as stored.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.etree import ElementTree

from relayd.errors import DeliveryError, Rejected, Rewind, TryAgain, Unavailable
from relayd.httpanswer import Answer, scrubbed

CHUNK_BYTES = 131_072
"""One read of the file. Against 64 KiB it saves a tenth of the processor time over TLS; larger reads gain nothing."""
ONE_BODY_LIMIT_BYTES = 1024 * 1024
"""Up to here the whole request is one bytes object; above it is read in chunks."""
LARGEST_FILE_BYTES = 5 * 1024**3
LARGEST_PREAMBLE_BYTES = 20 * 1024
"""Everything in the form but the content of the file."""
LARGEST_XML_BYTES = 65536

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CODE = re.compile(r"[A-Za-z0-9]{1,64}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_SUCCESS = frozenset({200, 201, 204, 303})

# What each XML code asks for; AWS S3 API reference, "List of error codes" and the best practices beside it.
_AGAIN = frozenset({"RequestTimeout", "IncompleteBody", "BadDigest", "OperationAborted", "InternalError"})
_SLOWER = frozenset({"SlowDown", "ServiceUnavailable"})
_SLOT_OVER = frozenset({"ExpiredToken", "InvalidToken"})
_FOR_GOOD = frozenset(
    {
        "EntityTooLarge",
        "EntityTooSmall",
        "MissingContentLength",
        "MalformedPOSTRequest",
        "InvalidArgument",
        "IncorrectNumberOfFilesInPostRequest",
        "InvalidPolicyDocument",
        "MaxPostPreDataLengthExceededError",
        "UserKeyMustBeSpecified",
    }
)
_FOR_GOOD_BY_STATUS = frozenset({411, 413, 501})
_SLOT_REFUSED_BY_STATUS = frozenset({404, 405, 410, 412})


class SlotRefused(DeliveryError):
    """This slot is no good, though it has not expired (its form, signature, bucket or key): a new one, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a policy document says, as far as a client needs it. Unix seconds and bytes; None where it says nothing."""

    expires_at: float | None = None
    smallest_bytes: int = 0
    largest_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One upload: the server's fields, then the file under `file_name` with `content_type` and `size_bytes`.

    `part` is what the part with the file is called.
    """

    fields: Sequence[tuple[str, str]]
    file_name: str
    content_type: str
    size_bytes: int
    part: str = "file"
    boundary: str = field(default_factory=lambda: f"relayd-{secrets.token_hex(16)}")

    @property
    def header(self) -> str:
        """The request's own Content-Type."""
        return f"multipart/form-data; boundary={self.boundary}"

    def head(self) -> bytes:
        """Everything before the content of the file."""
        parts = [
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
            for name, value in self.fields
        ]
        parts.append(
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{self.part}";'
            f' filename="{_quoted(self.file_name)}"'
            f"\r\nContent-Type: {self.content_type}\r\n\r\n"
        )
        return "".join(parts).encode()

    def tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()

    def body(self, media: BinaryIO) -> bytes | FileBody:
        """The request body: one bytes object when small, else chunks read from `media` as they are sent."""
        whole = FileBody(self.head(), media, self.size_bytes, self.tail())
        return b"".join(whole.chunks()) if whole.length <= ONE_BODY_LIMIT_BYTES else whole


class FileBody:
    """Head, exactly `size_bytes` of `media` from its start, tail; may be asked for its chunks again."""

    def __init__(self, head: bytes, media: BinaryIO, size_bytes: int, tail: bytes) -> None:
        self._head = head
        self._media = media
        self._size_bytes = size_bytes
        self._tail = tail
        self.length = len(head) + size_bytes + len(tail)

    def chunks(self) -> Iterator[bytes]:
        """Fresh objects of up to CHUNK_BYTES. Raises Rejected if the file is shorter than it was."""
        yield self._head
        self._media.seek(0)
        left = self._size_bytes
        while left:
            chunk = self._media.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise Rejected("the spooled file is shorter than when it was accepted: run `relayd spool check`")
            left -= len(chunk)
            yield chunk
        yield self._tail


def read_fields(found: object) -> list[tuple[str, str]]:
    """The `fields` of a slot in the order received. Raises SlotRefused for what no form could carry."""
    if not isinstance(found, Mapping) or not found:
        raise SlotRefused("the upload slot has no form fields")
    fields: list[tuple[str, str]] = []
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise SlotRefused(f"form field {scrubbed(name)!r} of the upload slot is no text")
        text = str(value)
        if not name or _CONTROL.search(name) or _CONTROL.search(text) or not _is_unicode(name + text):
            raise SlotRefused(f"form field {scrubbed(name)!r} of the upload slot has control characters")
        if name.lower() == "file":
            raise SlotRefused("the upload slot has a form field named file")
        fields.append((name, text))
    return fields


def read_policy(fields: Sequence[tuple[str, str]]) -> Policy:
    """The policy of a slot. One that cannot be read says nothing: storage will judge."""
    encoded = next((value for name, value in fields if name.lower() == "policy"), "")
    try:
        document = json.loads(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (ValueError, RecursionError):
        return Policy()
    if not isinstance(document, dict):
        return Policy()
    smallest, largest = 0, None
    conditions = document.get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        limits = _length_range(condition)
        if limits is not None:
            smallest = max(smallest, limits[0])
            largest = limits[1] if largest is None else min(largest, limits[1])
    expires_at = _moment(document.get("expiration"))
    return Policy(expires_at=expires_at, smallest_bytes=smallest, largest_bytes=largest)


def check_size(form: Form, policy: Policy) -> None:
    """Raise Rejected for a file that storage would refuse for its size."""
    size = form.size_bytes
    if size < policy.smallest_bytes or (policy.largest_bytes is not None and size > policy.largest_bytes):
        raise Rejected(
            f"the upload slot takes {policy.smallest_bytes} to {policy.largest_bytes} bytes and the file has {size}"
        )
    if size > LARGEST_FILE_BYTES:
        raise Rejected(f"{size} bytes are more than the {LARGEST_FILE_BYTES} that one form upload can carry")
    preamble = len(form.head()) + len(form.tail())
    if preamble > LARGEST_PREAMBLE_BYTES:
        raise Rejected(f"the form fields of the upload slot take {preamble} of at most {LARGEST_PREAMBLE_BYTES} bytes")


def judge(answer: Answer, fields: Sequence[tuple[str, str]], slot_step: str) -> str:
    """The ETag of what was stored ("" if storage gave none). Raises what the answer asks for: Rewind(`slot_step`),
    SlotRefused, Rejected, TryAgain, Unavailable."""
    if answer.status in _SUCCESS:
        return _etag_of_success(answer, fields)
    code, message = _read_error(answer)
    said = f"{answer.where}: {code or answer.status}{': ' if message else ''}{message}"
    if code == "AccessDenied" and "expired" in message.lower():
        raise Rewind(slot_step, f"the upload slot has expired ({said})")
    if code in _SLOT_OVER:
        raise Rewind(slot_step, f"the upload slot is over ({said})")
    if code == "AccessDenied" and re.search(r"policy condition|extra input fields", message, re.IGNORECASE):
        raise Rejected(f"storage refuses the form ({said})")
    if code in _FOR_GOOD or (not code and answer.status in _FOR_GOOD_BY_STATUS):
        raise Rejected(f"storage refuses the file ({said})")
    if code in _SLOWER:
        raise Unavailable(f"storage is overloaded ({said})", retry_after_seconds=answer.retry_after_seconds())
    if code in _AGAIN:
        raise TryAgain(f"storage did not store it ({said})")
    answer.raise_for_outage()
    if code or answer.status in _SLOT_REFUSED_BY_STATUS:
        raise SlotRefused(f"storage refuses the upload slot ({said})")
    if answer.is_html:
        raise Unavailable(f"{answer.where} answered {answer.status} with a web page: a captive portal or a proxy")
    raise TryAgain(f"storage answered without a reason ({said})")


def compared_md5(answer: Answer, etag: str, fields: Sequence[tuple[str, str]]) -> str | None:
    """The MD5 that `etag` is, or None where it is something else: several parts, or encrypted with keys of its own."""
    names = {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-customer-algorithm": ""}
    sent = {name.lower(): value for name, value in fields}
    for name, prefix in names.items():
        for value in (answer.headers.get(name), sent.get(name)):
            if value is not None and value.lower().startswith(prefix):
                return None
    value = etag.strip().removeprefix("W/").strip('"').lower()
    return value if _MD5.fullmatch(value) else None


def _etag_of_success(answer: Answer, fields: Sequence[tuple[str, str]]) -> str:
    if answer.is_early:
        raise TryAgain(f"{answer.where} answered {answer.status} before it had the whole file")
    if answer.status == 303:
        target = next((value for name, value in fields if name.lower() in ("success_action_redirect", "redirect")), "")
        location = answer.headers.get("Location", "")
        if not target or not location.startswith(target):
            raise Unavailable(f"{answer.where} redirects elsewhere (303): a captive portal?")
        found = re.search(r"[?&]etag=(?:%22|\")?([0-9A-Fa-f-]+)", location)
        return answer.headers.get("ETag", found[1] if found else "")
    if answer.is_html:
        raise Unavailable(f"{answer.where} answered {answer.status} with a web page: a captive portal")
    root = _parsed(answer.body)
    if root is not None and _tag(root) == "Error":  # late failures come inside a 200
        raise TryAgain(f"{answer.where} answered {answer.status} with an error inside")
    if root is not None and _tag(root) == "PostResponse":
        return answer.headers.get("ETag", _child(root, "ETag"))
    etag = answer.headers.get("ETag", "")
    was_asked_for = any(name.lower() == "success_action_status" and value == "200" for name, value in fields)
    if answer.body.strip() or (answer.status != 204 and not etag and not was_asked_for):
        raise Unavailable(f"{answer.where} answered {answer.status} as storage never does: a captive portal?")
    return etag


def _read_error(answer: Answer) -> tuple[str, str]:
    """Code and message of an XML error, scrubbed; empty if the body is none."""
    root = _parsed(answer.body)
    if root is None or _tag(root) != "Error":
        return "", ""
    code = _child(root, "Code")
    return code if _CODE.fullmatch(code) else "", scrubbed(_child(root, "Message"))


def _parsed(body: bytes) -> ElementTree.Element | None:
    """Small, plain UTF-8 XML; no document type, so no entities of its own."""
    if len(body) > LARGEST_XML_BYTES or b"<!DOCTYPE" in body.upper():
        return None
    try:
        return ElementTree.fromstring(body.decode("utf-8-sig").strip())  # noqa: S314 - bounded, no document type
    except (ElementTree.ParseError, UnicodeDecodeError, ValueError):
        return None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _child(root: ElementTree.Element, name: str) -> str:
    return next((element.text or "" for element in root if _tag(element) == name), "").strip()


def _quoted(text: str) -> str:
    """As browsers and curl write names in a form."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _length_range(condition: object) -> tuple[int, int] | None:
    if not isinstance(condition, list) or len(condition) != 3 or condition[0] != "content-length-range":
        return None
    try:
        return int(condition[1]), int(condition[2])
    except (TypeError, ValueError, OverflowError):
        return None


def _moment(text: object) -> float | None:
    """`2026-01-01T00:00:00.000Z` → Unix seconds."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None
