"""`relayd cameras` of a running relay, from the configuration to an activated camera."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relayd.sandbox import Sandbox
from relayd.sandbox.watcher import PREFIX
from tests.daemon.running import RunningRelay, wait_for
from tests.unit.test_cli_qrcode import read, rows_of_png, rows_of_terminal

WATCHER = """
[destination.vms]
type = "watcher"
url = "{url}"
login = "gateway"
password = {{ env = "TEST_PASSWORD" }}
poll_every = "100ms"
look_every = "100ms"

[[destination.vms.camera]]
name = "gate-3"
title = "Gate 3"
organization = "Acme"
preset = "7 days"

[[destination.vms.camera]]
name = "gate-4"
title = "Gate 4"
organization = "Acmee"
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as served:
        yield served


@pytest.fixture
async def relay(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RunningRelay]:
    running = RunningRelay(tmp_path)
    running.config.write_text(running.config.read_text() + WATCHER.format(url=sandbox.url + PREFIX))
    running.environment["TEST_PASSWORD"] = "sandbox-password"
    await asyncio.to_thread(running.start)
    yield running
    assert await asyncio.to_thread(running.end) == 0


async def until(relay: RunningRelay, name: str, state: str, *, has_token: bool = False) -> dict[str, Any]:
    """What is said of this camera, once it is in this state."""

    def look() -> Any:
        found = {camera["name"]: camera for camera in relay.json("cameras")["cameras"]}.get(name, {})
        return found if found.get("state") == state and (found["token"] or not has_token) else None

    camera: dict[str, Any] = await asyncio.to_thread(wait_for, look, f"camera {name} is {state}")
    return camera


async def call(relay: RunningRelay, *words: str) -> tuple[int, str]:
    result = await asyncio.to_thread(relay.call, *words)
    return result.exit_code, result.output


async def test_a_camera_goes_from_the_configuration_to_its_qr_code_to_its_stream(
    sandbox: Sandbox, relay: RunningRelay, tmp_path: Path
) -> None:
    token = (await until(relay, "gate-3", "waiting", has_token=True))["token"]
    code, shown = await call(relay, "cameras", "--qr", "gate-3")
    drawn = "\n".join(line for line in shown.split("\n") if line and set(line) <= set(" ▀▄█"))
    assert (code, read(rows_of_terminal(drawn, is_ink_dark=False))) == (0, token)
    assert "Gate 3" in shown
    file = tmp_path / "gate.png"
    assert (await call(relay, "cameras", "--png", str(file)))[0] == 0
    assert read(rows_of_png(file.read_bytes()), scale=1) == token

    name = sandbox.watcher.scan(token)
    found = await until(relay, "gate-3", "ok")
    assert (found["stream_name"], found["token"], found["destination"]) == (name, None, "vms")
    code, said = await call(relay, "cameras", "--qr", "gate-3")
    assert (code, "is activated already" in said) == (1, True)
    code, table = await call(relay, "cameras")
    assert name in table
    assert 'there is no organization "Acmee", did you mean "Acme"?' in table

    def plays() -> Any:
        found = relay.json("status")
        return found if found["destinations"]["vms"]["cameras"]["gate-3"]["alive"] is True else None

    snapshot = await asyncio.to_thread(wait_for, plays, "its stream plays")
    assert token not in json.dumps(snapshot)
    assert snapshot["state"] == "fault"
    assert any(reason.startswith("destination vms: camera gate-4: there is no") for reason in snapshot["reasons"])
    metrics = (await asyncio.to_thread(relay.ask, "GET", "/metrics")).body.decode()
    assert 'relayd_camera_alive{destination="vms",camera="gate-3"} 1' in metrics

    sandbox.watcher.streams[name].alive = False
    assert "sends no frames" in (await until(relay, "gate-3", "dead"))["reason"]


async def test_a_wrong_wish_is_said_with_what_there_is(relay: RunningRelay) -> None:
    await until(relay, "gate-4", "fault")
    for words, code, said in (
        (("--qr", "gate-5"), 1, "no camera gate-5; there are: gate-3, gate-4"),
        (("--qr", "vms/gate-4"), 1, "has no token to show"),
        (("--json", "--qr", "gate-3"), 2, "leave --qr and --png away"),
    ):
        found = await call(relay, "cameras", *words)
        assert (found[0], said in found[1]) == (code, True), found


async def test_a_kill_before_the_scan_keeps_the_token(sandbox: Sandbox, relay: RunningRelay) -> None:
    await asyncio.to_thread(wait_for, lambda: sandbox.watcher.activations, "a token is made")
    process = relay.process
    assert process is not None
    process.kill()
    await asyncio.to_thread(process.wait)
    made = set(sandbox.watcher.activations)
    await asyncio.to_thread(relay.start)
    token = (await until(relay, "gate-3", "waiting", has_token=True))["token"]
    assert token in sandbox.watcher.activations
    assert len(sandbox.watcher.activations) <= len(made) + 1
    sandbox.watcher.scan(token)
    await until(relay, "gate-3", "ok")
