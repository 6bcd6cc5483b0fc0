"""Episodes of a Watcher: each once and durably, whatever breaks; against the strict stand-in and a real spool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import clock
from relayd.destinations.watcher_models import WatcherConfig
from relayd.errors import SpoolFull
from relayd.memory import Notes
from relayd.model import Capture, Item
from relayd.sandbox import Sandbox
from relayd.sandbox.watcher import PREFIX
from relayd.sources import episode
from relayd.sources.episodes import EpisodesSource
from relayd.sources.episodes_config import EpisodesConfig
from relayd.spool import Spool, SpoolConfig
from relayd.surroundings import Surroundings
from tests.destinations.driver import until
from tests.spool.rig import order

SNOWFLAKE = 7036001172460667001


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_PASSWORD", "sandbox-password")


class Intake:
    """What the source puts into; dies or refuses when told so."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.refusals = 0
        self.dies_after: int | None = None
        self.captures: list[Capture] = []

    async def put(self, capture: Capture) -> Item:
        if self.refusals:
            self.refusals -= 1
            raise SpoolFull("no room")
        item = await self.spool.put(capture, [order("desk")], now=clock.now())
        self.captures.append(capture)
        if self.dies_after is not None and len(self.captures) >= self.dies_after:
            raise asyncio.CancelledError
        return item


class Relay:
    """A spool and one source, which can be stopped and started."""

    def __init__(self, sandbox: Sandbox, folder: Path, **options: Any) -> None:
        self._spool_config = SpoolConfig.model_validate({"path": folder, "min_free": "1MB"})
        self._options = options
        self._url = sandbox.url + PREFIX
        self.intake: Intake
        self.source: EpisodesSource
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, dies_after: int | None = None) -> None:
        await self.stop()
        spool = await Spool.open(self._spool_config, now=clock.now())
        self.intake = Intake(spool)
        self.intake.dies_after = dies_after
        self.source = source_of(self._url, spool, **self._options)
        self._task = asyncio.create_task(self.source.run(self.intake.put))

    async def stop(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None
        await self.intake.spool.close()

    async def ended(self) -> None:
        assert self._task is not None
        await asyncio.wait([self._task])

    async def items(self) -> list[Item]:
        """In the order of acceptance."""
        listed = await self.intake.spool.items(limit=1000)
        found = [await self.intake.spool.item(summary.item.id) for summary in reversed(listed)]
        return [detail.item for detail in found if detail is not None]

    async def payloads(self) -> list[Any]:
        return [json.loads(item.payload or b"") for item in await self.items()]

    async def until_taken(self, count: int) -> None:
        await until(lambda: self.intake.spool.counters.items >= count, 20)


def source_of(url: str, spool: Spool, **options: Any) -> EpisodesSource:
    section = {
        "type": "watcher",
        "url": url,
        "login": "gateway",
        "password": {"env": "RELAYD_TEST_PASSWORD"},
        "answer_timeout": "400ms",
        "stall_timeout": "2s",
    }
    around = Surroundings(sections={"vms": WatcherConfig.model_validate(section)}, memory=partial(Notes, spool))
    fast = {"poll_timeout": "1s", "overlap": "100ms", "backoff_first": "10ms", "backoff_cap": "50ms"}
    config = {"type": "watcher-episodes", "watcher": "vms", **fast, **options}
    return EpisodesSource("episodes", EpisodesConfig.model_validate(config), spool, around)


@asynccontextmanager
async def followed(
    tmp_path: Path, options: dict[str, Any] | None = None, **switches: Any
) -> AsyncIterator[tuple[Sandbox, Relay]]:
    async with Sandbox(**{"watcher_page": 100, **switches}) as sandbox:
        relay = Relay(sandbox, tmp_path / "spool", **(options or {}))
        try:
            await relay.start()
            yield sandbox, relay
        finally:
            await relay.stop()


def at(sandbox: Sandbox, later_ms: int = 0) -> int:
    """A moment by the server's clock."""
    return int(sandbox.now() * 1000) + later_ms


async def happen(sandbox: Sandbox, number: int, later_ms: int = 0, **more: Any) -> None:
    moment = at(sandbox, later_ms)
    told = {"episode_id": SNOWFLAKE + number, "media": "cam-1", "opened_at": moment, "updated_at": moment}
    await sandbox.watcher.add_episode(**{**told, **more})


# --- taking


async def test_an_episode_becomes_a_message_as_soon_as_it_happens(tmp_path: Path) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        await until(lambda: sandbox.count("episodes") >= 2)
        await happen(sandbox, 0, episode_type="generic", preview="aGk=", playback_token="secret", plate="AB 12 345")
        await relay.until_taken(1)
        (item,) = await relay.items()
        (payload,) = await relay.payloads()
    assert (item.name, item.content_type) == (f"episode-{SNOWFLAKE}", "application/json")
    assert payload["episode_id"] == SNOWFLAKE
    assert payload["plate"] == "AB 12 345"
    assert not {"preview", "playback_token"} & set(payload)
    assert abs(item.captured_at - item.accepted_at) < 5


async def test_each_change_is_a_message_of_its_own_and_ids_come_in_any_spelling(tmp_path: Path) -> None:
    async with followed(tmp_path, watcher_ids="strings") as (sandbox, relay):
        await happen(sandbox, 0)
        await relay.until_taken(1)
        await happen(sandbox, 0, 5, close_reason="timeout")
        await relay.until_taken(2)
        payloads = await relay.payloads()
    assert [payload["episode_id"] for payload in payloads] == [SNOWFLAKE] * 2
    assert payloads[1]["close_reason"] == "timeout"


async def test_a_long_list_comes_page_by_page_whatever_its_order(tmp_path: Path) -> None:
    async with followed(tmp_path, {"page": 3}, watcher_page=3) as (sandbox, relay):
        for number in range(20):
            await happen(sandbox, number, -number)
        await relay.until_taken(20)
        ids = {payload["episode_id"] for payload in await relay.payloads()}
        assert relay.intake.spool.counters.items == 20
    assert ids == {SNOWFLAKE + number for number in range(20)}


async def test_what_appears_late_and_dated_back_is_found(tmp_path: Path) -> None:
    async with followed(tmp_path, {"overlap": "2s"}) as (sandbox, relay):
        await happen(sandbox, 0)
        await relay.until_taken(1)
        await happen(sandbox, 1, -1500)
        await relay.until_taken(2)
        await happen(sandbox, 2, updated_at=sandbox.watcher.episodes[0]["updated_at"])
        await relay.until_taken(3)


async def test_streams_that_are_named_are_asked_for_each_by_itself(tmp_path: Path) -> None:
    async with followed(tmp_path, {"media": ["cam-1", "cam-2"], "episode_type": "generic"}) as (sandbox, relay):
        for number, media in enumerate(("cam-1", "cam-2", "cam-3")):
            await happen(sandbox, number, media=media, episode_type="generic")
        await happen(sandbox, 3, episode_type="face")
        await relay.until_taken(2)
        await until(lambda: sandbox.count("episodes") > 8)
        assert {payload["media"] for payload in await relay.payloads()} == {"cam-1", "cam-2"}
        assert relay.intake.spool.counters.items == 2


# --- durably


async def test_after_a_restart_it_goes_on_where_it_was_and_misses_nothing(tmp_path: Path) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        await happen(sandbox, 0)
        await relay.until_taken(1)
        await relay.stop()
        for number in range(1, 5):
            await happen(sandbox, number, number)
        sandbox.advance(3600)
        await relay.start()
        await relay.until_taken(5)
        await until(lambda: sandbox.count("episodes") > 8)
        assert relay.intake.spool.counters.items == 5


@pytest.mark.parametrize("dies_after", [1, 2, 3])
async def test_a_crash_between_the_spool_and_the_cursor_doubles_nothing(tmp_path: Path, dies_after: int) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        await until(lambda: sandbox.count("episodes") >= 2)
        await relay.stop()
        for number in range(4):
            await happen(sandbox, number, number)
        await relay.start(dies_after=dies_after)
        await relay.ended()
        await relay.start()
        await relay.until_taken(4)
        await until(lambda: sandbox.count("episodes") > 6)
        ids = sorted(payload["episode_id"] for payload in await relay.payloads())
    assert ids == [SNOWFLAKE + number for number in range(4)]


async def test_the_cursor_moves_only_after_the_spool_has_it_and_the_ledger_is_tidied(tmp_path: Path) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        await until(lambda: sandbox.count("episodes") >= 2)
        before = (await Notes(relay.intake.spool, "source:episodes").everything())["cursor"]
        relay.intake.refusals = 1
        await happen(sandbox, 0)
        await until(lambda: relay.source.view().state == "waiting")
        assert "no room" in relay.source.view().reason
        assert (await Notes(relay.intake.spool, "source:episodes").everything())["cursor"] == before
        relay.intake.refusals = 0
        await relay.until_taken(1)
        await until(lambda: relay.source.view().state == "ok")
        moment = sandbox.watcher.episodes[0]["updated_at"]
        await until(lambda: relay.source._followers[0].cursor == moment, 20)
        assert (await Notes(relay.intake.spool, "source:episodes").everything())["cursor"] == {"updated_at": moment}
        await until(lambda: not relay.source.taken)


@pytest.mark.parametrize("wrong_by", [-20 * 365 * 86400.0, 86400.0])
async def test_a_clock_that_is_wrong_here_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong_by: float
) -> None:
    right = clock.now
    async with Sandbox(watcher_page=100) as sandbox:
        sandbox.advance(-wrong_by)
        monkeypatch.setattr(clock, "now", lambda: right() + wrong_by)
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start()
            await until(lambda: sandbox.count("episodes") >= 2)
            await happen(sandbox, 0)
            await relay.until_taken(1)
            (item,) = await relay.items()
            assert abs(item.captured_at - clock.now()) < 30
        finally:
            await relay.stop()


async def test_one_dated_into_the_future_does_not_hide_those_before_it(tmp_path: Path) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        await happen(sandbox, 0, 10**9)
        await relay.until_taken(1)
        sandbox.advance(61)
        await happen(sandbox, 1)
        await relay.until_taken(2)
        asked = sandbox.count("episodes")
        await until(lambda: sandbox.count("episodes") >= asked + 1)
        assert relay.intake.spool.counters.items == 2


# --- what goes wrong


@pytest.mark.parametrize(
    ("fault", "state", "said"),
    [
        ("episodes status 500", "fault", "answered 500"),
        ("episodes portal", "fault", "captive portal"),
        ("any portal redirect=yes", "fault", "captive portal"),
        ("episodes schema", "fault", "list of episodes"),
        ("episodes status 403", "fault", "needs the right to list episodes"),
        ("episodes status 400", "fault", "refuses with 400"),
        ("signin status 401", "fault", "login refused"),
        ("episodes oversized", "fault", "more than"),
        ("episodes garbage", "fault", "no HTTP"),
    ],
)
async def test_what_goes_wrong_is_a_fault_with_its_reason_until_it_is_over(
    tmp_path: Path, fault: str, state: str, said: str
) -> None:
    async with Sandbox(watcher_page=100) as sandbox:
        sandbox.script(fault)
        relay = Relay(sandbox, tmp_path / "spool")
        try:
            await relay.start()
            await until(lambda: relay.source.view().state == state)
            assert said in relay.source.view().reason
            sandbox.script()
            await until(lambda: relay.source.view().state == "ok", 20)
            await happen(sandbox, 0)
            await relay.until_taken(1)
        finally:
            await relay.stop()


async def test_a_server_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        relay = Relay(sandbox, tmp_path / "spool")
    await relay.start()
    try:
        await until(lambda: relay.source.view().state == "waiting")
        assert "refuses connections" in relay.source.view().reason
    finally:
        await relay.stop()


async def test_lost_answers_and_ended_tokens_cost_no_episode_and_double_none(tmp_path: Path) -> None:
    async with followed(tmp_path, watcher_token_seconds=5) as (sandbox, relay):
        await until(lambda: sandbox.count("episodes") >= 2)
        sandbox.script("episodes%30 lose; episodes%20 status 503 retry_after=0; signin%20 status 500")
        for number in range(30):
            await happen(sandbox, number, number)
            sandbox.advance(1)
        await relay.until_taken(30)
        sandbox.script()
        asked = sandbox.count("episodes")
        await until(lambda: sandbox.count("episodes") > asked + 2)
        assert relay.intake.spool.counters.items == 30


async def test_what_is_no_episode_is_left_out_and_said(tmp_path: Path) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        await happen(sandbox, 0, episode_id="not a number")
        await happen(sandbox, 1)
        await relay.until_taken(1)
        assert relay.intake.spool.counters.items == 1
        assert "was left out" in relay.source.view().reason


async def test_silence_is_a_fault_where_something_is_expected(tmp_path: Path) -> None:
    async with followed(tmp_path, {"expect_every": "50ms"}) as (_, relay):
        await until(lambda: "expected one every" in relay.source.view().reason)
        assert relay.source.view().state == "fault"


async def test_a_server_that_holds_no_answer_is_not_asked_in_a_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        monkeypatch.setattr(sandbox.watcher, "_matching", lambda query: [{"updated_at": 1}])
        await until(lambda: "was left out" in relay.source.view().reason)
        asked, began = sandbox.count("episodes"), clock.monotonic()
        await until(lambda: sandbox.count("episodes") >= asked + 3, 30)
        assert clock.monotonic() - began > 1.0


async def test_check_tries_the_login_and_the_list(tmp_path: Path) -> None:
    async with followed(tmp_path) as (sandbox, relay):
        findings = await relay.source.check()
        assert all(finding.is_good for finding in findings)
        sandbox.script("episodes status 403")
        findings = await relay.source.check()
        assert not findings[-1].is_good
        assert "list episodes" in findings[-1].text


# --- one episode


Trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("playback_token"), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["episode_id", "updated_at", "media", "stream", "preview", "x"]), Trees))
def test_whatever_the_list_holds_is_an_episode_or_none_and_never_a_token(found: dict[str, Any]) -> None:
    one = episode.read(found, keeps_images=False)
    if one is not None:
        told = json.loads(one.payload)
        assert told["episode_id"] == one.id
        assert "playback_token" not in json.dumps(told)
        assert "preview" not in told
        assert one.key.startswith(episode.PREFIX)


def test_images_stay_where_they_are_wished_for() -> None:
    told: Any = {"episode_id": "7", "updated_at": "1637094999000", "preview": "aGk="}
    one = episode.read(told, keeps_images=True)
    assert one is not None
    assert json.loads(one.payload) == {"episode_id": 7, "updated_at": 1637094999000, "preview": "aGk="}
