"""What systemd hears of a running relay: the real process, and a real notify socket."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for
from tests.patience import PATIENT_SECONDS

CHANCE = random.Random(13)
WATCHDOG_SECONDS = 1.0


@dataclass
class Manager:
    """The side of systemd. `heard` is every message, as its lines, with the monotonic time."""

    path: Path
    heard: list[tuple[float, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._door.bind(os.fspath(self.path))
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", os.fspath(self.path))
        self._thread.join(10)
        self._door.close()

    def _hear(self) -> None:
        while message := self._door.recv(65536):
            self.heard.append((time.monotonic(), message.decode().splitlines()))

    def listen(self) -> list[str]:
        """Every line so far, in order."""
        return [line for _, lines in self.heard for line in lines]

    def wait_for(self, wanted: str, seconds: float = PATIENT_SECONDS, after: int = 0) -> str:
        """The first line that matches, after so many lines."""

        def found() -> str | None:
            return next((line for line in self.listen()[after:] if re.search(wanted, line)), None)

        line: str = wait_for(found, f"systemd hears {wanted}: {self.listen()[-20:]}", seconds)
        return line

    @property
    def last_fed_at(self) -> float:
        return max((at for at, lines in self.heard if "WATCHDOG=1" in lines), default=0.0)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def start(tmp_path: Path, manager: Manager) -> Iterator[Callable[..., Rig]]:
    """Start a relay as systemd does; with something planted."""
    rigs = []

    def begin(*plants: str, faults: str | None = None) -> Rig:
        rig = Rig(tmp_path / "relay", entry=("-m", "tests.daemon.hurried", *plants, "--"))
        rigs.append(rig)
        rig.environment |= {
            "NOTIFY_SOCKET": os.fspath(manager.path),
            "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
        }
        if faults is not None:
            rig.start_sandbox(faults)
        rig.spawn()
        manager.wait_for("^READY=1$")
        return rig

    yield begin
    for rig in rigs:
        rig.stop()


def test_ready_comes_with_a_status_that_a_person_can_read_and_that_follows_what_happens(
    start: Callable[..., Rig], manager: Manager
) -> None:
    rig = start()
    assert "STATUS=1 source, 1 destination ok, 0 items wait" in manager.listen()
    rig.drop_file("waits.jpg", picture(CHANCE, 1000))
    manager.wait_for(
        r"^STATUS=1 source, 0 of 1 destination ok, 1 item waits \(rapidsos: 127.0.0.1:\d+/oauth/token refuses conn"
    )
    rig.start_sandbox()
    after = len(manager.listen())
    manager.wait_for("^STATUS=1 source, 1 destination ok, 0 items wait$", after=after)


def test_a_reload_is_told_when_it_begins_and_when_it_has_ended(start: Callable[..., Rig], manager: Manager) -> None:
    rig = start()
    good = rig.config.read_text()
    for text, wanted in (
        (good.replace('settle = "100ms"', 'settle = "200ms"'), "^STATUS=1 source"),
        (good.replace("settle", "setle"), r"^STATUS=configuration refused, .*relayd\.toml:\d+: source\.camera\.setle"),
    ):
        after = len(manager.listen())
        rig.config.write_text(text)
        began = time.monotonic()
        assert rig.process is not None
        rig.process.send_signal(signal.SIGHUP)
        manager.wait_for("^READY=1$", after=after)
        lines = manager.listen()[after:]
        begin = lines.index("RELOADING=1")
        assert began * 1e6 <= int(lines[begin + 1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic() * 1e6
        assert lines.index("READY=1") > begin
        if "refused" in wanted:
            manager.wait_for(wanted, after=after)


def test_the_end_is_told_before_anything_ends(start: Callable[..., Rig], manager: Manager) -> None:
    rig = start()
    assert rig.end() == 0
    assert "STOPPING=1" in manager.listen()


def test_a_long_start_asks_for_patience_until_it_is_ready(start: Callable[..., Rig], manager: Manager) -> None:
    start("slow-disk")
    lines = manager.listen()
    asked = [place for place, line in enumerate(lines) if line.startswith("EXTEND_TIMEOUT_USEC=")]
    assert len(asked) >= 3
    assert max(asked) < lines.index("READY=1")
    assert any(re.fullmatch(r"STATUS=opening the spool, for \d+ s now", line) for line in lines)


def test_a_slow_upload_and_an_idle_relay_feed_the_watchdog(start: Callable[..., Rig], manager: Manager) -> None:
    rig = start(faults="store#1 slow 50000")
    rig.drop_file("slow.jpg", picture(CHANCE, 200_000))  # four times as long as the watchdog, twice the grace
    wait_for(rig.has_arrived, "it arrived")
    fed = [at for at, lines in manager.heard if "WATCHDOG=1" in lines]
    assert max(later - earlier for earlier, later in pairwise(fed)) < WATCHDOG_SECONDS
    assert "is stuck" not in rig.log.read_text()


@pytest.mark.parametrize(
    ("planted", "loop"), [("stuck-housekeeping", "housekeeping"), ("stuck-worker", "destination rapidsos")]
)
def test_a_loop_that_is_stuck_is_named_and_the_watchdog_is_not_fed_any_more(
    start: Callable[..., Rig], manager: Manager, planted: str, loop: str
) -> None:
    rig = start(planted)
    wait_for(lambda: f"{loop} is stuck: no progress" in rig.log.read_text(), f"{loop} is named")
    stopped_at = manager.last_fed_at
    rig.let_relay_run(3 * WATCHDOG_SECONDS)  # it goes on, and systemd would have ended it by now
    assert manager.last_fed_at == stopped_at
    assert rig.status() is not None


def test_an_idle_relay_under_systemd_needs_next_to_no_processor(start: Callable[..., Rig], manager: Manager) -> None:
    rig = start()
    wait_for(lambda: rig.status() is not None, "it answers")
    before = float((rig.status() or {})["process"]["cpu_seconds"])
    rig.let_relay_run(5.0)
    used = float((rig.status() or {})["process"]["cpu_seconds"]) - before
    assert used < 0.25  # with a hundred times the watchdog's and housekeeping's usual haste
