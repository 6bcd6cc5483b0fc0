"""The SayVU adapter against Prism, which checks every request against the API's own description."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.destinations.sayvu import SayVU
from relayd.destinations.sayvu_models import SayVUConfig
from relayd.errors import LoginRefused, Rejected, TryAgain, Unavailable
from relayd.model import Kind, Receipt
from tests.destinations.driver import Line, line
from tests.system.prism import DESCRIPTIONS, Proxy, running_prism_with, running_proxy
from tests.system.processes import free_port, installed

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PLACE: Any = {"x": 34.7818, "y": 32.0853}
REPORT: dict[str, Any] = {"category": "Security", "subcategory": "Panic button", "location": PLACE}
REPORTER: Any = {"name": "Driver 12", "phone": "+972501234567"}
NUMBER = 48213


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Prism with the description of SayVU reports."""
    installed("system")
    with running_prism_with(DESCRIPTIONS / "reports.yaml", tmp_path_factory.mktemp("prism")) as running:
        yield running


@pytest.fixture
async def proxy(mock: tuple[str, Path]) -> AsyncIterator[Proxy]:
    """A fresh proxy before Prism."""
    async with running_proxy(*mock, free_port()) as proxy:
        yield proxy


@pytest.fixture
async def relay(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    """A new spool that feeds a new adapter."""
    monkeypatch.setenv("RELAYD_TEST_KEY", "ak_not-a-secret")
    section = {"type": "sayvu", "url": proxy.url, "api_key": {"env": "RELAYD_TEST_KEY"}, "mode": "training"}
    config = SayVUConfig.model_validate(section)
    async with line(lambda: SayVU("sayvu", config), tmp_path / "spool") as made:
        yield made


async def test_report_message_and_image_are_accepted(proxy: Proxy, relay: Line) -> None:
    wishes: list[tuple[str, Kind, dict[str, Any]]] = [
        ("report", Kind.MESSAGE, {**REPORT, "description": "Panic button on GW-12", "reporter": REPORTER}),
        ("report", Kind.MESSAGE, {"category": "4", "location": PLACE}),
        ("message", Kind.MESSAGE, {"text": "48.1 km/h", "label": "speed", "report_id": str(NUMBER)}),
        ("message", Kind.MESSAGE, {"text": "no label", "report_id": str(NUMBER)}),
        ("image", Kind.MEDIA, {"report_id": str(NUMBER)}),
        ("image", Kind.MEDIA, {"report_id": str(NUMBER), "data": '{"chat": {"messages": [{"text": "front"}]}}'}),
    ]
    for action, kind, arguments in wishes:
        await relay.put(b"\xff\xd8" * 700_000, "front 1.jpg", "image/jpeg", action, kind, **arguments)
        receipt = await relay.attempt()
        assert isinstance(receipt, Receipt), (action, receipt)
        assert receipt.fields["report_id"] == NUMBER

    assert [(exchange.method, exchange.path) for exchange in proxy.seen] == [
        ("GET", "/categories"),
        ("POST", "/reports"),
        ("POST", "/reports"),
        *[("POST", f"/reports/{NUMBER}/chat/messages")] * 2,
        *[("POST", f"/reports/{NUMBER}/images")] * 2,
    ]
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("prefer", "error"),
    [
        ("code=400, example=schema", Rejected),
        ("code=400, example=missing", Rejected),
        ("code=401, example=unauthorized", LoginRefused),
        ("code=401, example=missingReporter", Rejected),
        ("code=429", Unavailable),
        ("code=500", TryAgain),
        ("code=503", Unavailable),
    ],
)
async def test_every_documented_refusal_of_a_report_is_what_it_says(
    proxy: Proxy, relay: Line, prefer: str, error: type[Exception]
) -> None:
    proxy.force("/reports", prefer)
    await relay.put(b"{}", action="report", kind=Kind.MESSAGE, **REPORT)

    assert type(await relay.attempt()) is error

    assert proxy.violations == []


@pytest.mark.parametrize(
    ("prefer", "error"),
    [
        ("code=400, example=noFiles", Rejected),
        ("code=404", Rejected),
        ("code=413", Rejected),
        ("code=401, example=unauthorized", LoginRefused),
        ("code=500", TryAgain),
    ],
)
async def test_every_documented_refusal_of_an_image_is_what_it_says(
    proxy: Proxy, relay: Line, prefer: str, error: type[Exception]
) -> None:
    proxy.force("/images", prefer)
    await relay.put(b"image", action="image", report_id=str(NUMBER))

    assert type(await relay.attempt()) is error


async def test_the_check_of_a_configuration_leaves_no_trace(proxy: Proxy, relay: Line) -> None:
    findings = await relay.destination.check()

    assert [finding for finding in findings if not finding.is_good] == []
    assert {exchange.path for exchange in proxy.seen} == {"/categories"}
