"""Writers of a drop folder that stall, close, go on, rename, set times, remove and write anew, all by one seed.

A file's life ends as its writer leaves it: `End.content` is what it was then. A writer who comes back and finds that
its file is gone has ended it by having been away for longer than the linger.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MEDIA = Path(__file__).parent.parent / "media"
SHORTEST_STALL_SECONDS, LONGEST_STALL_SECONDS = 0.005, 0.8


@dataclass
class End:
    """How one file's life ended. `others` are whole files that were there under its name before. `is_removed`: by its
    writer, so that it need not have been taken. `time`: what its writer set, if it did.
    `is_cut_loose`: its name was taken away while its writer had it open. `is_late`: it was left
    alone for so long that it may have been taken for good before its name or time was set."""

    name: str
    content: bytes
    others: list[bytes] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    is_removed: bool = False
    time: int | None = None
    is_cut_loose: bool = False
    is_late: bool = False
    told: list[str] = field(default_factory=list)


class Writing:
    """One writer's work: files below `folder`, until `seconds` are over. Runs in a thread of its own."""

    def __init__(self, folder: Path, number: int, seed: str, seconds: float, linger_seconds: float) -> None:
        self._folder = folder
        self._number = number
        self._chance = random.Random(f"{seed}/{number}")
        self._seconds = seconds
        self._linger_seconds = linger_seconds
        self._touched = 0.0
        self.ends: list[End] = []

    def run(self) -> None:
        until = time.monotonic() + self._seconds
        kinds = list(KINDS)
        count = 0
        while time.monotonic() < until:
            kind = kinds[(self._number + count) % len(kinds)]
            count += 1
            self.ends.append(self._one(f"w{self._number:03d}-{count:03d}", kind))

    def _one(self, stem: str, kind: str) -> End:
        """One file from its first byte to where its writer leaves it."""
        chance = self._chance
        end = End(f"{stem}.{kind}", b"")
        first = chance.choice([f"{stem}.{kind}", f"{stem}.{kind}.part", f"upload-{stem}.{kind}", f"{stem}.{kind}_"])
        path = self._folder / first
        try:
            self._fill(path, os.O_CREAT | os.O_EXCL, KINDS[kind](chance), end)
            for step in chance.choices((self._utime, self._rewrite, self._chmod, self._resume), k=chance.randrange(3)):
                self._stall()
                step(path, end, kind)
            if path.name != end.name:
                self._stall()
                self._touch(end)
                path.rename(self._folder / end.name)
                end.told.append("renamed")
                path = self._folder / end.name
            if chance.random() < 0.3:
                self._stall()
                self._utime(path, end, kind)
            if chance.random() < 0.1:
                self._stall()
                path.unlink()
                end.is_removed = True
                end.told.append("removed")
        except FileNotFoundError:
            end.name = path.name
            end.told.append("gone")
        return end

    def _fill(self, path: Path, flags: int, content: bytes, end: End) -> None:
        """In pieces, with pauses, and perhaps closed in between."""
        chance = self._chance
        cuts = sorted({0, len(content), *(chance.randrange(1, len(content)) for _ in range(chance.randrange(4)))})
        descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
        begun = b""
        try:
            for number, (start, stop) in enumerate(itertools.pairwise(cuts)):
                if number:
                    if chance.random() < 0.3:
                        self._close(descriptor, end)
                        descriptor = -1
                        end.content = begun
                        end.told.append(f"closed at {len(begun)} of {len(content)}")
                        self._stall()
                        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
                        end.parts.append(begun)
                    else:
                        self._stall()
                begun += content[start:stop]
                os.write(descriptor, content[start:stop])
                end.time = None
            end.content = content
            end.told.append(f"whole with {len(content)}")
        finally:
            if descriptor >= 0:
                self._close(descriptor, end)

    def _resume(self, path: Path, end: End, kind: str) -> None:
        """What may go on does; everything else is only opened and closed."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            more = self._chance.randbytes(3000) if kind == "bin" else packets(self._chance) if kind == "ts" else b""
            self._stall()
            if more:
                os.write(descriptor, more)
                end.time = None
                end.parts.append(end.content)
                end.content += more
            end.told.append(f"resumed by {len(more)}")
        finally:
            self._close(descriptor, end)

    def _close(self, descriptor: int, end: End) -> None:
        end.is_cut_loose = os.fstat(descriptor).st_nlink == 0
        os.close(descriptor)
        self._touched = time.monotonic()

    def _touch(self, end: End) -> None:
        end.is_late = end.is_late or time.monotonic() - self._touched > self._linger_seconds / 2
        self._touched = time.monotonic()

    def _rewrite(self, path: Path, end: End, kind: str) -> None:
        """With other content, into the same file."""
        before = end.content
        end.others.append(before)
        parts, end.parts = end.parts, []
        end.told.append("written anew")
        try:
            self._fill(path, os.O_TRUNC, KINDS[kind](self._chance), end)
        finally:
            if end.content == before:  # it was gone before a byte of the new one was written
                end.others.remove(before)
                end.parts = parts
            else:  # of what was written over, a part may be all that there is
                end.others += parts

    def _utime(self, path: Path, end: End, kind: str) -> None:
        at = 1_700_000_000 + self._chance.randrange(1_000_000)
        self._touch(end)
        os.utime(path, (at, at))
        end.time = at
        end.told.append(f"utime {at}")

    def _chmod(self, path: Path, end: End, kind: str) -> None:
        path.chmod(0o600)
        end.told.append("chmod")

    def _stall(self) -> None:
        low, high = SHORTEST_STALL_SECONDS, LONGEST_STALL_SECONDS
        time.sleep(low * (high / low) ** self._chance.random())


# --- content, each unlike every other


def noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(2000, 40_000)).replace(b"\xff", b"\xfe").replace(b"\x00", b"\x01")


def packets(chance: random.Random) -> bytes:
    return b"".join(b"\x47\x40\x11\x10" + chance.randbytes(184) for _ in range(chance.randrange(10, 100)))


def jpg(chance: random.Random) -> bytes:
    content = (MEDIA / "frame.jpg").read_bytes()
    body = noise(chance)
    return content[:2] + b"\xff\xfe" + struct.pack(">H", len(body) + 2) + body + content[2:]


def png(chance: random.Random) -> bytes:
    content, body = (MEDIA / "frame.png").read_bytes(), b"tEXtnote\0" + noise(chance)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return content[:33] + chunk + content[33:]


def gif(chance: random.Random) -> bytes:
    content, body = (MEDIA / "frame.gif").read_bytes(), noise(chance)
    blocks = b"".join(bytes([len(part)]) + part for part in (body[at : at + 200] for at in range(0, len(body), 200)))
    return content[:-1] + b"\x21\xfe" + blocks + b"\0" + content[-1:]


def riff(sample: str) -> Callable[[random.Random], bytes]:
    def make(chance: random.Random) -> bytes:
        body = noise(chance)
        body += b"\1" * (len(body) % 2)
        content = (MEDIA / sample).read_bytes()[8:] + b"JUNK" + struct.pack("<I", len(body)) + body
        return b"RIFF" + struct.pack("<I", len(content)) + content

    return make


def mp4(chance: random.Random) -> bytes:
    body = noise(chance)
    return (MEDIA / "clip.mp4").read_bytes() + struct.pack(">I", 8 + len(body)) + b"free" + body


def ts(chance: random.Random) -> bytes:
    return packets(chance)


def mkv(chance: random.Random) -> bytes:
    body = noise(chance)
    return (MEDIA / "clip-live.mkv").read_bytes() + b"\xec" + struct.pack(">I", 0x10000000 | len(body)) + body


def flv(chance: random.Random) -> bytes:
    body = noise(chance)
    tag = b"\x12" + struct.pack(">I", len(body))[1:] + b"\0" * 7 + body
    return (MEDIA / "clip.flv").read_bytes() + tag + struct.pack(">I", len(tag))


def pdf(chance: random.Random) -> bytes:
    head, mark, tail = (MEDIA / "page.pdf").read_bytes().rpartition(b"startxref")
    return head + b"%" + noise(chance).hex().encode() + b"\n" + mark + tail


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "jpg": jpg,
    "png": png,
    "gif": gif,
    "webp": riff("frame.webp"),
    "mp4": mp4,
    "ts": ts,
    "avi": riff("clip.avi"),
    "wav": riff("sound.wav"),
    "mkv": mkv,
    "flv": flv,
    "pdf": pdf,
    "bin": noise,
}
