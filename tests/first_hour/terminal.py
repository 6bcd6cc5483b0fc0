"""A person at a real terminal: a command on a pseudo-terminal of its own, read and typed into."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.patience import PATIENT_SECONDS

RELAYD = (sys.executable, "-m", "relayd")


class Terminal:
    """Runs until `end`, or the end of the context. `screen` is all that was ever shown."""

    def __init__(
        self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None, kind: str = "vt100"
    ) -> None:
        self._master, slave = os.openpty()
        self.screen = ""
        self._seen = 0
        with os.fdopen(slave, "rb", buffering=0) as inner:
            self._process = subprocess.Popen(
                [*RELAYD, *words],
                stdin=inner,
                stdout=inner,
                stderr=inner,
                cwd=folder,
                env={**os.environ, "TERM": kind, "PYTHONUTF8": "1", **(environment or {})},
                start_new_session=True,
                # Its controlling terminal, as after a login.
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(20)
        os.close(self._master)

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self, prompt: str, text: str) -> None:
        """Wait until this prompt shows, then type the text and Return."""
        self.until(prompt)
        self.type(text + "\n")

    def until(self, text: str, seconds: float = PATIENT_SECONDS) -> None:
        """Wait until the text shows, after what was waited for before."""
        deadline = time.monotonic() + seconds
        while (found := self.screen.find(text, self._seen)) < 0:
            is_over = not self._read(deadline)
            assert not is_over, f"not on the screen within {seconds:.0f} s: {text!r}\n{self.screen[self._seen :]}"
        self._seen = found + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.type("\x03")

    def end(self, seconds: float = 60.0) -> int:
        """Wait until it ends by itself; the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self._process.wait(max(1.0, deadline - time.monotonic()))

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def _read(self, deadline: float) -> bool:
        """Whether there was something more, before the deadline and the end."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.screen += piece.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(piece)
