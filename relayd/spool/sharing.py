"""Files of the spool that have a second name: hard links whose original somebody may have written to meanwhile.

Promises: what an earlier process took in by a link is compared with what was accepted, and made a copy of its own,
before anything of it goes out; what is no longer what was accepted is lost to its deliveries, and says so. While relayd
runs, the source that took the file watches over its original.
"""

from __future__ import annotations

from functools import partial

from relayd import clock
from relayd.errors import SpoolError, Unsettled
from relayd.model import Item
from relayd.spool import delivering, lists
from relayd.spool.change import Change
from relayd.spool.engine import Engine


async def is_as_accepted(engine: Engine, item: Item) -> bool:
    """Whether its file may go out. False: it is lost, and its deliveries are dead."""
    if item.id not in engine.folder.linked:
        return True
    engine.folder.linked.discard(item.id)
    number = await engine.read(lists.number_of, item.id)
    if number is None or number > engine.newest_of_before:
        return True
    trouble = await engine.shielded(_trouble_with(engine, item), f"unshare {item.id}")
    if trouble is not None:
        await engine.write(partial(_lose, item_id=item.id, trouble=trouble))
    return trouble is None


async def _trouble_with(engine: Engine, item: Item) -> str | None:
    try:
        await engine.in_files(engine.folder.unshare, item.id, item.sha256)
    except Unsettled as error:
        return str(error)
    except SpoolError:  # no room for a copy: at least it is looked at
        if await engine.in_files(engine.folder.digest, item.id) != item.sha256:
            return f"the file was written to after item {item.id} was accepted"
    return None


def _lose(change: Change, item_id: str, trouble: str) -> None:
    row = change.db.execute("SELECT seq, id FROM items WHERE id = ? AND has_content = 1", (item_id,)).fetchone()
    if row is not None:
        delivering.lose(change, row, trouble, now=clock.now())
