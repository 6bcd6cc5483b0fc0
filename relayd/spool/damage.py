"""The look for damage while the spool is open.

Promises: a database that was overwritten is noticed within seconds, even if nothing in hand needs the pages that are
gone, so that as little as possible is taken on top of it. A look costs a page or two of each table and writes nothing.
"""

from __future__ import annotations

import asyncio
import logging

from relayd.errors import SpoolError
from relayd.spool import database
from relayd.spool.engine import Engine

log = logging.getLogger("relayd.spool")

LOOK_EVERY_SECONDS = 10.0


async def look_for_damage(engine: Engine, every_seconds: float = LOOK_EVERY_SECONDS) -> None:
    """Until there is some. The engine marks it by itself."""
    while not engine.is_damaged:
        await asyncio.sleep(every_seconds)
        try:
            await engine.browse(database.probe)
        except SpoolError as error:
            log.warning("a look at the whole of the spool: %s", error)
