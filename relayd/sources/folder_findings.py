"""Whether a drop folder can be used at all: said to the technician before, and when it stops being so."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from relayd import clock, files
from relayd.errors import WrongRequest
from relayd.files import printable
from relayd.model import Finding, Origin
from relayd.sources.folder_config import FolderConfig
from relayd.sources.folder_file import is_same_content, permit
from relayd.sources.folder_watch import InotifyWatch, has_lasting_inodes, network_type, remedy_for
from relayd.threads import Hang

NOT_MOUNTED = "nothing is mounted there"
MOST_CHECKED = 1000
"""So many sub-folders are looked at by a check."""
HUNG_REMEDY = "look at the disk or the file server, and at the way to it; `umount -f -l` ends the wait"


def open_folder(config: FolderConfig) -> int:
    """The folder's own descriptor: everything below it is reached through this one. Raises OSError."""
    descriptor = os.open(config.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if config.must_be_mounted and not os.path.ismount(config.path):
        os.close(descriptor)
        raise OSError(errno.ENODEV, NOT_MOUNTED)
    return descriptor


def whats_wrong(config: FolderConfig, folder_fd: int) -> str | None:
    """Why this descriptor no longer is the folder of the configuration, in words; None if it is."""
    try:
        found = config.path.stat()
    except OSError as error:
        return in_words(config.path, error)
    opened = os.fstat(folder_fd)
    if (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino):
        return f"{printable(str(config.path))} is another folder now"
    if config.must_be_mounted and not os.path.ismount(config.path):
        return in_words(config.path, OSError(errno.ENODEV, NOT_MOUNTED))
    return None


def in_words(path: Path, error: OSError) -> str:
    """Why the folder cannot be used."""
    name = printable(str(path))
    if error.errno == errno.ENOENT:
        return f"the folder {name} does not exist (not mounted?)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"the folder {name} cannot be read: give the service permission on it"
    return f"the folder {name} cannot be used: {error.strerror or error}"


def hangs(path: Path, hang: Hang) -> str:
    """A call that does not come back."""
    text = does_not_answer(path, f"since {clock.rfc3339(hang.since)}")
    return f"{text} (while {hang.what}); files in it wait, everything else goes on: {HUNG_REMEDY}"


def does_not_answer(path: Path, how_long: str) -> str:
    return f"the folder {printable(str(path))} does not answer {how_long}: its disk or file server hangs"


def discard(config: FolderConfig, origin: Origin) -> None:
    """Remove this very file, in quarantine, for good; no link is followed on the way. Raises OSError, WrongRequest."""
    folder_fd = open_folder(config)
    try:
        with files.parent_of(folder_fd, origin.path) as (parent_fd, name):
            found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if not is_same_content(origin, found, by_inode=has_lasting_inodes(folder_fd)):
                raise WrongRequest(f"{printable(origin.path)} has changed since: relayd looks at it again")
            os.unlink(name, dir_fd=parent_fd)
    finally:
        os.close(folder_fd)


def findings(source: str, config: FolderConfig) -> list[Finding]:
    """For `check --online`."""
    subject = f"source {source}"
    try:
        folder_fd = open_folder(config)
    except OSError as error:
        text = in_words(config.path, error)
        remedy = f"create it, or correct path in [source.{source}]" if error.errno == errno.ENOENT else ""
        return [Finding(subject=subject, is_good=False, text=text, remedy=remedy)]
    try:
        return [
            *_rights(subject, config),
            *_sub_folders(subject, config),
            *_logs(subject, config),
            _watching(subject, config, folder_fd),
        ]
    finally:
        os.close(folder_fd)


def _rights(subject: str, config: FolderConfig) -> list[Finding]:
    name = printable(str(config.path))
    if not os.access(config.path, os.R_OK | os.X_OK, effective_ids=True):
        remedy = "give the service's user read and execute permission on it"
        return [Finding(subject=subject, is_good=False, text=f"{name} cannot be listed", remedy=remedy)]
    if config.keep_originals:
        return [Finding(subject=subject, is_good=True, text=f"{name} can be read; originals stay")]
    found = config.path.stat()
    if not os.access(config.path, os.W_OK, effective_ids=True):
        remedy = "give the service's user write permission on it, or set keep_originals = true"
        text = f"{name} cannot be written: files would be taken, but not removed"
        return [Finding(subject=subject, is_good=False, text=text, remedy=remedy)]
    if found.st_mode & stat.S_ISVTX and os.geteuid() not in (0, found.st_uid):
        remedy = "take the sticky bit away (chmod -t), or set keep_originals = true"
        text = f"{name} has the sticky bit: files of other users would be taken, but not removed"
        return [Finding(subject=subject, is_good=False, text=text, remedy=remedy)]
    return [Finding(subject=subject, is_good=True, text=f"{name} can be read and written")]


def _sub_folders(subject: str, config: FolderConfig) -> list[Finding]:
    """The first one in which the service could not do its work: some programs take its rights away."""
    if not config.recursive:
        return []
    wanted = os.R_OK | os.X_OK | (0 if config.keep_originals else os.W_OK)
    count = 0
    for folder, inner, _ in os.walk(config.path):
        count += len(inner)
        for name in inner:
            path = os.path.join(folder, name)  # noqa: PTH118 - as os.walk does
            if not Path(path).is_symlink() and not os.access(path, wanted, effective_ids=True):
                text = f"the sub-folder {printable(path)} cannot be {'read' if config.keep_originals else 'written'}"
                return [Finding(subject=subject, is_good=False, text=text, remedy=permit(path))]
        if count >= MOST_CHECKED:
            break
    return []


def _logs(subject: str, config: FolderConfig) -> list[Finding]:
    """A log is closed after each line by many programs."""
    logs = [glob for glob in config.include if glob.lower().endswith(".log")]
    if not logs or not config.trust_close:
        return []
    text = f"{printable(logs[0])}: a log that is closed after each line and written on becomes many items"
    return [Finding(subject=subject, is_good=False, text=text, remedy="set trust_close = false and a long settle")]


def _watching(subject: str, config: FolderConfig, folder_fd: int) -> Finding:
    kind = network_type(folder_fd)
    if config.watch == "poll" or (config.watch == "auto" and kind is not None):
        why = f"it is a {kind} mount" if kind else "as configured"
        return Finding(subject=subject, is_good=True, text=f"polled every {config.poll_every:g} s: {why}")
    if kind is not None:
        text = f"watched by inotify, but on a {kind} mount it does not tell what other machines write"
        return Finding(subject=subject, is_good=False, text=text, remedy='write watch = "auto"')
    try:
        InotifyWatch(folder_fd, is_recursive=False).close()
    except OSError as error:
        text = f"changes are noticed only every {config.rescan:g} s"
        return Finding(subject=subject, is_good=False, text=text, remedy=remedy_for(error))
    return Finding(subject=subject, is_good=True, text="watched by inotify")
