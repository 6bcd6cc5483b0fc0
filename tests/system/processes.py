"""Starts the peers that the system tests talk to, and ends every process of them again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A TCP port on loopback that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(is_true: Callable[[], bool], what: str, *, seconds: float, alive: subprocess.Popen[bytes]) -> None:
    """Look again and again until `is_true`; fails at the deadline, or at once when the process `alive` has ended."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert alive.poll() is None, f"the process ended with {alive.returncode} before {what}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def answers(port: int) -> bool:
    """Something listens on this port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Peer:
    """One long-running process with its own process group; what it says goes to a log file."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def wait_for_port(self, port: int, *, seconds: float) -> None:
        try:
            wait_until(lambda: answers(port), f"something listens on {port}", seconds=seconds, alive=self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-3000:]}") from None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        """End the process and all its children."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()


def installed(target: str) -> None:
    """Make sure that the Debian packages of a make target are there; instant when they are."""
    subprocess.run([ROOT / "tools" / "need", target], check=True, timeout=600)
