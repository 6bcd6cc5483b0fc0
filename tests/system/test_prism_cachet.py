"""The Cachet adapter against Prism, which checks every request against the API's own description."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.destinations.cachet import Cachet
from relayd.destinations.cachet_models import CachetConfig
from relayd.errors import LoginRefused, NotAllowed, Rejected, TryAgain, Unavailable
from relayd.model import Receipt
from tests.destinations.driver import Line, line
from tests.destinations.test_cachet import drain, fault, tell
from tests.system.prism import DESCRIPTIONS, Proxy, running_prism_with, running_proxy
from tests.system.processes import free_port, installed

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

EXAMPLE = "GW-12 uplink lost"
"""The incident that Prism always shows carries another marker than any of ours."""


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Prism with the description of Cachet."""
    installed("system")
    with running_prism_with(DESCRIPTIONS / "cachet.yaml", tmp_path_factory.mktemp("prism")) as running:
        yield running


@pytest.fixture
async def proxy(mock: tuple[str, Path]) -> AsyncIterator[Proxy]:
    """A fresh proxy before Prism."""
    async with running_proxy(*mock, free_port()) as proxy:
        yield proxy


@pytest.fixture
def options() -> dict[str, Any]:
    return {}


@pytest.fixture
async def relay(
    proxy: Proxy, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Line]:
    """A new spool that feeds a new adapter."""
    monkeypatch.setenv("RELAYD_TEST_TOKEN", "1|not-a-secret")
    section = {"type": "cachet", "url": proxy.url, "token": {"env": "RELAYD_TEST_TOKEN"}, **options}
    config = CachetConfig.model_validate(section)
    async with line(lambda: Cachet("status-page", config), tmp_path / "spool") as made:
        yield made


def asked(proxy: Proxy) -> list[tuple[str, str]]:
    return [(exchange.method, exchange.path) for exchange in proxy.seen]


async def test_incidents_and_components_are_accepted(proxy: Proxy, relay: Line) -> None:
    await fault(relay)
    await fault(relay, over=True)
    await fault(relay, over=True, part="clock")
    await tell(
        relay,
        {"pump": 3},
        name="Pump 3",
        template="gateway-fault",
        template_vars={"gateway": "GW-12"},
        status="identified",
        visible=True,
        stickied=True,
        notifications=True,
        occurred_at="2026-01-01T08:00:00Z",
        published_at="2026-01-01T08:00:00Z",
        component_id=1,
        component_status=3,
        components=[{"id": 2, "status": 4}],
        meta={"cluster": "eu"},
    )
    await tell(relay, {}, "component", component_id=1, status=1)
    assert len(await drain(relay)) == 5
    assert asked(proxy) == [
        ("GET", "/incidents"),
        ("POST", "/incidents"),
        ("GET", "/incidents"),
        ("PUT", "/incidents/0"),
        ("GET", "/incidents"),
        ("POST", "/incidents"),
        ("PUT", "/components/1"),
    ]
    assert proxy.violations == []


async def test_an_update_and_the_search_for_a_lost_one_are_accepted(
    proxy: Proxy, relay: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relayd.destinations.cachet_events.mark", lambda key: EXAMPLE)
    proxy.force("/incidents/42/updates", "code=200", "code=500", "code=200", "code=200", "code=201")
    await fault(relay, over=True)
    assert isinstance(await relay.attempt(), TryAgain)
    receipt = await relay.deliver(tries=1)
    assert receipt.fields == {"incident_id": 42}
    assert asked(proxy) == [
        ("GET", "/incidents"),
        ("GET", "/incidents/42/updates"),
        ("POST", "/incidents/42/updates"),
        ("GET", "/incidents"),
        ("GET", "/incidents/42/updates"),
        ("GET", "/incidents/42/updates"),
        ("POST", "/incidents/42/updates"),
    ]
    assert proxy.violations == []


@pytest.mark.parametrize("options", [{"marker": "meta"}])
async def test_the_search_by_metadata_is_accepted(proxy: Proxy, relay: Line) -> None:
    await fault(relay)
    assert isinstance(await relay.attempt(), Receipt)
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("path", "code", "error"),
    [
        ("/incidents", 401, LoginRefused),
        ("/incidents", 400, LoginRefused),
        ("/incidents", 429, Unavailable),
        ("/incidents", 503, Unavailable),
    ],
)
async def test_every_documented_refusal_of_a_search_is_what_it_says(
    proxy: Proxy, relay: Line, path: str, code: int, error: type[Exception]
) -> None:
    proxy.force(path, f"code={code}")
    await fault(relay)
    assert type(await relay.attempt()) is error
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (401, LoginRefused),
        (403, NotAllowed),
        (404, LoginRefused),
        (422, Rejected),
        (429, Unavailable),
        (500, TryAgain),
        (503, Unavailable),
    ],
)
async def test_every_documented_refusal_of_an_incident_is_what_it_says(
    proxy: Proxy, relay: Line, code: int, error: type[Exception]
) -> None:
    proxy.force("/incidents", "code=200", f"code={code}")
    await fault(relay)
    outcome = await relay.attempt()
    assert type(outcome) is error
    if isinstance(outcome, Unavailable) and code == 429:
        assert outcome.retry_after_seconds == 30
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("code", "error"),
    [(401, LoginRefused), (403, NotAllowed), (404, Rejected), (422, Rejected), (429, Unavailable), (500, TryAgain)],
)
async def test_every_documented_refusal_of_a_component_is_what_it_says(
    proxy: Proxy, relay: Line, code: int, error: type[Exception]
) -> None:
    proxy.force("/components/1", f"code={code}")
    await tell(relay, {}, "component", component_id=1, status=1)
    assert type(await relay.attempt()) is error
    assert proxy.violations == []


async def test_the_check_of_a_configuration_leaves_no_trace(proxy: Proxy, relay: Line) -> None:
    findings = await relay.destination.check()
    assert [finding for finding in findings if not finding.is_good] == []
    assert {(method, path) for method, path in asked(proxy) if method != "GET"} == {
        ("PUT", "/incidents/0"),
        ("PUT", "/incidents/0/updates/0"),
        ("PUT", "/components/0"),
    }
    assert proxy.violations == []
