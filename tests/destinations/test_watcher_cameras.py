"""The cameras of a Watcher: activated once whatever breaks, kept as configured, seen when they are dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.destinations.watcher import Watcher
from relayd.destinations.watcher_models import CameraConfig
from relayd.destinations.watcher_stream import changes
from relayd.errors import SpoolFull
from relayd.memory import Notes
from relayd.model import CameraView, Fields
from relayd.sandbox import Sandbox
from relayd.sandbox.watcher import PREFIX
from relayd.spool import Spool, SpoolConfig
from relayd.surroundings import Surroundings
from tests.destinations.driver import until
from tests.destinations.test_watcher import make

GATE: dict[str, Any] = {"name": "gate-3", "title": "Gate 3", "organization": "Acme"}
FAST: dict[str, Any] = {
    "poll_every": "20ms",
    "look_every": "30ms",
    "backoff_first": "10ms",
    "backoff_cap": "50ms",
}


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_PASSWORD", "sandbox-password")


class Relay:
    """A spool, and a destination that looks after its cameras until the end."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self._sandbox = sandbox
        self._config = SpoolConfig.model_validate({"path": folder, "min_free": "1MB"})
        self.spool: Spool
        self.destination: Watcher
        self._task: asyncio.Task[None] | None = None

    async def start(self, *cameras: dict[str, Any], **options: Any) -> None:
        """Run with these cameras, in place of what ran before."""
        await self.stop()
        self.spool = await Spool.open(self._config, now=clock.now())
        self.spool.fleet.wants_events = True
        around = Surroundings(memory=partial(Notes, self.spool))
        url = self._sandbox.url + PREFIX
        self.destination = make(url, around, camera=[{**camera} for camera in cameras], **{**FAST, **options})
        self._task = asyncio.create_task(self.destination.upkeep())

    async def stop(self) -> None:
        """As a kill does: in the middle of whatever it was about."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled() or self._task.exception() is None
        self._task = None
        await self.destination.close()
        await self.spool.close()

    def camera(self, name: str = "gate-3") -> CameraView:
        return next(camera for camera in self.destination.cameras() if camera.name == name)

    def state(self, name: str = "gate-3") -> str:
        found = [camera.state for camera in self.destination.cameras() if camera.name == name]
        return found[0] if found else ""

    async def until(self, state: str, name: str = "gate-3") -> CameraView:
        await until(lambda: self.state(name) == state)
        return self.camera(name)

    async def token(self, name: str = "gate-3") -> str:
        await until(lambda: self.state(name) == "waiting" and self.camera(name).token is not None)
        return str(self.camera(name).token)


@asynccontextmanager
async def kept(tmp_path: Path, *cameras: dict[str, Any], **switches: Any) -> AsyncIterator[tuple[Sandbox, Relay]]:
    """A sandbox, and a relay that looks after these cameras of it."""
    async with Sandbox(**switches) as sandbox:
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start(*cameras)
            yield sandbox, relay
        finally:
            await relay.stop()


# --- activation


async def test_a_camera_is_activated_once_and_the_fleet_is_told(tmp_path: Path) -> None:
    async with kept(tmp_path, {**GATE, "preset": "7 DAYS", "folder": "Gates", "dvr_depth": 7}) as (sandbox, relay):
        token = await relay.token()
        assert relay.camera().qr == token
        assert sandbox.watcher.activations[token].wish == {
            "title": "Gate 3",
            "organization_id": 9,
            "preset_id": 2,
            "folder_id": 4,
            "enabled": True,
            "static": True,
            "dvr_depth": 7,
        }
        stream = sandbox.watcher.scan(token)
        view = await relay.until("ok")
        await until(lambda: relay.camera().alive is True)
        assert (view.stream_name, view.token) == (stream, None)
        events = await relay.spool.fleet.events(0, 10)
        assert [event.type for event in events] == ["camera_activated"]
        told = events[0].document
        assert (told["destination"], told["camera"], told["stream_name"]) == ("watcher", "gate-3", stream)
        await relay.start({**GATE, "preset": "7 DAYS", "folder": "Gates", "dvr_depth": 7})
        await relay.until("ok")
        await until(lambda: relay.camera().alive is True)
    assert sandbox.count("activate") == 1
    assert sandbox.count("save") == 0


@pytest.mark.parametrize("ids", ["numbers", "strings"])
@pytest.mark.parametrize("field", ["stream_name", "camera_name"])
async def test_either_name_of_a_stream_and_either_spelling_of_ids_will_do(tmp_path: Path, field: str, ids: str) -> None:
    camera = {**GATE, "preset": "7 days", "folder": "Vehicles"}
    async with kept(tmp_path, camera, watcher_provisioned=field, watcher_ids=ids) as (sandbox, relay):
        sandbox.watcher.scan(await relay.token())
        await relay.until("ok")
        await until(lambda: sandbox.count("stream") >= 2)
        assert sandbox.count("save") == 0


async def test_a_restart_at_any_point_makes_no_second_token(tmp_path: Path) -> None:
    async with kept(tmp_path, GATE) as (sandbox, relay):
        token = await relay.token()
        for _ in range(3):
            await relay.start(GATE)
            assert await relay.token() == token
        sandbox.watcher.scan(token)
        await relay.until("ok")
        await relay.start(GATE)
        await relay.until("ok")
    assert sandbox.count("activate") == 1


async def test_a_token_is_on_the_disk_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = 3
    remember = Notes.remember

    async def refusing(self: Notes, key: str, fact: Fields | None, **more: Any) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise SpoolFull("no room")
        await remember(self, key, fact, **more)

    monkeypatch.setattr(Notes, "remember", refusing)
    async with kept(tmp_path, GATE) as (sandbox, relay):
        view = await relay.until("fault")
        assert view.token is None
        assert "no room" in view.reason
        token = await relay.token()
        assert (await Notes(relay.spool, "destination:watcher").everything())["gate-3"]["token"] == token
        assert sandbox.count("activate") == 1


@pytest.mark.parametrize("fault", ["lose", "mute", "truncate"])
async def test_a_lost_answer_leaves_a_spare_token_and_one_that_is_shown(tmp_path: Path, fault: str) -> None:
    async with Sandbox() as sandbox:
        sandbox.script(f"activate#1 {fault}")
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start(GATE)
            token = await relay.token()
            assert sandbox.watcher.spare_tokens == 1
            sandbox.watcher.scan(token)
            await relay.until("ok")
        finally:
            await relay.stop()


async def test_a_server_that_loses_every_answer_makes_three_tokens_and_one_more_when_a_person_looks(
    tmp_path: Path,
) -> None:
    async with Sandbox() as sandbox:
        sandbox.script("activate lose")
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start(GATE, most_unknown=2)
            view = await relay.until("fault")
            assert "asked for an activation token 3 times and its answers got lost" in view.reason
            assert sandbox.count("activate", effect=True) == sandbox.count("activate") == 3
            sandbox.script()
            relay.destination.nudge()
            await relay.token()
            assert sandbox.count("activate") == 4
        finally:
            await relay.stop()


async def test_a_token_that_is_gone_is_replaced_by_another_one(tmp_path: Path) -> None:
    async with kept(tmp_path, GATE) as (sandbox, relay):
        first = await relay.token()
        del sandbox.watcher.activations[first]
        await until(lambda: relay.camera().token not in (first, None))
        sandbox.watcher.scan(await relay.token())
        await relay.until("ok")
    assert sandbox.count("activate") == 2


@pytest.mark.parametrize(
    "fault", ["status 500", "status 429 retry_after=0", "portal", "schema", "refuse", "drip 0.01", "oversized"]
)
async def test_broken_answers_are_said_once_and_their_end_too(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="relayd.cameras")
    async with Sandbox() as sandbox:
        sandbox.script(f"activate#1-4 {fault}; activation#1-3 {fault}")
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start(GATE)
            sandbox.watcher.scan(await relay.token())
            await relay.until("ok")
        finally:
            await relay.stop()
    records = [record for record in caplog.records if record.name == "relayd.cameras"]
    said = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert 1 <= len(said) <= 2, said
    assert sum("again after" in each or "no longer so" in each for each in caplog.messages) == len(said)
    assert sandbox.watcher.spare_tokens == 0


# --- names


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"organization": "Acne"}, 'there is no organization "Acne", did you mean "Acme"?'),
        ({"organization": "Odense Harbour", "folder": "Quay"}, '2 folders called "Quay" (ids 41, 42): write the id'),
        ({"preset": "70 years"}, 'there is no preset "70 years"'),
        ({"organization": None, "folder": "Gates"}, 'needs organization, one of: "Acme" (9), "Odense Harbour" (12)'),
        ({"organization": None}, "which organization?"),
        ({"organization": 77}, "which organization?"),
    ],
)
async def test_a_name_that_is_not_clear_is_a_fault_with_what_one_could_write(
    tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    camera = {key: value for key, value in {**GATE, **wrong}.items() if value is not None}
    async with kept(tmp_path, camera) as (sandbox, relay):
        view = await relay.until("fault")
        assert said in view.reason
        assert sandbox.watcher.activations == {}
        findings = await relay.destination.check()
    if wrong != {"organization": 77}:
        assert not findings[-1].is_good
        assert findings[-1].subject == "watcher: camera gate-3"
        assert findings[-1].remedy


async def test_the_only_organization_need_not_be_named(tmp_path: Path) -> None:
    camera = {"name": "gate-3", "title": "Gate 3", "folder": "Gates"}
    async with kept(tmp_path, camera, watcher_organizations=1) as (sandbox, relay):
        token = await relay.token()
        assert sandbox.watcher.activations[token].wish["folder_id"] == 4


# --- as configured


async def test_what_is_written_is_kept_and_the_rest_is_left_to_people(tmp_path: Path) -> None:
    place = {"latitude": 55.403, "longitude": 10.402}
    camera = {**GATE, "coordinates": place, "dvr_depth": 7, "dvr_space": 50}
    async with kept(tmp_path, camera) as (sandbox, relay):
        stream = sandbox.watcher.streams[sandbox.watcher.scan(await relay.token())]
        await relay.until("ok")
        stream.config |= {"title": "Renamed by hand", "comment": "by hand", "static": False}
        await until(lambda: stream.config["title"] == "Gate 3")
        assert stream.saves == [{"title": "Gate 3"}]
        await relay.start({**camera, "title": "Gate three", "folder": "Vehicles", "enabled": False, "dvr_depth": 3})
        await until(lambda: len(stream.saves) == 2)
        looks = sandbox.count("stream")
        await until(lambda: sandbox.count("stream") > looks + 2)
        assert stream.saves[1] == {
            "title": "Gate three",
            "folder_id": 5,
            "disabled": True,
            "dvr": {"expiration": 3 * 86400.0},
        }
        assert stream.config["comment"] == "by hand"
        assert stream.config["static"] is False


async def test_a_server_that_does_not_keep_a_change_is_not_asked_for_it_again_and_again(tmp_path: Path) -> None:
    async with kept(tmp_path, {**GATE, "preset": "Fixed"}) as (sandbox, relay):
        stream = sandbox.watcher.streams[sandbox.watcher.scan(await relay.token())]
        await relay.until("ok")
        await relay.start({**GATE, "preset": "Fixed", "dvr_depth": 9})
        view = await relay.until("fault")
        assert "not adjustable" in view.reason
        assert view.alive is True
        looks = sandbox.count("stream")
        await until(lambda: sandbox.count("stream") > looks + 5)
        assert len(stream.saves) == 1


async def test_a_camera_without_frames_is_dead_and_alive_again(tmp_path: Path) -> None:
    async with kept(tmp_path, GATE) as (sandbox, relay):
        stream = sandbox.watcher.streams[sandbox.watcher.scan(await relay.token())]
        await relay.until("ok")
        stream.alive = False
        assert "sends no frames" in (await relay.until("dead")).reason
        stream.alive = True
        await relay.until("ok")
        stream.alive, stream.config["disabled"] = False, True
        await until(lambda: relay.camera().alive is False)
        assert relay.state() == "ok"


async def test_a_stream_that_is_gone_is_a_fault_and_makes_no_new_token(tmp_path: Path) -> None:
    async with kept(tmp_path, GATE) as (sandbox, relay):
        name = sandbox.watcher.scan(await relay.token())
        await relay.until("ok")
        stream = sandbox.watcher.streams.pop(name)
        assert "give it another name to activate it anew" in (await relay.until("fault")).reason
        sandbox.watcher.streams[name] = stream
        await relay.until("ok")
    assert sandbox.count("activate") == 1


# --- names that change


async def test_a_removed_camera_is_listed_and_left_alone_and_known_again_when_it_returns(tmp_path: Path) -> None:
    other = {**GATE, "name": "gate-4", "title": "Gate 4"}
    async with kept(tmp_path, GATE, other) as (sandbox, relay):
        name = sandbox.watcher.scan(await relay.token())
        await relay.until("ok")
        await relay.token("gate-4")
        await relay.start(other)
        removed = await relay.until("removed")
        assert f"its stream {name} is left at the server" in removed.reason
        await relay.start(GATE)
        assert (await relay.until("ok")).stream_name == name
        assert "never used" in (await relay.until("removed", "gate-4")).reason
    assert sandbox.count("activate") == 2
    assert name in sandbox.watcher.streams


async def test_a_renamed_camera_stays_the_same_one(tmp_path: Path) -> None:
    async with kept(tmp_path, GATE) as (sandbox, relay):
        name = sandbox.watcher.scan(await relay.token())
        await relay.until("ok")
        for _ in range(2):
            await relay.start({**GATE, "name": "gate-north", "formerly": "gate-3"})
            assert (await relay.until("ok", "gate-north")).stream_name == name
            assert [camera.name for camera in relay.destination.cameras()] == ["gate-north"]
    assert sandbox.count("activate") == 1


async def test_a_stream_that_is_there_is_taken_over_without_an_activation(tmp_path: Path) -> None:
    async with kept(tmp_path, GATE) as (sandbox, relay):
        name = sandbox.watcher.scan(await relay.token())
        await relay.until("ok")
        await relay.start({**GATE, "name": "new", "title": "Taken over", "stream_name": name})
        await until(lambda: sandbox.watcher.streams[name].config["title"] == "Taken over")
        assert relay.state("new") == "ok"
    assert sandbox.count("activate") == 1


# --- the server


async def test_a_login_that_is_refused_is_a_fault_of_every_camera_until_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RELAYD_TEST_PASSWORD", "wrong")
    async with kept(tmp_path, GATE) as (sandbox, relay):
        assert "login refused" in (await relay.until("fault")).reason
        await until(lambda: sandbox.count("signin") > 4)
        monkeypatch.setenv("RELAYD_TEST_PASSWORD", "sandbox-password")
        await relay.token()
    assert sum("cameras are not looked after" in message for message in caplog.messages) == 1


async def test_a_wish_to_wait_is_respected_also_when_somebody_looks(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        sandbox.script("any status 503 retry_after=60")
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start(GATE, backoff_cap="1h", backoff_first="1ms")
            await relay.until("waiting")
            await until(lambda: "503" in relay.camera().reason)
            seen = len(sandbox.log)
            for _ in range(20):
                relay.destination.nudge()
                await asyncio.sleep(0)
            assert len(sandbox.log) == seen == 1
        finally:
            await relay.stop()


async def test_a_camera_that_waits_is_looked_at_more_and_more_seldom_until_somebody_looks(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start(GATE, poll_every="5s", backoff_cap="1h")
            sandbox.watcher.scan(await relay.token())
            assert sandbox.count("activation") == 0
            relay.destination.nudge()
            await relay.until("ok")
        finally:
            await relay.stop()


async def test_five_hundred_cameras_share_lists_and_one_login(tmp_path: Path) -> None:
    cameras = [{**GATE, "name": f"cam-{number}", "folder": "Gates"} for number in range(500)]
    async with kept(tmp_path, *cameras, watcher_page=100) as (sandbox, relay):
        await until(lambda: len(sandbox.watcher.activations) == 500, 60)
        await until(lambda: all(camera.token for camera in relay.destination.cameras()))
        assert (sandbox.count("signin"), sandbox.count("organizations"), sandbox.count("folders")) == (1, 1, 1)


async def test_check_tells_the_right_that_is_missing_and_leaves_no_trace(tmp_path: Path) -> None:
    async with kept(tmp_path) as (sandbox, relay):
        await relay.start(GATE)
        await relay.token()
        findings = await relay.destination.check()
        assert all(finding.is_good for finding in findings)
        assert findings[-1].subject == "watcher: camera gate-3"
        assert sandbox.count("activate") == 1


# --- differences


def camera(**options: Any) -> CameraConfig:
    return CameraConfig.model_validate({"name": "x", "title": "X", **options})


@pytest.mark.parametrize(
    ("options", "stream"),
    [
        ({}, {"comment": "theirs", "static": False, "disabled": True}),
        ({"comment": ""}, {"comment": None}),
        ({"static": True}, {}),
        ({"enabled": True}, {"disabled": None}),
        ({"dvr_depth": 7}, {"dvr": {"expiration": "604800"}}),
        ({"dvr_space": 50}, {"dvr": {"storage_limit": 50 * 2**30}}),
        ({"dvr_space": 50}, {"dvr": {"storage_limit": 50e9}}),
        (
            {"coordinates": {"latitude": 55.4, "longitude": 10}},
            {"coordinates": {"latitude": "55.4000000001", "longitude": 10}},
        ),
    ],
)
def test_what_means_the_same_is_no_difference(options: dict[str, Any], stream: Fields) -> None:
    assert changes(camera(**options), {}, {"title": "X", **stream}) == {}


@pytest.mark.parametrize(
    ("options", "stream", "expected"),
    [
        ({}, {"title": "Y"}, {"title": "X"}),
        ({"dvr_depth": 7}, {"title": "X", "dvr": []}, {"dvr": {"expiration": 604800}}),
        ({"dvr_space": 1}, {"title": "X", "dvr": {"storage_limit": True}}, {"dvr": {"storage_limit": 10**9}}),
        ({"enabled": False}, {"title": "X"}, {"disabled": True}),
    ],
)
def test_only_what_differs_is_changed(options: dict[str, Any], stream: Fields, expected: Fields) -> None:
    assert changes(camera(**options), {}, stream) == expected


def test_ids_are_compared_whatever_their_spelling() -> None:
    long = 2**62 + 1
    assert changes(camera(), {"folder_id": long}, {"title": "X", "folder_id": str(long)}) == {}
    assert changes(camera(), {"folder_id": long}, {"title": "X", "folder_id": long + 1}) == {"folder_id": long}
