"""The Watcher adapter, its cameras and its episodes against Prism, which checks every request against the API's own
description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import clock
from relayd.destinations.watcher import Watcher
from relayd.destinations.watcher_models import WatcherConfig
from relayd.errors import LoginRefused, NotAllowed, NotReady, Rejected, TryAgain, Unavailable
from relayd.model import Capture, Kind, Receipt
from relayd.sources.episodes import EpisodesSource
from relayd.sources.episodes_config import EpisodesConfig
from relayd.surroundings import Surroundings
from tests.destinations.driver import Line, line, until
from tests.system.prism import DESCRIPTIONS, Proxy, running_prism_with, running_proxy
from tests.system.processes import free_port, installed

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

STREAM = "cam-e7fee73458"
CAMERA: dict[str, Any] = {
    "name": "gate-3",
    "title": "Gate 3",
    "organization": "Example LLC",
    "preset": "Default",
    "folder": "Vehicles",
    "dvr_depth": 7,
    "dvr_space": 50,
    "comment": "behind the fence",
    "coordinates": {"latitude": 55.403, "longitude": 10.402},
    "postal_address": "Havnegade 1, Odense",
    "enabled": True,
    "static": False,
}


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Prism with the description of Watcher."""
    installed("system")
    with running_prism_with(DESCRIPTIONS / "watcher.yaml", tmp_path_factory.mktemp("prism")) as running:
        yield running


@pytest.fixture
async def proxy(mock: tuple[str, Path]) -> AsyncIterator[Proxy]:
    """A fresh proxy before Prism."""
    async with running_proxy(*mock, free_port()) as proxy:
        yield proxy


@pytest.fixture
def config(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> WatcherConfig:
    monkeypatch.setenv("RELAYD_TEST_PASSWORD", "not-a-secret")
    section = {
        "type": "watcher",
        "url": proxy.url,
        "login": "gateway",
        "password": {"env": "RELAYD_TEST_PASSWORD"},
        "poll_every": "50ms",
        "look_every": "50ms",
        "camera": [CAMERA],
    }
    return WatcherConfig.model_validate(section)


@pytest.fixture
async def relay(config: WatcherConfig, tmp_path: Path) -> AsyncIterator[Line]:
    """A new spool that feeds a new adapter."""
    async with line(lambda: Watcher("watcher", config), tmp_path / "spool") as made:
        yield made


async def tried(relay: Line, action: str, **arguments: Any) -> object:
    capture = Capture(
        source="test",
        name="button",
        kind=Kind.MESSAGE,
        content_type="application/json",
        captured_at=clock.now(),
        payload=b"{}",
    )
    await relay.spool.put(capture, [relay._order(action, arguments)], now=clock.now())
    return await relay.attempt()


def paths(proxy: Proxy) -> list[tuple[str, str]]:
    return [(exchange.method, exchange.path) for exchange in proxy.seen]


async def test_messages_and_commands_are_accepted(proxy: Proxy, relay: Line) -> None:
    for action, arguments in (
        ("message", {"body": "**Storage nearly full**", "user_id": 12}),
        ("message", {"body": "x", "user_id": 12, "title": "GW", "type": "warning", "is_push": True}),
        ("ptz", {"name": STREAM, "down": 50, "left": 50, "in": 20}),
        ("ptz", {"name": STREAM}),
        ("reboot", {"name": STREAM}),
    ):
        receipt = await tried(relay, action, **arguments)
        assert isinstance(receipt, Receipt), (action, receipt)

    assert paths(proxy) == [
        ("POST", "/login"),
        *[("POST", "/messages")] * 2,
        *[("POST", f"/streams/{STREAM}/ptz")] * 2,
        ("POST", f"/streams/{STREAM}/reboot"),
    ]
    assert proxy.violations == []


async def test_a_refused_token_is_renewed_by_the_refresh_token(proxy: Proxy, relay: Line) -> None:
    proxy.force("/messages", "code=200", "code=401")
    assert isinstance(await tried(relay, "message", body="x", user_id=12), Receipt)
    assert isinstance(await tried(relay, "message", body="y", user_id=12), Receipt)
    assert paths(proxy).count(("POST", "/login")) == 2
    assert proxy.violations == []


async def test_a_camera_is_activated_and_brought_into_shape(proxy: Proxy, relay: Line) -> None:
    proxy.force("/agent_activation_token", "example=fresh")
    proxy.force("/9d6f0c1e7b2a4c58", "example=waiting", "example=provisionedByProse")
    assert isinstance(await tried(relay, "camera", name="gate-3"), NotReady)
    upkeep = asyncio.create_task(relay.destination.upkeep())
    try:
        await until(lambda: ("PUT", f"/streams/{STREAM}") in paths(proxy))
    finally:
        upkeep.cancel()
        await asyncio.wait([upkeep])
    receipt = await relay.deliver(tries=1)

    assert receipt.fields["stream_name"] == STREAM
    wanted = [
        ("POST", "/login"),
        ("GET", "/organizations"),
        ("GET", "/presets"),
        ("GET", "/organizations/9/folders"),
        ("POST", "/agent_activation_token"),
        ("GET", "/agent_activation_token/9d6f0c1e7b2a4c58"),
        ("GET", "/agent_activation_token/9d6f0c1e7b2a4c58"),
        ("GET", f"/streams/{STREAM}"),
        ("PUT", f"/streams/{STREAM}"),
    ]
    assert paths(proxy)[: len(wanted)] == wanted
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, Rejected),
        (401, LoginRefused),
        (403, NotAllowed),
        (429, Unavailable),
        (500, TryAgain),
        (503, Unavailable),
    ],
)
async def test_every_documented_refusal_of_a_message_is_what_it_says(
    proxy: Proxy, relay: Line, code: int, error: type[Exception]
) -> None:
    proxy.force("/messages", *[f"code={code}"] * 2)
    assert type(await tried(relay, "message", body="x", user_id=12)) is error
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, Rejected), (401, LoginRefused), (403, Rejected), (404, Rejected), (429, Unavailable), (500, Rejected)],
)
async def test_every_documented_refusal_of_a_command_is_what_it_says(
    proxy: Proxy, relay: Line, code: int, error: type[Exception]
) -> None:
    proxy.force("/ptz", *[f"code={code}"] * 2)
    outcome = await tried(relay, "ptz", name=STREAM)
    assert isinstance(outcome, error)
    assert proxy.violations == []


async def test_episodes_are_asked_for_as_described(proxy: Proxy, config: WatcherConfig) -> None:
    section = {
        "type": "watcher-episodes",
        "watcher": "watcher",
        "media": [STREAM],
        "episode_type": "generic",
        "group_view": True,
        "poll_timeout": "1s",
        "select": "episode_id,updated_at,media",
    }
    taken: list[Capture] = []

    async def put(capture: Capture) -> Any:
        taken.append(capture)

    source = EpisodesSource(
        "episodes", EpisodesConfig.model_validate(section), _Nothing(), Surroundings(sections={"watcher": config})
    )
    running = asyncio.create_task(source.run(put))
    try:
        await until(lambda: bool(taken))
        assert source.view().reason == ""
        assert [finding for finding in await source.check() if not finding.is_good] == []
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert taken[0].name == "episode-7036001172460667000"
    assert set(paths(proxy)) == {("POST", "/login"), ("GET", "/episodes")}
    assert proxy.violations == []


async def test_the_check_of_a_configuration_leaves_no_trace(proxy: Proxy, relay: Line) -> None:
    findings = await relay.destination.check()

    assert [finding for finding in findings if not finding.is_good] == []
    assert {method for method, path in paths(proxy) if path != "/login"} == {"GET"}
    assert proxy.violations == []


class _Nothing:
    """A ledger that remembers nothing."""

    async def known(self, source: str, after: bytes, limit: int) -> list[Any]:
        return []

    async def quarantine(self, source: str, origin: object, reason: str) -> None:
        return

    def forget(self, source: str, paths: object) -> None:
        return

    async def held(self, source: str) -> list[Any]:
        return []

    async def release(self, item_ids: object) -> None:
        return

    def vouch_for(self, item_ids: object) -> None:
        return

    async def unshare(self, item_id: str) -> None:
        return
