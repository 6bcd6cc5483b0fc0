"""What a technician finds on the first day: a broker that wants a login, and the services, as strict stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.mosquitto import Mosquitto
from tests.first_hour.terminal import RELAYD

BROKER_USER = "amb"
BROKER_PASSWORD = "broker-hunter2"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """Only who logs in may come."""
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not there")
    (folder / "passwords").write_text(f"{BROKER_USER}:{BROKER_PASSWORD}\n")
    subprocess.run([tool, "-U", str(folder / "passwords")], check=True)
    (folder / "passwords").chmod(0o644)
    broker = Mosquitto(folder, options=f"password_file {folder}/passwords", is_open=False).start()
    yield broker
    broker.kill()


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[str]:
    """Its address."""
    command = [*RELAYD, "sandbox", "--listen", "127.0.0.1:0", "--state", str(tmp_path / "sandbox")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        try:
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=20)
