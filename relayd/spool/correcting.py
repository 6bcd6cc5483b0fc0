"""The operation behind a new name or a new time of a file that was taken and not let go of yet.

Promises: it stays one item. Unless something of it was sent already, the rules decide anew, in the same transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from relayd.model import Capture, Item, Order
from relayd.spool.accepting import remember
from relayd.spool.change import Change
from relayd.spool.holding import forget_orders, is_untouched
from relayd.spool.rows import ITEM_COLUMNS, attributes_of, item_from, priority_of
from relayd.spool.states import add_deliveries, settle
from relayd.spool.tying import Ties, tie


def correct(
    change: Change, capture: Capture, orders: Sequence[Order], *, now: float, ties: Ties | None = None
) -> Item | None:
    """The item as it is called from now on; as it was, if it was let go meanwhile. None: there is no such item."""
    if capture.earlier is None or capture.file is None:
        raise ValueError("a correction is of a file that was taken")
    item_id, origin = capture.earlier.item_id, capture.file.origin
    row = change.db.execute("SELECT seq, origin_path, held FROM items WHERE id = ?", (item_id,)).fetchone()
    if row is None:
        return None
    if not row["held"]:
        return _item(change.db, row["seq"])
    change.db.execute(
        "UPDATE items SET name = ?, origin_path = ?, captured_at = ?, content_type = ?, attributes = ? WHERE seq = ?",
        (
            capture.name,
            origin.path,
            capture.captured_at,
            capture.content_type,
            attributes_of(capture),
            row["seq"],
        ),
    )
    was = (capture.source, row["origin_path"], item_id)
    change.db.execute("DELETE FROM ledger WHERE source = ? AND path = ? AND item = ?", was)
    remember(change, capture.source, origin, item=item_id, reason=None, now=now)
    if is_untouched(change.db, row["seq"]):
        forget_orders(change, row["seq"], now)
        if ties is None:
            add_deliveries(change, row["seq"], orders, now=now)
        else:
            orders = tie(change, row["seq"], _item(change.db, row["seq"]), ties, now=now)
        wanted = (priority_of(orders), row["seq"])
        change.db.execute("UPDATE items SET priority = ? WHERE seq = ?", wanted)
        settle(change, row["seq"], now=now)
    return _item(change.db, row["seq"])


def _item(db: sqlite3.Connection, seq: int) -> Item:
    return item_from(db.execute(f"SELECT {ITEM_COLUMNS} FROM items WHERE seq = ?", (seq,)).fetchone())  # noqa: S608
