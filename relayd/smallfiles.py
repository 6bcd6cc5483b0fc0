"""Small files that relayd writes for others to read: a configuration, a secret, a drop-in of its unit.

Promises: under its name such a file is whole, on the disk, and from its first moment of the right owner and mode; a
call that fails or is interrupted leaves the old one as it was, and nothing beside it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from relayd.files import fsync_folder


def put(path: Path, payload: bytes, *, mode: int, group: int | None = None) -> None:
    """Make `path` hold `payload`, in place of whatever file or link has that name. Raises OSError.

    `group` None leaves the group of whoever writes.
    """
    folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".relayd-{secrets.token_hex(8)}.part"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder_fd), "wb") as stream:
                if group is not None:
                    os.fchown(stream.fileno(), -1, group)
                os.fchmod(stream.fileno(), mode)
                stream.write(payload)
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(temporary, path.name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder_fd)
            raise
        fsync_folder(folder_fd)
    finally:
        os.close(folder_fd)


def remove(path: Path) -> bool:
    """Remove it, durably; False if there is none. Raises OSError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    folder_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync_folder(folder_fd)
    finally:
        os.close(folder_fd)
    return True


def make_folder(path: Path, *, mode: int) -> None:
    """The folder and those above it; only one that is made now gets `mode`. Raises OSError."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=mode)
        path.chmod(mode)


def give_to_group(folder: Path, group: int) -> None:
    """Let a group pass through it and list it. Raises OSError."""
    os.chown(folder, -1, group)
    folder.chmod(folder.stat().st_mode | 0o050)
