"""The peers of the system tests, started once each; their packages are installed when missing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system import radosgw
from tests.system.prism import Proxy, running_prism, running_proxy
from tests.system.processes import free_port, installed
from tests.system.radosgw import Storage

BUCKET = "relayd-test"


@dataclass(frozen=True)
class Mock:
    """Prism, and the port where the proxy before it has to be."""

    url: str
    log: Path
    port: int


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    """Prism with the description of RapidSOS."""
    installed("system")
    port = free_port()
    with running_prism(tmp_path_factory.mktemp("prism"), f"http://127.0.0.1:{port}") as (url, log):
        yield Mock(url, log, port)


@pytest.fixture
async def proxy(mock: Mock) -> AsyncIterator[Proxy]:
    """A fresh proxy before Prism."""
    async with running_proxy(mock.url, mock.log, mock.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """radosgw with a bucket."""
    installed("system")
    with radosgw.running(tmp_path_factory.mktemp("radosgw")) as running:
        running.make_bucket(BUCKET)
        yield running
