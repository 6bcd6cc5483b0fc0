"""The demo, run as a person runs it: it ends well, it sees a planted loss, and it cleans up however it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def start(folder: Path, *arguments: str, output: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """`relayd demo` with its temporary folder below `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "relayd", "demo", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(folder), "TERM": "xterm"},
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that still work below `folder`."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_everything_arrives_byte_for_byte_within_a_minute(tmp_path: Path) -> None:
    begun = time.monotonic()
    running = start(tmp_path)
    said = running.communicate(timeout=90)[0].decode()
    assert running.returncode == 0, said
    assert time.monotonic() - begun < 60
    assert "Everything arrived: 8 files" in said
    assert "SIGKILL" in said
    assert "$ relayd status" in said
    assert "$ relayd why" in said
    rows = re.findall(r"^\S+\.(?:jpg|mp4) +\d+ +[0-9a-f]{12} +(\d+)  (.*)$", said, re.MULTILINE)
    assert len(rows) == 8
    assert {told for _, told in rows} == {"yes"}
    assert "\x1b" not in said
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []


def test_a_planted_loss_is_seen_at_a_terminal_and_the_folder_can_be_kept(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    running = start(tmp_path, "--keep", "--plant", "store#2 corrupt silent=yes", output=theirs)
    os.close(theirs)
    heard: list[bytes] = []
    listener = threading.Thread(target=listen, args=(ours, heard))
    listener.start()
    assert running.wait(timeout=90) == 1
    listener.join(timeout=10)
    os.close(ours)
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(heard).decode())
    assert "other bytes" in said
    assert "TROUBLE" in said
    assert "Everything arrived" not in said
    (folder,) = tmp_path.iterdir()
    assert str(folder) in said.replace("\r\n", "")
    assert {"relay.log", "relayd.toml", "sandbox", "spool", "camera"} <= {each.name for each in folder.iterdir()}
    assert left_running(tmp_path) == []


def listen(descriptor: int, heard: list[bytes]) -> None:
    """Until the other side of the terminal is closed."""
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:
            return
        if not chunk:
            return
        heard.append(chunk)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    running = start(tmp_path)
    assert running.stdout is not None
    for line in running.stdout:
        if b"dead zone" in line:
            break
    assert left_running(tmp_path) != []
    running.send_signal(number)
    said = running.communicate(timeout=30)[0].decode()
    assert running.returncode != 0
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []
