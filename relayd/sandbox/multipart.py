"""A multipart form taken apart, as strictly as the APIs with small forms write it.

Promises: nothing before the first boundary or after the last; every part has one Content-Disposition of form-data and
nothing is guessed. The form of an S3 POST is `form.py`: that one streams.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOUNDARY = re.compile(r"multipart/form-data; boundary=([!-~]{1,70})")
_DISPOSITION = re.compile(r'form-data; name="([^"\r\n]+)"(?:; filename="([^"\r\n]+)")?')


class MalformedForm(Exception):
    """This is no such form; the text says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part. `file_name` and `content_type` are None where it has none."""

    name: str
    file_name: str | None
    content_type: str | None
    content: bytes


def parts(content_type: str, body: bytes) -> list[Part]:
    """Every part of a request with this Content-Type, in order. Raises MalformedForm."""
    match = _BOUNDARY.fullmatch(content_type)
    if match is None:
        raise MalformedForm("Content-Type is not multipart/form-data with a boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + match[1].encode())
    if pieces[0] != b"" or pieces[-1].strip() != b"--":
        raise MalformedForm("the form is not well-formed")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    head, separator, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    lines = (line.partition(": ") for line in head.decode("latin-1").split("\r\n"))
    headers = {name.lower(): value for name, _, value in lines}
    match = _DISPOSITION.fullmatch(headers.get("content-disposition", ""))
    if match is None or not separator:
        raise MalformedForm("a part has no Content-Disposition of form-data")
    return Part(match[1], match[2], headers.get("content-type"), content)
