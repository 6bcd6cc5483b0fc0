"""A request that goes on at the server while we look: behind a gateway that gave up, after a connection was cut, after
relayd was killed. Every action that cannot be taken back, configured as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from relayd.destinations.watcher import Watcher
from relayd.errors import DeliveryError, NotReady, Rejected
from relayd.model import Receipt
from relayd.sandbox import Sandbox
from tests.destinations.contract import Uptime
from tests.destinations.driver import Line, PowerCut
from tests.destinations.test_repeated_effects import CASES, Case, owed
from tests.destinations.test_repeated_effects import _secrets as _secrets

KILLED = "killed"
GIVEN_UP = ("504", "502", "503", "408", "0", KILLED)
"""What the client sees of it: a gateway's answer, a connection that was cut (0), or nothing, since it is dead."""
FOUND = [case for case in CASES if case.looks]
UNSEEN = [case for case in CASES if case.type == "sayvu"]
LONG_SECONDS = 400.0
ONE_SENDING: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {"report": {"on_unknown": "ask"}, "message": {"most_unknown": 0}, "image": {"most_unknown": 0}}
)
BELIEVED = {("message", "503"), ("image", "503")}
"""A gateway's 503 counts as refused: while a control center is down for an hour, none of these may be given up."""
COMMANDS = [case for case in CASES if case.action in ("ptz", "reboot")]
EFFECTS: Mapping[str, Callable[[Sandbox], int]] = MappingProxyType(
    {
        "report": lambda box: len(box.reports) - 1,
        "message": lambda box: sum(len(each.lines) for each in box.reports.values()),
        "image": lambda box: sum(len(each.images) for each in box.reports.values()),
    }
)


async def give_up(sandbox: Sandbox, relay: Line, case: Case, seen: str) -> None:
    """The first try: its request goes on, and this is all that we see of it."""
    status = "0" if seen == KILLED else seen
    sandbox.script(f"{case.operation}#1 outlast 3600 status={status}")
    if seen == KILLED:
        with pytest.raises(PowerCut):
            await relay.attempt(dies_at=2, is_stored=False)
        await relay.restart()
    else:
        assert isinstance(await relay.attempt(), DeliveryError)
    assert sandbox.count(case.operation) == 1
    assert sandbox.count(case.operation, effect=True) == 0


@pytest.mark.parametrize("seen", GIVEN_UP)
@pytest.mark.parametrize("case", FOUND, ids=str)
async def test_what_can_be_looked_up_is_waited_for_and_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, seen: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with owed(case, tmp_path) as (sandbox, relay):
        await give_up(sandbox, relay, case, seen)
        for _ in range(3):
            assert isinstance(await relay.attempt(), NotReady)
            uptime.seconds += 1
        await relay.restart()
        await sandbox.finish()
        await relay.deliver(tries=1)
        assert sandbox.count(case.operation) == sandbox.count(case.operation, effect=True) == 1


@pytest.mark.parametrize("seen", ["504", "503", "0", KILLED])
@pytest.mark.parametrize("case", FOUND, ids=str)
async def test_what_goes_on_for_longer_than_we_wait_is_undone_or_said_to_be_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, seen: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with owed(case, tmp_path) as (sandbox, relay):
        await give_up(sandbox, relay, case, seen)
        outcome = await relay.attempt()
        while sandbox.count(case.operation) == 1:
            uptime.seconds += LONG_SECONDS
            outcome = await relay.attempt()
        await sandbox.finish()
        assert sandbox.count(case.operation, effect=True) == 2
        if not isinstance(outcome, Receipt):
            assert isinstance(outcome, NotReady)
            uptime.seconds += LONG_SECONDS
            outcome = await relay.deliver(tries=1)
        assert "twice" in outcome.proof
        assert [each.status for each in sandbox.cachet.incidents.values()] in ([], [1, 4])


@pytest.mark.parametrize(
    ("case", "seen"),
    [(case, seen) for case in UNSEEN for seen in ("504", "503", "0", KILLED) if (case.action, seen) not in BELIEVED],
    ids=str,
)
async def test_what_nobody_can_look_up_is_there_once_where_a_person_is_asked_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, seen: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with owed(case, tmp_path, ONE_SENDING[case.action]) as (sandbox, relay):
        before = EFFECTS[case.action](sandbox)
        sent = sandbox.count(case.operation)
        sandbox.script(f"{case.operation}#{sent + 1} outlast 3600 status={'0' if seen == KILLED else seen}")
        if seen == KILLED:
            with pytest.raises(PowerCut):
                await relay.attempt(dies_at=2, is_stored=False)
            await relay.restart()
        else:
            assert isinstance(await relay.attempt(), DeliveryError)
        uptime.seconds += LONG_SECONDS
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "look in the control center" in str(outcome)
        await sandbox.finish()
        assert EFFECTS[case.action](sandbox) == before + 1


@pytest.mark.parametrize("case", UNSEEN, ids=str)
async def test_what_nobody_can_look_up_and_is_sent_again_is_said_to_be_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    Uptime(monkeypatch)
    async with owed(case, tmp_path) as (sandbox, relay):
        before = EFFECTS[case.action](sandbox)
        sandbox.script(f"{case.operation}#{sandbox.count(case.operation) + 1} outlast 3600")
        assert isinstance(await relay.attempt(), DeliveryError)
        receipt = await relay.deliver(tries=1)
        await sandbox.finish()
        assert EFFECTS[case.action](sandbox) == before + 2
        assert "twice" in receipt.proof


@pytest.mark.parametrize("seen", [seen for seen in GIVEN_UP if seen != KILLED])
@pytest.mark.parametrize("case", COMMANDS, ids=str)
async def test_a_command_that_goes_on_is_never_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, seen: str
) -> None:
    Uptime(monkeypatch)
    async with owed(case, tmp_path) as (sandbox, relay):
        await give_up(sandbox, relay, case, seen)
        await relay.attempt()
        assert await relay.attempt() is None
        await sandbox.finish()
        assert sandbox.count(case.operation) == sandbox.count(case.operation, effect=True) == 1
        assert relay.spool.counters.dead == 1


@pytest.mark.parametrize("seen", ["504", "0"])
async def test_a_camera_becomes_one_stream_whatever_tokens_come_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    Uptime(monkeypatch)
    case = next(case for case in CASES if (case.type, case.action) == ("watcher", "camera"))
    async with owed(case, tmp_path) as (sandbox, relay):
        before = set(sandbox.watcher.streams)
        await give_up(sandbox, relay, case, seen)
        assert isinstance(await relay.attempt(), DeliveryError)
        await sandbox.finish()
        assert isinstance(relay.destination, Watcher)
        (camera,) = relay.destination.cameras()
        await relay.restart()
        assert isinstance(await relay.attempt(), DeliveryError)
        assert isinstance(relay.destination, Watcher)
        (again,) = relay.destination.cameras()
        assert again.token == camera.token is not None
        sandbox.watcher.scan(camera.token)
        receipt = await relay.deliver()
        (made,) = set(sandbox.watcher.streams) - before
        assert receipt.fields["stream_name"] == made
        assert sandbox.count("activate", effect=True) == 2
