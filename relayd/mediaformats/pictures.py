"""JPEG, PNG, GIF, BMP and TIFF: whether their end is there.

Promises: each function returns what is missing, in words, or None. A thumbnail's end is never taken for the picture's.
"""

from __future__ import annotations

from relayd.mediaformats.content import Content, missing

PNG = b"\x89PNG\r\n\x1a\n"
_TAIL_BYTES = 64 * 1024
_MOST_SEGMENTS = 4096
_LONGEST_TRAILER = 64 * 1024 * 1024
_MOST_FOLDERS = 64
_MOST_STRIPS = 65_536
_PADDING = b"\0\r\n\t "


def jpeg(content: Content) -> str | None:
    """The end marker; cameras append previews, depth maps or a film behind it."""
    if content.size < 4:
        return "only its first bytes are there"
    tail = content.read(max(2, content.size - _TAIL_BYTES), _TAIL_BYTES)
    if tail.rstrip(_PADDING).endswith(b"\xff\xd9"):
        return None
    scan_at = _jpeg_scan_start(content)
    if scan_at > content.size:
        return "in its header"
    end, stop = content.size, max(scan_at, content.size - _LONGEST_TRAILER)
    while end > stop:
        start = max(stop, end - _TAIL_BYTES)
        if b"\xff\xd9" in content.read(start, end - start + 1):
            return None
        end = start
    return "no end marker"


def _jpeg_scan_start(content: Content) -> int:
    """Where the compressed picture begins: behind every header segment, so that a thumbnail's end marker is passed."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        header = content.read(at, 4)
        if header[1:2] == b"\xff":  # a fill byte
            at += 1
            continue
        if len(header) < 4 or header[0] != 0xFF:
            return at
        at += 2 + int.from_bytes(header[2:], "big")
        if header[1] == 0xDA:
            return at
    return at


def png(content: Content) -> str | None:
    """The end chunk."""
    at = len(PNG)
    while at + 8 <= content.size:
        header = content.read(at, 8)
        at += 12 + int.from_bytes(header[:4], "big")
        if at > content.size:
            return f"{missing(content, at)} its chunks do" if _is_name(header[4:]) else "no end chunk"
        if header[4:] == b"IEND":
            return None
    return "no end chunk"


def _is_name(text: bytes) -> bool:
    return text.isalpha()


def gif(content: Content) -> str | None:
    """The trailer, which ends the blocks."""
    at = 13 + _colours(content.read(10, 1))
    while at < content.size:
        introducer = content.read(at, 1)
        if introducer == b";":
            return None
        if introducer == b"!":
            at = _behind_sub_blocks(content, at + 2)
        elif introducer == b",":
            at = _behind_sub_blocks(content, at + 11 + _colours(content.read(at + 9, 1)))
        else:
            return "no trailer"
    return "no trailer"


def _colours(flags: bytes) -> int:
    """Bytes of the table of colours that these flags announce."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _behind_sub_blocks(content: Content, at: int) -> int:
    while length := content.read(at, 1):
        at += 1 + length[0]
        if length == b"\0":
            break
    return at


def bmp(content: Content) -> str | None:
    """Every row of an uncompressed one; the length in its header is often wrong, so both must say that it is cut."""
    fields = content.read(0, 34)
    if len(fields) < 34:
        return "in its header"
    told, start = int.from_bytes(fields[2:6], "little"), int.from_bytes(fields[10:14], "little")
    width = int.from_bytes(fields[18:22], "little", signed=True)
    height = int.from_bytes(fields[22:26], "little", signed=True)
    bits, compression = int.from_bytes(fields[28:30], "little"), int.from_bytes(fields[30:34], "little")
    if compression not in (0, 3):
        return f"{missing(content, told)} its length says" if told > content.size else None
    end = start + (max(0, width) * bits + 31) // 32 * 4 * abs(height)
    return f"{missing(content, end)} its last row" if content.size < end else None


def tiff(content: Content) -> str | None:
    """Every strip and tile that its folders name."""
    order = "little" if content.head.startswith(b"II") else "big"
    at, seen = _number(content, 4, 4, order), set[int]()
    while at and at not in seen and len(seen) < _MOST_FOLDERS:
        seen.add(at)
        count = _number(content, at, 2, order)
        after = at + 2 + 12 * count
        if after + 4 > content.size:
            return f"{missing(content, after + 4)} its list of strips"
        end = _strips_end(content, at + 2, count, order)
        if end > content.size:
            return f"{missing(content, end)} its last strip"
        at = _number(content, after, 4, order)
    return None


def _strips_end(content: Content, at: int, count: int, order: str) -> int:
    """Where the last strip or tile ends, as one folder says; 0 if it names none."""
    lists: dict[int, list[int]] = {}
    for entry in range(at, at + 12 * count, 12):
        tag = _number(content, entry, 2, order)
        if tag in (273, 279, 324, 325):
            lists[tag] = _values(content, entry, order)
    pairs = [
        pair
        for offsets, lengths in ((273, 279), (324, 325))
        for pair in zip(lists.get(offsets, []), lists.get(lengths, []), strict=False)
    ]
    return max((start + length for start, length in pairs), default=0)


def _values(content: Content, entry: int, order: str) -> list[int]:
    width = {3: 2, 4: 4}.get(_number(content, entry + 2, 2, order), 0)
    count = _number(content, entry + 4, 4, order)
    if not width or count > _MOST_STRIPS:
        return []
    at = entry + 8 if width * count <= 4 else _number(content, entry + 8, 4, order)
    text = content.read(at, width * count)
    if len(text) < width * count:
        return [at + width * count]
    return [_in_order(text[start : start + width], order) for start in range(0, len(text), width)]


def _number(content: Content, at: int, length: int, order: str) -> int:
    return _in_order(content.read(at, length), order)


def _in_order(text: bytes, order: str) -> int:
    return int.from_bytes(text, "little" if order == "little" else "big")
