"""A Debian 12 of its own, booted with a real systemd by systemd-nspawn: loopback is its only network.

Promises: the root that it boots from stays as it is; what a boot writes goes to an overlay that ends with it, and so do
its processes and mounts, however the test ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

BOOT_SECONDS = 60.0
Ran = subprocess.CompletedProcess[str]


def make_root(place: Path, packages: list[str]) -> None:
    """A minimal Debian 12 in the folder `place`, with a service manager and these packages."""
    include = ",".join(["systemd", "systemd-sysv", "dbus", "iproute2", *packages])
    command = ["mmdebstrap", "--variant=minbase", f"--include={include}", "bookworm", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (place / "etc/hosts").write_text("127.0.0.1 localhost gateway\n")
    (place / "etc/machine-id").write_text("uninitialized\n")


class Machine:
    """A booted root. Files below it are at `path(...)`, commands run with `run`."""

    def __init__(self, root: Path, leader: int) -> None:
        self.root = root
        self._leader = leader

    def path(self, inside: str) -> Path:
        """Where the machine's file `inside` is seen from here; also what is on its own tmpfs."""
        return Path(f"/proc/{self._leader}/root{inside}")

    def run(self, command: str, *, check: bool = True, timeout: float = 120, stdin: str = "") -> Ran:
        """A shell command as root, as if typed there."""
        done = subprocess.run(
            [*self._enter(), "/bin/bash", "-c", command],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )
        assert not check or done.returncode == 0, (
            f"{command}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
        return done

    def says(self, command: str) -> str:
        """What a command prints, without the last newline."""
        return self.run(command).stdout.rstrip("\n")

    def write(self, inside: str, content: str | bytes, *, mode: int = 0o644) -> None:
        """A file of root's."""
        data = content.encode() if isinstance(content, str) else content
        place = self.path(inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(mode)

    def wait(self, is_true: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
        """Look again and again until `is_true`, and return that; at the deadline the relay's journal is shown."""
        deadline = time.monotonic() + seconds
        while not (found := is_true()):
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}\n{self.journal()[-4000:]}"
            time.sleep(0.1)
        return found

    def has_booted(self) -> bool:
        """All that starts by itself has started."""
        return self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded")

    # --- the relay in it

    def show(self, name: str, unit: str = "relayd") -> str:
        """One property of a unit, as systemd tells it."""
        return self.says(f"systemctl show --property={name} --value {unit}")

    def journal(self) -> str:
        """All that the journal has of the relay, its service manager's lines included."""
        return self.run("journalctl --unit relayd --output cat --no-pager", check=False).stdout

    def status(self) -> dict[str, Any]:
        """The status snapshot; empty while no relay answers."""
        done = self.run("relayd status --json", check=False)
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found

    def wait_for_active(self, *, seconds: float = 30.0) -> None:
        """Until systemd has seen READY=1 of a running relay."""
        self.wait(lambda: self.show("ActiveState") == "active" and self.status(), "relayd is active", seconds=seconds)

    def _enter(self) -> list[str]:
        return [
            "nsenter",
            f"--target={self._leader}",
            *["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"],
        ]


@contextlib.contextmanager
def booted(roots: Sequence[Path], folder: Path) -> Iterator[Machine]:
    """Boot what the layers `roots` make together, the first on top; what it writes is in `folder`/upper afterwards."""
    upper, work, merged = folder / "upper", folder / "work", folder / "machine"
    for place in (upper, work, merged):
        place.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={':'.join(map(str, roots))},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "relayd-test", "-o", options, merged], check=True)
    try:
        with _nspawn(merged, folder / "console.log") as leader:
            machine = Machine(merged, leader)
            machine.wait(machine.has_booted, "the machine has booted", seconds=BOOT_SECONDS)
            yield machine
    finally:
        subprocess.run(["umount", "--recursive", merged], check=True)


@contextlib.contextmanager
def _nspawn(root: Path, console: Path) -> Iterator[int]:
    """The process id of the first process of a container."""
    options = "--register=no --keep-unit --boot --console=read-only --private-network --hostname=gateway --quiet"
    with console.open("wb") as log:
        process = subprocess.Popen(
            ["systemd-nspawn", f"--directory={root}", *options.split()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            start_new_session=True,
        )
    leader = None
    try:
        deadline = time.monotonic() + BOOT_SECONDS
        while leader is None:
            assert process.poll() is None, f"systemd-nspawn ended:\n{console.read_text(errors='replace')[-3000:]}"
            assert time.monotonic() < deadline, "systemd-nspawn started no system"
            time.sleep(0.05)
            leader = _first_process(process.pid)
        yield leader
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid if leader is None else leader, signal.SIGKILL)  # nspawn ends after its system
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def _first_process(nspawn: int) -> int | None:
    """The child of nspawn that is process 1 in a namespace of its own."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
            for line in Path(f"/proc/{child}/status").read_text().splitlines():
                if line.startswith("NSpid:") and line.split()[-1] == "1" and len(line.split()) > 2:
                    return int(child)
    return None
