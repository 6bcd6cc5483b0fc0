"""The folders themselves: made if asked, and open for the user of the service.

Promises: rights are added by access lists, so that owner, group and the rights of others stay; a folder is reached
without following a link that somebody else than root made, since whoever could exchange it would be given rights
elsewhere by root.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from relayd import acl
from relayd.errors import RelaydError
from relayd.files import parent_of, printable
from relayd.provision.account import NAME, Account
from relayd.provision.places import Place, real
from relayd.provision.step import Left, Step

MOST_FOLDERS = 20_000
MOST_FILES = 20_000
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def folder_steps(place: Place, account: Account | None, root: Path, *, may_create: bool) -> Iterator[Step | Left]:
    """What is to be done about one folder of the configuration."""
    path = root / place.path.relative_to("/")
    if place.is_impossible:
        yield Left(f"{_named(place)}: the sandbox of the service cannot be opened there", "choose another folder")
        return
    stranger = _strange_link(path)
    if stranger is not None:
        yield Left(
            f"{_named(place)}: {printable(str(stranger))} is a link that root did not make",
            f"write the path that it leads to, {printable(str(real(path)))}",
        )
        return
    if not path.is_dir():
        yield from _missing(place, path, account, may_create=may_create)
    if path.is_dir() and account is not None:
        yield from _rights(place, account)


def _missing(place: Place, path: Path, account: Account | None, *, may_create: bool) -> Iterator[Step | Left]:
    shown = _named(place)
    if path.exists():
        yield Left(f"{shown} is no folder", "choose another path, or move it away")
    elif place.is_mount:
        yield Left(f"{shown} does not exist, and is to be a mount point", f"mkdir -p {_quoted(path)}; mount the disk")
    elif may_create or (place.is_spool and path.parent.is_dir()):
        mode, whose = (0o700, "relayd's own") if place.is_spool else (0o2770, "root's, group relayd")
        yield Step(f"make {shown}, {whose}", partial(_make, path, account, mode, is_own=place.is_spool))
        if place.is_drop:
            yield Left(
                f"{shown} is new: whoever delivers files there (camera, FTP server) needs the right to write",
                f"setfacl -m u:USER:rwx -m d:u:{NAME}:rwx {_quoted(path)}",
            )
    else:
        command = "relayd setup --create" if place.is_drop or place.is_spool else "mount the disk, or make the folder"
        yield Left(f"{shown} does not exist", command)


def _make(path: Path, account: Account | None, mode: int, *, is_own: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700)
    if account is not None and os.geteuid() == 0:
        os.chown(path, account.uid if is_own else -1, account.gid)
    path.chmod(mode)


# --- rights


def _rights(place: Place, account: Account) -> Iterator[Step | Left]:
    letters = "rwx" if place.is_written else "rx"
    if place.is_spool:
        yield from _own(place, account)
        return
    if not place.is_hidden:
        yield from _way(place, account)
    rights = acl.READ | acl.SEARCH | (acl.WRITE if place.is_written else 0)
    if not account.may(place.path, letters, is_from_inside=True):
        what = "read, write and remove" if place.is_written else "read"
        yield Step(
            f"{_named(place)}: user {NAME} may {what} there (access list; its owner stays)",
            partial(_open_up, place, account, rights),
        )
    if place.is_drop and place.is_written:
        yield from _sticky(place, account)
    if place.is_drop:
        yield from _what_is_there(place, account, rights)


def _own(place: Place, account: Account) -> Iterator[Left]:
    found = place.path.stat()
    if found.st_uid != account.uid:
        path = _quoted(place.path)
        yield Left(
            f"{_named(place)} belongs to somebody else than {NAME}",
            f"chown -R {NAME}:{NAME} {path} && chmod 700 {path}",
        )


def _way(place: Place, account: Account) -> Iterator[Step]:
    """The folders above: the user must be able to pass."""
    for above in reversed(real(place.path).parents):
        if not account.may(above, "x", is_from_inside=True):
            yield Step(
                f"{printable(str(above))}: user {NAME} may pass through to {_named(place)} (access list)",
                partial(_grant, above, account, acl.SEARCH),
            )


def _grant(path: Path, account: Account, rights: int) -> None:
    folder_fd = _opened(path)
    try:
        acl.grant(folder_fd, account.uid, rights)
    finally:
        os.close(folder_fd)


def _open_up(place: Place, account: Account, rights: int) -> None:
    folder_fd = _opened(place.path)
    try:
        _grant_both(folder_fd, place, account, rights)
    except OSError as error:
        raise _no_list(place, error) from None
    finally:
        os.close(folder_fd)


def _grant_both(folder_fd: int, place: Place, account: Account, rights: int) -> None:
    acl.grant(folder_fd, account.uid, rights)
    if place.is_drop:
        acl.grant(folder_fd, account.uid, rights, is_for_new=True)


def _no_list(place: Place, error: OSError) -> RelaydError:
    path = _quoted(place.path)
    if error.errno == errno.EOPNOTSUPP:
        return RelaydError(
            f"the file system of {_named(place)} has no access lists: run `chgrp {NAME} {path} && chmod g+rwxs {path}`,"
            f" or mount it with uid={NAME},gid={NAME}"
        )
    return RelaydError(f"{_named(place)}: {error.strerror}")


def _sticky(place: Place, account: Account) -> Iterator[Left]:
    found = place.path.stat()
    if found.st_mode & stat.S_ISVTX and found.st_uid != account.uid:
        yield Left(
            f"{_named(place)} has the sticky bit: files of others would be taken, but not removed",
            f"chmod -t {_quoted(place.path)}",
        )


def _what_is_there(place: Place, account: Account, rights: int) -> Iterator[Step]:
    """What was there before the folder had its list: sub-folders, and files that the user cannot read."""
    folders, files = _closed(place, account, rights, is_to_open=False)
    if folders:
        shown = f"{folders} sub-folder{'s' * (folders > 1)}"
        yield Step(f"{_named(place)}: the same for {shown} of it", partial(_each, place, account, rights))
        files = 0  # along with them
    if files:
        shown = "1 file that is" if files == 1 else f"{files} files that are"
        yield Step(
            f"{_named(place)}: user {NAME} may read {shown} there already", partial(_each, place, account, rights)
        )


def _each(place: Place, account: Account, rights: int) -> None:
    _closed(place, account, rights, is_to_open=True)


def _closed(place: Place, account: Account, rights: int, *, is_to_open: bool) -> tuple[int, int]:
    """How many sub-folders and files are closed for the user; `is_to_open` opens them."""
    folders = files = seen = 0
    top_fd = _opened(place.path)
    try:
        for number, (_, below, names, folder_fd) in enumerate(os.fwalk(".", dir_fd=top_fd, follow_symlinks=False)):
            if number > 0 and _is_closed(folder_fd, account, rights):
                folders += 1
                if is_to_open:
                    _grant_both(folder_fd, place, account, rights)
            for name in names[: max(0, MOST_FILES - seen)]:
                files += _is_closed_file(folder_fd, name, account, is_to_open=is_to_open)
            seen += len(names)
            if not place.is_deep or number >= MOST_FOLDERS:
                below.clear()
    finally:
        os.close(top_fd)
    return folders, files


def _is_closed_file(folder_fd: int, name: str, account: Account, *, is_to_open: bool) -> bool:
    """Whether it is a file that the user cannot read. One with several names may be anybody's: it is let be."""
    try:
        file_fd = os.open(name, OPEN_FILE, dir_fd=folder_fd)
    except OSError:
        return False  # a link, or gone
    try:
        found = os.fstat(file_fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or not _is_closed(file_fd, account, acl.READ):
            return False
        if is_to_open:
            acl.grant(file_fd, account.uid, acl.READ)
        return True
    finally:
        os.close(file_fd)


def _is_closed(descriptor: int, account: Account, rights: int) -> bool:
    """Whether the user lacks one of the rights; by owner, group, others and the access list."""
    found = os.fstat(descriptor)
    if found.st_uid == account.uid:
        return found.st_mode >> 6 & rights != rights
    if found.st_mode & rights == rights:
        return False
    if found.st_gid in (account.gid, *account.groups) and found.st_mode >> 3 & rights == rights:
        return False
    try:
        return not acl.has(descriptor, account.uid, rights)
    except OSError:
        return False  # no lists here: nothing that could be granted


# --- the way to a folder


def _strange_link(path: Path) -> Path | None:
    """The first part of the path that is a link and not root's; None if there is none."""
    for part in (*reversed(path.parents), path):
        try:
            found = part.lstat()
        except OSError:
            return None
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
            return part
    return None


def _opened(path: Path) -> int:
    """The folder's descriptor; no link is followed on the way, since the path is the real one."""
    top_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inner = os.fsencode(real(path)).strip(b"/")
        if not inner:
            return os.dup(top_fd)
        with parent_of(top_fd, inner) as (parent_fd, name):
            return os.open(name, OPEN_FOLDER, dir_fd=parent_fd)
    finally:
        os.close(top_fd)


def _named(place: Place) -> str:
    return f"{printable(str(place.path))} ({place.owner})"


def _quoted(path: Path) -> str:
    return shlex.quote(printable(str(path)))
