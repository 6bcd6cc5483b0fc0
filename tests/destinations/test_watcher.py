"""Watcher: the contract of every adapter with a message, then logins and commands, against the strict stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from relayd import clock
from relayd.destinations.watcher import Watcher
from relayd.destinations.watcher_models import WatcherConfig
from relayd.errors import DeliveryError, LoginRefused, NotAllowed, NotReady, Rejected, TooLate, TryAgain, Unavailable
from relayd.model import Capture, Item, Kind, Receipt
from relayd.sandbox import Sandbox
from relayd.sandbox.watcher import PREFIX, Activation
from relayd.surroundings import Surroundings
from relayd.watcher_client import number, segment
from tests.destinations.contract import DestinationContract, Uptime
from tests.destinations.driver import Line, PowerCut, line
from tests.unit.wire import read_request, reply, speaking

MESSAGE: Any = {"body": "**Storage nearly full**", "user_id": 12}


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_PASSWORD", "sandbox-password")


def make(url: str, surroundings: Surroundings | None = None, **options: Any) -> Watcher:
    section: dict[str, Any] = {
        "type": "watcher",
        "url": url,
        "login": "gateway",
        "password": {"env": "RELAYD_TEST_PASSWORD"},
        "connect_timeout": "2s",
        "answer_timeout": "400ms",
        "most_unknown": 100,
        "unknown_wait": "0s",
        "stall_timeout": "400ms",
    }
    return Watcher("watcher", WatcherConfig.model_validate({**section, **options}), surroundings)


@asynccontextmanager
async def played(tmp_path: Path, options: dict[str, Any] | None = None, **switches: Any) -> AsyncIterator[Any]:
    """A sandbox with these switches and a line to it."""
    async with (
        Sandbox(**switches) as sandbox,
        line(lambda: make(sandbox.url + PREFIX, **(options or {})), tmp_path / "spool") as made,
    ):
        yield sandbox, made


async def owe(relay: Line, action: str = "message", **arguments: Any) -> Item:
    capture = Capture(
        source="test",
        name="button",
        kind=Kind.MESSAGE,
        content_type="application/json",
        captured_at=clock.now(),
        payload=b"{}",
    )
    wanted = {**MESSAGE, **arguments} if action == "message" else arguments
    return await relay.spool.put(capture, [relay._order(action, wanted)], now=clock.now())


async def tried(relay: Line, action: str = "message", **arguments: Any) -> Receipt | DeliveryError | None:
    await owe(relay, action, **arguments)
    return await relay.attempt()


def with_stream(sandbox: Sandbox, token: str = "t") -> str:
    """A camera that somebody activated before."""
    sandbox.watcher.activations[token] = Activation(token, {"title": "Gate"})
    return sandbox.watcher.scan(token)


class TestWatcherKeepsTheContract(DestinationContract):
    """A message whose answer was lost is sent again: the one thing that is not once here."""

    operations = ("tell",)
    login = "signin"
    authorized = "tell"
    steps = ("message",)
    documented: ClassVar = {400: Rejected, 403: NotAllowed, 409: Rejected, 500: TryAgain}

    def make(self, sandbox: Sandbox) -> Watcher:
        return make(sandbox.url + PREFIX)

    @pytest.fixture
    async def line(self, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Line]:
        async with line(lambda: self.make(sandbox), tmp_path / "spool") as made:
            put = made.put

            async def put_message(content: bytes, **arguments: Any) -> Any:
                return await put(content, action="message", **{**MESSAGE, **arguments})

            made.put = put_message  # type: ignore[method-assign, assignment]
            yield made

    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        made = sandbox.count("tell", effect=True)
        assert sandbox.watcher.messages == [{**MESSAGE, "type": "info", "is_push": False, "is_dashboard": False}] * made
        assert 1 <= made <= 2
        assert receipt.fields["message_id"] == made


# --- login


async def test_a_refresh_token_renews_and_the_password_is_asked_again_when_it_is_refused(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        for revoked, logins in ((None, 1), (False, 2), (True, 4)):
            if revoked is not None:
                sandbox.watcher.revoke(refresh=revoked)
            assert isinstance(await tried(relay), Receipt)
            assert sandbox.count("signin") == logins
    assert len(sandbox.watcher.messages) == 3


@pytest.mark.parametrize("refresh", ["rotate", "same", "none"])
async def test_tokens_that_end_never_cost_a_message(tmp_path: Path, refresh: str) -> None:
    async with played(tmp_path, watcher_refresh=refresh, watcher_token_seconds=10) as (sandbox, relay):
        for _ in range(4):
            assert isinstance(await tried(relay), Receipt)
            sandbox.advance(11)


async def test_a_password_that_is_missing_or_wrong_is_said_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAYD_TEST_PASSWORD", "wrong-horse")
    async with played(tmp_path) as (sandbox, relay):
        outcome = await tried(relay)
        assert isinstance(outcome, LoginRefused)
        assert "check login, password and url" in str(outcome)
        assert "wrong-horse" not in str(outcome)
        monkeypatch.delenv("RELAYD_TEST_PASSWORD")
        assert "RELAYD_TEST_PASSWORD is not set" in str(await relay.attempt())
        assert sandbox.watcher.messages == []


async def test_a_base_address_without_its_path_is_named(tmp_path: Path) -> None:
    async with Sandbox() as sandbox, line(lambda: make(sandbox.url), tmp_path / "spool") as relay:
        outcome = await tried(relay)
    assert isinstance(outcome, LoginRefused)
    assert "url" in str(outcome)


# --- messages


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (403, NotAllowed),
        (404, Rejected),
        (409, Rejected),
        (429, Unavailable),
        (500, TryAgain),
        (503, Unavailable),
    ],
)
async def test_every_documented_status_means_one_thing(tmp_path: Path, status: int, error: type[DeliveryError]) -> None:
    body = json.dumps({"errors": [{"status": str(status), "code": "some_code", "title": "In words"}]}).encode()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            is_login = "/login" in await read_request(reader)
            writer.write(reply("200 OK", b'{"access_token": "a"}') if is_login else reply(f"{status} X", body))
            await writer.drain()

    async with (
        speaking(speak) as wire,
        line(lambda: make(wire.url), tmp_path / "spool") as relay,
    ):
        outcome = await tried(relay)
    assert isinstance(outcome, error)
    if error in (Rejected, NotAllowed):
        assert "some_code (In words)" in str(outcome)


@pytest.mark.parametrize("fault", ["lose", "status 500", "garbage"])
async def test_a_message_of_which_nobody_can_tell_is_sent_twice_more_with_minutes_between_and_then_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, {"most_unknown": 2, "unknown_wait": "5m"}) as (sandbox, relay):
        sandbox.script(f"tell {fault}")
        await owe(relay)
        for _ in range(6):
            await relay.attempt()
        assert sandbox.count("tell") == 2
        await relay.restart()
        uptime.seconds += 300
        await relay.attempt()
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "look in Watcher" in str(outcome)
        assert sandbox.count("tell") == 3


async def test_a_missing_right_is_named_and_keeps_the_message(tmp_path: Path) -> None:
    async with played(tmp_path, watcher_rights="can_use_ptz") as (_, relay):
        outcome = await tried(relay)
        assert isinstance(outcome, NotAllowed)
        assert "the user gateway needs the right to send messages" in str(outcome)
        assert isinstance(await relay.attempt(), NotAllowed)


async def test_a_user_that_is_not_there_refuses_the_message(tmp_path: Path) -> None:
    async with played(tmp_path) as (_, relay):
        outcome = await tried(relay, user_id=99)
    assert isinstance(outcome, Rejected)
    assert "no such user" in str(outcome)


# --- commands


async def test_a_command_reaches_the_stream_as_it_was_asked_for(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        name = with_stream(sandbox)
        moved = await tried(relay, "ptz", name=name, left=50, **{"in": 20})
        restarted = await tried(relay, "reboot", name=name)
    assert isinstance(moved, Receipt)
    assert isinstance(restarted, Receipt)
    assert moved.fields["stream_name"] == name
    still = {"command": "move_continuous", "up": 0, "down": 0, "left": 50, "right": 0, "in": 20, "out": 0}
    assert sandbox.watcher.streams[name].commands == [still, {"command": "reboot"}]


@pytest.mark.parametrize("shift", [11.0, -4000.0, 86400.0])
async def test_a_command_that_is_too_old_is_expired_without_a_word_to_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        name = with_stream(sandbox)
        item = await owe(relay, "ptz", name=name)
        now = clock.now
        monkeypatch.setattr(clock, "now", lambda: now() + shift)
        outcome = await relay.attempt()
        assert isinstance(outcome, TooLate)
        assert "never replayed late" in str(outcome)
        assert relay.spool.counters.expired == 1
        assert await relay.attempt() is None
        await relay.spool.retry([item.id], None, now=clock.now())
        assert isinstance(await relay.attempt(), TooLate)
    assert not sandbox.log


@pytest.mark.parametrize("action", ["ptz", "reboot"])
async def test_a_command_is_as_old_as_it_says_and_one_from_the_future_is_too_old(tmp_path: Path, action: str) -> None:
    async with played(tmp_path, {"command_max_age": "60s"}) as (sandbox, relay):
        name = with_stream(sandbox)
        for age, by in ((61, "61 s old, more"), (-3600, "s old by a clock that disagrees with ours, more")):
            outcome = await tried(relay, action, name=name, asked_at=clock.rfc3339(clock.now() - age))
            assert isinstance(outcome, TooLate)
            assert by in str(outcome)
        assert sandbox.count(action) == 0
        for age in (20, -20):
            outcome = await tried(relay, action, name=name, asked_at=clock.rfc3339(clock.now() - age))
            assert isinstance(outcome, Receipt)
        assert len(sandbox.watcher.streams[name].commands) == 2


@pytest.mark.parametrize("fault", ["lose", "mute", "truncate", "status 500", "status 502", "hang", "garbage"])
@pytest.mark.parametrize("action", ["ptz", "reboot"])
async def test_a_command_whose_answer_is_lost_is_not_sent_again(tmp_path: Path, action: str, fault: str) -> None:
    async with played(tmp_path) as (sandbox, relay):
        name = with_stream(sandbox)
        sandbox.script(f"{action} {fault}")
        outcome = await tried(relay, action, name=name)
        assert isinstance(outcome, Rejected)
        assert "may have been done, and is not sent again" in str(outcome)
        assert await relay.attempt() is None
        assert sandbox.count(action) == 1


@pytest.mark.parametrize("fault", ["ptz status 503 retry_after=1", "ptz status 429", "signin status 500"])
async def test_a_command_that_certainly_had_no_effect_is_tried_again_while_it_is_young(
    tmp_path: Path, fault: str
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        name = with_stream(sandbox)
        sandbox.script(fault.replace(" status", "#1 status"))
        assert isinstance(await tried(relay, "ptz", name=name), Unavailable)
        assert isinstance(await relay.attempt(), Receipt)
        assert len(sandbox.watcher.streams[name].commands) == 1


async def test_a_command_that_a_crash_cut_is_not_sent_again(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        name = with_stream(sandbox)
        await owe(relay, "reboot", name=name)
        with pytest.raises(PowerCut):
            await relay.attempt(dies_at="sending")
        await relay.restart()
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "relayd ended while it sent this reboot" in str(outcome)
        assert sandbox.count("reboot") == 0


async def test_a_command_gets_no_more_time_than_it_is_worth(tmp_path: Path) -> None:
    options = {"command_max_age": "300ms", "answer_timeout": "30s", "stall_timeout": "30s"}
    async with played(tmp_path, options) as (sandbox, relay):
        name = with_stream(sandbox)
        sandbox.script("ptz hang")
        outcome = await tried(relay, "ptz", name=name)
        assert isinstance(outcome, Rejected)
        assert "within command_max_age" in str(outcome)


async def test_a_command_without_its_right_or_its_stream_is_refused_at_once(tmp_path: Path) -> None:
    async with played(tmp_path, watcher_rights="can_edit_streams") as (sandbox, relay):
        outcome = await tried(relay, "ptz", name=with_stream(sandbox))
        assert isinstance(outcome, Rejected)
        assert "can_use_ptz" in str(outcome)
        assert isinstance(await tried(relay, "reboot", name="cam-unknown"), Rejected)
        assert isinstance(await tried(relay, "reboot", name=".."), Rejected)


async def test_a_command_to_a_camera_that_is_not_activated_says_so(tmp_path: Path) -> None:
    options = {"camera": [{"name": "gate-3", "title": "Gate 3"}]}
    async with played(tmp_path, options) as (sandbox, relay):
        assert "is not activated yet" in str(await tried(relay, "ptz", name="gate-3"))
        assert not sandbox.log


# --- the action camera


async def test_the_action_camera_makes_one_token_and_is_delivered_when_a_camera_saw_it(tmp_path: Path) -> None:
    options = {"camera": [{"name": "gate-3", "title": "Gate 3", "organization": "Acme"}]}
    async with played(tmp_path, options) as (sandbox, relay):
        outcome = await tried(relay, "camera", name="gate-3")
        assert isinstance(outcome, NotReady)
        assert "relayd cameras --qr gate-3" in str(outcome)
        assert isinstance(await relay.attempt(), NotReady)
        name = sandbox.watcher.scan()
        receipt = await relay.deliver(tries=1)
        (token,) = sandbox.watcher.activations
        assert receipt.fields == {"token": token, "stream_name": name, "message_id": None}
        again = await tried(relay, "camera", name="gate-3")
        assert isinstance(again, Receipt)
        assert again.fields == receipt.fields
        wrong = await tried(relay, "camera", name="gate-33")
    assert 'did you mean "gate-3"?' in str(wrong)


# --- small


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (7, 7),
        ("7036001172460667001", 7036001172460667001),
        (2**62 + 1, 2**62 + 1),
        (True, None),
        ("7a", None),
        (1.5, None),
    ],
)
def test_ids_are_whole_numbers_of_any_length_also_as_text(found: object, expected: int | None) -> None:
    assert number(found) == expected


def test_a_stream_name_is_one_part_of_a_path() -> None:
    assert segment("site/cam 1") == "site%2Fcam%201"
