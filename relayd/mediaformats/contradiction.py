"""A name that says one thing and a content that says another: the answer of a server, saved as a picture.

Promises: pure; values in, values out.
"""

from __future__ import annotations

import re

from relayd.files import printable

_MARKUP = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|[a-z][a-z0-9:]*[\s>])", re.IGNORECASE)
_JSON = re.compile(rb"\s*[{\[]\s*[\"\]}{\[]")
_STATUS = re.compile(rb"\s*(HTTP/\d|(status:?\s*)?[3-5]\d\d\b)", re.IGNORECASE)
_REFUSAL = re.compile(
    rb"error|unauthori[sz]ed|forbidden|not found|denied|refused|invalid|unavailable|timed? ?out|failed|bad request"
    rb"|gateway|login|moved|too many",
    re.IGNORECASE,
)
_SHOWN_CHARACTERS = 60


def text_type(head: bytes) -> str | None:
    """The MIME type of what is plainly text; None if it is not."""
    body = head.removeprefix(b"\xef\xbb\xbf")
    if not body.strip() or re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", body):
        return None
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(body) - 4 or len(head) < 4096:
            return None
    if _MARKUP.match(body):
        return "application/xml" if body.lstrip().startswith(b"<?xml") else "text/html"
    return "application/json" if _JSON.match(body) else "text/plain"


def is_answer(head: bytes, media_type: str) -> bool:
    """Whether this text is what a server says instead of giving a file."""
    return media_type != "text/plain" or _STATUS.match(head) is not None or _REFUSAL.search(head[:512]) is not None


def begins(head: bytes) -> str:
    """The first line of it, for people."""
    line = head.decode("utf-8", "replace").removeprefix("\ufeff").strip().partition("\n")[0].strip()
    short = line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "…"
    return printable(short)
