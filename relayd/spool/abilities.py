"""What a spool needs of its file system besides room: each ability tried once, and said in a sentence where it lacks.

Promises: leaves nothing behind. What lacks and can be lived with is said, too, with `is_grave` false.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relayd.errors import SpoolError

BETTER = "put the spool on ext4, xfs, btrfs or f2fs (`relayd spool move DIR`)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """One ability that is not there: what that means, and what to do."""

    text: str
    remedy: str
    is_grave: bool

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


def lacks(folder: Path) -> list[Lack]:
    """What the file system of this folder cannot do. Blocks. Raises SpoolError if nothing can be made in it."""
    try:
        trial = Path(tempfile.mkdtemp(prefix=".relayd-trial-", dir=folder))
    except OSError as error:
        raise SpoolError(f"nothing can be made in {folder}: {error.strerror}") from error
    try:
        return [lack for ability in _ABILITIES if (lack := ability(trial)) is not None]
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _rights(trial: Path) -> Lack | None:
    """mkdtemp asked for 0700, so whatever else is there the file system has made of it."""
    file = _written(trial / "rights")
    for path, asked in ((trial, 0o700), (file, 0o600)):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            text = f"others on this machine may read what is stored: the file system keeps no rights ({mode:03o}, asked"
            remedy = f"mount it with umask=0077 and the uid of the service, or {BETTER}"
            return Lack(text=f"{text} for {asked:03o})", remedy=remedy, is_grave=True)
    return None


def _hard_links(trial: Path) -> Lack | None:
    return _tried(
        lambda: (trial / "link").hardlink_to(_written(trial / "linked")),
        "it has no hard links, so files are copied into the spool and never shared with their folder",
        "",
        is_grave=False,
    )


def _durable_names(trial: Path) -> Lack | None:
    def sync() -> None:
        folder_fd = os.open(trial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)

    return _tried(sync, "a power cut may lose names of files that were accepted, folders cannot be synced", BETTER)


def _renames_over(trial: Path) -> Lack | None:
    def rename() -> None:
        _written(trial / "new").replace(_written(trial / "old"))

    return _tried(rename, "a file cannot take the place of another one", BETTER)


def _sockets(trial: Path) -> Lack | None:
    def bind() -> None:
        folder_fd = os.open(trial, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(f"/proc/self/fd/{folder_fd}/socket")
        finally:
            os.close(folder_fd)
        if not (trial / "socket").is_socket():
            raise OSError(0, "a plain file came of it")

    return _tried(
        bind,
        "it has no sockets, so commands reach the relay through /run/relayd/relayd.sock alone, which the service has",
        "",
        is_grave=False,
    )


_ABILITIES: tuple[Callable[[Path], Lack | None], ...] = (_rights, _hard_links, _durable_names, _renames_over, _sockets)


def _tried(do: Callable[[], object], text: str, remedy: str, *, is_grave: bool = True) -> Lack | None:
    try:
        do()
    except OSError as error:
        return Lack(text=f"{text} ({error.strerror})", remedy=remedy, is_grave=is_grave)
    return None


def _written(path: Path) -> Path:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return path
