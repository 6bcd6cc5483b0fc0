"""The files of a folder that need no look, since the ledger knows them: about 100 bytes for each, without its name."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.model import Origin


class KnownFiles:
    """By path and inode. The hash of bytes is keyed, so nobody can forge one."""

    def __init__(self, origins: Iterable[Origin] = ()) -> None:
        self._inodes = {hash(origin.path): origin.inode for origin in origins}

    def __len__(self) -> int:
        return len(self._inodes)

    def __contains__(self, origin: Origin) -> bool:
        return self._inodes.get(hash(origin.path)) == origin.inode

    def add(self, origin: Origin) -> None:
        self._inodes[hash(origin.path)] = origin.inode

    def discard(self, origin: Origin) -> None:
        """It is another file now, or gone; nothing happens if that is known already."""
        if origin in self:
            del self._inodes[hash(origin.path)]

    def inode_at(self, path: bytes) -> int | None:
        """The inode of the file that is known there."""
        return self._inodes.get(hash(path))
