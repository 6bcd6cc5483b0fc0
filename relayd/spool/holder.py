"""What sources ask of the spool about files that they have taken and not let go of yet.

Promises: nothing stays held for ever. What no source vouches for any more (it is gone, its disk is, it hangs) is let go
after a while, and that is said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from functools import partial

from relayd import clock
from relayd.errors import SpoolError
from relayd.model import Capture, Held, Item, Order
from relayd.spool import holding
from relayd.spool.correcting import correct
from relayd.spool.desk import Desk
from relayd.spool.engine import Engine
from relayd.spool.tying import Ties

log = logging.getLogger("relayd.spool")

LOOK_EVERY_SECONDS = 5.0
UNVOUCHED_SECONDS = 60.0
"""A source looks at what it holds every few seconds."""


class Holder(Desk):
    """The part of the spool that knows of originals which are still in their folder."""

    async def held(self, source: str) -> list[Held]:
        """What this source has taken and not let go of: it may have been cut off in between."""
        return await self._engine.read(holding.held, source)

    async def release(self, item_ids: Sequence[str]) -> None:
        """Their originals are let go: whatever is owed of them may begin."""
        for item_id in item_ids:
            self._engine.vouched.pop(item_id, None)
        await self._write(partial(holding.release, item_ids=tuple(item_ids)))

    def vouch_for(self, item_ids: Collection[str]) -> None:
        """Their originals are still being looked after."""
        self._engine.vouched.update(dict.fromkeys(item_ids, clock.monotonic()))

    async def correct(
        self, capture: Capture, orders: Sequence[Order], *, now: float, ties: Ties | None = None
    ) -> Item | None:
        """The same file has another name or time. The item as it is then; None: there is no such item."""
        return await self._write(partial(correct, capture=capture, orders=tuple(orders), now=now, ties=ties))


async def release_unvouched(engine: Engine) -> None:
    """For ever: let go of what no source looks after."""
    while True:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        try:
            await look(engine)
        except SpoolError as error:
            log.warning("a look at what is held: %s", error)


async def look(engine: Engine, unvouched_seconds: float = UNVOUCHED_SECONDS) -> int:
    """One look. How many were let go."""
    ids = await engine.read(holding.held_ids)
    now = clock.monotonic()
    engine.vouched = {item_id: engine.vouched.get(item_id, now) for item_id in ids}
    left = [item_id for item_id, at in engine.vouched.items() if now - at > unvouched_seconds]
    if left:
        log.warning("%d items are let go though their source has not said that their writer is done", len(left))
        await engine.write(partial(holding.release, item_ids=left))
    return len(left)
