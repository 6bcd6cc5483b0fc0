"""A real mosquitto in a process of its own, on a free port: started, stopped, killed and started again by the tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mosquitto:
    """One broker below `folder`. `options` are lines of its configuration; a persistent one loses nothing on a stop."""

    def __init__(self, folder: Path, *, options: str = "", is_persistent: bool = True, is_open: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "max_queued_messages 0",
            "user root" if os.geteuid() == 0 else "",
            "allow_anonymous true" if is_open else "allow_anonymous false",
        ]
        if is_persistent:
            lines += ["persistence true", f"persistence_location {folder}/", "autosave_interval 3600"]
        self._config.write_text("\n".join([*lines, options, ""]))

    def start(self) -> Mosquitto:
        """Run it, and wait until it listens."""
        assert MOSQUITTO is not None, "mosquitto is missing: apt-get install mosquitto"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, f"mosquitto ended by itself:\n{self.log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.01)

    def stop(self) -> None:
        """A clean stop: it writes its database."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what it had not written is gone."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None
