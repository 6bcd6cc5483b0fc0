"""What a file is, by its first bytes and then by its name, and whether it was cut off before its end.

Promises: reads a few blocks by position, never the whole file and never past its end; the descriptor's own offset stays
where it was. A cut FTP upload leaves a short file under its final name: `damage` finds it in JPEG, PNG, MP4 and MOV.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

UNKNOWN = "application/octet-stream"
_PLAIN = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*")
_HEAD_BYTES = 4096
_TAIL_BYTES = 64 * 1024
_MOST_SEGMENTS = 4096
_MOST_BOXES = 100_000
_LONGEST_TRAILER = 64 * 1024 * 1024
_PNG = b"\x89PNG\r\n\x1a\n"
_BOX_NAME = re.compile(rb"[ -~\xa9]{4}")

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, _PNG, "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WAVE", "audio/wav"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x00\x00\x01\xb3", "video/mpeg"),
)
_RIFF_TYPES = {"image/webp", "video/x-msvideo", "audio/wav"}
_BRANDS = {
    b"qt  ": "video/quicktime",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"avif": "image/avif",
    b"M4A ": "audio/mp4",
    b"3gp4": "video/3gpp",
    b"3gp5": "video/3gpp",
    b"3gp6": "video/3gpp",
    b"3g2a": "video/3gpp2",
}
_EXTENSIONS = {
    "3gp": "video/3gpp",
    "aac": "audio/aac",
    "avi": "video/x-msvideo",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "csv": "text/csv",
    "flac": "audio/flac",
    "gif": "image/gif",
    "heic": "image/heic",
    "jpe": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "m4a": "audio/mp4",
    "m4v": "video/mp4",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "ogg": "audio/ogg",
    "pdf": "application/pdf",
    "png": "image/png",
    "svg": "image/svg+xml",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "ts": "video/mp2t",
    "txt": "text/plain",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webp": "image/webp",
    "xml": "application/xml",
    "zip": "application/zip",
}
# The boxes of ISO 14496-12 that a file may begin with when it has no ftyp (old QuickTime).
_OLD_FIRST_BOXES = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_FIRST_BOXES = _OLD_FIRST_BOXES | {b"ftyp", b"styp", b"moof", b"sidx"}
_BOX_TYPES = {"video/mp4", "video/quicktime", "video/3gpp", "video/3gpp2", "audio/mp4"}


def plain(content_type: str) -> str:
    """The bare type in lower case, fit for a header; UNKNOWN for what is none."""
    bare = content_type.partition(";")[0].strip().lower()
    return bare if _PLAIN.fullmatch(bare) else UNKNOWN


def content_type(head: bytes, name: str) -> str:
    """The MIME type from the first bytes of the content (16 are enough, more are better), else from the extension."""
    found = _by_magic(head)
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    by_name = _EXTENSIONS.get(extension, UNKNOWN)
    if found is None or (found, by_name) == ("video/x-matroska", "video/webm"):
        return by_name
    return found


def extension(media_type: str) -> str:
    """The usual ending of a file of this type, with its dot; empty if there is none."""
    usual = {"image/jpeg": ".jpg", "image/tiff": ".tif", "video/mpeg": ".mpg"}
    found = next((ending for ending, known in _EXTENSIONS.items() if known == media_type), None)
    return usual.get(media_type, f".{found}" if found else "")


def read_head(descriptor: int) -> bytes:
    """The first bytes, for `content_type`."""
    return os.pread(descriptor, _HEAD_BYTES, 0)


def damage(descriptor: int, media_type: str) -> str | None:
    """Why this content cannot be whole, in words, or None. Other types are only checked for being empty.

    Content that does not begin like its type says is not judged: only its extension made it that type.
    """
    size = os.fstat(descriptor).st_size
    if size == 0:
        return "the file is empty"
    head = read_head(descriptor)
    if media_type == "image/jpeg":
        return _jpeg_damage(descriptor, size, head)
    if media_type == "image/png":
        return _png_damage(descriptor, size, head)
    if media_type in _BOX_TYPES:
        return _box_damage(descriptor, size, head)
    return None


def _by_magic(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head[4:8] in _OLD_FIRST_BOXES:
        return "video/quicktime"
    if len(head) > 188 and head[0] == 0x47 and head[188] == 0x47:
        return "video/mp2t"
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset) and (name not in _RIFF_TYPES or head.startswith(b"RIFF")):
            return name
    return None


def _hollow(head: bytes, what: str) -> str | None:
    """A file system that lost its power leaves files of the right length that are full of zeros."""
    return None if head.strip(b"\0") else f"the {what} is full of zeros: its content was never written"


# --- JPEG


def _jpeg_damage(descriptor: int, size: int, head: bytes) -> str | None:
    if not head.startswith(b"\xff\xd8"):
        return "the JPEG is cut off after its first byte" if head == b"\xff" else _hollow(head, "JPEG")
    tail = os.pread(descriptor, _TAIL_BYTES, max(2, size - _TAIL_BYTES))
    if tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9"):
        return None
    scan_at = _jpeg_scan_start(descriptor)
    if scan_at > size:
        return "the JPEG is cut off in its header"
    # Cameras append previews, depth maps or a film: the end marker may be anywhere behind the start of the scan.
    end, stop = size, max(scan_at, size - _LONGEST_TRAILER)
    while end > stop:
        start = max(stop, end - _TAIL_BYTES)
        if b"\xff\xd9" in os.pread(descriptor, end - start + 1, start):
            return None
        end = start
    return "the JPEG has no end marker: it is cut off"


def _jpeg_scan_start(descriptor: int) -> int:
    """Where the compressed picture begins: behind every header segment, so that a thumbnail's end marker is passed."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        header = os.pread(descriptor, 4, at)
        if header[1:2] == b"\xff":  # a fill byte
            at += 1
            continue
        if len(header) < 4 or header[0] != 0xFF:
            return at
        at += 2 + int.from_bytes(header[2:], "big")
        if header[1] == 0xDA:
            return at
    return at


# --- PNG


def _png_damage(descriptor: int, size: int, head: bytes) -> str | None:
    if not head.startswith(_PNG):
        return "the PNG is cut off in its first bytes" if _PNG.startswith(head) else _hollow(head, "PNG")
    at = len(_PNG)
    for _ in range(_MOST_BOXES):
        header = os.pread(descriptor, 8, at)
        at += 12 + int.from_bytes(header[:4], "big")
        if len(header) < 8 or at > size:
            break
        if header[4:] == b"IEND":
            return None
    return "the PNG has no end chunk: it is cut off"


# --- MP4, MOV and their kin


def _box_damage(descriptor: int, size: int, head: bytes) -> str | None:
    if len(head) < 8:
        return "the video is cut off in its first bytes"
    if head[4:8] not in _FIRST_BOXES:
        return _hollow(head, "video")
    found: set[bytes] = set()
    for kind, end in _boxes(descriptor, size):
        if end > size:
            return "the video is cut off: its last part should be longer"
        found.add(kind)
    if b"moov" in found or {b"moof", b"mdat"} <= found:
        return None
    return "the video has no index (moov): its recording was not finished"


def _boxes(descriptor: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Each top-level box with where it says that it ends; what cannot be a box is a trailer of the camera's own."""
    at = 0
    for _ in range(_MOST_BOXES):
        header = os.pread(descriptor, 16, at)
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        elif length == 0:  # to the end of the file
            length = size - at
        if length < 8 or not _BOX_NAME.fullmatch(header[4:8]):
            return
        at += length
        yield header[4:8], at
        if at >= size:
            return
