"""The commands' way to the running relay: HTTP over its unix socket, with the standard library so that it starts fast.

Promises: needs no valid configuration; never talks to a relay that works on another spool than the configuration named
on the command line; every wait has a limit; what goes wrong is NoRelay (nobody answers) or Refused (it says no).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import socket
import stat
import tomllib
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from relayd.cli import Options
from relayd.errors import NoRelay, Refused
from relayd.files import printable
from relayd.web import place

ANSWER_SECONDS = 30.0
SEND_SECONDS = 300.0
LARGEST_ANSWER_BYTES = 64 * 1024 * 1024

Document = dict[str, Any]

_WHY_NOT = {
    errno.ENOENT: "not there",
    errno.ENOTDIR: "not there",
    errno.ECONNREFUSED: "nobody listens",
    errno.EACCES: "not allowed for you",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A socket to try. With `spool`, only a relay that works on this very spool counts."""

    path: Path
    spool: Path | None


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, connected: socket.socket) -> None:
        super().__init__("relayd")
        self.sock = connected


class Relay:
    """The running relay. Each call is one request on a connection of its own."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Document:
        """The document at `path`. Raises NoRelay, Refused."""
        return self._ask("GET", path + _query_string(query or {}))

    def post(self, path: str, body: Document | None = None) -> Document:
        """Have something done. Raises NoRelay, Refused."""
        return self._ask("POST", path, json.dumps(body or {}).encode())

    def send(self, file: BinaryIO, query: Mapping[str, object]) -> Document:
        """Hand the open regular file over, streamed. Raises NoRelay, Refused."""
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Refused("not a regular file")
        with self._connected() as (connection, where):
            connection.putrequest("POST", "/api/v1/send" + _query_string({**query, "modified_ns": found.st_mtime_ns}))
            connection.putheader("Content-Length", str(found.st_size))
            connection.endheaders()
            connection.sock.settimeout(SEND_SECONDS)
            sent = 0
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before the end
                sent = connection.sock.sendfile(file, count=found.st_size) if found.st_size else 0
                if sent < found.st_size:
                    raise Refused("it became shorter while it was read; nothing was taken")
            return _document(connection, where)

    def _ask(self, method: str, target: str, body: bytes | None = None) -> Document:
        with self._connected() as (connection, where):
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            return _document(connection, where)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[tuple[_SocketConnection, Place]]:
        where, connected = self._reach()
        connected.settimeout(ANSWER_SECONDS)
        connection = _SocketConnection(connected)
        try:
            yield connection, where
        except TimeoutError:
            raise NoRelay(f"the relay at {where.path} took the call but did not answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            raise NoRelay(
                f"the relay at {where.path} hung up: {escaped(str(error).strip()) or type(error).__name__}"
            ) from None
        finally:
            connection.close()

    def _reach(self) -> tuple[Place, socket.socket]:
        """The first place where somebody listens."""
        tried: list[str] = []
        for where in _places(self._options):
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connected.settimeout(ANSWER_SECONDS)
            try:
                with place.address_of(where.path) as address:
                    connected.connect(address)
            except OSError as error:
                connected.close()
                tried.append(f"{where.path} ({_WHY_NOT.get(error.errno or 0, error.strerror or 'no answer')})")
            else:
                return where, connected
        runs_as = _process_on(_spool_path(self._options))
        raise NoRelay(_nobody(tried) if runs_as is None else _no_socket(tried, runs_as))


def _places(options: Options) -> Iterator[Place]:
    """Where a relay's socket may be, most likely first; the configuration is read only when it has to be."""
    system = place.SYSTEM_FOLDER / place.SOCKET_NAME
    if options.config is None:
        yield Place(system, None)
        yield Place(_spool_path(options) / place.SOCKET_NAME, None)
        return
    spool = _spool_path(options)
    yield Place(spool / place.SOCKET_NAME, None)
    yield Place(system, spool)


def _spool_path(options: Options) -> Path:
    """As `config.spool_path_of` says, without loading all that a whole configuration takes where one look will do."""
    if options.config is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            path = tomllib.loads(options.config.read_text(encoding="utf-8"))["spool"]["path"]
            if isinstance(path, str) and path:
                return Path(path)
    from relayd.config import spool_path_of

    return spool_path_of(options.files)


def _process_on(spool: Path) -> int | None:
    """The relay that owns this spool, as far as one may see; the lock itself is not touched."""
    try:
        inode = (spool / "lock").stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in locks.splitlines():
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].endswith(f":{inode}") and words[4].isdigit():
            return int(words[4]) if _is_relay(words[4]) else None
    return None


def _is_relay(process: str) -> bool:
    """Others lock a spool for a while, too: `relayd spool check`."""
    try:
        return b"run" in Path("/proc", process, "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _no_socket(tried: list[str], process: int) -> str:
    remedy = f"`journalctl _PID={process}` says why it could not make one"
    if any("not allowed" in one for one in tried):
        remedy = f"use sudo or join the group {place.GROUP}"
    return f"a relay runs (process {process}), but no command reaches it: looked at {' and '.join(tried)}; {remedy}"


def _nobody(tried: list[str]) -> str:
    remedy = "start it with `systemctl start relayd` or `relayd run`"
    if any("not allowed" in one for one in tried):
        remedy = f"use sudo or join the group {place.GROUP}; if it does not run, {remedy}"
    return f"no running relay answers: looked at {' and '.join(tried)}; {remedy}"


def _document(connection: _SocketConnection, where: Place) -> Document:
    """The answer. Raises NoRelay if it is about another spool, Refused if it is an error."""
    response = connection.getresponse()
    body = response.read(LARGEST_ANSWER_BYTES + 1)
    served = response.headers.get("Relayd-Spool", "")
    if where.spool is not None and served != _header_form(where.spool):
        raise NoRelay(
            f"no running relay works on the spool {where.spool}; the one at {where.path} works on {printable(served)}"
        )
    if response.length and len(body) <= LARGEST_ANSWER_BYTES:
        raise NoRelay(f"the relay at {where.path} hung up in the middle of its answer")
    document = _parsed(body)
    if response.status < 400 and document is not None:
        return document
    said = None if document is None else document.get("error")
    if isinstance(said, str):
        raise Refused(escaped(said))
    raise Refused(f"the relay failed inside (status {response.status}); `journalctl -u relayd` says more")


def _parsed(body: bytes) -> Document | None:
    if len(body) > LARGEST_ANSWER_BYTES:
        raise Refused("the answer is too long; ask for less with --limit")
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _header_form(spool: Path) -> str:
    return printable(os.fsencode(spool.resolve())).encode("ascii", "backslashreplace").decode()


def _query_string(query: Mapping[str, object]) -> str:
    pairs = {key: os.fsencode(str(value)) for key, value in query.items() if value is not None}
    return "?" + urllib.parse.urlencode(pairs) if pairs else ""


def in_path(name: str) -> str:
    """An item id or a name as one segment of a path."""
    return urllib.parse.quote(os.fsencode(name), safe="")


def item_or_path(about: str) -> str:
    """A file is asked for by its absolute path, without following links: the name as the camera made it."""
    return os.path.abspath(about) if os.sep in about or os.path.lexists(about) else about  # noqa: PTH100


def escaped(text: str) -> str:
    """A text of any length on one line, whatever a stranger wrote into it."""
    return "".join(printable(piece) for piece in re.findall(r".{1,200}", text, re.DOTALL))
