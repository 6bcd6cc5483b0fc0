"""Which format a file is: by its first bytes, by its name, and what people call it.

Promises: pure; values in, values out.
"""

from __future__ import annotations

UNKNOWN = "application/octet-stream"
SHORTEST = 12
"""No media file has fewer bytes."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
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
PROVEN_BY_MAGIC = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf"})
"""What begins otherwise is none of these, whatever its name."""
_RIFF_FORMS = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo", b"WAVE": "audio/wav"}
_RIFF_MAGIC = {b"RIFF", b"RF64", b"BW64"}
_SHORT_MAGIC = (
    *((0, b"RIFF", name) for name in _RIFF_FORMS.values()),
    (0, b"BM", "image/bmp"),
    (0, b"\x47", "video/mp2t"),
)
_BRANDS = {
    b"qt  ": "video/quicktime",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"3gp4": "video/3gpp",
    b"3gp5": "video/3gpp",
    b"3gp6": "video/3gpp",
    b"3g2a": "video/3gpp2",
}
# The boxes of ISO 14496-12 that a file may begin with when it has no ftyp (old QuickTime).
_OLD_FIRST_BOXES = {b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_FRAGMENT_BOXES = {b"styp", b"moof", b"sidx"}
_EXTENSIONS = {
    "3gp": "video/3gpp",
    "aac": "audio/aac",
    "avi": "video/x-msvideo",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "csv": "text/csv",
    "flac": "audio/flac",
    "flv": "video/x-flv",
    "gif": "image/gif",
    "gz": "application/gzip",
    "heic": "image/heic",
    "heif": "image/heif",
    "jpe": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "m2ts": "video/mp2t",
    "m4a": "audio/mp4",
    "m4v": "video/mp4",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "mts": "video/mp2t",
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
_USUAL_EXTENSIONS = {
    "image/jpeg": ".jpg",
    "image/tiff": ".tif",
    "video/mp2t": ".ts",
    "video/mpeg": ".mpg",
    "video/x-matroska": ".mkv",
}
_CALLED = {
    "application/gzip": "GZIP file",
    "application/pdf": "PDF",
    "application/zip": "ZIP file",
    "audio/aac": "AAC recording",
    "audio/flac": "FLAC recording",
    "audio/mp4": "M4A",
    "audio/mpeg": "MP3",
    "audio/ogg": "Ogg recording",
    "audio/wav": "WAV",
    "image/avif": "AVIF",
    "image/bmp": "BMP",
    "image/gif": "GIF",
    "image/heic": "HEIC",
    "image/heif": "HEIF",
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/tiff": "TIFF",
    "image/webp": "WebP",
    "video/3gpp": "3GP",
    "video/3gpp2": "3GP",
    "video/mp2t": "transport stream",
    "video/mp4": "MP4",
    "video/mpeg": "MPEG",
    "video/quicktime": "MOV",
    "video/webm": "WebM",
    "video/x-flv": "FLV",
    "video/x-matroska": "Matroska",
    "video/x-msvideo": "AVI",
}


def by_magic(head: bytes) -> str | None:
    """The MIME type that the first bytes prove; None if they prove none."""
    box = head[4:8]
    if box == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if box in _OLD_FIRST_BOXES:
        return "video/quicktime"
    if box in _FRAGMENT_BOXES:
        return "video/mp4"
    if packet_bytes(head):
        return "video/mp2t"
    if head[:4] in _RIFF_MAGIC:
        return _RIFF_FORMS.get(head[8:12])
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0" and head[15:18] == b"\0\0\0":
        return "image/bmp"
    return next((name for at, magic, name in _MAGIC if head.startswith(magic, at)), None)


def packet_bytes(head: bytes) -> int:
    """How long the packets of a transport stream are (188; 192 with a time before each); 0: it is none."""
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return 188
    return 192 if len(head) > 196 and head[4] == head[196] == 0x47 else 0


def by_name(name: str) -> str:
    """The MIME type by the extension of the name."""
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    return _EXTENSIONS.get(extension, UNKNOWN)


def extension_of(media_type: str) -> str:
    """The usual ending of a file of this type, with its dot; empty if there is none."""
    found = next((f".{ending}" for ending, known in _EXTENSIONS.items() if known == media_type), "")
    return _USUAL_EXTENSIONS.get(media_type, found)


def called(media_type: str) -> str:
    """What people call such a file: `JPEG`, `MP4`; `file` if it has no name of its own."""
    return _CALLED.get(media_type, "file")


def is_media(media_type: str) -> bool:
    """Whether such a file never is plain text."""
    return media_type in _CALLED


def is_beginning(head: bytes, media_type: str) -> bool:
    """Whether this is so short that it may be the first bytes of such a file, and no more."""
    firsts = [magic for _, magic, name in (*_MAGIC, *_SHORT_MAGIC) if name == media_type]
    return len(head) < SHORTEST and any(magic.startswith(head) or head.startswith(magic) for magic in firsts)
