"""Where the control socket is, for the relay that offers it and for those who look for it.

Promises: a socket somebody still answers on is never replaced, a dead one is; the mode is 0660 from the first moment
on, whatever the umask; paths longer than the 107 bytes of a socket address work. Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from relayd.errors import RelaydError

SOCKET_NAME = "relayd.sock"
SYSTEM_FOLDER = Path("/run/relayd")
GROUP = "relayd"
SOCKET_MODE = 0o660
LONGEST_ADDRESS_BYTES = 107
ANSWER_SECONDS = 2.0
BACKLOG = 64


class CannotListen(RelaydError):
    """The control socket cannot be made in this place; says why."""


def offered(spool_folder: Path, *, has_own_config: bool, environ: Mapping[str, str]) -> list[Path]:
    """Where a relay tries to make its socket, best first: the system's place if it is the system's relay, then its
    own spool folder.
    """
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")
    is_service = str(SYSTEM_FOLDER) in runtime
    is_system_wide = not has_own_config and os.access(SYSTEM_FOLDER, os.W_OK | os.X_OK)
    own = spool_folder / SOCKET_NAME
    return [SYSTEM_FOLDER / SOCKET_NAME, own] if is_service or is_system_wide else [own]


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """What bind and connect take for `path`, however long it is."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`. Raises CannotListen if somebody answers there already or the folder refuses."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _remove_dead(path)
        os.fchmod(listening.fileno(), SOCKET_MODE)  # bind gives the file this mode, so that it never has a wider one
        with address_of(path) as address:
            listening.bind(address)
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EOPNOTSUPP, "its file system has no sockets")
        path.chmod(SOCKET_MODE)  # a strict umask has taken bits away
        _give_to_group(path)
        listening.listen(BACKLOG)  # nobody gets in before this line
    except OSError as error:
        listening.close()
        _remove_empty(path)
        raise CannotListen(f"cannot make the control socket {path}: {error.strerror or error}") from None
    except BaseException:
        listening.close()
        raise
    return listening


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at `path` now; None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove(path: Path, own: tuple[int, int] | None) -> None:
    """Take our own socket away; one that somebody else has put there since stays."""
    if own is not None and identity(path) == own:
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_dead(path: Path) -> None:
    """Make room: a socket nobody answers on is left over from a relay that was killed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if _remove_empty(path):
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotListen(f"cannot make the control socket {path}: something else is there, move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, address_of(path) as address:
        probe.settimeout(ANSWER_SECONDS)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):
            pass  # its queue of callers is full, so somebody listens
    raise CannotListen(f"another relay answers on {path}")


def _remove_empty(path: Path) -> bool:
    """Some file systems make an empty file where a socket was asked for."""
    try:
        found = path.lstat()
        is_litter = stat.S_ISREG(found.st_mode) and not found.st_size and found.st_uid == os.geteuid()
        if is_litter:
            path.unlink()
    except OSError:
        return False
    return is_litter


def _give_to_group(path: Path) -> None:
    """To the group `relayd`, if there is one and we may; otherwise it stays with our own group."""
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid, follow_symlinks=False)
