"""QR codes of `relayd cameras`, read back by another program's reader: from the PNG, and from the terminal."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest
import zxingcpp

from relayd.cli import qrcode

TEXTS = ["9d6f0c1e7b2a4c58", "https://vms.example.org/a?token=9d6f0c1e7b2a4c58&ssid=Fjord Æ", "x" * 400]


def read(rows: list[list[bool]], scale: int = 4) -> str:
    """The text of a picture, given as rows of dark pixels."""
    pixels = bytes(0 if dark else 255 for row in rows for _ in range(scale) for dark in row for _ in range(scale))
    shape = [len(rows) * scale, len(rows[0]) * scale]
    (found,) = zxingcpp.read_barcodes(memoryview(pixels).cast("B", shape=shape))
    return str(found.text)


def rows_of_png(content: bytes) -> list[list[bool]]:
    """The dark pixels of a black and white PNG, as its specification says."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    place, data, width, height = 8, b"", 0, 0
    while place < len(content):
        length, name = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + length]
        if name == b"IHDR":
            width, height, depth, colours = struct.unpack(">IIBB", body[:10])
            assert (depth, colours) == (1, 0)
        data += body if name == b"IDAT" else b""
        place += length + 12
    plain, stride = zlib.decompress(data), (width + 7) // 8 + 1
    lines, above = [], bytes(stride - 1)
    for row in range(height):
        kind, line = plain[row * stride], plain[row * stride + 1 : (row + 1) * stride]
        assert kind in (0, 2)  # as it is, or the difference to the line above
        above = bytes((byte + up * (kind == 2)) % 256 for byte, up in zip(line, above, strict=True))
        lines.append(above)
    return [[not line[x // 8] >> (7 - x % 8) & 1 for x in range(width)] for line in lines]


def rows_of_terminal(text: str, *, is_ink_dark: bool) -> list[list[bool]]:
    """What a person's phone sees: two pixels in each character."""
    halves = {" ": (False, False), "▀": (True, False), "▄": (False, True), "█": (True, True)}
    rows = []
    for line in text.split("\n"):
        drawn = [halves[letter] for letter in re.sub(r"\x1b\[[0-9;]*m", "", line)]
        rows += [[pair[half] == is_ink_dark for pair in drawn] for half in (0, 1)]
    return rows


@pytest.mark.parametrize("text", TEXTS)
def test_the_png_is_read_back(tmp_path: Path, text: str) -> None:
    file = tmp_path / "code.png"
    qrcode.write_png(text, file)
    assert read(rows_of_png(file.read_bytes()), scale=1) == text


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_terminal_with_colours_shows_is_read_back(text: str) -> None:
    drawn = qrcode.drawn(text, is_coloured=True)
    assert all(line.startswith("\x1b[38;5;16;48;5;231m") and line.endswith("\x1b[0m") for line in drawn.split("\n"))
    assert read(rows_of_terminal(drawn, is_ink_dark=True)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_dark_terminal_without_colours_shows_is_read_back(text: str) -> None:
    drawn = qrcode.drawn(text, is_coloured=False)
    assert "\x1b" not in drawn
    assert read(rows_of_terminal(drawn, is_ink_dark=False)) == text


def test_the_code_of_a_token_fits_an_80_by_24_terminal_with_its_quiet_zone() -> None:
    lines = qrcode.drawn(TEXTS[0], is_coloured=False).split("\n")
    assert len(lines) <= 20
    assert {len(line) for line in lines} <= set(range(40))
    assert lines[0] == "█" * len(lines[0])
