"""mediatype: types by content first, and files that were cut off."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import mediatype

MEDIA = Path(__file__).parent.parent / "media"
SAMPLES = {
    "frame.jpg": "image/jpeg",
    "frame.png": "image/png",
    "clip.mp4": "video/mp4",
    "clip-faststart.mp4": "video/mp4",
    "clip-fragmented.mp4": "video/mp4",
    "clip.mov": "video/quicktime",
}


def damage_of(content: bytes, name: str) -> str | None:
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        kind = mediatype.content_type(mediatype.read_head(file.fileno()), name)
        return mediatype.damage(file.fileno(), kind)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


@pytest.mark.parametrize("name", SAMPLES)
def test_real_media_is_whole_and_known_by_its_content(name: str) -> None:
    content = (MEDIA / name).read_bytes()
    assert damage_of(content, name) is None
    assert mediatype.content_type(content[:4096], "no-extension") == SAMPLES[name]
    assert mediatype.content_type(content[:4096], "wrong.txt") == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("kept_percent", [1, 10, 50, 90, 99])
def test_real_media_that_was_cut_off_is_damaged(name: str, kept_percent: int) -> None:
    content = (MEDIA / name).read_bytes()
    cut = content[: max(1, len(content) * kept_percent // 100)]
    if name == "clip-fragmented.mp4" and damage_of(cut, name) is None:
        pytest.skip("cut exactly between two fragments, which is a whole recording")
    assert damage_of(cut, name)


@pytest.mark.parametrize("name", ["frame.jpg", "frame.png", "clip.mp4"])
def test_one_missing_byte_is_noticed(name: str) -> None:
    assert damage_of((MEDIA / name).read_bytes()[:-1], name)


def test_what_cameras_append_to_a_jpeg_does_no_harm() -> None:
    content = (MEDIA / "frame.jpg").read_bytes()
    assert damage_of(content + b"\0" * 100_000, "a.jpg") is None
    assert damage_of(content + b"camera trailer" * 10_000, "a.jpg") is None
    assert damage_of(content + (MEDIA / "clip.mp4").read_bytes(), "motion photo.jpg") is None


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


def test_a_part_longer_than_4_gigabytes_is_measured_by_its_long_length() -> None:
    ftyp, moov = box(b"ftyp", b"isom\0\0\0\0"), box(b"moov", b"index")
    mdat = struct.pack(">I", 1) + b"mdat" + struct.pack(">Q", 5 * 2**30) + b"frames"
    assert damage_of(ftyp + moov + mdat, "a.mp4")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.mp4", "a.txt", "a"])
def test_an_empty_file_is_damaged_whatever_its_name(name: str) -> None:
    assert damage_of(b"", name) == "the file is empty"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.mp4"])
def test_zeros_where_a_power_cut_ate_the_content_are_damage(name: str) -> None:
    assert "zeros" in (damage_of(b"\0" * 10_000, name) or "")


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


@given(st.binary(max_size=600), st.sampled_from(["a.jpg", "a.png", "a.mp4", "a.mov", "a.bin"]), st.data())
def test_no_content_breaks_the_check(tail: bytes, name: str, data: st.DataObject) -> None:
    heads = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x10ftypisom\0\0\0\0", b"\0\0\0\0moov"]
    result = damage_of(data.draw(st.sampled_from(heads)) + tail, name)
    assert result is None or result


def test_only_little_of_a_large_film_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    head = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", b"index")
    with path.open("wb") as file:
        file.write(head + struct.pack(">I", 1) + b"mdat" + struct.pack(">Q", 2**31))
        file.truncate(len(head) + 2**31)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        before = sum(os.times()[:2])
        assert mediatype.damage(descriptor, "video/mp4") is None
        assert sum(os.times()[:2]) - before < 0.2
    finally:
        os.close(descriptor)
