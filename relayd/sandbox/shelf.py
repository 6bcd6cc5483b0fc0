"""What the storage stand-in holds: every stored object as a file, and an index that other processes can read.

`DIR/objects/NAME` is the content, `DIR/index.jsonl` has one JSON line per store; the last line of a key is what holds.
Promises: an object appears whole or not at all (temporary file, then rename); its hash is of the bytes on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object. `stored` counts how often its key was written, `is_altered` if the content was ever another one."""

    bucket: str
    key: str
    file: str
    size_bytes: int
    sha256: str
    md5: str
    content_type: str
    stored: int
    is_altered: bool
    first_at: float
    last_at: float

    @property
    def name(self) -> str:
        """The last part of the key: the file name that was asked for."""
        return self.key.rsplit("/", 1)[-1]


class Incoming:
    """Content on its way in: hashed as it is written. `md5_sent` is of what the client sent, whatever is stored."""

    def __init__(self, path: Path, *, is_corrupted: bool) -> None:
        self.path = path
        self.size_bytes = 0
        self._is_corrupted = is_corrupted
        self._stream: BinaryIO = path.open("wb", buffering=0)
        self._sent = hashlib.md5(usedforsecurity=False)
        self._md5 = hashlib.md5(usedforsecurity=False) if is_corrupted else self._sent
        self._sha256 = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Append; with the fault `corrupt` the very first byte is flipped on its way to the disk."""
        self._sent.update(chunk)
        if self._is_corrupted:
            chunk = bytes([chunk[0] ^ 1]) + chunk[1:] if chunk and self.size_bytes == 0 else chunk
            self._md5.update(chunk)
        self._sha256.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[self._stream.write(view) or 0 :]
        self.size_bytes += len(chunk)

    def close(self) -> None:
        self._stream.close()

    def discard(self) -> None:
        """Throw away what came; harmless after the object was kept."""
        self.close()
        self.path.unlink(missing_ok=True)

    @property
    def md5_sent(self) -> str:
        return self._sent.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


class Shelf:
    """The objects below one folder."""

    def __init__(self, folder: Path) -> None:
        self._objects = folder / "objects"
        self._incoming = folder / "incoming"
        for each in (self._objects, self._incoming):
            each.mkdir(parents=True, exist_ok=True)
        for stray in self._incoming.iterdir():
            stray.unlink()
        self._index = folder / "index.jsonl"
        self._end_torn_line()
        self._number = 0
        self.objects: dict[str, StoredObject] = read_objects(folder)
        self._keys = {_reference(key): key for key in self.objects}

    def _end_torn_line(self) -> None:
        """A sandbox killed while it wrote its index leaves half a line; the next one must not continue it."""
        if self._index.exists():
            os.truncate(self._index, self._index.read_bytes().rfind(b"\n") + 1)

    def open_incoming(self, *, is_corrupted: bool = False) -> Incoming:
        self._number += 1
        return Incoming(self._incoming / f"{os.getpid()}-{self._number}", is_corrupted=is_corrupted)

    def keep(self, incoming: Incoming, bucket: str, key: str, content_type: str, now: float) -> StoredObject:
        """Put the complete content in its place, replacing what the key held."""
        incoming.close()
        before = self.objects.get(key)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        is_altered = before is not None and (before.is_altered or before.sha256 != incoming.sha256)
        stored = StoredObject(
            bucket=bucket,
            key=key,
            file=str(self._objects / name),
            size_bytes=incoming.size_bytes,
            sha256=incoming.sha256,
            md5=incoming.md5,
            content_type=content_type,
            stored=before.stored + 1 if before else 1,
            is_altered=is_altered,
            first_at=before.first_at if before else now,
            last_at=now,
        )
        incoming.path.replace(stored.file)
        with self._index.open("a", encoding="utf-8") as index:
            index.write(json.dumps(asdict(stored)) + "\n")
        self.objects[key] = stored
        self._keys[_reference(key)] = key
        return stored

    def of_reference(self, reference: str) -> StoredObject | None:
        """The object of the slot with this id."""
        key = self._keys.get(reference)
        return None if key is None else self.objects[key]


def read_objects(folder: Path) -> dict[str, StoredObject]:
    """What a sandbox has stored below `folder`, by key; also while it runs, or after it was killed."""
    index = folder / "index.jsonl"
    if not index.exists():
        return {}
    whole = index.read_text(encoding="utf-8").rpartition("\n")[0]
    found = (StoredObject(**json.loads(line)) for line in whole.splitlines())
    return {each.key: each for each in found}


def _reference(key: str) -> str:
    """`uploads/ID/NAME` → ID."""
    return key.split("/")[1] if key.count("/") == 2 else key
