"""MPEG transport streams, FLV and Ogg: made of packets, each of which says how long it is.

Promises: returns what is missing, in words, or None; only the last packet is looked at where it tells enough.
"""

from __future__ import annotations

from relayd.mediaformats import names
from relayd.mediaformats.content import Content, missing
from relayd.mediaformats.hollow import never_written, zeros_from

_FLV_TAGS = (b"\x08", b"\x09", b"\x12")
_LONGEST_PAGE = 65_307


def transport(content: Content) -> str | None:
    """Whole packets, each of which begins with the sync byte."""
    packet = names.packet_bytes(content.head)
    if not packet:
        return "in its first packet" if content.size < 188 and content.head[:1] == b"\x47" else None
    whole = content.size // packet * packet
    sync_at = whole - 188
    if content.read(sync_at, 1) != b"\x47":
        return never_written(content, 0, content.size)
    if content.size > whole:
        return f"{missing(content, whole + packet)} its last packet does"
    return None


def flv(content: Content) -> str | None:
    """Each tag is followed by its length: that of the last one leads back to its start."""
    if content.size < 13:
        return "in its header"
    if content.size == 13:
        return "it has no tags"
    length = int.from_bytes(content.tail(4), "big")
    start = content.read(content.size - 4 - length, 4)
    is_tag = 11 <= length <= content.size - 13 and start[:1] in _FLV_TAGS
    if is_tag and int.from_bytes(start[1:], "big") == length - 11:
        return None
    return _flv_walk(content)


def _flv_walk(content: Content) -> str | None:
    """From the first tag to the one that is not whole; what is no tag at all is a trailer."""
    at = 13
    while at < content.size:
        tag = content.read(at, 4)
        if tag[:1] not in _FLV_TAGS:
            return zeros_from(content, at)
        end = at + 15 + int.from_bytes(tag[1:], "big")
        if len(tag) < 4 or end > content.size:
            return f"{missing(content, max(end, content.size + 1))} its last tag does"
        at = end
    return None


def ogg(content: Content) -> str | None:
    """The last page is as long as its table says."""
    tail = content.tail(_LONGEST_PAGE)
    at = tail.rfind(b"OggS")
    if at < 0:
        return never_written(content, 0, content.size) or "no page at its end"
    header = tail[at : at + 27]
    count = header[26] if len(header) == 27 else 255
    table = tail[at + 27 : at + 27 + count]
    if len(table) < count:
        return "in the header of its last page"
    end = content.size - len(tail) + at + 27 + count + sum(table)
    return f"{missing(content, end)} its last page does" if end > content.size else None
