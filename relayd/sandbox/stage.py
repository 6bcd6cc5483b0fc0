"""The stage of the demo: a temporary folder, the sandbox and the real relay as processes of their own, and cameras.

Promises: nothing outside the folder is touched, nothing listens beyond loopback; `close` ends both processes and
removes the folder, however the play ended; every wait has a limit.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from relayd import clock
from relayd.sandbox import terminal
from relayd.sandbox.records import Records
from relayd.sandbox.terminal import Screen

CAMERAS = ("front-camera", "side-camera", "rear-camera")
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_COMMAND_SECONDS = 20.0
_PIECES = 5
_SECRETS = {
    "rapidsos": "sandbox-secret",
    "incidentshare": "sandbox-secret",
    "control-room": "ak_sandbox",
    "status-page": "1|sandbox",
    "watcher": "sandbox-password",
}


class StageError(Exception):
    """The play cannot go on; the text says why, for the person who watches."""


class Stage:
    """Two processes and three drop folders below `folder`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-demo-"))
        self._shelf = self.folder / "sandbox"
        self._config = self.folder / "relayd.toml"
        self._url = ""
        self._planted = ""
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._relay: subprocess.Popen[bytes] | None = None
        for camera in CAMERAS:
            (self.folder / camera).mkdir()
        (self.folder / "spool").mkdir(mode=0o700)

    def close(self, *, keep: bool) -> None:
        """End both processes; `keep` leaves the folder."""
        for process in (self._relay, self._sandbox):
            if process is not None:
                _end(process)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_sandbox(self, planted: str = "") -> None:
        """Start the stand-ins; `planted` faults are in force all the time, before those of the play."""
        self._planted = planted
        arguments = ["--listen", "127.0.0.1:0", "--mqtt", "0", "--state", str(self._shelf), "--faults", planted]
        self._sandbox = self._start(["sandbox", *arguments], "sandbox.log")
        address = self._shelf / "url"
        self._await(self._sandbox, "sandbox.log", lambda: address.exists() and address.read_text().endswith("\n"))
        self._url = address.read_text().strip()
        self._write_secrets()
        text = string.Template((resources.files("relayd.sandbox") / "demo.toml").read_text(encoding="utf-8"))
        broker = self._ask("GET", "/_sandbox/")["mqtt"]
        folder = json.dumps(str(self.folder))[1:-1]
        self._config.write_text(text.substitute(folder=folder, url=self._url, broker=broker), encoding="utf-8")

    def start_relay(self, meanwhile: Callable[[], object]) -> None:
        """Start the real daemon, and wait until its control socket answers; `meanwhile` is called now and then."""
        self._relay = self._start(["--config", str(self._config), "run"], "relay.log")

        def is_ready() -> bool:
            meanwhile()
            return self._run("status", "--json")[0] == 0

        self._await(self._relay, "relay.log", is_ready)

    def kill_relay(self) -> None:
        """SIGKILL: no goodbye, nothing written back."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()

    # --- the relay

    def show(self, screen: Screen, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command, as a technician would see it at such a terminal."""
        words = [*_python(), "--config", str(self._config), *arguments]
        return terminal.run(words, screen, self.folder, _environment(), _COMMAND_SECONDS)

    def tell(self, *arguments: str) -> Any:
        """What a command says with --json."""
        code, text = self._run(*arguments, "--json")
        if code != 0:
            raise StageError(f"`relayd {' '.join(arguments)}` ended with {code}")
        return json.loads(text)

    def _run(self, *arguments: str) -> tuple[int, str]:
        words = [*_python(), "--config", str(self._config), *arguments]
        try:
            done = subprocess.run(
                words,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StageError(f"`relayd {' '.join(arguments)}` does not end") from None
        return done.returncode, done.stdout.decode(errors="replace")

    # --- the world

    def set_link(self, *, up: bool) -> None:
        self._ask("POST", "/_sandbox/link", {"up": up})

    def script(self, faults: str = "") -> None:
        """Faults of the play, after the planted ones."""
        self._ask("POST", "/_sandbox/faults", {"faults": f"{self._planted}; {faults}"})

    def press_button(self) -> None:
        self._ask("POST", "/_sandbox/mqtt", {"topic": "vehicle/panic", "payload": {"pressed": True}})

    def scan(self, token: str) -> None:
        """Show a QR code's text to the camera that Watcher waits for."""
        answer = self._ask("POST", "/_sandbox/watcher/scan", {"token": token})
        if "error" in answer:
            raise StageError(f"the camera does not take the QR code: {answer['error']}")

    def records(self) -> Records:
        """What every server has recorded up to now."""
        return Records(self._ask("GET", "/_sandbox/records"), self._ask("GET", "/_sandbox/log")["log"])

    def write_slowly(self, camera: str, name: str, content: bytes) -> None:
        """As cameras do: piece by piece under a temporary name, then renamed."""
        hidden = self.folder / camera / f".{name}.part"
        step = len(content) // _PIECES + 1
        with hidden.open("wb") as stream:
            for start in range(0, len(content), step):
                stream.write(content[start : start + step])
                stream.flush()
                time.sleep(0.03)
        hidden.rename(self.folder / camera / name)

    def is_left(self, camera: str, name: str) -> bool:
        """Whether a file is still in the folder of its camera."""
        return (self.folder / camera / name).exists()

    # --- processes

    def _write_secrets(self) -> None:
        folder = self.folder / "secrets"
        folder.mkdir(mode=0o700)
        for name, secret in _SECRETS.items():
            (folder / name).write_text(secret + "\n")
            (folder / name).chmod(0o600)

    def _start(self, arguments: Sequence[str], log: str) -> subprocess.Popen[bytes]:
        """In a session of its own, so that Ctrl-C reaches the demo alone, which then ends the others in order."""
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [*_python(), *arguments],
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _await(self, process: subprocess.Popen[bytes], log: str, is_ready: Callable[[], bool]) -> None:
        deadline = clock.monotonic() + _START_SECONDS
        while not is_ready():
            if process.poll() is not None or clock.monotonic() > deadline:
                last = (self.folder / log).read_text(errors="replace").strip().splitlines()[-5:]
                raise StageError("\n".join([f"{log.removesuffix('.log')} did not start; its last words:", *last]))
            time.sleep(0.05)

    def _ask(self, method: str, path: str, wish: Mapping[str, object] | None = None) -> Any:
        parts = urlsplit(self._url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
        try:
            connection.request(method, path, None if wish is None else json.dumps(wish))
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException) as error:
            raise StageError(f"the sandbox does not answer: {error}") from None
        finally:
            connection.close()


def _python() -> list[str]:
    return [sys.executable, "-m", "relayd"]


def _environment() -> dict[str, str]:
    """Ours, but for what would lead the processes to a relay or a configuration of the system."""
    dropped = ("RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
