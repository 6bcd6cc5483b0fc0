"""Talks to systemd where it started us: state lines, and log entries with fields; otherwise every call does nothing.

Promises: nothing here needs a package: where systemd-python is not installed, the two datagram protocols behind it are
spoken directly. A message that nobody takes is dropped, never waited for.
Source: sd_notify(3), https://systemd.io/JOURNAL_NATIVE_PROTOCOL
"""

from __future__ import annotations

import functools
import importlib
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

JOURNAL_SOCKET = "/run/systemd/journal/socket"


def notify(*lines: str) -> None:
    """Send state lines such as `READY=1` or `STATUS=delivering`; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    text = "\n".join(lines)
    library = _library("systemd.daemon")
    if library is not None:
        library.notify(text)
    else:
        _send(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from us (`WatchdogSec=`), or None."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and int(text) > 0 else None


def is_journal(descriptor: int) -> bool:
    """Whether what is written to this descriptor ends up in the journal: `JOURNAL_STREAM` names it."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def log(fields: Mapping[str, str], path: str = JOURNAL_SOCKET) -> bool:
    """One entry of the journal, with these fields; False if the journal cannot be had."""
    library = _library("systemd.journal") if path == JOURNAL_SOCKET else None
    if library is None:
        return _send(b"".join(_field(name, value) for name, value in fields.items()), path)
    try:
        library.sendv(*(f"{name}={value}" for name, value in fields.items()))
    except OSError:
        return False
    return True


def _field(name: str, value: str) -> bytes:
    content = value.encode("utf-8", "backslashreplace")
    return name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"


def _send(datagram: bytes, address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        door.setblocking(False)
        try:
            door.sendto(datagram, address)
        except OSError:
            return False
    return True


@functools.cache
def _library(name: str) -> Any:
    """A module of systemd-python; None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
