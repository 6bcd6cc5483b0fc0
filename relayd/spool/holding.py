"""Operations for files that were taken and not let go of yet: their writer may still come back to them.

Promises: what is not urgent begins only once the source has let the original go. A name or a time that changes until
then is that of the same item; content that goes on takes the item's place if nothing of it was sent yet, and follows as
a whole item of its own if something was. Rules decide anew on what changed. Nothing stays held for ever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from relayd.files import printable
from relayd.model import Capture, Held, Item, State
from relayd.spool.change import Change, destination_subject, source_subject
from relayd.spool.limits import UNCLAIMED
from relayd.spool.rows import ITEM_COLUMNS, item_from, origin_from
from relayd.spool.states import free_content


def held(db: sqlite3.Connection, source: str) -> list[Held]:
    """What this source has not let go of, as its files were when they were taken."""
    rows = db.execute(
        "SELECT ledger.*, items.sha256, items.captured_at FROM items INDEXED BY items_held"
        " JOIN ledger ON ledger.source = items.source AND ledger.path = items.origin_path AND ledger.item = items.id"
        " WHERE held = 1 AND items.source = ?",
        (source,),
    )
    return [
        Held(origin=origin_from(row), item_id=row["item"], sha256=row["sha256"], captured_at=row["captured_at"])
        for row in rows
    ]


def held_ids(db: sqlite3.Connection) -> list[str]:
    """Of every source, there or gone."""
    return [row["id"] for row in db.execute("SELECT id FROM items INDEXED BY items_held WHERE held = 1")]


def release(change: Change, item_ids: Sequence[str]) -> int:
    """The originals of these are let go: whatever is owed of them may begin. How many were held."""
    count = 0
    for item_id in item_ids:
        row = change.db.execute(
            "UPDATE items SET held = 0 WHERE id = ? AND held = 1 RETURNING seq", (item_id,)
        ).fetchone()
        if row is None:
            continue
        count += 1
        freed = change.db.execute(
            "UPDATE deliveries SET held = 0 WHERE item = ? AND held = 1 RETURNING destination", (row["seq"],)
        ).fetchall()
        change.hints |= {one["destination"] for one in freed}
    return count


def take_over(change: Change, capture: Capture, completes: bool, item_id: str, *, now: float) -> tuple[str, ...]:
    """The file that became an earlier item has other content now. If it is the same recording gone on, and nothing of
    the earlier item was sent, that one goes and this takes its place. Else both stay; what is to be said of it."""
    if capture.earlier is None:
        return ()
    earlier = capture.earlier.item_id
    row = change.db.execute("SELECT seq, id, state, source, held FROM items WHERE id = ?", (earlier,)).fetchone()
    if row is None or not completes:
        release(change, [earlier])
        return ()
    name = printable(capture.name)
    if not is_untouched(change.db, row["seq"]):
        release(change, [earlier])
        said = "source %s: %s went on after item %s of it was sent: item %s follows, whole"
        change.warn(said, row["source"], name, earlier, item_id)
        return (f"item {earlier} was taken before the writer of this file was done; this one is whole",)
    _withdraw(change, row, now=now)
    change.db.execute("UPDATE incidents SET item = ? WHERE item = ? AND closed_at IS NULL", (item_id, earlier))
    said = "source %s: %s went on after it was taken: item %s takes the place of %s"
    change.say(said, row["source"], name, item_id, earlier)
    return ()


def same_again(change: Change, capture: Capture, size_bytes: int, sha256: str, *, now: float) -> Item | None:
    """The item that this very content became when it came from this very place a while ago; it is counted."""
    if capture.file is None or capture.earlier is not None or capture.same_again_seconds <= 0:
        return None
    since = change.times.steady(now) - capture.same_again_seconds
    row = change.db.execute(
        f"SELECT {ITEM_COLUMNS} FROM items WHERE source = ? AND origin_path = ? AND sha256 = ? AND size_bytes = ?"  # noqa: S608
        " AND taken_steady > ? AND (state IN ('pending', 'delivered') OR has_content = 1)"
        " ORDER BY seq DESC LIMIT 1",
        (capture.source, capture.file.origin.path, sha256, size_bytes, since),
    ).fetchone()
    if row is None:
        return None
    subject = source_subject(capture.source)
    change.count("repeated", 1, subject)
    change.mark("last_at_ms", now, subject)
    change.say("source %s: %s came again as it was: it is item %s", capture.source, printable(capture.name), row["id"])
    return item_from(row)


def is_untouched(db: sqlite3.Connection, seq: int) -> bool:
    """Whether no delivery of it was begun, or ended."""
    row = db.execute(
        "SELECT 1 FROM deliveries WHERE item = ? AND (attempts > 0 OR state <> 'pending') LIMIT 1", (seq,)
    ).fetchone()
    return row is None


def _withdraw(change: Change, row: sqlite3.Row, *, now: float) -> None:
    """As if it had never been taken."""
    forget_orders(change, row["seq"], now)
    free_content(change, row["seq"])
    change.db.execute("DELETE FROM items WHERE seq = ?", (row["seq"],))
    for name in ("accepted", "stored", State(row["state"])):
        change.count(name, -1)
    change.count("captured", -1, source_subject(row["source"]))


def forget_orders(change: Change, seq: int, now: float) -> None:
    """Nothing is owed of it, and it belongs to no incident."""
    rows = change.db.execute(
        "DELETE FROM deliveries WHERE item = ? RETURNING destination, state, incident, brings", (seq,)
    ).fetchall()
    for row in rows:
        change.count(row["state"], -1, destination_subject(row["destination"]))
        if row["incident"] and row["brings"]:
            change.touched[row["incident"]] = now
    change.db.execute("DELETE FROM incident_items WHERE item = ?", (seq,))
    change.db.execute("UPDATE items SET priority = ? WHERE seq = ?", (UNCLAIMED, seq))
