"""A fleet's broker, somebody who watches it, and a relay that reports to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.fleet.onlooker import Onlooker

FLEET = """
[broker.fleet]
url = "{url}"
connect_timeout = "2s"

[fleet]
broker = "fleet"
health_every = "{health_every}"
commands = ["status", "pause", "resume", "retry", "flush"]
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """It forgets everything when it ends."""
    broker = Mosquitto(tmp_path / "broker", is_persistent=False).start()
    yield broker
    broker.stop()


@pytest.fixture
def onlooker(broker: Mosquitto) -> Iterator[Onlooker]:
    """Its end judges every payload that it saw."""
    onlooker = Onlooker(broker)
    yield onlooker
    onlooker.close()


@pytest.fixture
def rig(tmp_path: Path, broker: Mosquitto) -> Iterator[Rig]:
    """A relay whose configuration says where the fleet is, not yet started."""
    rig = Rig(tmp_path / "relay")
    with rig.config.open("a") as config:
        config.write(FLEET.format(url=broker.url, health_every="60s"))
    yield rig
    rig.stop()
