"""Which media types RapidSOS lists, and what becomes of others."""

from __future__ import annotations

import re

_ALLOWED_TYPE = re.compile(
    r"application/(?:pdf|msword|rtf|octet-stream)|text/(?:markdown|rtf|plain)|(?:video|audio|image)/[a-z0-9][a-z0-9.+-]*"
)
_KNOWN_AS = {
    "application/x-pdf": "application/pdf",
    "application/x-rtf": "application/rtf",
    "application/mp4": "video/mp4",
    "application/x-matroska": "video/x-matroska",
    "application/ogg": "audio/ogg",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "text/x-markdown": "text/markdown",
    "text/richtext": "text/rtf",
    "text/csv": "text/plain",
    "text/x-log": "text/plain",
}


def media_type(content_type: str) -> str:
    """The nearest type on RapidSOS's closed list, lower case and without parameters."""
    plain = content_type.partition(";")[0].strip().lower()
    plain = _KNOWN_AS.get(plain, plain)
    return plain if _ALLOWED_TYPE.fullmatch(plain) else "application/octet-stream"
