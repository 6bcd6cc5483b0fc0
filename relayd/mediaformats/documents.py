"""PDF and ZIP: what ends them.

Promises: returns what is missing, in words, or None.
"""

from __future__ import annotations

from relayd.mediaformats.content import Content

_PDF_TAIL = 1024
_PADDED_TAIL = 64 * 1024
_ZIP_TAIL = 22 + 65_535


def pdf(content: Content) -> str | None:
    """The end mark in its last kilobyte, padding aside: one further up belongs to an older version inside it."""
    tail = content.tail(_PADDED_TAIL).rstrip(b"\0\r\n\t ")
    return None if b"%%EOF" in tail[-_PDF_TAIL:] else "no %%EOF at its end"


def zipped(content: Content) -> str | None:
    """The record at the end of its directory, which a comment may follow."""
    return None if b"PK\x05\x06" in content.tail(_ZIP_TAIL) else "no directory at its end"
