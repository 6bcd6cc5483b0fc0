"""AVI, WAV and WebP: RIFF says how long it is; and Matroska and WebM, whose elements do.

Promises: returns what is missing, in words, or None. A length that was never filled in, since the writer could not go
back, tells nothing.
"""

from __future__ import annotations

from relayd.mediaformats.content import Content, missing
from relayd.mediaformats.hollow import zeros_from

_NEVER_FILLED_IN = (0, 0xFFFFFFFF)
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_WITHOUT_LENGTH = -1


def riff(content: Content) -> str | None:
    """The length of each RIFF part: an AVI of more than a gigabyte has several."""
    if content.size < 12:
        return "in its header"
    at = 0
    while at + 12 <= content.size:
        header = content.read(at, 12)
        if header[:4] not in (b"RIFF", b"RF64", b"BW64") or (at and header[8:] != b"AVIX"):
            return None
        length = int.from_bytes(header[4:8], "little")
        if header[:4] != b"RIFF" and content.read(12, 4) == b"ds64":
            length = int.from_bytes(content.read(20, 8), "little")
        if length in _NEVER_FILLED_IN:
            return None
        if at + 8 + length > content.size:
            return f"{missing(content, at + 8 + length)} its length says"
        if at == 0 and (hole := _riff_hole(content, 8 + length)):
            return hole
        at += 8 + length + length % 2
    return None


def _riff_hole(content: Content, end: int) -> str | None:
    """Zeros where the next chunk should begin: the file was made as long as it would be, and never filled."""
    at = 12
    while at + 8 <= end:
        header = content.read(at, 8)
        if header == bytes(8):
            return zeros_from(content, at)
        length = int.from_bytes(header[4:], "little")
        at += 8 + length + length % 2
    return None


def matroska(content: Content) -> str | None:
    """Every element as long as it says; a live recording knows neither the length of its segment nor of a cluster."""
    at, is_inside, segment_end = 0, False, content.size
    while at < segment_end:
        header = content.read(at, 12)
        name, name_bytes = _vint(header, 0, keeps_marker=True)
        length, length_bytes = _vint(header, name_bytes, keeps_marker=False)
        if header[:1] == b"\0":
            return zeros_from(content, at)
        if not name_bytes or not length_bytes:
            return "in the middle of an element" if content.size - at < 12 and name_bytes and is_inside else None
        body = at + name_bytes + length_bytes
        if name not in (_EBML, _SEGMENT) and not is_inside:
            return None
        if length != _WITHOUT_LENGTH and body + length > content.size:
            return f"{missing(content, body + length)} its elements do"
        if name == _SEGMENT:
            is_inside, segment_end = True, content.size if length == _WITHOUT_LENGTH else body + length
        if name == _SEGMENT or (name == _CLUSTER and length == _WITHOUT_LENGTH):
            at = body
        elif length == _WITHOUT_LENGTH:
            return None
        else:
            at = body + length
    return None if is_inside else "in its header"


def _vint(text: bytes, at: int, *, keeps_marker: bool) -> tuple[int, int]:
    """(value, bytes) of a number whose first bit that is set says how long it is; (0, 0) if there is none."""
    first = text[at] if at < len(text) else 0
    width = 9 - first.bit_length() if first else 0
    most = 4 if keeps_marker else 8
    if not width or width > most or at + width > len(text):
        return 0, 0
    value = int.from_bytes(text[at : at + width], "big")
    if keeps_marker:
        return value, width
    value &= (1 << 7 * width) - 1
    return (_WITHOUT_LENGTH if value == (1 << 7 * width) - 1 else value), width
