"""What the cameras of the demo see, in the order of the story: shipped pictures and a clip.

Promises: each file is unlike all others, by a comment inside, and a whole picture or clip all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from relayd.sandbox.promises import Written
from relayd.sandbox.records import RAPIDSOS, REPORT, STREAM

_STORY = (
    ("rear", "gate.jpg"),
    ("side", "yard.jpg"),
    ("side", "gate.jpg"),
    ("side", "yard.jpg"),
    ("front", "cabin.jpg"),
    ("front", "cabin.jpg"),
    ("front", "drive.mp4"),
    ("side", "gate.jpg"),
    ("rear", "yard.jpg"),
)
_PLACES = {"cabin.jpg": (RAPIDSOS, REPORT, STREAM), "drive.mp4": (RAPIDSOS, STREAM)}


@dataclass(frozen=True, slots=True)
class Shot:
    """A file before it is written."""

    written: Written
    content: bytes


def shots() -> Sequence[Shot]:
    """All of them."""
    return [_shot(number, camera, kind) for number, (camera, kind) in enumerate(_STORY, start=1)]


def _shot(number: int, camera: str, kind: str) -> Shot:
    name = f"{camera}-{number:03}.{kind.rpartition('.')[2]}"
    content = _marked((resources.files("relayd.sandbox") / "media" / kind).read_bytes(), name.encode())
    places = _PLACES.get(kind, (RAPIDSOS,))
    written = Written(name, f"{camera}-camera", len(content), hashlib.sha256(content).hexdigest(), places)
    return Shot(written, content)


def _marked(content: bytes, note: bytes) -> bytes:
    """A JPEG comment after the start marker, or a free box at the end of an MP4."""
    if content.startswith(b"\xff\xd8"):
        return content[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + content[2:]
    return content + (len(note) + 8).to_bytes(4, "big") + b"free" + note
