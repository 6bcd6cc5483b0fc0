"""No effect repeats without bound: every action of every destination, towards a server that does what it is asked and
never says so in words that can be read, tried for an hour as often as that may happen; configured as it comes."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from relayd import clock, destinations
from relayd.diagnosis import Examiner, Views
from relayd.errors import Rejected, TryAgain, Unavailable
from relayd.faults import HealthConfig
from relayd.memory import Unkept
from relayd.model import Capture, DestinationView, Kind, Order, Priority, Receipt
from relayd.sandbox import Sandbox
from relayd.sandbox import cachet as status_page
from relayd.sandbox.watcher import PREFIX, Activation
from relayd.surroundings import Surroundings
from tests.destinations.contract import Uptime
from tests.destinations.driver import Line, line

MOST = 3
"""The effect, and two more: what `most_unknown` is where nothing else is configured."""
SPOILED = ("lose", "spoil 500", "spoil 200 as=text", "spoil 200 as=page")
QUICK = {"connect_timeout": "2s", "answer_timeout": "2s", "stall_timeout": "2s"}
SECRETS = {
    "rapidsos": "sandbox-secret",
    "incidentshare": "sandbox-secret",
    "sayvu": "ak_sandbox",
    "cachet": "1|sandbox",
    "watcher": "sandbox-password",
}
SECTIONS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "rapidsos": lambda url: {"url": url, "client_id": "sandbox", "client_secret": {"env": "RELAYD_TEST_RAPIDSOS"}},
    "incidentshare": lambda url: {
        "url": url,
        "client_id": "sandbox",
        "client_secret": {"env": "RELAYD_TEST_INCIDENTSHARE"},
    },
    "sayvu": lambda url: {"url": url, "api_key": {"env": "RELAYD_TEST_SAYVU"}, "mode": "training"},
    "cachet": lambda url: {"url": url + status_page.PREFIX, "token": {"env": "RELAYD_TEST_CACHET"}},
    "watcher": lambda url: {
        "url": url + PREFIX,
        "login": "gateway",
        "password": {"env": "RELAYD_TEST_WATCHER"},
        "camera": [{"name": "gate-3", "title": "Gate 3", "organization": "Acme"}],
    },
    "webhook": lambda url: {"url": url + "/webhook"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One action: the `operation` that has the effect, and those (`looks`) by which one sees whether it is there."""

    type: str
    action: str
    operation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kind: Kind = Kind.MESSAGE
    payload: bytes = b"{}"
    looks: tuple[str, ...] = ()
    effects: Callable[[Sandbox], int] | None = None
    """Where the same once more changes nothing, or nothing that anybody sees (a slot that nobody fills): how much is
    there. Such a one is tried until it is answered."""

    def count(self, sandbox: Sandbox) -> int:
        return self.effects(sandbox) if self.effects else sandbox.count(self.operation, effect=True)

    def __str__(self) -> str:
        return f"{self.type}-{self.action}-{self.operation}"


FAULT = b'{"schema": 1, "type": "fault_raised", "part": "source front", "reason": "x", "at": "2026-01-01T08:00:00Z"}'
CASES = (
    Case(type="rapidsos", action="upload", operation="store", kind=Kind.MEDIA, effects=lambda box: len(box.objects)),
    Case(type="rapidsos", action="upload", operation="slot", kind=Kind.MEDIA, effects=lambda box: len(box.objects)),
    Case(
        type="incidentshare",
        action="media",
        operation="media",
        arguments={"stream_id": "vehicle-12"},
        kind=Kind.MEDIA,
        looks=("files",),
    ),
    Case(
        type="incidentshare",
        action="sms",
        operation="sms",
        arguments={"phone_number": "+4512345678"},
        looks=("links",),
    ),
    Case(
        type="incidentshare",
        action="email",
        operation="email",
        arguments={"email": "reporter@example.com"},
        looks=("links",),
    ),
    Case(
        type="sayvu",
        action="report",
        operation="report",
        arguments={"category": "3", "location": {"x": 34.78, "y": 32.08}},
    ),
    Case(type="sayvu", action="message", operation="message", arguments={"text": "x", "report_id": "48213"}),
    Case(type="sayvu", action="image", operation="image", arguments={"report_id": "48213"}, kind=Kind.MEDIA),
    Case(type="cachet", action="incident", operation="incident", payload=FAULT, looks=("incidents", "shown")),
    Case(
        type="cachet",
        action="component",
        operation="component",
        arguments={"component_id": "1", "status": "4"},
        effects=lambda box: sum(status != 1 for status in box.cachet.components.values()),
    ),
    Case(type="watcher", action="camera", operation="activate", arguments={"name": "gate-3"}),
    Case(type="watcher", action="message", operation="tell", arguments={"body": "full", "user_id": 12}),
    Case(type="watcher", action="ptz", operation="ptz", arguments={"name": "STREAM", "left": 50}),
    Case(type="watcher", action="reboot", operation="reboot", arguments={"name": "STREAM"}),
    Case(type="webhook", action="post", operation="webhook"),
)


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"RELAYD_TEST_{name.upper()}", value)


@asynccontextmanager
async def owed(
    case: Case, folder: Path, options: Mapping[str, object] = MappingProxyType({}), **switches: Any
) -> AsyncIterator[tuple[Sandbox, Line]]:
    """A server with these switches, and a delivery of this kind that is owed to it, with these options besides."""
    models, remembered = destinations.models(case.type), Unkept()
    around = Surroundings(memory=lambda _: remembered)
    async with Sandbox(**switches) as sandbox:
        section = {"type": case.type, **QUICK, **SECTIONS[case.type](sandbox.url), **options}
        config = models.config.model_validate(section)
        async with line(lambda: destinations.build(case.type, config, around), folder / "spool") as relay:
            if "report_id" in case.arguments:
                await relay.put(b"{}", action="report", kind=Kind.MESSAGE, **CASES[5].arguments)
                await relay.deliver(tries=1)
            sandbox.watcher.activations["t"] = Activation("t", {"title": "Gate"})
            stream = sandbox.watcher.scan("t")
            arguments = {name: stream if value == "STREAM" else value for name, value in case.arguments.items()}
            capture = Capture(
                source="relayd",
                name="clip-0001.jpg" if case.kind is Kind.MEDIA else "event",
                kind=case.kind,
                content_type="image/jpeg" if case.kind is Kind.MEDIA else "application/json",
                captured_at=0.0,
                payload=case.payload,
            )
            order = Order(
                destination=case.type,
                action=case.action,
                priority=Priority.NORMAL,
                rule="test",
                arguments=arguments,
            )
            await relay.spool.put(capture, [order], now=clock.now())
            yield sandbox, relay


async def an_hour_of(relay: Line, uptime: Uptime) -> Exception | Receipt | None:
    """Tried as often as it can be: at first each second, then each minute; started anew in between. The last try."""
    last: Exception | Receipt | None = None
    for number in range(120):
        outcome = await relay.attempt()
        if outcome is None:
            break
        last = outcome
        if number % 60 == 30:
            await relay.restart()
        uptime.seconds += 1 if number < 60 else 60
    return last


async def status(relay: Line) -> list[str]:
    """What the status snapshot says is wrong, in its order."""
    name = relay.destination.name
    well = DestinationView(state="ok", reason="", next_try_at=None, under_way=0)
    views = Views(sources={}, destinations={name: well}, brokers={})
    found = await Examiner(relay.spool, lambda _: False).examine(views, None, HealthConfig())
    return found.overall()[1]


def test_every_action_of_every_destination_is_tried() -> None:
    """But for MQTT, which says itself that a message may come again, and folders, where no server is asked."""
    tried = {(case.type, case.action) for case in CASES}
    known = {(name, action) for name in destinations.TYPES for action in destinations.models(name).actions}
    assert known - tried == {("mqtt", "publish"), ("folder", "copy")}


@pytest.mark.parametrize("fault", SPOILED)
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_server_that_does_it_and_never_says_so_does_it_three_times_at_most_and_a_person_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, fault: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with owed(case, tmp_path) as (sandbox, relay):
        sandbox.script(f"{case.operation} {fault}")
        last = await an_hour_of(relay, uptime)
        assert sandbox.count(case.operation, effect=True) >= 1
        assert case.count(sandbox) <= MOST
        if relay.spool.counters.dead:
            assert isinstance(last, Rejected)
            assert str(last)[:60] in (await status(relay))[0]
        else:
            assert relay.spool.counters.delivered or case.effects is not None, last


@pytest.mark.parametrize("fault", SPOILED)
@pytest.mark.parametrize("case", [case for case in CASES if case.looks], ids=str)
async def test_where_the_lists_cannot_be_read_either_it_is_done_three_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, fault: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with owed(case, tmp_path) as (sandbox, relay):
        rules = [f"{case.operation} {fault}", *(f"{look} {fault}" for look in case.looks)]
        sandbox.script("; ".join(rules))
        last = await an_hour_of(relay, uptime)
        assert case.count(sandbox) <= MOST
        assert relay.spool.counters.dead or isinstance(last, TryAgain | Unavailable), last


@pytest.mark.parametrize("action", ["media", "sms", "email"])
async def test_where_the_lists_hide_it_it_is_done_three_times_at_most_and_a_person_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    case = next(case for case in CASES if (case.type, case.action) == ("incidentshare", action))
    uptime = Uptime(monkeypatch)
    async with owed(case, tmp_path, share_lag_seconds=1e9) as (sandbox, relay):
        sandbox.script(f"{case.operation} spoil 500")
        last = await an_hour_of(relay, uptime)
        assert isinstance(last, Rejected)
        assert case.count(sandbox) == MOST
        assert str(last)[:60] in (await status(relay))[0]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EINVAL])
async def test_a_disk_that_keeps_a_copy_and_then_fails_has_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk, uptime = tmp_path / "usb", Uptime(monkeypatch)
    disk.mkdir()
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), disk.stat()):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    config = destinations.models("folder").config.model_validate({"type": "folder", "path": disk, "min_free": "0B"})
    async with line(lambda: destinations.build("folder", config, Surroundings()), tmp_path / "spool") as relay:
        await relay.put(b"content", action="copy")
        await an_hour_of(relay, uptime)
        assert len([path for path in disk.iterdir() if not path.name.startswith(".")]) <= 1
