"""What a file is, and whether all of it is there: by what its own format says, then by its name.

Promises: reads some blocks by position, never the whole file and never past its end; no content is an error, and none
costs more than a fixed amount of work. What a format does not tell is no flaw.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relayd.mediaformats import boxes, chunks, contradiction, documents, hollow, names, pictures, streams
from relayd.mediaformats.content import HEAD_BYTES, Content, TooCostly, open_content

UNKNOWN: Final = names.UNKNOWN
_PLAIN = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*")
_CUT = " is cut off"
_CUT_BEFORE = " was not finished"  # as quarantine called it before

_FORMATS: dict[str, Callable[[Content], str | None]] = {
    "application/pdf": documents.pdf,
    "application/zip": documents.zipped,
    "audio/mp4": boxes.boxes,
    "audio/ogg": streams.ogg,
    "audio/wav": chunks.riff,
    "image/avif": boxes.boxes,
    "image/bmp": pictures.bmp,
    "image/gif": pictures.gif,
    "image/heic": boxes.boxes,
    "image/heif": boxes.boxes,
    "image/jpeg": pictures.jpeg,
    "image/png": pictures.png,
    "image/tiff": pictures.tiff,
    "image/webp": chunks.riff,
    "video/3gpp": boxes.boxes,
    "video/3gpp2": boxes.boxes,
    "video/mp2t": streams.transport,
    "video/mp4": boxes.boxes,
    "video/quicktime": boxes.boxes,
    "video/webm": chunks.matroska,
    "video/x-flv": streams.flv,
    "video/x-matroska": chunks.matroska,
    "video/x-msvideo": chunks.riff,
}
_MAY_HOLD_ZEROS = {"audio/wav", "image/bmp", "image/tiff", "video/x-msvideo", "application/zip"}
"""Uncompressed pictures and silence."""
_HAS_PADDING = {"audio/flac", "audio/mpeg", "video/webm", "video/x-matroska"}
"""Room that was left for more words, in front of what is dense."""
_ENDS_ARE_PADDED = {"image/jpeg", "image/png", "image/gif", "application/pdf"}


class Fault(enum.Enum):
    """How what is there falls short of what it should be."""

    EMPTY = "nothing is there"
    HOLLOW = "zeros, and nothing else"
    CUT = "a part is there, which may be all that there will ever be"
    FOREIGN = "an answer of a server, saved under the name of a picture"
    ODD = "it is whole, but not what its name says"


@dataclass(frozen=True, slots=True)
class Flaw:
    """`text` says what is wrong, for people: one sentence without its full stop."""

    fault: Fault
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a file is. Without a `flaw` it is whole, as far as can be told."""

    content_type: str
    flaw: Flaw | None

    @property
    def damage(self) -> str:
        """What is wrong with it, for people; empty if nothing is."""
        return "" if self.flaw is None else self.flaw.text

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return self.flaw is not None and self.flaw.fault is Fault.EMPTY

    @property
    def is_cut(self) -> bool:
        """Whether a part of it is there, which is worth having if no more ever comes."""
        return self.flaw is not None and self.flaw.fault is Fault.CUT

    @property
    def is_refused(self) -> bool:
        """Whether nobody should have it as it is, unless a person says so."""
        return self.flaw is not None and self.flaw.fault is not Fault.ODD


def judge(descriptor: int, name: str) -> Verdict:
    """What the open file is, and what is wrong with it. Raises OSError if it cannot be read."""
    content = open_content(descriptor)
    media_type = content_type(content.head, name)
    if content.size == 0:
        return Verdict(media_type, Flaw(Fault.EMPTY, "the file is empty"))
    try:
        return _judged(content, media_type)
    except TooCostly:
        return Verdict(media_type, None)


def is_cut(reason: str) -> bool:
    """Whether this is the text of a flaw that is Fault.CUT."""
    return _CUT in reason or _CUT_BEFORE in reason


def plain(content_type: str) -> str:
    """The bare type in lower case, fit for a header; UNKNOWN for what is none."""
    bare = content_type.partition(";")[0].strip().lower()
    return bare if _PLAIN.fullmatch(bare) else UNKNOWN


def content_type(head: bytes, name: str) -> str:
    """The MIME type from the first bytes of the content (some hundred are best), else from the extension."""
    found, by_name = names.by_magic(head), names.by_name(name)
    if found is None or (found, by_name) == ("video/x-matroska", "video/webm"):
        return by_name
    return found


def extension(media_type: str) -> str:
    """The usual ending of a file of this type, with its dot; empty if there is none."""
    return names.extension_of(media_type)


def read_head(descriptor: int) -> bytes:
    """The first bytes, for `content_type`."""
    return os.pread(descriptor, HEAD_BYTES, 0)


def _judged(content: Content, media_type: str) -> Verdict:
    called = names.called(media_type)
    if content.size >= names.SHORTEST and hollow.is_hollow(content):
        words = f"the {called} is full of zeros: its content was never written"
        return Verdict(media_type, Flaw(Fault.HOLLOW, words))
    if names.is_media(media_type) and not _begins_like(media_type, content):
        return _unlike_its_name(content, media_type)
    missing = _FORMATS[media_type](content) if media_type in _FORMATS else None
    missing = missing or _hole(content, media_type)
    flaw = None if missing is None else Flaw(Fault.CUT, f"the {called}{_CUT} ({missing})")
    return Verdict(media_type, flaw)


def _begins_like(media_type: str, content: Content) -> bool:
    """Whether the first bytes leave it possible that it is what its name says."""
    if names.by_magic(content.head) is not None:
        return True
    if media_type in names.PROVEN_BY_MAGIC or content.size < names.SHORTEST:
        return False
    return contradiction.text_type(content.head) is None and hollow.zeros_in_front(content) is None


def _unlike_its_name(content: Content, media_type: str) -> Verdict:
    """Text, zeros in front, the first bytes of a picture and no more, or something unknown."""
    called, head = names.called(media_type), content.head
    text_type = contradiction.text_type(head)
    if names.is_beginning(head, media_type) or (content.size < names.SHORTEST and text_type is None):
        return Verdict(media_type, Flaw(Fault.CUT, f"the {called}{_CUT} (only its first bytes are there)"))
    if text_type is not None:
        words = f'it is named like a {called}, but is text that begins with "{contradiction.begins(head)}"'
        fault = Fault.FOREIGN if contradiction.is_answer(head, text_type) else Fault.ODD
        return Verdict(text_type, Flaw(fault, words))
    hole = hollow.zeros_in_front(content)
    if hole is not None:
        return Verdict(media_type, Flaw(Fault.CUT, f"the {called}{_CUT} ({hole})"))
    return Verdict(media_type, Flaw(Fault.ODD, f"it is named like a {called}, but does not begin like one"))


def _hole(content: Content, media_type: str) -> str | None:
    """A large run of zeros where there should be none."""
    if media_type in _MAY_HOLD_ZEROS or _FORMATS.get(media_type) is boxes.boxes:
        return None
    if media_type in _ENDS_ARE_PADDED:
        return hollow.never_written(content, 0, hollow.end_of_content(content))
    if media_type in _HAS_PADDING:
        end = hollow.end_of_content(content)
        return hollow.zeros_from(content, end) if content.size - end > content.size / 4 else None
    if names.is_media(media_type):
        return hollow.never_written(content, 0, content.size)
    return hollow.zeros_in_front(content, share=0.25) or hollow.never_written(content, 0, content.size, share=0.5)
