"""No effect repeats without bound: a server that does what it is asked and never says so, for an hour."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relayd import clock
from relayd.destinations.base import Destination
from relayd.errors import DeliveryError, Rejected
from relayd.model import Capture, Kind, Receipt
from tests.destinations.contract import Uptime
from tests.destinations.driver import Line, line
from tests.destinations.test_cachet import make as cachet
from tests.destinations.test_incidentshare import make as incidentshare
from tests.destinations.test_sayvu import make as sayvu
from tests.destinations.test_watcher import make as watcher
from tests.destinations.test_webhook import make as webhook

HOUR_SECONDS = 3600.0
STEP_SECONDS = 30.0
MOST_EFFECTS = 3
AS_SHIPPED = {"most_unknown": 2, "unknown_wait": "5m"}
FAULTS = ("nonsense", "500", "nothing", "page")


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_SECRET", "sandbox-secret")
    monkeypatch.setenv("RELAYD_TEST_KEY", "ak_sandbox")
    monkeypatch.setenv("RELAYD_TEST_TOKEN", "1|sandbox")
    monkeypatch.setenv("RELAYD_TEST_PASSWORD", "sandbox-password")


class Deceiver:
    """Lets everybody in, does what it is asked, and answers with a fault; `reads` are what it answers to a GET."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.effects: list[str] = []
        self.reads: dict[str, Any] = {}

    async def take(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        if "oauth" in request.query or request.path.endswith("/login"):
            return web.json_response({"access_token": "t", "expires_in": 86400, "token_type": "bearer"})
        known = next((self.reads[end] for end in self.reads if request.path.endswith(end)), None)
        if request.method == "GET" and known is not None:
            return web.json_response(known)
        if request.method != "GET":
            self.effects.append(f"{request.method} {request.path}")
        return self._answer(request)

    def _answer(self, request: web.Request) -> web.StreamResponse:
        match self.fault:
            case "nonsense":
                return web.Response(text="Warning: something in line 12", content_type="text/plain")
            case "500":
                return web.Response(status=500, text="oops", content_type="text/plain")
            case "page":
                return web.Response(text="<!doctype html><html>Welcome</html>", content_type="text/html")
            case _:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()


@asynccontextmanager
async def deceiving(fault: str) -> AsyncIterator[tuple[Deceiver, str]]:
    played = Deceiver(fault)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", played.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield played, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Effect:
    make: Callable[[str], Destination]
    action: str
    arguments: dict[str, Any]
    reads: dict[str, Any]


def effect(make: Callable[..., Destination], action: str, reads: dict[str, Any] | None = None, **arguments: Any) -> Any:
    name = f"{make.__module__.rpartition('_')[2]} {action}"
    options = AS_SHIPPED if make is not cachet else {}
    return pytest.param(Effect(lambda url: make(url, **options), action, arguments, reads or {}), id=name)


def with_camera(url: str, **options: Any) -> Destination:
    return watcher(url, camera=[{"name": "gate-3", "title": "Gate 3"}], **options)


with_camera.__module__ = watcher.__module__

EFFECTS = (
    effect(incidentshare, "media", stream_id="vehicle-12"),
    effect(incidentshare, "media", {"/media-files": []}, stream_id="vehicle-13"),
    effect(incidentshare, "sms", phone_number="+4512345678"),
    effect(incidentshare, "sms", {"/transmissions": []}, phone_number="+4512345679"),
    effect(incidentshare, "email", email="reporter@example.com"),
    effect(sayvu, "report", category="3", location={"x": 10.4, "y": 55.4}),
    effect(sayvu, "message", text="48 km/h", report_id="7"),
    effect(sayvu, "image", report_id="7"),
    effect(watcher, "message", body="x", user_id=12),
    effect(watcher, "ptz", name="cam-1", left=5),
    effect(watcher, "reboot", name="cam-1"),
    effect(with_camera, "camera", name="gate-3"),
    effect(webhook, "post"),
)


async def owe(relay: Line, what: Effect) -> None:
    is_media = what.action in ("media", "image")
    capture = Capture(
        source="test",
        name="a.jpg" if is_media else "panic",
        kind=Kind.MEDIA if is_media else Kind.MESSAGE,
        content_type="image/jpeg" if is_media else "application/json",
        captured_at=clock.now(),
        payload=b"\xff\xd8\xff\xd9" if is_media else b"{}",
    )
    await relay.spool.put(capture, [relay._order(what.action, what.arguments)], now=clock.now())


async def for_an_hour(relay: Line, uptime: Uptime) -> list[Receipt | DeliveryError]:
    outcomes: list[Receipt | DeliveryError] = []
    while uptime.seconds < HOUR_SECONDS:
        outcome = await relay.attempt()
        if outcome is None:
            break
        outcomes.append(outcome)
        uptime.seconds += STEP_SECONDS
    return outcomes


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("what", EFFECTS)
async def test_what_is_done_without_a_word_is_done_three_times_at_most_and_then_a_person_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Effect, fault: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with deceiving(fault) as (far, url):
        far.reads = what.reads
        async with line(lambda: what.make(url), tmp_path / "spool") as relay:
            await owe(relay, what)
            outcomes = await for_an_hour(relay, uptime)
            assert 1 <= len(far.effects) <= MOST_EFFECTS
            assert isinstance(outcomes[-1], Rejected), outcomes[-1]
            assert "look" in str(outcomes[-1]) or "not sent again" in str(outcomes[-1])
            assert relay.spool.counters.dead == 1


async def test_lines_that_went_together_share_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uptime = Uptime(monkeypatch)
    async with (
        deceiving("500") as (far, url),
        line(lambda: sayvu(url, **AS_SHIPPED), tmp_path / "spool") as relay,
    ):
        for text in ("one", "two", "three"):
            await relay.put(b"{}", action="message", kind=Kind.MESSAGE, text=text, report_id="7")
        for _ in range(80):
            await relay.attempt()
            uptime.seconds += 60
        assert len(far.effects) <= MOST_EFFECTS
        assert relay.spool.counters.destinations["sayvu"].dead == 3


async def test_a_webhook_that_keeps_keys_is_repeated_until_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = Uptime(monkeypatch)
    async with (
        deceiving("500") as (far, url),
        line(lambda: webhook(url, keeps_keys=True, **AS_SHIPPED), tmp_path / "spool") as relay,
    ):
        await relay.put(b"{}", kind=Kind.MESSAGE)
        outcomes = await for_an_hour(relay, uptime)
        assert len(far.effects) == len(outcomes) > MOST_EFFECTS
        assert not any(isinstance(outcome, Rejected) for outcome in outcomes)
