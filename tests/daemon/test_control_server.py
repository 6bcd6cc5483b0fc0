"""The control server in this process, over a real spool: what only shows when something around it breaks."""

import asyncio
import contextlib
import io
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from relayd import app, clock, config, destinations, status
from relayd.diagnosis import Diagnosis
from relayd.operations import Operations, Parts
from relayd.spool import Spool
from relayd.surroundings import Surroundings
from relayd.web import api, control, place
from relayd.worker import Worker
from tests.patience import PATIENT_SECONDS

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8000 + b"\xff\xd9"
SEND = "http://relayd/api/v1/send?name=a.jpg&to=rapidsos"


@dataclass
class Served:
    """Operations over a real spool, and where its socket is to be."""

    operations: Operations
    spool: Spool
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "relayd.sock"


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(control, "LOOK_SECONDS", 0.02)
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    file = tmp_path / "relayd.toml"
    file.write_text(
        f'[spool]\npath = "{tmp_path / "spool"}"\nmin_free = "1MB"\nmin_free_percent = 0\n'
        '[destination.rapidsos]\ntype = "rapidsos"\nurl = "http://127.0.0.1:9"\n'
        'client_id = "x"\nclient_secret = { env = "X" }\n'
    )
    loaded = config.load([file])
    spool = await Spool.open(loaded.config.spool, now=clock.now())
    section = loaded.config.destination["rapidsos"]
    there = destinations.build("rapidsos", section, Surroundings())
    device = app.device_of(loaded)
    worker = Worker(there, section, spool, device, is_held=False)
    running = status.Running(device=device, session="s", started_at=0.0, started_monotonic=0.0)
    settled = status.ConfigStatus(sha256="0" * 64, loaded_at=clock.rfc3339(0.0))

    async def snapshot() -> status.Status:
        well = Diagnosis(faults={}, unknown=frozenset(), notes=())
        return await status.snapshot(running, settled, spool, parts.views(), well)

    parts = Parts(destinations={"rapidsos": there}, workers={"rapidsos": worker})
    yield Served(Operations(spool, lambda: parts, snapshot), spool, tmp_path / "spool")
    await there.close()
    await spool.close()


@contextlib.asynccontextmanager
async def serving(served: Served, *, has_own_config: bool = True) -> AsyncIterator[None]:
    task = asyncio.create_task(control.serve(served.operations, served.folder, has_own_config=has_own_config))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def caller(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """As soon as somebody listens there."""
    async with asyncio.timeout(PATIENT_SECONDS):
        while not path.is_socket():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        yield session


async def asked(session: aiohttp.ClientSession, method: str, url: str, **how: Any) -> tuple[int, Any]:
    async with session.request(method, url, **how) as answer:
        return answer.status, await answer.json()


# --- the socket


async def test_a_socket_that_was_taken_away_is_made_again(served: Served) -> None:
    async with serving(served):
        async with caller(served.socket) as session:
            assert (await asked(session, "GET", "http://relayd/api/v1/status"))[0] == 200
        served.socket.unlink()
        async with caller(served.socket) as session:
            assert (await asked(session, "GET", "http://relayd/api/v1/status"))[0] == 200
    assert not served.socket.exists()


async def test_where_the_systems_place_cannot_be_had_the_spools_own_is_used(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(place, "SYSTEM_FOLDER", tmp_path / "run")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    with caplog.at_level(logging.WARNING):
        async with serving(served), caller(served.socket) as session:
            assert (await asked(session, "GET", "http://relayd/healthz"))[0] == 200
    assert "trying the next place" in caplog.text


async def test_where_no_place_will_do_that_is_said_once_and_tried_again(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control, "LISTEN_AGAIN_SECONDS", 0.01)
    served.socket.write_text("precious")
    tries: list[Path] = []
    often = asyncio.Event()
    listen = place.listen

    def counted(path: Path) -> socket.socket:
        tries.append(path)
        if len(tries) == 3:
            often.set()
        return listen(path)

    monkeypatch.setattr(place, "listen", counted)
    serving_it = asyncio.create_task(control.serve(served.operations, served.folder, has_own_config=True))
    try:
        async with asyncio.timeout(PATIENT_SECONDS):
            await often.wait()
            served.socket.unlink()
            async with caller(served.socket) as session:
                assert (await asked(session, "GET", "http://relayd/healthz"))[0] == 200
    finally:
        serving_it.cancel()
        await asyncio.wait({serving_it})
    said = [record for record in caplog.records if "no command reaches this relay" in record.message]
    assert [record.levelname for record in said if record.levelno >= logging.WARNING] == ["ERROR"]
    assert "Run it as the system's service" in said[0].message
    assert said[0].exc_info is None


async def test_the_systems_relay_listens_in_run(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(place, "SYSTEM_FOLDER", tmp_path / "run")
    async with serving(served, has_own_config=False), caller(tmp_path / "run" / "relayd.sock") as session:
        assert (await asked(session, "GET", "http://relayd/healthz"))[0] == 200
    assert not served.socket.exists()
    assert not (tmp_path / "run" / "relayd.sock").exists()


# --- uploads that go wrong


def staged(served: Served) -> list[str]:
    return [name for name in os.listdir(served.folder / "incoming") if name.startswith("stage")]


async def test_an_upload_that_stalls_is_given_up_and_leaves_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "STALL_SECONDS", 0.2)
    async with serving(served), caller(served.socket):
        reader, writer = await asyncio.open_unix_connection(str(served.socket))
        writer.write(b"POST /api/v1/send?name=a.jpg&to=rapidsos HTTP/1.1\r\nHost: r\r\nContent-Length: 99\r\n\r\nx")
        async with asyncio.timeout(PATIENT_SECONDS):
            answer = await reader.readuntil(b"}")
        writer.close()
        await writer.wait_closed()
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"nothing came" in answer
    assert staged(served) == []


async def test_a_full_disk_refuses_the_upload_and_takes_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def full() -> Iterator[BinaryIO]:
        with Path("/dev/full").open("r+b", buffering=0) as stream:
            yield cast(BinaryIO, stream)

    monkeypatch.setattr(served.operations.handover, "stage", full)
    monkeypatch.setattr(api, "LEFT_ALONE_BYTES", -(2**40))
    async with serving(served), caller(served.socket) as session:
        code, document = await asked(session, "POST", SEND, data=io.BytesIO(JPEG))
    assert code == 507
    assert "no room" in document["error"]
    assert served.spool.counters.items == 0


async def test_an_upload_larger_than_the_disk_is_refused_before_its_first_byte(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "LEFT_ALONE_BYTES", 2**60)
    async with serving(served), caller(served.socket) as session:
        assert (await asked(session, "POST", SEND, data=io.BytesIO(JPEG)))[0] == 507
    assert staged(served) == []


async def test_a_disk_that_writes_less_than_asked_still_gets_the_whole_file(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stingy(io.FileIO):
        def write(self, block: Any) -> int:
            return super().write(block[: max(1, len(block) // 3)])

    @contextlib.contextmanager
    def stage() -> Iterator[BinaryIO]:
        path = served.folder / "incoming" / "stage-stingy"
        with Stingy(path, "x+") as stream:
            yield cast(BinaryIO, stream)
        path.unlink()

    monkeypatch.setattr(served.operations.handover, "stage", stage)
    async with serving(served), caller(served.socket) as session:
        code, document = await asked(session, "POST", SEND, data=io.BytesIO(JPEG))
    assert code == 200, document
    with served.spool.open_media(document["id"]) as media:
        assert media.read() == JPEG


async def test_an_upload_without_a_length_is_refused(served: Served) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"

    async with serving(served), caller(served.socket) as session:
        assert (await asked(session, "POST", SEND, data=endless()))[0] == 411


async def test_many_uploads_at_once_all_arrive(served: Served) -> None:
    async with serving(served), caller(served.socket) as session:
        answers = await asyncio.gather(*(asked(session, "POST", SEND, data=io.BytesIO(JPEG)) for _ in range(10)))
    assert [code for code, _ in answers] == [200] * 10
    assert len({document["id"] for _, document in answers}) == 10


# --- whoever else serves these routes


async def test_who_serves_the_routes_decides_who_may_change_something(served: Served) -> None:
    async def nobody(_: web.Request) -> None:
        raise web.HTTPForbidden(text="a token is needed")

    async with TestClient(TestServer(api.build(served.operations, nobody))) as client:
        looked = await client.get("/api/v1/status")
        assert looked.status == 200
        refused = await client.post("/api/v1/pause")
        assert refused.status == 403
        assert await refused.json() == {"error": "a token is needed"}
        assert (await client.post("/nowhere")).status == 403
        assert (await client.head("/healthz")).status == 200
