"""Other people's brokers: nats-server, which speaks only 3.1.1, and RabbitMQ's MQTT plugin; and a mosquitto whose disk
is full."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relayd.broker import Broker, Message, Will
from relayd.errors import TryAgain, Unavailable
from tests.broker.conftest import broker_at, collector, running, until
from tests.broker.mosquitto import Mosquitto, free_port
from tests.system.processes import installed

pytestmark = pytest.mark.system


@dataclass(frozen=True)
class Peer:
    """A broker that listens, and how to log in there."""

    url: str
    version: str
    login: dict[str, Any]

    def client(self, client_id: str, will: Will | None = None) -> Broker:
        return broker_at(self.url, client_id, will=will, **self.login)


@pytest.fixture(scope="session", params=["nats", "rabbitmq"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    installed("system")
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    start = _nats if request.param == "nats" else _rabbitmq
    process = start(folder, port)
    os.environ["PEER_PASSWORD"] = "guest"
    login = {} if request.param == "nats" else {"username": "guest", "password": {"env": "PEER_PASSWORD"}}
    try:
        _wait_for(port, process, folder)
        yield Peer(f"mqtt://127.0.0.1:{port}", "3.1.1", login)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _nats(folder: Path, port: int) -> subprocess.Popen[bytes]:
    config = folder / "nats.conf"
    config.write_text(
        f'port: {free_port()}\nhost: "127.0.0.1"\nserver_name: "test"\n'
        f'jetstream {{ store_dir: "{folder}/store" }}\nmqtt {{ host: "127.0.0.1", port: {port} }}\n'
    )
    return _run(["nats-server", "-c", str(config)], folder, {})


def _rabbitmq(folder: Path, port: int) -> subprocess.Popen[bytes]:
    config, plugins = folder / "rabbitmq.conf", folder / "plugins"
    config.write_text(
        f"listeners.tcp.local = 127.0.0.1:{free_port()}\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\n"
        "mqtt.allow_anonymous = false\n"
    )
    plugins.write_text("[rabbitmq_mqtt].\n")
    environment = {
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_NODENAME": f"test{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(free_port()),
        "HOME": str(folder),
    }
    server = next(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return _run([str(server)], folder, environment)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    with (folder / "peer.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "PATH": path, **environment}, start_new_session=True
        )


def _wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        words = (folder / "peer.log").read_text(errors="replace")
        assert process.poll() is None, words
        assert time.monotonic() < deadline, words
        time.sleep(0.1)


async def test_it_connects_with_the_version_that_the_broker_speaks(peer: Peer) -> None:
    async with running(peer.client("version")) as broker:
        assert broker.version == peer.version
        assert broker.view().state == "ok"


async def test_what_is_published_arrives(peer: Peer) -> None:
    broker, got = peer.client("publish"), list[Any]()
    broker.subscribe(["test/+/b"], collector(got), name="test")
    async with running(broker):
        for number in range(100):
            assert await broker.publish("test/a/b", b"%d" % number) == 0
        await until(lambda: len(got) == 100, "all of them arrived")
        assert [message.payload for message in got] == [b"%d" % number for number in range(100)]


async def test_what_was_not_acknowledged_comes_again(peer: Peer) -> None:
    broker, refused = peer.client("again"), list[Message]()

    async def refuse(message: Message) -> None:
        refused.append(message)
        raise Unavailable("not now")

    broker.subscribe(["again/a"], refuse, name="test")
    async with running(broker), running(peer.client("again-writer")) as writer:
        await writer.publish("again/a", b"1")
        await until(lambda: refused, "it came")
    second, got = peer.client("again"), list[Any]()
    second.subscribe(["again/a"], collector(got), name="test")
    async with running(second):
        await until(lambda: got, "it came again", 60)
        assert got[0].payload == b"1"
        assert got[0].is_redelivery


async def test_what_came_while_away_is_there_afterwards(peer: Peer) -> None:
    first = peer.client("away")
    first.subscribe(["away/#"], collector([]), name="test")
    async with running(first):
        pass
    async with running(peer.client("away-writer")) as writer:
        for number in range(20):
            await writer.publish("away/a", b"%d" % number)
    second, got = peer.client("away"), list[Any]()
    second.subscribe(["away/#"], collector(got), name="test")
    async with running(second):
        await until(lambda: len(got) == 20, "everything", 30)


async def test_the_will_comes_when_the_connection_breaks(peer: Peer) -> None:
    watcher, seen = peer.client("watcher"), list[Any]()
    watcher.subscribe(["will/state"], collector(seen), name="test")
    will = Will(topic="will/state", payload=b"offline", retain=False)
    async with running(watcher), running(peer.client("dying", will)) as dying:
        dying._connection[0].close()  # type: ignore[index]
        await until(lambda: seen, "the will is out")
        assert seen[0].payload == b"offline"


async def test_check_gets_through(peer: Peer) -> None:
    found = await peer.client("checked").check(["test/#"], ["test/check"])
    assert all(finding.is_good for finding in found), found


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_broker_whose_disk_was_full_loses_nothing_that_it_still_has(tiny: Path) -> None:
    mosquitto = Mosquitto(tiny / "mosquitto").start()
    filler = tiny / "filler"
    try:
        away = broker_at(mosquitto.url)
        away.subscribe(["a"], collector([]), name="test")
        async with running(away):
            pass
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        taken = 0
        async with running(broker_at(mosquitto.url, "writer")) as writer:
            for number in range(500):
                with suppress(Unavailable, TryAgain):
                    await writer.publish("a", b"%d" % number)
                    taken += 1
        filler.unlink()
        mosquitto.stop()
        mosquitto.start()
        again, got = broker_at(mosquitto.url), list[Any]()
        again.subscribe(["a"], collector(got), name="test")
        async with running(again):
            await until(lambda: len({message.payload for message in got}) >= taken, "all that it took", 30)
        assert taken > 0
    finally:
        mosquitto.kill()
        shutil.rmtree(tiny / "mosquitto", ignore_errors=True)
