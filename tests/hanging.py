"""A disk, share or name server that hangs: calls on it do not come back until it is let go, as with a file server that
has gone. Planted where Python meets the system, so that threads of the real program hang in it.

In this process: `with hanging() as outside: outside.hang(folder)`. In a relay of its own:
`python -m tests.hanging SWITCH -- --config FILE run`, where the file SWITCH lists what hangs, a line each: folders, and
names of hosts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STEP_SECONDS = 0.02
SLOW = "slow:"
"""Before a place in the list: calls there take SLOW_SECONDS, and come back."""
SLOW_SECONDS = 0.3
_WITH_PATH = ("open", "stat", "lstat", "scandir", "access", "statvfs", "mkdir", "unlink", "rename", "link", "listdir")
_WITH_DESCRIPTOR = ("fstat", "pread", "read", "write", "fsync", "fdatasync", "close", "fstatvfs")


class Outside:
    """What hangs now: one per process, told by a file that others may write."""

    def __init__(self, switch: Path) -> None:
        self._switch = switch
        self._whole = {name: getattr(os, name) for name in (*_WITH_PATH, *_WITH_DESCRIPTOR)}
        self._resolve = socket.getaddrinfo

    def hang(self, *what: Path | str) -> None:
        """These do not answer from now on."""
        self._switch.write_text("".join(f"{each}\n" for each in what))

    def let_go(self) -> None:
        """Everything answers again."""
        self.hang()

    def plant(self) -> None:
        for name in _WITH_PATH:
            setattr(os, name, self._by_path(self._whole[name]))
        for name in _WITH_DESCRIPTOR:
            setattr(os, name, self._by_descriptor(self._whole[name]))
        socket.getaddrinfo = self._by_host

    def take_away(self) -> None:
        for name, whole in self._whole.items():
            setattr(os, name, whole)
        socket.getaddrinfo = self._resolve

    def _by_path(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            self._wait_for(lambda: self._place(path, options.get("dir_fd")))
            return whole(path, *args, **options)

        return call

    def _by_descriptor(self, whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, *args: Any) -> Any:
            self._wait_for(lambda: self._place(descriptor, None))
            return whole(descriptor, *args)

        return call

    def _by_host(self, host: Any, *args: Any, **options: Any) -> Any:
        self._wait_for(lambda: str(host))
        return self._resolve(host, *args, **options)

    def _place(self, path: Any, folder_fd: int | None) -> str:
        """Where that is, without asking the disk itself."""
        if isinstance(path, int):
            return self._target(path)
        text = os.fsdecode(path)
        if text.startswith("/proc/self/fd/"):
            return self._target(int(text.rpartition("/")[2]))
        return text if folder_fd is None else f"{self._target(folder_fd)}/{text}"

    def _target(self, descriptor: int) -> str:
        try:
            return str(Path(f"/proc/self/fd/{descriptor}").readlink())
        except OSError:
            return ""

    def _wait_for(self, place: Callable[[], str]) -> None:
        hung = self._hung()
        if any(each.startswith(SLOW) and f"{place()}/".startswith(f"{each[len(SLOW) :]}/") for each in hung):
            time.sleep(SLOW_SECONDS)
        while hung and any(f"{where}/".startswith(f"{each}/") for where in [place()] for each in hung):
            time.sleep(STEP_SECONDS)
            hung = self._hung()

    def _hung(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            descriptor = self._whole["open"](self._switch, os.O_RDONLY)
            try:
                return str(self._whole["read"](descriptor, 65536), "utf-8").split()
            finally:
                self._whole["close"](descriptor)
        return []


@contextlib.contextmanager
def hanging(switch: Path) -> Iterator[Outside]:
    """Planted in this process; everything is let go at the end."""
    outside = Outside(switch)
    outside.plant()
    try:
        yield outside
    finally:
        outside.let_go()
        outside.take_away()


if __name__ == "__main__":
    from relayd import threads
    from relayd.cli import main

    threads.HUNG_SECONDS = 1.0
    Outside(Path(sys.argv[1])).plant()
    main(sys.argv[3:])
