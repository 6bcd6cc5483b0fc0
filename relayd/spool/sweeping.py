"""Looks once over all media after a start: strays without a row go, rows without their media are told.

Promises: it does not delay the start, and goes easy: some hundred names at a time. What is just arriving is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from functools import partial

from relayd import clock
from relayd.spool import delivering, lists, sharing
from relayd.spool.change import Change
from relayd.spool.engine import Engine

log = logging.getLogger("relayd.spool")

ITEMS_AT_ONCE = 500


async def sweep(engine: Engine) -> int:
    """One pass over everything; how many strays went and items were found without their media."""
    return await _remove_strays(engine) + await _tell_losses(engine)


async def _remove_strays(engine: Engine) -> int:
    count = 0
    batches = engine.folder.names()
    while names := await engine.in_files(next, batches, None):
        here = [name for name in names if name not in engine.arriving]
        # Asked in this order, what was arriving a moment ago has its row by now, or never will.
        kept = await engine.read(lists.kept_media, here)
        strays = [name for name in here if name not in kept and name not in engine.arriving]
        if engine.writer.failed_last:
            return count  # a commit that failed may still turn out to be on the disk: keep its media until one succeeds
        if strays:
            await engine.in_files(engine.folder.discard, strays)
        count += len(strays)
        await asyncio.sleep(0)
    if count:
        log.info("%d media files of puts that were never finished were removed", count)
    return count


async def _tell_losses(engine: Engine) -> int:
    count, seq = 0, 0
    while page := await engine.read(lists.media_after, seq, ITEMS_AT_ONCE):
        for number, item in page:
            seq = number
            if await engine.in_files(engine.folder.trouble_with, item.id, item.size_bytes) is not None:
                count += await engine.write(partial(_lose, engine=engine, item_id=item.id))
            elif not await sharing.is_as_accepted(engine, item):
                count += 1
        await asyncio.sleep(0)
    return count


def _lose(change: Change, engine: Engine, item_id: str) -> int:
    """Look again, now that nothing else can change it."""
    row: sqlite3.Row | None = change.db.execute(
        "SELECT seq, id, size_bytes FROM items WHERE id = ? AND has_content = 1", (item_id,)
    ).fetchone()
    trouble = None if row is None else engine.folder.trouble_with(item_id, row["size_bytes"])
    if row is None or trouble is None:
        return 0
    delivering.lose(change, row, trouble, now=clock.now())
    return 1
