"""The look for damage while the spool is open.

Promises: a database that was overwritten is noticed within seconds, even if nothing in hand needs the pages that are
gone, so that as little as possible is taken on top of it. A look costs a page or two of each table and writes nothing.
"""

from __future__ import annotations

import asyncio
import logging

from relayd.errors import SpoolError
from relayd.spool import database, salvage
from relayd.spool.engine import Engine

log = logging.getLogger("relayd.spool")

LOOK_EVERY_SECONDS = 10.0
LOOK_FOR_ROOM_SECONDS = 60.0


async def look_for_room(engine: Engine, every_seconds: float = LOOK_FOR_ROOM_SECONDS) -> None:
    """Until a damaged database that waits for it can be salvaged: then the spool is to be opened anew."""
    while engine.waits_for:
        await asyncio.sleep(every_seconds)
        engine.waits_for = await engine.in_files(salvage.why_waiting, engine.folder)
        engine.can_salvage = not engine.waits_for


async def look_for_damage(engine: Engine, every_seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Until there is some. The engine marks it by itself."""
    while not engine.is_damaged:
        await asyncio.sleep(every_seconds)
        try:
            await engine.browse(database.probe)
        except SpoolError as error:
            log.warning("a look at the whole of the spool: %s", error)
