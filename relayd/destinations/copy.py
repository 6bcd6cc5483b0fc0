"""A folder as a destination: a USB disk, a network drive.

Promises: a copy appears under its name only when it is whole: written beside it, fsynced, read back from the disk,
renamed, and the folder fsynced. Nothing that is there already is overwritten: a file with the same content is the copy
(of an earlier try), one with other content gets a neighbour whose name carries the item's id. No symbolic link below
the folder is followed. While the disk is absent, full, read-only or
hangs, everything waits, and nobody else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from relayd import clock
from relayd.destinations.base import Attempt, Destination, DestinationConfig
from relayd.destinations.copy_place import NEW_FILE, folder_below, place
from relayd.errors import DeliveryError, Hangs, Rejected, TryAgain, Unavailable
from relayd.fields import Section, Size, written
from relayd.files import FOLDER_FLAGS, printable, safe_name
from relayd.model import Finding, Receipt
from relayd.progress import go_on
from relayd.threads import Hang, Hung, PartThreads, in_own_thread

if TYPE_CHECKING:
    from relayd.surroundings import Surroundings

URGENT_THREADS = 2
"""Beside what fills the destination's places, something urgent and an emergency go out."""
CHECK_SECONDS = 15.0
HUNG_REMEDY = "look at the disk or the file server, and at the way to it; `umount -f -l` ends the wait"
DEEPEST = 16
"""How many sub-folders a copy may lie below the folder."""
_AWAY = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENODEV,
    errno.ENXIO,
    errno.EIO,
    errno.ESTALE,
    errno.EHOSTDOWN,
    errno.ETIMEDOUT,
}
_REMEDIES = {
    errno.ENOSPC: "it is full: make room, or exchange the disk",
    errno.EDQUOT: "the quota is used up: make room",
    errno.EROFS: "it is mounted read-only: check the disk and mount it writable",
    errno.EACCES: "relayd may not write there: give the user relayd the right",
    errno.EPERM: "relayd may not write there: give the user relayd the right",
}


class CopyConfig(DestinationConfig):
    """A folder that items are copied to."""

    type: Literal["folder"]
    """Always `folder`."""
    path: Annotated[Path, Field(examples=["/media/usb/relayd"])]
    """The folder; it must be there already, so that a missing disk is noticed."""
    must_be_mounted: bool = False
    """The folder is a mount point: as long as nothing is mounted there, everything waits."""
    min_free: Size = written("100MB", ge=0)
    """Nothing is copied while less than this would be free on it."""

    @field_validator("path")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError('must be an absolute path, write for example "/media/usb/relayd"')
        return value


class CopyArguments(Section):
    """`copy`: copy the item."""

    path: Annotated[str, Field(min_length=1)] = "{{ item.name }}"
    """Where below the folder; sub-folders are made. Each part becomes a name that every file system takes."""


class Copy(Destination):
    """One folder."""

    Config = CopyConfig
    actions: ClassVar = {"copy": CopyArguments}
    receipt_fields = frozenset({"path"})
    goes_over_link = False

    def __init__(self, name: str, config: CopyConfig, surroundings: Surroundings | None = None) -> None:
        self.name = name
        self._config = config
        self._threads = PartThreads(f"destination-{name}", config.concurrency + URGENT_THREADS)

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Copy, or find the copy of an earlier try. The receipt's `path` is the whole path of the copy."""
        stop = threading.Event()
        try:
            what = f"{printable(attempt.item.name)} is copied"
            return await self._threads.run_watched(what, self._copy, attempt, stop)
        except Hung as error:
            raise Hangs(self._does_not_answer(error.hang)) from None
        except OSError as error:
            raise self._trouble(error) from error
        finally:
            stop.set()

    async def check(self) -> list[Finding]:
        """Is the folder there, may relayd write to it, is there room. Leaves nothing behind."""
        subject = f"{self.name}: folder"
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                free_bytes = await in_own_thread("it is tried", self._try_out)
        except TimeoutError:
            text = f"{self._config.path} does not answer within {CHECK_SECONDS:.0f} s"
            return [Finding(subject=subject, is_good=False, text=text, remedy=HUNG_REMEDY)]
        except (OSError, DeliveryError) as error:
            said = self._trouble(error) if isinstance(error, OSError) else error
            remedy = f"plug the disk in or mount it, and let the user relayd write to {self._config.path}"
            return [Finding(subject=subject, is_good=False, text=str(said), remedy=remedy)]
        text = f"{self._config.path} takes files, {free_bytes // 1_000_000} MB are free"
        return [Finding(subject=subject, is_good=True, text=text)]

    async def close(self) -> None:
        """Threads that hang are left to themselves."""
        self._threads.close()

    def _does_not_answer(self, hang: Hang) -> str:
        since = f"since {clock.rfc3339(hang.since)} (while {hang.what})"
        return f"{self._config.path} does not answer {since}: its disk or file server hangs: {HUNG_REMEDY}"

    # --- in a thread

    def _copy(self, attempt: Attempt, stop: threading.Event) -> Receipt:
        item = attempt.item
        parts = _parts(str(attempt.arguments["path"]), item.id)
        with self._opened() as folder_fd:
            self._look_for_room(folder_fd, item.size_bytes)
            try:
                with folder_below(folder_fd, parts[:-1], item.id) as (parent_fd, folders):
                    name = place(parent_fd, parts[-1], attempt, partial(_go_on, stop))
            except NotADirectoryError as error:
                raise TryAgain(f"{self._config.path}: something else took its place on the way: {error}") from error
        path = self._config.path.joinpath(*folders, name)
        proof = f"read back from {path}: {item.size_bytes} bytes with the SHA-256 of the item"
        return Receipt(proof=proof, fields={"path": str(path)})

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        path = self._config.path
        if self._config.must_be_mounted and not path.is_mount():
            raise Unavailable(f"nothing is mounted at {path}: plug the disk in")
        folder_fd = os.open(path, FOLDER_FLAGS & ~os.O_NOFOLLOW)
        try:
            yield folder_fd
        finally:
            os.close(folder_fd)

    def _look_for_room(self, folder_fd: int, size_bytes: int) -> int:
        found = os.fstatvfs(folder_fd)
        free_bytes = found.f_bavail * found.f_frsize
        if free_bytes - size_bytes < self._config.min_free:
            raise Unavailable(
                f"{self._config.path} has {free_bytes} bytes free; with this copy less than min_free,"
                f" {self._config.min_free}, would be left: make room, or exchange the disk"
            )
        return free_bytes

    def _try_out(self) -> int:
        with self._opened() as folder_fd:
            name = f".relayd-check-{os.getpid()}"
            os.close(os.open(name, NEW_FILE | os.O_EXCL, 0o640, dir_fd=folder_fd))
            os.unlink(name, dir_fd=folder_fd)
            return self._look_for_room(folder_fd, 0)

    def _trouble(self, error: OSError) -> DeliveryError:
        path = self._config.path
        if error.errno in _REMEDIES:
            return Unavailable(f"{path}: {_REMEDIES[error.errno]}")
        if error.errno in _AWAY:
            return Unavailable(f"{path} is not there ({error.strerror}): plug the disk in, or mount it")
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG):
            return Rejected(f"{path}: {error.strerror}: {printable(str(error.filename or ''))} is in the way")
        return TryAgain(f"{path}: {error.strerror}")


def _parts(path: str, item_id: str) -> list[str]:
    """The path as names that every file system takes; nothing of it leads out of the folder."""
    names = [name for name in path.split("/") if name not in ("", ".", "..")][-DEEPEST:]
    return [safe_name(name, item_id) for name in names] or [safe_name("", item_id)]


def _go_on(stop: threading.Event) -> None:
    go_on()
    if stop.is_set():
        raise TryAgain("the relay is stopping")
