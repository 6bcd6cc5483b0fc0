"""mediatype: types by content first, and files that were cut off."""

from __future__ import annotations

import os
import struct
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import mediatype
from relayd.mediatype import Fault, Flaw, Verdict

MEDIA = Path(__file__).parent.parent / "media"
SAMPLES = {
    "frame.jpg": "image/jpeg",
    "frame.png": "image/png",
    "frame.gif": "image/gif",
    "frame.bmp": "image/bmp",
    "frame.tif": "image/tiff",
    "frame.webp": "image/webp",
    "frame.avif": "image/avif",
    "page.pdf": "application/pdf",
    "clip.mp4": "video/mp4",
    "clip-faststart.mp4": "video/mp4",
    "clip-fragmented.mp4": "video/mp4",
    "clip.mov": "video/quicktime",
    "clip.avi": "video/x-msvideo",
    "clip.ts": "video/mp2t",
    "clip.mkv": "video/x-matroska",
    "clip-live.mkv": "video/x-matroska",
    "clip.webm": "video/webm",
    "clip.flv": "video/x-flv",
    "sound.wav": "audio/wav",
    "sound.ogg": "audio/ogg",
}
IN_PIECES = {"clip-fragmented.mp4", "clip.ts", "clip.mkv", "clip-live.mkv", "clip.webm", "clip.flv", "sound.ogg"}
"""Cut between two pieces, these are whole recordings, only shorter."""


def judged(content: bytes, name: str) -> Verdict:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return mediatype.judge(file.fileno(), name)


def damage_of(content: bytes, name: str) -> str | None:
    flaw = judged(content, name).flaw
    return None if flaw is None else flaw.text


def fault_of(content: bytes, name: str) -> Fault | None:
    flaw = judged(content, name).flaw
    return None if flaw is None else flaw.fault


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def riff(form: bytes, length: int | None = None, size: int = 4000) -> bytes:
    body = form + b"LIST" + struct.pack("<I", size) + b"frame" * (size // 5)
    return b"RIFF" + struct.pack("<I", len(body) if length is None else length) + body


def packets(count: int, prefix: bytes = b"") -> bytes:
    return (prefix + b"\x47\x40\x11\x10" + b"p" * 184) * count


@pytest.mark.parametrize("name", SAMPLES)
def test_real_media_is_whole_and_known_by_its_content(name: str) -> None:
    content = (MEDIA / name).read_bytes()
    assert damage_of(content, name) is None
    if name == "clip.webm":
        return  # only its name tells it from Matroska
    assert mediatype.content_type(content[:4096], "no-extension") == SAMPLES[name]
    assert mediatype.content_type(content[:4096], "wrong.txt") == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_real_media_that_was_cut_off_anywhere_is_known_to_be(name: str) -> None:
    content = (MEDIA / name).read_bytes()
    faults = [fault_of(content[:length], name) for length in range(1, len(content), max(1, len(content) // 97))]
    assert set(faults) <= {Fault.CUT, None}
    assert faults.count(None) <= (3 if name in IN_PIECES else 0)


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"page.pdf"}))
def test_one_missing_byte_is_noticed(name: str) -> None:
    content = (MEDIA / name).read_bytes()
    flaw = judged(content[:-1], name).flaw
    assert flaw is not None
    assert mediatype.is_cut(flaw.text)


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"frame.webp"}))
def test_an_upload_that_was_resumed_behind_a_front_of_zeros_is_cut_off(name: str) -> None:
    content = (MEDIA / name).read_bytes()
    front = len(content) * 6 // 10
    assert fault_of(b"\0" * front + content[front:], name) is Fault.CUT
    large = b"\0" * 6_000_000 + os.urandom(4_000_000)
    assert "6.0 MB were never written" in (damage_of(large, name) or "")


@pytest.mark.parametrize("name", ["frame.jpg", "frame.png", "clip.mp4", "clip.avi", "clip.ts", "clip.mkv", "clip.flv"])
def test_a_tail_that_was_never_written_is_noticed(name: str) -> None:
    content = (MEDIA / name).read_bytes()
    kept = len(content) * 4 // 10
    assert fault_of(content[:kept] + b"\0" * (len(content) - kept), name) is Fault.CUT


@pytest.mark.parametrize("form", [b"AVI ", b"WAVE", b"WEBP"])
@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_length_that_was_never_filled_in_tells_nothing(form: bytes, length: int) -> None:
    assert damage_of(riff(form, length), "a.bin") is None


def test_the_words_say_how_much_is_missing() -> None:
    assert damage_of(riff(b"AVI ")[:-1500], "a.avi") == "the AVI is cut off (it ends 1.5 kB before its length says)"
    assert "no end marker" in (damage_of((MEDIA / "frame.jpg").read_bytes()[:-2], "a.jpg") or "")
    cut = (MEDIA / "clip.mp4").read_bytes()[:-10]
    assert damage_of(cut, "a.mp4") == "the MP4 is cut off (it ends 10 B before its boxes do)"


def test_every_part_of_a_long_avi_must_be_there() -> None:
    second = b"RIFF" + struct.pack("<I", 1000) + b"AVIX" + b"frames" * 166
    assert damage_of(riff(b"AVI ") + second, "a.avi") is None
    assert damage_of(riff(b"AVI ") + second[:500], "a.avi")


@pytest.mark.parametrize("prefix", [b"", b"time"])
def test_a_transport_stream_is_made_of_whole_packets(prefix: bytes) -> None:
    whole = packets(40, prefix)
    assert judged(whole, "a.bin") == Verdict("video/mp2t", None)
    assert fault_of(whole[:-100], "a.bin") is Fault.CUT
    assert fault_of(whole + b"\0" * 188 * 40, "a.ts") is Fault.CUT
    assert fault_of(b"\x47\x40", "a.ts") is Fault.CUT


def test_what_cameras_append_to_a_jpeg_does_no_harm() -> None:
    content = (MEDIA / "frame.jpg").read_bytes()
    assert damage_of(content + b"\0" * 100_000, "a.jpg") is None
    assert damage_of(content + b"camera trailer" * 10_000, "a.jpg") is None
    assert damage_of(content + (MEDIA / "clip.mp4").read_bytes(), "motion photo.jpg") is None


@pytest.mark.parametrize("name", ["page.pdf", "clip.avi", "sound.wav", "clip.mp4"])
def test_padding_behind_the_end_does_no_harm(name: str) -> None:
    content = (MEDIA / name).read_bytes()
    assert damage_of(content + b"\0" * 512, name) is None


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    thumbnail = b"\xff\xd8 small \xff\xd9"
    header = b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail + b"\xff\xda\x00\x02"
    assert damage_of(header + b"picture" * 100, "a.jpg")
    assert damage_of(header + b"picture" * 100 + b"\xff\xd9", "a.jpg") is None


def test_trailers_behind_a_film_do_no_harm_but_half_a_part_does() -> None:
    whole = box(b"ftyp", b"isom" + b"\0" * 4) + box(b"moov", b"index" * 10) + box(b"mdat", b"frames" * 100)
    assert damage_of(whole, "a.mp4") is None
    assert damage_of(whole + b"\xff\x01\x02\x03\x04\x05\x06\x07 trailer", "a.mp4") is None
    assert damage_of(whole[:-1], "a.mp4")
    assert "index" in (damage_of(box(b"ftyp", b"isom\0\0\0\0") + box(b"mdat", b"frames"), "a.mp4") or "")


def test_a_fragment_whose_frames_never_came_is_cut_off() -> None:
    start = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", b"index") + box(b"moof", b"list") + box(b"mdat", b"frames")
    assert damage_of(start, "a.mp4") is None
    assert fault_of(start + box(b"moof", b"list"), "a.mp4") is Fault.CUT
    assert fault_of(start + b"\0\0\1", "a.mp4") is Fault.CUT


def test_a_part_longer_than_4_gigabytes_is_measured_by_its_long_length() -> None:
    ftyp, moov = box(b"ftyp", b"isom\0\0\0\0"), box(b"moov", b"index")
    mdat = struct.pack(">I", 1) + b"mdat" + struct.pack(">Q", 5 * 2**30) + b"frames"
    assert damage_of(ftyp + moov + mdat, "a.mp4")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.mp4", "a.txt", "a"])
def test_an_empty_file_is_damaged_whatever_its_name(name: str) -> None:
    assert damage_of(b"", name) == "the file is empty"


@pytest.mark.parametrize("name", [*SAMPLES, "a.heic", "a.dav", "a.264", "a.bin", "a.txt", "a"])
@pytest.mark.parametrize("size", [100, 200_000])
def test_a_file_of_zeros_holds_nothing_whatever_its_name(name: str, size: int) -> None:
    assert fault_of(b"\0" * size, name) is Fault.HOLLOW


def test_zeros_that_belong_to_a_file_do_no_harm() -> None:
    silence = b"RIFF" + struct.pack("<I", 50_036) + b"WAVEfmt " + struct.pack("<I", 16) + b"\1" * 16 + b"data"
    assert damage_of(silence + struct.pack("<I", 50_000) + b"\0" * 50_000, "quiet.wav") is None
    assert damage_of(os.urandom(10_000) + b"\0" * 5_000 + os.urandom(10_000), "a.bin") is None
    assert damage_of(b"\0", "flag") is None


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"401: Unauthorized", "text/plain"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "text/plain"),
        (b"<!DOCTYPE html>\n<html><body>Login</body></html>", "text/html"),
        (b"\xef\xbb\xbf  <HTML><head>", "text/html"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "application/xml"),
        (b'{"error": "not found"}', "application/json"),
        ("Zugriff verweigert: Error ä".encode() * 300, "text/plain"),
    ],
)
@pytest.mark.parametrize("name", ["snap.jpg", "snap.png", "clip.mp4", "clip.ts", "clip.avi", "a.heic", "a.pdf"])
def test_the_answer_of_a_server_named_like_a_picture_is_none(content: bytes, kind: str, name: str) -> None:
    verdict = judged(content, name)
    assert verdict.content_type == kind
    assert verdict.flaw is not None
    assert verdict.flaw.fault is Fault.FOREIGN
    assert content[3:12].decode("utf-8", "replace").strip()[:4] in verdict.flaw.text


def test_other_text_named_like_a_picture_is_called_text_and_marked() -> None:
    verdict = judged(b"what the driver saw", "note.jpg")
    assert verdict.content_type == "text/plain"
    assert verdict.flaw is not None
    assert verdict.flaw == Flaw(
        Fault.ODD, 'it is named like a JPEG, but is text that begins with "what the driver saw"'
    )
    assert fault_of(b"\x80\x81" + os.urandom(3000), "secret.jpg") is Fault.ODD


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.html", "a.log", "a", "a.xml"])
def test_text_that_is_named_like_text_is_whole(name: str) -> None:
    assert damage_of(b'{"error": "401 Unauthorized"}', name) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("note.TXT", "text/plain"),
        ("a.webm", "video/webm"),
        ("a.JPG", "image/jpeg"),
        ("a.unknown", "application/octet-stream"),
        ("jpg", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_the_extension_decides_where_the_content_does_not(name: str, kind: str) -> None:
    assert mediatype.content_type(b"nothing special", name) == kind


def test_riff_files_are_told_apart() -> None:
    assert mediatype.content_type(b"RIFF\0\0\0\0WEBPVP8 ", "") == "image/webp"
    assert mediatype.content_type(b"RIFF\0\0\0\0AVI LIST", "") == "video/x-msvideo"
    assert mediatype.content_type(b"RIFXxxxxWEBP", "") == "application/octet-stream"


BEGINNINGS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"\0\0\0\x10ftypisom\0\0\0\0",
    b"\0\0\0\0moov",
    b"\0\0\0\1mdat",
    b"RIFF\xff\0\0\0AVI ",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff",
    b"FLV\1\5\0\0\0\x09\0\0\0\0",
    b"GIF89a\1\0\1\0\x80\0\0",
    b"II*\0\x08\0\0\0\1\0",
    b"MM\0*\0\0\0\x08",
    b"BM",
    b"OggS",
    b"%PDF-",
    b"PK\3\4",
    b"\x47" + b"\0" * 187 + b"\x47",
]


@given(
    st.sampled_from(BEGINNINGS),
    st.binary(max_size=600),
    st.sampled_from([1, 1, 1, 40]),
    st.sampled_from(["a.jpg", "a.mp4", "a.avi", "a.ts", "a.tif", "a.bin"]),
)
def test_no_content_breaks_the_check(head: bytes, tail: bytes, times: int, name: str) -> None:
    flaw = judged(head + tail * times, name).flaw
    assert flaw is None or (flaw.text and mediatype.is_cut(flaw.text) == (flaw.fault is Fault.CUT))


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_no_altered_byte_breaks_the_check(name: str, data: st.DataObject) -> None:
    content = bytearray((MEDIA / name).read_bytes()[:2000])
    for at in data.draw(st.lists(st.integers(0, min(len(content) - 1, 200)), max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    judged(bytes(content), name)


def endless(name: str) -> tuple[bytes, bytes]:
    """The beginning of a file, and what can be repeated for ever: the smallest steps that its format has."""
    return {
        "a.mp4": (box(b"ftyp", b"isom\0\0\0\0"), box(b"free", b"")),
        "a.png": (b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IDAT\0\0\0\0"),
        "a.jpg": (b"\xff\xd8\xff\xe0", b"\xff"),
        "a.gif": (b"GIF89a\1\0\1\0\0\0\0!\xf9", b"\1\1"),
        "a.mkv": (BEGINNINGS[8], b"\xec\x80"),
        "a.flv": (BEGINNINGS[9], b"\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\x0b"),
        "a.avi": (b"RIFF\xf0\xff\xff\0AVI ", b"JUNK\0\0\0\0"),
        "a.tif": (b"II*\0\x08\0\0\0", b"\xff\xff" * 6),
    }[name]


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.jpg", "a.gif", "a.mkv", "a.flv", "a.avi", "a.tif"])
def test_a_file_made_to_be_walked_through_for_ever_is_not(name: str) -> None:
    head, step = endless(name)
    content = head + step * (30_000_000 // len(step)) + b"\x01"
    before = time.process_time()
    judged(content, name)
    assert time.process_time() - before < 3.0


def test_only_little_of_a_large_film_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    head = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", b"index")
    with path.open("wb") as file:
        file.write(head + struct.pack(">I", 1) + b"mdat" + struct.pack(">Q", 2**31))
        file.truncate(len(head) + 2**31)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        before = time.process_time()
        flaw = mediatype.judge(descriptor, "large.mp4").flaw
        assert time.process_time() - before < 0.2
        assert flaw is not None
        assert "never written" in flaw.text
    finally:
        os.close(descriptor)
