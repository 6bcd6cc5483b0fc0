"""The stage of the demo: a temporary folder, the sandbox and the real relay as processes of their own, and a camera.

Promises: nothing outside the folder is touched, nothing listens beyond loopback; `close` ends both processes and
removes the folder, however the play ended; every wait has a limit.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from relayd import clock
from relayd.sandbox.shelf import StoredObject, read_objects

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_COMMAND_SECONDS = 15.0
_PIECES = 5
_CONFIG = """\
[device]
id = "demo-vehicle"
name = "Demo vehicle"

[spool]
path = {spool}
min_free = "1MB"
min_free_percent = 0
min_free_inodes_percent = 0

[source.front-camera]
type = "folder"
path = {camera}
settle = "300ms"
rescan = "1s"

[destination.rapidsos]
type = "rapidsos"
url = {url}
client_id = "sandbox"
client_secret = {{ file = {secret} }}
backoff_first = "200ms"
backoff_cap = "1s"

[[rule]]
name = "everything"
from = ["front-camera"]
deliver = [ {{ to = "rapidsos", action = "upload" }} ]
"""


class StageError(Exception):
    """The play cannot go on; the text says why, for the person who watches."""


class Stage:
    """Two processes and a drop folder below `folder`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-demo-"))
        self.camera = self.folder / "camera"
        self._shelf = self.folder / "sandbox"
        self._config = self.folder / "relayd.toml"
        self._url = ""
        self._planted = ""
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._relay: subprocess.Popen[bytes] | None = None
        self.camera.mkdir()
        (self.folder / "spool").mkdir(mode=0o700)

    def close(self, *, keep: bool) -> None:
        """End both processes; `keep` leaves the folder."""
        for process in (self._relay, self._sandbox):
            if process is not None:
                _end(process)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_sandbox(self, planted: str = "") -> None:
        """Start the stand-in; `planted` faults are in force all the time, before those of the play."""
        self._planted = planted
        arguments = ["sandbox", "--listen", "127.0.0.1:0", "--state", str(self._shelf), "--faults", planted]
        self._sandbox = self._start(arguments, "sandbox.log")
        address = self._shelf / "url"
        self._await(self._sandbox, "sandbox.log", lambda: address.exists() and address.read_text().endswith("\n"))
        self._url = address.read_text().strip()
        secret = self.folder / "secret"
        secret.write_text("sandbox-secret\n")
        secret.chmod(0o600)
        values = {"spool": self.folder / "spool", "camera": self.camera, "url": self._url, "secret": secret}
        self._config.write_text(_CONFIG.format(**{name: json.dumps(str(value)) for name, value in values.items()}))

    def start_relay(self) -> None:
        """Start the real daemon, and wait until its control socket answers."""
        self._relay = self._start(["--config", str(self._config), "run"], "relay.log")
        self._await(self._relay, "relay.log", lambda: self.relay_says("status", "--json")[0] == 0)

    def kill_relay(self) -> None:
        """SIGKILL: no goodbye, nothing written back."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()

    def relay_says(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command, as a technician would type it."""
        words = [*_python(), "--config", str(self._config), *arguments]
        done = subprocess.run(
            words,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def snapshot(self) -> Mapping[str, Any]:
        """The relay's own status document."""
        code, text = self.relay_says("status", "--json")
        if code != 0:
            raise StageError(f"`relayd status` ended with {code}")
        found: Mapping[str, Any] = json.loads(text)
        return found

    def set_link(self, *, up: bool) -> None:
        self._ask("POST", "/_sandbox/link", {"up": up})

    def script(self, faults: str = "") -> None:
        """Faults of the play, after the planted ones."""
        self._ask("POST", "/_sandbox/faults", {"faults": f"{self._planted}; {faults}"})

    def uploads(self) -> Mapping[str, int]:
        """Uploads under way: file name → bytes that have come."""
        log = self._ask("GET", "/_sandbox/log")["log"]
        is_open = (each for each in log if each["operation"] == "store" and each["outcome"] == "open" and each["key"])
        return {each["key"].rsplit("/", 1)[-1]: each["received_bytes"] for each in is_open}

    def refused(self) -> int:
        """How many requests got no right answer so far."""
        log = self._ask("GET", "/_sandbox/log")["log"]
        return sum(each["outcome"] != "answered" or each["fault"] is not None for each in log)

    def objects(self) -> Sequence[StoredObject]:
        """What the stand-in has stored, read from its disk."""
        return list(read_objects(self._shelf).values())

    def write_slowly(self, name: str, content: bytes) -> None:
        """As cameras do: piece by piece under a temporary name, then renamed."""
        hidden = self.camera / f".{name}.part"
        step = len(content) // _PIECES + 1
        with hidden.open("wb") as stream:
            for start in range(0, len(content), step):
                stream.write(content[start : start + step])
                stream.flush()
                time.sleep(0.03)
        hidden.rename(self.camera / name)

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

    def _await(self, process: subprocess.Popen[bytes], log: str, is_ready: Any) -> None:
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


def samples() -> Mapping[str, bytes]:
    """The files of the play, by name: shipped pictures and a clip, each made unlike all others by a comment inside."""
    shelf = resources.files("relayd.sandbox") / "media"
    found = {}
    for number, kind in enumerate(("gate", "yard", "cabin", "drive", "gate", "yard", "cabin", "gate"), start=1):
        ending = "mp4" if kind == "drive" else "jpg"
        name = f"{kind}-{number:03}.{ending}"
        found[name] = _marked((shelf / f"{kind}.{ending}").read_bytes(), name.encode())
    return found


def _marked(content: bytes, note: bytes) -> bytes:
    """A JPEG comment after the start marker, or a free box at the end of an MP4."""
    if content.startswith(b"\xff\xd8"):
        return content[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + content[2:]
    return content + (len(note) + 8).to_bytes(4, "big") + b"free" + note


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
