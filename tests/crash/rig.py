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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from relayd.sandbox import StoredObject, read_objects
from tests.daemon.running import RunningRelay, wait_for


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


class Rig(RunningRelay):
    """One relay and its world below `folder`."""

    def __init__(self, folder: Path, *, entry: Sequence[str] = ("-m", "relayd")) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(folder, self.url, entry=entry)
        self.shelf = folder / "shelf"
        self.shelf.mkdir()
        self.dropped: dict[str, str] = {}
        self._sandbox: subprocess.Popen[bytes] | None = None

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
        wait_for(self._sandbox_listens, "the sandbox listens")

    def script(self, faults: str) -> None:
        """Replace the faults in force."""
        self.ask_sandbox("/_sandbox/faults", {"faults": faults})

    def let_relay_run(self, seconds: float) -> None:
        """Wait for the moment to kill it. Fails if it ends by itself before."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError(f"the relay ended by itself with {code}:\n{self.tail()}")

    def kill_relay(self) -> None:
        """SIGKILL, as a power cut does it to a process."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End both processes, whatever state they are in."""
        self.kill_relay()
        if self._sandbox is not None:
            self._sandbox.kill()
            self._sandbox.wait()

    def is_uploading(self) -> bool:
        """Whether an upload has reached the storage and goes on; until then `under_way` only means a try."""
        log = self.ask_sandbox("/_sandbox/log")["log"]
        return any(each["operation"] == "store" and each["outcome"] == "open" for each in log)

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

    def is_taken(self, name: str) -> bool:
        """Whether this dropped file is no longer in the folder."""
        return not (self.drop / name).exists()

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
        try:
            answer = self.ask("GET", "/api/v1/status")
        except (OSError, HTTPException):  # it is about to die
            return None
        return answer.document if answer.status == 200 else None

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

    def ask_sandbox(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Ask the stand-in, or tell it something."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)


def picture(chance: random.Random, size_bytes: int) -> bytes:
    """A whole JPEG as far as anybody checks: start, noise without markers, end. No two are alike."""
    noise = chance.randbytes(size_bytes).replace(b"\xff", b"\xfe")
    header = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xda\x00\x02"
    return header + noise + b"\xff\xd9"
