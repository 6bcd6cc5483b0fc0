"""`relayd why`: one paragraph that says everything once, and what a person can do."""

from __future__ import annotations

from pathlib import Path

from relayd import clock
from relayd.destinations.base import Attempt
from relayd.errors import Rejected, Unavailable
from relayd.listing import paragraph
from relayd.model import Item, Receipt
from tests.worker.stage import Played, Stage, order, stage


async def why(it: Stage, item: Item) -> str:
    detail = await it.spool.item(item.id)
    assert detail is not None
    return paragraph(detail, lambda name: it.workers[name].view() if name in it.workers else None, now=clock.now())


async def test_a_reason_that_keeps_a_whole_destination_waiting_is_said_once(tmp_path: Path) -> None:
    async def away(_: Attempt) -> Receipt:
        raise Unavailable("api.example refuses connections")

    async with stage(tmp_path) as it:
        item = await it.put("a", order("there"))
        worker = it.start(Played("there", away), first="10m", cap="10m")
        await it.until(lambda: worker.view().state == "waiting", "paused")
        said = await why(it, item)
    assert said.count("api.example refuses connections") == 1
    assert "waits because there cannot be had: api.example refuses connections, next try in" in said
    assert said.endswith("It was tried 1 time.")


async def test_what_is_dead_says_how_to_try_it_again(tmp_path: Path) -> None:
    async def refuse(_: Attempt) -> Receipt:
        raise Rejected("422: the file is too large")

    async with stage(tmp_path) as it:
        item = await it.put("a", order("there"))
        it.start(Played("there", refuse))
        await it.until(lambda: it.spool.counters.dead == 1, "dead")
        said = await why(it, item)
    assert f"is dead after 1 try: 422: the file is too large; `relayd retry {item.id}` tries again." in said
