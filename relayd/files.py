"""Opening, leasing, linking and copying of files that strangers wrote, and names that are safe to show and to send.

Promises: no symbolic link is followed, no device or pipe is waited for, nothing is read past a limit. What is staged is
on the disk when the call returns (its folder is not: `fsync_folder`), and hashed from the very bytes that were staged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import math
import os
import re
import signal
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd import progress
from relayd.errors import Quarantined, Unsettled
from relayd.model import Origin

SAFE_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
BLOCK_BYTES = 256 * 1024
SYNC_BYTES = 16 * 2**20
"""What is copied goes to the disk in such pieces: one fsync at the end may take minutes, in which a slow disk cannot be
told from one that hangs, and no stop is heard."""
LONGEST_SAFE_NAME = 120
LONGEST_PRINTABLE = 400
_CAP_LEASE = 28
_COMPARED_BYTES, _MOST_COMPARED = 4096, 64

# link(2) refuses, but a copy may well work: another file system, protected_hardlinks, too many links, no /proc, FAT.
_LINK_REFUSED = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOENT,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
}


MOST_NEVER_SYNCED = 10_000
_never_synced: dict[tuple[int, int], None] = {}
"""Device and inode of files whose fsync has failed, the oldest first."""

_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """Content that is now under its new name and on the disk. The hashes are lower-case hex."""

    size_bytes: int
    sha256: str
    md5: str
    was_linked: bool


# --- opening


def open_safely(folder_fd: int, path: bytes) -> int:
    """A read-only descriptor of the file at `path` below the folder; every component is opened without following links.

    Raises OSError (ELOOP or ENOTDIR for a link on the way). What it is, the caller learns by fstat on the descriptor.
    """
    with parent_of(folder_fd, path) as (parent_fd, name):
        return os.open(name, SAFE_OPEN_FLAGS, dir_fd=parent_fd)


@contextlib.contextmanager
def opened_folder(folder_fd: int, path: bytes) -> Iterator[int]:
    """A descriptor of the sub-folder at `path` (empty: of the folder itself), no link followed on the way."""
    if path:
        with parent_of(folder_fd, path) as (parent_fd, name):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=parent_fd)
    else:
        descriptor = os.dup(folder_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def parent_of(folder_fd: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """The descriptor of the folder that holds `path`, and the last component; for the `dir_fd` of another call."""
    *folders, name = path.split(b"/")
    if any(part in (b"", b".", b"..") for part in (*folders, name)):
        raise OSError(errno.EINVAL, "not a plain relative path", printable(path))
    parent_fd, is_own = folder_fd, False
    try:
        for part in folders:
            inner_fd = os.open(part, FOLDER_FLAGS, dir_fd=parent_fd)
            if is_own:
                os.close(parent_fd)
            parent_fd, is_own = inner_fd, True
        yield parent_fd, name
    finally:
        if is_own:
            os.close(parent_fd)


def origin_of(path: bytes, found: os.stat_result) -> Origin:
    """The identity of a file: its path and what fstat said."""
    return Origin(
        path=path, device=found.st_dev, inode=found.st_ino, size_bytes=found.st_size, mtime_ns=found.st_mtime_ns
    )


# --- proof that the writer is done


def hold_lease(descriptor: int) -> bool | None:
    """True: nobody has this file open for writing, and nobody can before the lease is released or broken.

    False: somebody has. None: cannot be told here (not the owner of the file, or not a local file system). A writer
    who comes while the lease is held waits in its open(2), and `lease_is_whole` turns False.
    """
    try:
        # A broken lease sends SIGIO, which would end the process: ask for one that is ignored by default, to nobody.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, 0)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


@functools.lru_cache(maxsize=1)
def may_lease_of_others() -> bool:
    """Whether leases on other users' files are given to this process: it has CAP_LEASE, in the machine's own user
    namespace; the kernel asks for that one."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        users = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_LEASE & 1) and users == ["0", "0", "4294967295"]


def lease_is_whole(descriptor: int) -> bool:
    """Whether the lease is held and no writer waits for it to end."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_RDLCK


def release_lease(descriptor: int) -> None:
    """Let waiting writers go on. Closing the descriptor does so too."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


# --- staging


def link_or_copy(
    source_fd: int,
    target_dir_fd: int,
    target_name: str,
    *,
    may_link: bool,
    size_limit: int,
    origin: Origin | None = None,
) -> Staged:
    """Put the file behind `source_fd` under a new name, hashed and on the disk; nothing is left behind on failure.

    With `may_link` a hard link is tried first: only right while `source_fd` holds a lease. With `origin` the file must
    still be that very one. Raises Quarantined over `size_limit`, Unsettled when somebody writes to it meanwhile,
    and OSError when the disk refuses.
    """
    before = os.fstat(source_fd)
    if before.st_size > size_limit:
        raise Quarantined(f"{before.st_size} bytes are more than the limit of {size_limit}")
    if origin is not None and not is_same(origin, before):
        raise Unsettled("the file changed before it could be taken")
    may_link = may_link and (before.st_dev, before.st_ino) not in _never_synced
    if may_link and lease_is_whole(source_fd) and _link(source_fd, target_dir_fd, target_name, before):
        with _removed_on_failure(target_dir_fd, target_name):
            staged = _read_through(source_fd, None, before)
            is_synced = _sync_shared(source_fd, before)
        if is_synced and lease_is_whole(source_fd) and os.fstat(source_fd).st_nlink == 2:
            return staged
        os.unlink(target_name, dir_fd=target_dir_fd)  # a writer came: what it changes must not change what we took
    return _copy(source_fd, target_dir_fd, target_name, before)


def is_continued(earlier_fd: int, fd: int) -> bool:
    """Whether a file goes on where an earlier state of it ended, or fills in what was zeros: at least half of the
    blocks that are compared are the same. A picture that was written over another has next to none."""
    size = os.fstat(earlier_fd).st_size
    if os.fstat(fd).st_size < size:
        return False
    blocks = range(0, size, _COMPARED_BYTES)
    chosen = [blocks[number * len(blocks) // _MOST_COMPARED] for number in range(_MOST_COMPARED)] if blocks else []
    same = 0
    for offset in dict.fromkeys(chosen):
        before = os.pread(earlier_fd, min(_COMPARED_BYTES, size - offset), offset)
        same += 1 if not before.strip(b"\0") or os.pread(fd, len(before), offset) == before else -1
    return same >= 0


def digest(descriptor: int, size_bytes: int | None = None) -> str:
    """SHA-256 of the file as it is now, or of so much of its beginning, in lower-case hex."""
    sha256 = hashlib.sha256()
    offset = 0
    end = math.inf if size_bytes is None else size_bytes
    while block := os.pread(descriptor, int(min(BLOCK_BYTES, end - offset)), offset):
        offset += len(block)
        sha256.update(block)
    return sha256.hexdigest()


def write_bytes(payload: bytes, target_dir_fd: int, target_name: str) -> Staged:
    """Put bytes under a new name, hashed and on the disk. Raises OSError; nothing is left behind then."""
    target_fd = _create(target_dir_fd, target_name)
    try:
        with _removed_on_failure(target_dir_fd, target_name):
            _write_all(target_fd, memoryview(payload))
            os.fsync(target_fd)
    finally:
        os.close(target_fd)
    sha256 = hashlib.sha256(payload).hexdigest()
    md5 = hashlib.md5(payload, usedforsecurity=False).hexdigest()
    return Staged(size_bytes=len(payload), sha256=sha256, md5=md5, was_linked=False)


def fsync_folder(folder_fd: int) -> None:
    """Make names in this folder durable: new, renamed and removed ones. Needs a descriptor that is not O_PATH."""
    os.fsync(folder_fd)


def is_same(origin: Origin, found: os.stat_result) -> bool:
    """Whether this is still the very file, unwritten since: device, inode, size and mtime."""
    return (origin.device, origin.inode, origin.size_bytes, origin.mtime_ns) == (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
    )


def _link(source_fd: int, target_dir_fd: int, target_name: str, found: os.stat_result) -> bool:
    """True if linked. The name of the source plays no part: the link is made from the descriptor itself."""
    if found.st_nlink != 1 or found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return False
    try:
        # Giving a dir_fd makes CPython call linkat with AT_SYMLINK_FOLLOW, which goes through the magic link in /proc.
        os.link(f"/proc/self/fd/{source_fd}", target_name, dst_dir_fd=target_dir_fd, follow_symlinks=True)
    except OSError as error:
        if error.errno in _LINK_REFUSED:
            return False
        raise
    return True


def _sync_shared(source_fd: int, found: os.stat_result) -> bool:
    """Whether a file that a stranger wrote is on the disk. The kernel reports pages that it could not write only once:
    the next fsync of the same file says yes though they may be nowhere, so from then on this file is only copied."""
    try:
        os.fsync(source_fd)
    except OSError:
        _never_synced[found.st_dev, found.st_ino] = None
        while len(_never_synced) > MOST_NEVER_SYNCED:
            del _never_synced[next(iter(_never_synced))]
        return False
    return True


def _copy(source_fd: int, target_dir_fd: int, target_name: str, before: os.stat_result) -> Staged:
    target_fd = _create(target_dir_fd, target_name)
    try:
        with _removed_on_failure(target_dir_fd, target_name):
            staged = _read_through(source_fd, target_fd, before)
            os.fsync(target_fd)
    finally:
        os.close(target_fd)
    return staged


def _read_through(source_fd: int, target_fd: int | None, before: os.stat_result) -> Staged:
    """Hash the whole file in one pass, writing each block to the target, if any. Raises Unsettled when it changes."""
    sha256 = hashlib.sha256()
    md5 = hashlib.md5(usedforsecurity=False)
    offset = unsynced = 0
    while block := os.pread(source_fd, BLOCK_BYTES, offset):
        progress.go_on()
        offset += len(block)
        if offset > before.st_size:
            raise Unsettled("the file grew while it was being taken")
        sha256.update(block)
        md5.update(block)
        if target_fd is not None:
            _write_all(target_fd, memoryview(block))
            unsynced += len(block)
            if unsynced >= SYNC_BYTES:
                os.fdatasync(target_fd)
                unsynced = 0
    after = os.fstat(source_fd)
    if offset != before.st_size or not is_same(origin_of(b"", before), after):
        raise Unsettled("the file changed while it was being taken")
    return Staged(size_bytes=offset, sha256=sha256.hexdigest(), md5=md5.hexdigest(), was_linked=target_fd is None)


def _create(target_dir_fd: int, target_name: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(target_name, flags, 0o600, dir_fd=target_dir_fd)


def _write_all(target_fd: int, block: memoryview) -> None:
    while block:
        block = block[os.write(target_fd, block) :]


@contextlib.contextmanager
def _removed_on_failure(folder_fd: int, name: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder_fd)
        raise


# --- names


def text_of(raw: bytes) -> str:
    r"""A file name as valid Unicode, reversibly: bytes that are no UTF-8 become `\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def size_in_words(size_bytes: float) -> str:
    """`1.2 GB`: decimal units, as the configuration writes them."""
    amount = float(size_bytes)
    unit = 0
    while abs(amount) >= 999.5 and unit < len(_SIZE_UNITS) - 1:
        amount /= 1000
        unit += 1
    digits = 1 if unit and abs(amount) < 99.95 else 0
    return f"{amount:.{digits}f} {_SIZE_UNITS[unit]}"


def printable(name: str | bytes) -> str:
    """A hostile name on one line of a log or a terminal: control, bidirectional and unassigned characters escaped."""
    text = text_of(name) if isinstance(name, bytes) else name
    if len(text) > LONGEST_PRINTABLE:
        text = text[:LONGEST_PRINTABLE] + "…"
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode() for letter in text
    )


def safe_name(name: str, item_id: str) -> str:
    """A name of `[A-Za-z0-9._-]`, at most 120 long, that any API takes; it keeps the extension.

    A name that is safe already stays as it is; any other one gets the item's id, so that no two items share one.
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}", name) and ".." not in name:
        return name
    stem, dot, extension = name.rpartition(".")
    if not stem or not re.fullmatch(r"[A-Za-z0-9]{1,10}", extension):
        stem, dot, extension = name, "", ""
    tail = _slug(item_id)[:64] + dot + extension
    kept = _slug(stem)[: LONGEST_SAFE_NAME - len(tail) - 1].rstrip("._-")
    return f"{kept}-{tail}" if kept else tail


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text[:1024]).encode("ascii", "ignore").decode()
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", plain)).strip("._-")
