"""MP4, MOV, M4A, 3GP, HEIC and AVIF: files made of boxes (ISO 14496-12).

Promises: returns what is missing, in words, or None; what cannot be a box behind whole ones is a trailer of the
camera's own.
"""

from __future__ import annotations

import re

from relayd.mediaformats.content import Content, missing
from relayd.mediaformats.hollow import never_written

_BOX_NAME = re.compile(rb"[ -~\xa9]{4}")


def boxes(content: Content) -> str | None:
    """Every box as long as it says, and an index among them."""
    found: set[bytes] = set()
    last, at = b"", 0
    while at + 8 <= content.size:
        header = content.read(at, 16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:], "big") if len(header) == 16 else 16
        elif length == 0:  # to the end of the file
            length = content.size - at
        if length < 8 or not _BOX_NAME.fullmatch(header[4:8]):
            break
        last = header[4:8]
        if at + length > content.size:
            return f"{missing(content, at + length)} its boxes do"
        if last == b"mdat" and (hole := never_written(content, at + 16, at + length)):
            return hole
        found.add(last)
        at += length
    is_fragmented = {b"moof", b"mdat"} <= found
    is_torn = 0 < content.size - at < 8 and (is_fragmented or b"mdat" not in found)
    if is_torn or last == b"moof":
        return "in the middle of a part"
    if found & {b"moov", b"meta"} or is_fragmented:
        return None
    return "no index (moov), its recording was not finished"
