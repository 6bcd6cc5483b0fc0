"""The peers of the system tests, started once each; their packages are installed when missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system import gateway, radosgw
from tests.system.machine import booted, make_root
from tests.system.package import Package, build, native, tree_of_version
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


@dataclass(frozen=True)
class Installed:
    """A root with relayd in it, as layers for `booted`, and what installing it printed."""

    roots: list[Path]
    said: str


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


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The Debian package of this checkout, for this machine."""
    assert os.geteuid() == 0, "only root may mount and boot a system: sudo make system"
    installed("system")
    return build(tmp_path_factory.mktemp("build"), native())


@pytest.fixture(scope="session")
def older_deb(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The same of an earlier version."""
    folder = tmp_path_factory.mktemp("older")
    return build(folder / "build", native(), tree=tree_of_version("0.0.9", folder / "tree"))


@pytest.fixture(scope="session")
def debian(deb: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clean Debian 12 with what the package depends on, and nothing else."""
    place = tmp_path_factory.mktemp("debian") / "root"
    make_root(place, deb.needed_packages())
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def relay(deb: Package, debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Installed with one command in a running system."""
    folder = tmp_path_factory.mktemp("installed")
    with booted([debian], folder) as machine:
        said = gateway.install(machine, deb.path)
        machine.run("sync; rm -rf /var/log/journal /root/relayd_*")
    return Installed([folder / "upper", debian], said)
