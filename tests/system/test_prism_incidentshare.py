"""The IncidentShare adapter against Prism, which checks every request against the API's own description."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.destinations.incidentshare import IncidentShare
from relayd.destinations.incidentshare_models import IncidentShareConfig
from relayd.errors import LoginRefused, Rejected, TryAgain, Unavailable
from relayd.model import Kind, Receipt
from tests.destinations.driver import Line, line
from tests.system.prism import DESCRIPTIONS, Proxy, running_prism_with, running_proxy
from tests.system.processes import free_port, installed

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

REST = "/incidentshare/rest/v1"
LINK: dict[str, Any] = {
    "sms_template": "Please open {link}",
    "user_email": "chief@example.com",
    "user_login_name": "chief",
    "reference_no": "R-7",
    "notes": "GW-12 panic button",
}
WISHES: list[tuple[str, Kind, dict[str, Any]]] = [
    ("sms", Kind.MESSAGE, {"phone_number": "20123456", "country_code": 45, "incident_id": "rk-0001", **LINK}),
    ("sms", Kind.MESSAGE, {"phone_number": "+4520123456"}),
    ("email", Kind.MESSAGE, {"email": "reporter@example.com", **LINK}),
    ("email", Kind.MESSAGE, {"email": "reporter@example.com"}),
    ("media", Kind.MEDIA, {"stream_id": "rk-0001"}),
    ("media", Kind.MEDIA, {"stream_id": "gate 3/north"}),
]


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Prism with the description of IncidentShare."""
    installed("system")
    with running_prism_with(DESCRIPTIONS / "incidentshare.yaml", tmp_path_factory.mktemp("prism")) as running:
        yield running


@pytest.fixture
async def proxy(mock: tuple[str, Path]) -> AsyncIterator[Proxy]:
    """A fresh proxy before Prism."""
    async with running_proxy(*mock, free_port()) as proxy:
        yield proxy


@pytest.fixture
async def relay(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    """A new spool that feeds a new adapter."""
    async with relay_with(proxy, tmp_path, monkeypatch) as made:
        yield made


def relay_with(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.setenv("RELAYD_TEST_SECRET", "not-a-secret")
    section = {
        "type": "incidentshare",
        "url": proxy.url,
        "client_id": "relay",
        "client_secret": {"env": "RELAYD_TEST_SECRET"},
        "look_for": "0s",
        **options,
    }
    config = IncidentShareConfig.model_validate(section)
    return line(lambda: IncidentShare("incidentshare", config), tmp_path / "spool")


async def owe(relay: Line, action: str, kind: Kind, arguments: dict[str, Any]) -> None:
    await relay.put(b"\xff\xd8" * 700_000, "front 1.jpg", "image/jpeg", action, kind, **arguments)


async def test_every_request_of_every_action_is_accepted(proxy: Proxy, relay: Line) -> None:
    for action, kind, arguments in WISHES:
        await owe(relay, action, kind, arguments)
        receipt = await relay.attempt()
        assert isinstance(receipt, Receipt), (action, receipt)
        if action == "sms":
            assert receipt.fields == {"stream_id": "rk-0001", "id": 1207}

    assert [(exchange.method, exchange.path) for exchange in proxy.seen] == [
        ("POST", "/"),
        *[("POST", f"{REST}/sms")] * 2,
        *[("POST", f"{REST}/email")] * 2,
        ("POST", f"{REST}/stream_id/rk-0001/media_file"),
        ("POST", f"{REST}/stream_id/gate 3/north/media_file"),
    ]
    assert proxy.violations == []


async def test_a_token_in_a_form_is_accepted_where_json_is_not(proxy: Proxy, relay: Line) -> None:
    proxy.force("/", "code=400")
    await owe(relay, *WISHES[0])

    assert isinstance(await relay.attempt(), Receipt)

    assert [exchange.path for exchange in proxy.seen] == ["/", "/", f"{REST}/sms"]
    assert proxy.violations == []


async def test_basic_is_accepted(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with relay_with(proxy, tmp_path, monkeypatch, auth="basic") as relay:
        for action, kind, arguments in WISHES:
            await owe(relay, action, kind, arguments)
            assert isinstance(await relay.attempt(), Receipt)
        assert all(finding.is_good for finding in await relay.destination.check())
    assert "/" not in {exchange.path for exchange in proxy.seen}
    assert proxy.violations == []


@pytest.mark.parametrize("dates", ["seconds", "off"])
@pytest.mark.parametrize("wish", [WISHES[0], WISHES[4]], ids=["sms", "media"])
async def test_every_request_of_a_look_is_accepted(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: tuple[str, Kind, dict[str, Any]], dates: str
) -> None:
    async with relay_with(proxy, tmp_path, monkeypatch, saved_date_after=dates) as relay:
        proxy.force("/sms", "code=500")
        proxy.force("/media_file", "code=500")
        await owe(relay, *wish)
        assert isinstance(await relay.attempt(), TryAgain)

        assert isinstance(await relay.attempt(), Receipt)

    asked = {exchange.path for exchange in proxy.seen}
    assert ("/v1/media-files" in asked) == (wish[0] == "media")
    assert (f"{REST}/transmissions" in asked) == (wish[0] == "sms")
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("codes", "error"),
    [
        (["code=400"], Rejected),
        (["code=401", "code=401"], LoginRefused),
        (["code=429"], Unavailable),
        (["code=500"], TryAgain),
        (["code=503"], Unavailable),
    ],
)
@pytest.mark.parametrize("wish", [WISHES[0], WISHES[2], WISHES[4]], ids=["sms", "email", "media"])
async def test_every_described_refusal_is_what_it_says(
    proxy: Proxy, relay: Line, wish: tuple[str, Kind, dict[str, Any]], codes: list[str], error: type[Exception]
) -> None:
    path = {"media": "/media_file"}.get(wish[0], f"/{wish[0]}")
    proxy.force(path, *codes)
    await owe(relay, *wish)

    assert type(await relay.attempt()) is error

    assert proxy.violations == []


@pytest.mark.parametrize("code", ["404", "413"])
async def test_a_stream_that_is_not_there_and_a_file_that_is_too_large_refuse_the_item(
    proxy: Proxy, relay: Line, code: str
) -> None:
    proxy.force("/media_file", f"code={code}")
    await owe(relay, *WISHES[4])

    assert isinstance(await relay.attempt(), Rejected)

    assert proxy.violations == []


async def test_the_check_of_a_configuration_is_accepted_and_leaves_no_trace(proxy: Proxy, relay: Line) -> None:
    findings = await relay.destination.check()

    assert [finding for finding in findings if not finding.is_good] == []
    assert {(exchange.method, exchange.path) for exchange in proxy.seen} == {
        ("POST", "/"),
        ("GET", "/incidentshare-appconfig/v2/channels"),
        ("GET", f"{REST}/transmissions/latest"),
        ("GET", "/v1/media-files/latest"),
    }
    assert proxy.violations == []
