"""A real relay as its own process, and ways to talk to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from relayd.cli import main
from relayd.web import place
from tests.patience import PATIENT_SECONDS

REPOSITORY = Path(__file__).parents[2]

CONFIG = """
[device]
id = "amb-0417"

[spool]
path = "{spool}"
min_free = "1MB"

[source.camera]
type = "folder"
path = "{drop}"
settle = "100ms"
rescan = "1s"

[destination.rapidsos]
type = "rapidsos"
url = "{url}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SECRET" }}
backoff_first = "50ms"
backoff_cap = "500ms"

[[rule]]
name = "everything"
from = ["camera"]
deliver = [ {{ to = "rapidsos" }} ]
"""


def wait_for(true: Callable[[], Any], what: str, seconds: float = PATIENT_SECONDS) -> Any:
    """Look until it is so, and return what was found."""
    deadline = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: http.client.HTTPMessage

    @property
    def document(self) -> Any:
        return json.loads(self.body)


class RunningRelay:
    """A relay over `folder`; nobody listens where it delivers to, unless `url` says otherwise."""

    def __init__(
        self, folder: Path, url: str = "http://127.0.0.1:9", *, entry: Sequence[str] = ("-m", "relayd")
    ) -> None:
        self.spool, self.drop, self.log = folder / "spool", folder / "drop", folder / "relay.log"
        self.config = folder / "relayd.toml"
        self.socket = self.spool / "relayd.sock"
        for each in (self.spool, self.drop):
            each.mkdir(parents=True)
        self.config.write_text(CONFIG.format(spool=self.spool, drop=self.drop, url=url))
        self.environment = {**os.environ, "TEST_SECRET": "sandbox-secret"}
        self.process: subprocess.Popen[bytes] | None = None
        self._entry = tuple(entry)

    def start(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start it and wait until it answers."""
        process = self.spawn(prefix)
        wait_for(self._answers, "the relay answers")
        return process

    def spawn(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start it without waiting; `prefix` is put before the command (strace)."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command("run")],
                cwd=REPOSITORY,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        return self.process

    def command(self, *words: str) -> list[str]:
        """The command line for this relay, to be run in the repository."""
        return [sys.executable, *self._entry, "--config", str(self.config), *words]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, and wait for its end."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.process = None
        return code

    def call(self, *arguments: str | Path) -> Result:
        """The command line, in this process: neither standard output nor error is a terminal."""
        return CliRunner().invoke(main, ["--config", str(self.config), *map(str, arguments)])

    def json(self, *arguments: str | Path) -> Any:
        """What a command says with `--json`; it must succeed."""
        result = self.call(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def send(self, file: Path, *arguments: str) -> str:
        """Hand a file over; the item's id."""
        sent: str = self.json("send", file, "--to", "rapidsos", *arguments)["sent"][0]["id"]
        return sent

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """One raw request on the socket."""
        connection = http.client.HTTPConnection("relayd", timeout=30)
        connection.sock = self.connect()
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), response.headers)
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        caller = socket.socket(socket.AF_UNIX)
        caller.settimeout(30)
        try:
            with place.address_of(self.socket) as address:
                caller.connect(address)
        except OSError:
            caller.close()
            raise
        return caller

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.ask("GET", "/api/v1/status").status == 200
        except OSError:
            return False
