"""The source `relayd` over a real spool: told once each, in turns, whatever is killed in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from relayd.diagnosis import Diagnosis
from relayd.errors import SpoolFull
from relayd.faults import Fault, HealthConfig
from relayd.intake import Intake
from relayd.lookout import Lookout
from relayd.model import Capture, Device, Item
from relayd.reports import FaultMessage
from relayd.rule_config import RuleConfig
from relayd.rules import compile_rules
from relayd.sources.base import Put
from relayd.sources.own_health import OwnHealth
from relayd.spool import Spool
from tests.sources.rig import until
from tests.spool.rig import config, opened

AT_ONCE = HealthConfig.model_validate({"fault_after": "0s", "whole_after": "1ms"})
RULE = RuleConfig.model_validate({"name": "faults", "from": ["relayd"], "deliver": [{"to": "page", "action": "post"}]})
HOOK, SPOOL = "destination hook", "spool"


class Killed(BaseException):
    """As SIGKILL does it: nothing more happens here."""


class World:
    """What is wrong, as a test wants it, and a lookout upon it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.wrong: dict[str, str] = {}
        self.lookout = Lookout(spool, self._examine, lambda: AT_ONCE)
        self.source = OwnHealth(spool, self.lookout)
        self.put: Put = Intake(spool, compile_rules([RULE]), Device(id="d", name="d")).put

    async def _examine(self) -> Diagnosis:
        faults = {part: Fault(reason=it, needs_person=True, lasts_seconds=0.0) for part, it in self.wrong.items()}
        return Diagnosis(faults=faults, unknown=frozenset(), notes=())

    async def becomes(self, **wrong: str) -> None:
        """Exactly this is wrong now, and has been for long enough. `hook`: the destination of that name."""
        self.wrong = {HOOK if name == "hook" else name: reason for name, reason in wrong.items()}
        deadline = asyncio.get_running_loop().time() + 10.0
        while set(self.lookout.standing) != set(self.wrong):
            assert asyncio.get_running_loop().time() < deadline
            await self.lookout.look()

    async def told(self) -> list[tuple[str, str]]:
        """(type, part) of every message, in order."""
        return [(one["type"], one["part"]) for one in await self.payloads()]

    async def payloads(self) -> list[Mapping[str, Any]]:
        found = await self.spool.items(source="relayd", limit=1000)
        details = [await self.spool.item(one.item.id) for one in reversed(found)]
        return [json.loads(one.item.payload or b"") for one in details if one is not None]


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with opened(config(folder)) as spool:
        made = World(spool)
        await made.lookout.load()
        yield made


@contextlib.asynccontextmanager
async def telling(world: World, put: Put | None = None) -> AsyncIterator[None]:
    task = asyncio.create_task(world.source.run(put or world.put))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def is_told(world: World, count: int) -> Any:
    return until(lambda: world.spool.counters.items == count, f"{count} messages")


async def test_what_breaks_and_what_is_whole_again_is_a_message_each_with_the_published_payload(tmp_path: Path) -> None:
    async with world(tmp_path) as it, telling(it):
        await it.becomes(hook="login refused: 401")
        await is_told(it, 1)
        await it.becomes()
        await is_told(it, 2)
        raised, cleared = await it.payloads()
        for payload in (raised, cleared):
            FaultMessage.model_validate(payload)
        kept: dict[str, Any] = {
            "part": HOOK,
            "kind": "destination",
            "destination": "hook",
            "reason": "login refused: 401",
        }
        assert {**raised, **kept, "type": "fault_raised"} == raised
        assert {**cleared, **kept, "type": "fault_cleared", "since": raised["since"]} == cleared
        items = await it.spool.items(source="relayd")
        assert [one.item.name for one in items] == ["fault_cleared destination hook", "fault_raised destination hook"]
        assert [one.deliveries[0].rule for one in items] == ["faults", "faults"]


async def test_a_restart_tells_nothing_again_and_does_not_forget_to_say_that_it_is_over(tmp_path: Path) -> None:
    async with world(tmp_path) as it, telling(it):
        await it.becomes(hook="away", spool="near its limit")
        await is_told(it, 2)
    async with world(tmp_path) as it, telling(it):
        assert set(it.lookout.standing) == {HOOK, SPOOL}
        await it.becomes(spool="near its limit, still")
        await is_told(it, 3)
        last = (await it.payloads())[-1]
        assert (last["type"], last["part"], last["reason"]) == ("fault_cleared", HOOK, "away")


async def test_what_ended_while_the_relay_was_down_is_told_to_be_over(tmp_path: Path) -> None:
    async with world(tmp_path) as it, telling(it):
        await it.becomes(hook="away")
        await is_told(it, 1)
    async with world(tmp_path) as it:
        await it.becomes()
        async with telling(it):
            await is_told(it, 2)
        assert await it.told() == [("fault_raised", HOOK), ("fault_cleared", HOOK)]
    async with world(tmp_path) as it:
        assert await it.spool.known("relayd", b"", 10) == []


async def test_a_kill_before_or_after_the_commit_of_either_turn_makes_no_double_and_no_loss(tmp_path: Path) -> None:
    for number, dies_after in enumerate((False, True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for turn, wrong in enumerate(({"hook": "away"}, {})):
            async with world(folder) as it:
                died = asyncio.Event()

                async def put(
                    capture: Capture, it: World = it, died: asyncio.Event = died, is_late: bool = dies_after
                ) -> Item:
                    if is_late:
                        await it.put(capture)
                    died.set()
                    raise Killed

                await it.becomes(**wrong)
                task = asyncio.create_task(it.source.run(put))
                with contextlib.suppress(Killed):
                    await task
                assert died.is_set()
                assert it.spool.counters.items == turn + dies_after
            async with world(folder) as it, telling(it):
                await it.becomes(**wrong)
                await is_told(it, turn + 1)
        async with world(folder) as it, telling(it):
            await it.becomes(spool="full")  # told after everything that was still to be told
            await is_told(it, 3)
            assert await it.told() == [("fault_raised", HOOK), ("fault_cleared", HOOK), ("fault_raised", SPOOL)]


async def test_while_the_spool_refuses_a_message_waits_and_what_is_over_by_then_was_never_told(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("relayd.sources.own_health.TRY_AGAIN_SECONDS", 0.01)
    async with world(tmp_path) as it:
        tries: list[str] = []
        is_full = True

        async def put(capture: Capture) -> Item:
            tries.append(capture.name)
            if is_full:
                raise SpoolFull("no room")
            return await it.put(capture)

        async with telling(it, put):
            await it.becomes(hook="away", spool="it refuses what comes")
            await until(lambda: len(tries) > 3)
            assert (it.source.view().state, it.source.view().reason) == ("waiting", "the spool is full")
            await it.becomes(spool="it refuses what comes")
            is_full = False
            await is_told(it, 1)
            await until(lambda: it.source.view().state == "ok")
            assert await it.told() == [("fault_raised", SPOOL)]


async def test_over_many_kills_and_changes_each_part_is_told_strictly_in_turns(tmp_path: Path) -> None:
    chance = random.Random(11)
    wrong: dict[str, str] = {}
    for number in range(40):
        async with world(tmp_path) as it:
            dies_before, dies_after = (chance.random() < 0.3 for _ in range(2))

            async def put(
                capture: Capture, it: World = it, dies_before: bool = dies_before, dies_after: bool = dies_after
            ) -> Item:
                if dies_before:
                    raise Killed
                item = await it.put(capture)
                if dies_after:
                    raise Killed
                return item

            wrong = {name: f"reason {number}" for name in ("hook", "spool", "clock") if chance.random() < 0.5}
            task = asyncio.create_task(it.source.run(put))
            with contextlib.suppress(Killed):
                await it.becomes(**wrong)
                for _ in range(chance.randrange(20)):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    async with world(tmp_path) as it, telling(it):
        await it.becomes(**wrong)
        deadline = asyncio.get_running_loop().time() + 10.0
        while standing(told := await it.told()) != set(it.wrong):
            assert asyncio.get_running_loop().time() < deadline
    for part in (HOOK, SPOOL, "clock"):
        own = [kind for kind, of in told if of == part]
        assert own == [("fault_raised", "fault_cleared")[index % 2] for index in range(len(own))]
    assert len(told) > 10


def standing(told: list[tuple[str, str]]) -> set[str]:
    """What somebody believes to be broken who was told this."""
    return {part for part, kind in {part: kind for kind, part in told}.items() if kind == "fault_raised"}
