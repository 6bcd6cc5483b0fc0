"""A command run at a terminal of a given width, with colours or without, so that what is shown is what people see.

Promises: ends within its time; nothing of it goes to the terminal of the demo itself.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd import clock

_LINES = 50
_CHUNK = 65536
_LEAVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Screen:
    """`columns` wide."""

    columns: int
    has_colours: bool


def run(
    words: Sequence[str], screen: Screen, folder: Path, environment: Mapping[str, str], seconds: float
) -> tuple[int, str]:
    """Exit code and what it wrote. A command that takes longer than `seconds` is ended."""
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (_LINES, screen.columns))
        running = subprocess.Popen(
            words,
            cwd=folder,
            env={**environment, **_manner(screen)},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        said = _hear(ours, clock.monotonic() + seconds)
    finally:
        os.close(ours)
        code = _end(running)
    return code, said.decode(errors="replace").replace("\r\n", "\n")


def _manner(screen: Screen) -> dict[str, str]:
    colours = {"TERM": "xterm-256color", "NO_COLOR": ""} if screen.has_colours else {"TERM": "dumb", "NO_COLOR": "1"}
    return {**colours, "COLUMNS": str(screen.columns), "LINES": str(_LINES)}


def _end(running: subprocess.Popen[bytes]) -> int:
    """Whoever has nothing more to say has a moment to leave by itself."""
    try:
        return running.wait(timeout=_LEAVE_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        return running.wait()


def _hear(descriptor: int, deadline: float) -> bytes:
    """Until the other side is closed, or the time is over."""
    heard = bytearray()
    with contextlib.suppress(OSError):
        while select.select([descriptor], [], [], max(0.0, deadline - clock.monotonic()))[0]:
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                break
            heard += chunk
    return bytes(heard)
