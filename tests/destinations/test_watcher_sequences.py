"""The activation of a camera, whatever happens in between: lost answers, power cuts around each commit, tokens that the
server forgets, scans at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relayd import clock
from relayd.destinations.watcher import Watcher
from relayd.errors import DeliveryError
from relayd.memory import Notes, Told
from relayd.model import Fields
from relayd.sandbox import Sandbox
from relayd.sandbox.watcher import PREFIX
from relayd.spool import Spool, SpoolConfig
from relayd.surroundings import Surroundings
from tests.destinations.driver import PowerCut
from tests.destinations.test_watcher import make

GATE = {"name": "gate-3", "title": "Gate 3", "organization": "Acme"}
FAULTS = ("lose", "truncate", "garbage", "refuse", "status 500", "status 503", "status 429", "portal", "schema")
HAS_EFFECT = ("lose", "truncate")

Op = tuple[Any, ...]
OPS: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("step")),
    st.tuples(st.just("fault"), st.sampled_from(("activate", "activation", "signin")), st.sampled_from(FAULTS)),
    st.tuples(st.just("cut"), st.booleans()),
    st.tuples(st.just("scan")),
    st.tuples(st.just("forget")),
    st.tuples(st.just("revoke")),
    st.tuples(st.just("restart")),
)


class Dying(Notes):
    """A memory during whose next commit the power goes, before or after it is on the disk."""

    dies: bool | None = None

    async def remember(self, key: str, fact: Fields | None, *, event: Told | None = None) -> None:
        dies, self.dies = self.dies, None
        if dies is False:
            raise PowerCut(key)
        await super().remember(key, fact, event=event)
        if dies:
            raise PowerCut(key)


class Relay:
    """One camera, one step at a time."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self._url = sandbox.url + PREFIX
        self._config = SpoolConfig.model_validate({"path": folder, "min_free": "1MB"})
        self.spool: Spool
        self.memory: Dying
        self.destination: Watcher

    async def start(self) -> None:
        self.spool = await Spool.open(self._config, now=clock.now())
        self.spool.fleet.wants_events = True
        self.memory = Dying(self.spool, "destination:watcher")
        around = Surroundings(memory=lambda owner: self.memory)
        self.destination = make(self._url, around, camera=[GATE])

    async def stop(self) -> None:
        await self.destination.close()
        await self.spool.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def step(self) -> None:
        with contextlib.suppress(DeliveryError):
            await self.destination._cameras.activation("gate-3")

    async def known(self) -> Fields:
        """What is on the disk."""
        return (await self.memory.everything()).get("gate-3", {})


async def play(sandbox: Sandbox, relay: Relay, op: Op) -> int:
    """How many tokens this may have made spare."""
    match op:
        case ("fault", operation, fault):
            sandbox.script(f"{operation}#1-2 {fault}")
            before = len(sandbox.watcher.activations)
            await relay.step()
            sandbox.script()
            return len(sandbox.watcher.activations) - before if fault in HAS_EFFECT else 0
        case ("cut", is_stored):
            relay.memory.dies = is_stored
            before = len(sandbox.watcher.activations)
            with contextlib.suppress(PowerCut):
                await relay.step()
            await relay.restart()
            return len(sandbox.watcher.activations) - before
        case ("scan",):
            token = (await relay.known()).get("token")
            if token in sandbox.watcher.activations:
                sandbox.watcher.scan(str(token))
        case ("forget",):
            token = str((await relay.known()).get("token"))
            found = sandbox.watcher.activations.get(token)
            if found is not None and found.stream is None:
                del sandbox.watcher.activations[token]
        case ("revoke",):
            sandbox.revoke_tokens()
        case ("restart",):
            await relay.restart()
        case _:
            await relay.step()
    return 0


async def told(ops: list[Op], folder: Path) -> None:
    async with Sandbox() as sandbox:
        relay = Relay(sandbox, folder / "spool")
        await relay.start()
        try:
            spare = sum([await play(sandbox, relay, op) for op in ops])
            for _ in range(6):
                await relay.step()
                await play(sandbox, relay, ("scan",))
            known = await relay.known()
            assert known["stream_name"] in sandbox.watcher.streams
            assert len(sandbox.watcher.streams) == 1
            assert len(sandbox.watcher.activations) <= 1 + spare
            events = await relay.spool.fleet.events(0, 10)
            assert [event.document["stream_name"] for event in events] == [known["stream_name"]]
        finally:
            await relay.stop()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(OPS, max_size=12))
@example([("cut", False), ("cut", True), ("scan",), ("cut", False), ("cut", True)])
@example([("fault", "activate", "lose"), ("step",), ("forget",), ("fault", "activation", "schema")])
@example([("step",), ("scan",), ("revoke",), ("fault", "activation", "truncate"), ("restart",)])
def test_a_camera_is_activated_once_whatever_was_lost_and_whenever_the_power_went(ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("RELAYD_TEST_PASSWORD", "sandbox-password")
        asyncio.run(told(ops, Path(folder)))
