"""IncidentShare, whatever happens in between: lost answers, refusals, late lists, power cuts, in any order."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relayd.errors import LoginRefused, Rejected
from relayd.sandbox import Sandbox
from tests.destinations.driver import Line, PowerCut, line
from tests.destinations.test_incidentshare import call, make, shoot, write

KINDS = ("media", "sms", "email")
LOST = ("lose", "truncate", "garbage", "refuse", "status 500", "status 502", "status 503", "status 429", "portal")
AWAY = ("status 502", "status 503", "status 429", "portal", "portal redirect=yes")
"""A look that is answered so is repeated for ever; one that is answered worse is given up after a few times."""

Op = tuple[Any, ...]
OPS: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KINDS)),
    st.tuples(st.just("try"), st.sampled_from(KINDS), st.sampled_from(LOST)),
    st.tuples(st.just("try"), st.sampled_from(("files", "links", "sharetoken")), st.sampled_from(AWAY)),
    st.tuples(st.just("cut"), st.sampled_from(("sending", *KINDS)), st.booleans()),
    st.tuples(st.just("revoke")),
    st.tuples(st.just("restart")),
)


async def put(relay: Line, kind: str, number: int) -> None:
    match kind:
        case "media":
            await shoot(relay, f"file {number}".encode())
        case "sms":
            await call(relay, f"+45123456{number:02}")
        case _:
            await write(relay, reference_no=str(number))


async def play(sandbox: Sandbox, relay: Line, op: Op) -> None:
    match op:
        case ("try", operation, loss):
            sandbox.script(f"{operation}#1-2 {loss}")
            assert not isinstance(await relay.attempt(), Rejected | LoginRefused)
            sandbox.script()
        case ("cut", step, is_stored):
            with contextlib.suppress(PowerCut):
                await relay.attempt(dies_at=step, is_stored=is_stored)
            await relay.restart()
        case ("revoke",):
            sandbox.revoke_tokens()
        case _:
            await relay.restart()


async def told(ops: list[Op], folder: Path) -> None:
    async with (
        Sandbox(share_names="wordpress", share_page=1) as sandbox,
        line(lambda: make(sandbox.url), folder / "spool") as relay,
    ):
        owed = 0
        for op in [*ops, ("put", "media")]:
            if op[0] == "put":
                owed += 1
                await put(relay, op[1], owed)
            else:
                await play(sandbox, relay, op)
        for _ in range(20 * owed):
            if await relay.attempt() is None:
                break
        archive = sandbox.share.archive
        assert len(archive.media) + len(archive.links) == owed
        assert archive.media_duplicates == archive.link_duplicates == 0


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(OPS, min_size=2, max_size=12))
@example([("put", "media"), ("cut", "media", False), ("try", "files", "status 503")])
@example([("put", "sms"), ("try", "sms", "lose"), ("revoke",), ("try", "links", "portal")])
@example([("put", "email"), ("cut", "sending", True), ("cut", "email", False)])
def test_everything_is_there_once_whatever_was_lost_and_whenever_the_power_went(ops: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("RELAYD_TEST_SECRET", "sandbox-secret")
        asyncio.run(told(ops, Path(folder)))
