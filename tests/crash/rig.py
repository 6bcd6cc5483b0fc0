"""A relay, a sandbox and a drop folder as separate processes: what the crash tests and the storm are played on.

The relay is the real daemon, started anew after every SIGKILL; the sandbox lives on and keeps what it stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from relayd.sandbox import StoredObject, read_objects

SECRET = "sandbox-secret"
REPOSITORY = Path(__file__).parents[2]

CONFIG = """
[device]
id = "rig"

[spool]
path = "{spool}"
min_free = "1MB"

[source.camera]
type = "folder"
path = "{drop}"
settle = "200ms"
rescan = "1s"

[destination.rapidsos]
type = "rapidsos"
url = "{url}"
client_id = "sandbox"
client_secret = {{ env = "RIG_SECRET" }}
concurrency = 4
backoff_first = "50ms"
backoff_cap = "500ms"

[[rule]]
name = "everything"
from = ["camera"]
deliver = [ {{ to = "rapidsos" }} ]
"""


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Look again and again until it is so. Fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Toll:
    """What became of the files: names, for each thing that must not happen. `duplicates` are further keys of a file."""

    lost: list[str]
    altered: list[str]
    duplicates: list[str]
    unlooked_for: list[str]

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.altered or self.duplicates or self.unlooked_for)


class Rig:
    """One relay and its world below `folder`."""

    def __init__(self, folder: Path, *, entry: Sequence[str] = ("-m", "relayd")) -> None:
        self.drop = folder / "drop"
        self.spool = folder / "spool"
        self.shelf = folder / "shelf"
        self.log = folder / "relay.log"
        self.config = folder / "relayd.toml"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.dropped: dict[str, str] = {}
        self._entry = tuple(entry)
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._relay: subprocess.Popen[bytes] | None = None
        for each in (self.drop, self.spool, self.shelf):
            each.mkdir(exist_ok=True)
        self.config.write_text(CONFIG.format(spool=self.spool, drop=self.drop, url=self.url))

    # --- processes

    def start_sandbox(self, faults: str = "", settings: Mapping[str, object] | None = None) -> None:
        """Start the stand-in and wait until it listens."""
        words = [f"{name}={value}" for name, value in (settings or {}).items()]
        with (self.shelf.parent / "sandbox.log").open("ab") as log:
            self._sandbox = subprocess.Popen(
                [
                    *(sys.executable, "-m", "relayd", "sandbox"),
                    *("--listen", f"127.0.0.1:{self.port}", "--state", str(self.shelf), "--faults", faults),
                    *(part for word in words for part in ("--set", word)),
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        wait_until(self._sandbox_listens, "the sandbox listens")

    def script(self, faults: str) -> None:
        """Replace the faults in force."""
        self._post("/_sandbox/faults", {"faults": faults})

    def start_relay(self, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start the daemon; `prefix` is put before the command (strace)."""
        environment = {**os.environ, "RIG_SECRET": SECRET}
        with self.log.open("ab") as log:
            self._relay = subprocess.Popen(
                [*prefix, sys.executable, *self._entry, "--config", str(self.config), "run"],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        return self._relay

    def let_relay_run(self, seconds: float) -> None:
        """Wait for the moment to kill it. Fails if it ends by itself before."""
        assert self._relay is not None
        try:
            code = self._relay.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"the relay ended by itself with {code}:\n{self.tail()}")

    def kill_relay(self) -> None:
        """SIGKILL, as a power cut does it to a process."""
        if self._relay is not None:
            self._relay.send_signal(signal.SIGKILL)
            self._relay.wait()
            self._relay = None

    def stop(self) -> None:
        """End both processes, whatever state they are in."""
        self.kill_relay()
        if self._sandbox is not None:
            self._sandbox.kill()
            self._sandbox.wait()

    # --- what the camera does

    def drop_file(self, name: str, content: bytes) -> None:
        """Write under a temporary name and rename, as a good camera does."""
        self.dropped[name] = hashlib.sha256(content).hexdigest()
        partial = self.drop / f".{name}.part"
        partial.write_bytes(content)
        partial.rename(self.drop / name)

    # --- what came of it

    def objects(self) -> dict[str, StoredObject]:
        return read_objects(self.shelf)

    def is_stored(self, name: str) -> bool:
        """Whether the content of this dropped file is in the storage."""
        return self.dropped[name] in {stored.sha256 for stored in self.objects().values()}

    def has_arrived(self) -> bool:
        """Whether every dropped file is stored, nothing waits in the folder and the relay owes nothing."""
        if {stored.sha256 for stored in self.objects().values()} < set(self.dropped.values()):
            return False
        return self.is_idle()

    def is_idle(self) -> bool:
        """Whether nothing waits in the folder and the relay owes nothing."""
        if any(not name.startswith(".") for name in os.listdir(self.drop)):
            return False
        status = self.status()
        return status is not None and status["spool"]["pending"] == 0

    def status(self) -> dict[str, dict[str, int]] | None:
        """The status snapshot, None while no relay answers."""
        done = subprocess.run(
            [sys.executable, "-m", "relayd", "--config", str(self.config), "status", "--json"],
            capture_output=True,
            timeout=30,
        )
        return None if done.returncode else json.loads(done.stdout)

    def toll(self) -> Toll:
        """Compare what was dropped with what is stored, by content."""
        stored = list(self.objects().values())
        keys = Counter(each.sha256 for each in stored)
        by_hash = {digest: name for name, digest in self.dropped.items()}
        return Toll(
            lost=[name for name, digest in self.dropped.items() if digest not in keys],
            altered=[each.key for each in stored if each.is_altered],
            duplicates=[by_hash.get(digest, digest) for digest, count in keys.items() if count > 1],
            unlooked_for=[each.key for each in stored if each.sha256 not in by_hash],
        )

    def tail(self) -> str:
        """The end of the relay's log, for a failing test."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _sandbox_listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _post(self, path: str, body: Mapping[str, object]) -> None:
        request = Request(
            self.url + path, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
        )
        with urlopen(request, timeout=10) as answer:
            answer.read()


def picture(chance: random.Random, size_bytes: int) -> bytes:
    """A whole JPEG as far as anybody checks: start, noise without markers, end. No two are alike."""
    noise = chance.randbytes(size_bytes).replace(b"\xff", b"\xfe")
    header = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xda\x00\x02"
    return header + noise + b"\xff\xd9"
