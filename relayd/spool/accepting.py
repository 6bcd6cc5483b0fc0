"""Operations of the way in: accept an item, order more for it, remember files of drop folders.

Promises: an item, its deliveries, its place in the ledger and the counters are one commit. A file that is in the ledger
is not accepted again while it stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from relayd.errors import SpoolError
from relayd.files import text_of
from relayd.model import Capture, Item, Kind, Order, Origin, State
from relayd.spool import holding, incident_rows
from relayd.spool.change import Change, source_subject
from relayd.spool.limits import UNCLAIMED, on_disk
from relayd.spool.rows import (
    ITEM_COLUMNS,
    attributes_of,
    item_from,
    location_of,
    priority_of,
    signed,
    trouble_to_json,
)
from relayd.spool.states import add_deliveries, create_deliveries, settle
from relayd.spool.tying import Ties, tie

HOUR_NS = 3600 * 10**9
MOST_HOURS = 26
"""The widest that two zones are apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was measured while the content came in."""

    size_bytes: int
    sha256: str
    md5: str
    completes: bool = False
    """It goes on where the earlier item of the same file ends."""


def accept(
    change: Change,
    capture: Capture,
    content: Content,
    orders: Sequence[Order],
    *,
    item_id: str,
    now: float,
    trouble: Sequence[str] = (),
    ties: Ties | None = None,
) -> Item:
    """The item as stored; the one that is there already if this very file, or message, was accepted before. With `ties`
    the rules order now, knowing its incidents, and `orders` only say how urgent it may be."""
    now = change.times.today(now)
    origin = _origin_of(capture)
    if origin is not None and (capture.arrival is None or capture.arrival.is_repeat):
        known = _known_item(change, capture.source, origin)
        if known is not None:
            return _existing(change, known, capture, content, now)
    if origin is not None and capture.file is not None:
        again = _moved_by_hours(change, capture, origin, content) or holding.same_again(
            change, capture, content.size_bytes, content.sha256, now=now
        )
        if again is not None:
            remember(change, capture.source, origin, item=again.id, reason=None, now=now)
            return again
    trouble = (*trouble, *holding.take_over(change, capture, content.completes, item_id, now=now))
    item = _new_item(capture, content, item_id, now)
    priority = UNCLAIMED if ties else priority_of(orders)
    seq = _insert(change, item, capture, priority, trouble, taken_steady=change.times.steady(now))
    if ties is None:
        create_deliveries(change, seq, orders, now=now)
    else:
        orders = tie(change, seq, item, ties, now=now)
        _wanted(change, seq, orders)
    if origin is not None:
        remember(change, capture.source, origin, item=item_id, reason=None, now=now)
    subject = source_subject(capture.source)
    change.count("accepted")
    change.count("stored")
    change.count(State.PENDING if orders else State.UNCLAIMED)
    change.count("bytes", content.size_bytes)
    if item.kind is Kind.MEDIA:
        change.count("media_bytes", on_disk(content.size_bytes))
    change.count("captured", 1, subject)
    change.mark("last_at_ms", now, subject)
    return item


def _wanted(change: Change, seq: int, orders: Sequence[Order]) -> None:
    """Rules that decide in the transaction may want what was stored as unclaimed."""
    if orders:
        change.db.execute("UPDATE items SET state = 'pending', priority = ? WHERE seq = ?", (priority_of(orders), seq))


def pass_over(
    change: Change, capture: Capture, content: Content, *, item_id: str, now: float, ties: Ties | None
) -> Item | None:
    """Count what no rule wants and no incident can claim, and remember where it came from as for any other; no row is
    left of it. None, and nothing is done, if it is wanted after all. What was accepted before is that item."""
    origin = _origin_of(capture)
    if origin is not None and (capture.arrival is None or capture.arrival.is_repeat):
        known = _known_item(change, capture.source, origin)
        if known is not None:
            return _existing(change, known, capture, content, now)
    item = _new_item(capture, content, item_id, now)
    if capture.source in change.collected or incident_rows.may_claim(change.db) or _is_tied(change, item, ties):
        return None
    if origin is not None:
        remember(change, capture.source, origin, item=item_id, reason=None, now=now)
    change.count("accepted")
    change.count(State.UNCLAIMED)
    change.count(f"purged.{State.UNCLAIMED}")
    change.count("captured", 1, source_subject(capture.source))
    change.mark("last_at_ms", now, source_subject(capture.source))
    return item


def _is_tied(change: Change, item: Item, ties: Ties | None) -> bool:
    """Whether it opens, joins, closes or belongs to an incident, or rules want something of it now."""
    if ties is None:
        return False
    return bool(ties.openings(item) or incident_rows.covering(change.db, item) or ties.orders(item, ()))


def prove_writable(change: Change) -> None:
    """Something small that has to reach the disk."""
    change.db.execute("INSERT OR REPLACE INTO notes (key, value) VALUES ('spool:writable', '')")


def add_orders(change: Change, item_id: str, orders: Sequence[Order], *, now: float) -> None:
    """Owe more for an item. Raises SpoolError if it is unknown or its content is gone."""
    row = change.db.execute("SELECT seq, has_content FROM items WHERE id = ?", (item_id,)).fetchone()
    if row is None:
        raise SpoolError(f"no item {item_id} in the spool")
    if not row["has_content"]:
        raise SpoolError(f"the content of item {item_id} is no longer kept, so nothing more can be sent of it")
    add_deliveries(change, row["seq"], orders, now=now)
    settle(change, row["seq"], now=now)


def remember(change: Change, source: str, origin: Origin, *, item: str | None, reason: str | None, now: float) -> None:
    """Put a file into the ledger, in place of what was known at that path."""
    before = change.db.execute(
        "SELECT reason FROM ledger WHERE source = ? AND path = ?", (source, origin.path)
    ).fetchone()
    was_quarantined = before is not None and before["reason"] is not None
    change.db.execute(
        "INSERT OR REPLACE INTO ledger (source, path, device, inode, size_bytes, mtime_ns, item, reason, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            source,
            origin.path,
            signed(origin.device),
            signed(origin.inode),
            origin.size_bytes,
            origin.mtime_ns,
            item,
            reason,
            now,
        ),
    )
    change.count("quarantined", int(reason is not None) - int(was_quarantined), source_subject(source))


def forget(change: Change, source: str, paths: Sequence[bytes]) -> None:
    """These files are gone from their folder."""
    for path in paths:
        row = change.db.execute(
            "DELETE FROM ledger WHERE source = ? AND path = ? RETURNING reason", (source, path)
        ).fetchone()
        if row is not None and row["reason"] is not None:
            change.count("quarantined", -1, source_subject(source))


def _origin_of(capture: Capture) -> Origin | None:
    """What stands for it in the ledger; None: it cannot come a second time."""
    if capture.file is not None:
        return capture.file.origin
    return None if capture.arrival is None else capture.arrival.origin


def _known_item(change: Change, source: str, origin: Origin) -> str | None:
    row = change.db.execute(
        "SELECT item FROM ledger WHERE source = ? AND path = ? AND inode = ? AND size_bytes = ? AND mtime_ns = ?",
        (source, origin.path, signed(origin.inode), origin.size_bytes, origin.mtime_ns),
    ).fetchone()
    return None if row is None else row["item"]


def _moved_by_hours(change: Change, capture: Capture, origin: Origin, content: Content) -> Item | None:
    """The item that this file became when its time was some hours off: FAT keeps local time, so the times of a whole
    card move with the zone and the summer."""
    if capture.earlier is not None:
        return None
    row = change.db.execute(
        f"SELECT {ITEM_COLUMNS} FROM items WHERE sha256 = ? AND id = ("  # noqa: S608
        "SELECT item FROM ledger WHERE source = ? AND path = ? AND size_bytes = ? AND mtime_ns <> ?"
        " AND abs(mtime_ns - ?) <= ? AND (mtime_ns - ?) % ? = 0)",
        (
            content.sha256,
            capture.source,
            origin.path,
            origin.size_bytes,
            origin.mtime_ns,
            origin.mtime_ns,
            MOST_HOURS * HOUR_NS,
            origin.mtime_ns,
            HOUR_NS,
        ),
    ).fetchone()
    if row is None:
        return None
    change.count("repeated", 1, source_subject(capture.source))
    return item_from(row)


def _existing(change: Change, item_id: str, capture: Capture, content: Content, now: float) -> Item:
    """From its row; if that was purged, what the row said follows from the file, which is still the same."""
    row = change.db.execute(f"SELECT {ITEM_COLUMNS} FROM items WHERE id = ?", (item_id,)).fetchone()  # noqa: S608
    return _new_item(capture, content, item_id, now) if row is None else item_from(row)


def _new_item(capture: Capture, content: Content, item_id: str, now: float) -> Item:
    return Item(
        id=item_id,
        source=capture.source,
        name=capture.name,
        kind=capture.kind,
        content_type=capture.content_type,
        size_bytes=content.size_bytes,
        sha256=content.sha256,
        md5=content.md5,
        captured_at=capture.captured_at if math.isfinite(capture.captured_at) else now,
        accepted_at=now,
        payload=capture.payload if capture.kind is Kind.MESSAGE else None,
        topic=capture.topic,
        attributes=dict(capture.attributes),
        location=capture.location,
        origin_path=None if capture.file is None else text_of(capture.file.origin.path),
        damage=capture.damage,
    )


def _insert(
    change: Change, item: Item, capture: Capture, priority: int, trouble: Sequence[str], *, taken_steady: float
) -> int:
    cursor = change.db.execute(
        "INSERT INTO items (id, source, name, kind, content_type, size_bytes, sha256, md5, captured_at, accepted_at,"
        " payload, topic, attributes, location, origin_path, state, priority, has_content, trouble, held,"
        " damage, taken_steady)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
        (
            item.id,
            item.source,
            item.name,
            item.kind,
            item.content_type,
            item.size_bytes,
            item.sha256,
            item.md5,
            item.captured_at,
            item.accepted_at,
            item.payload,
            item.topic,
            attributes_of(capture),
            location_of(item.location),
            None if capture.file is None else capture.file.origin.path,
            State.UNCLAIMED if priority == UNCLAIMED else State.PENDING,
            priority,
            trouble_to_json(trouble),
            int(capture.is_held),
            item.damage,
            taken_steady,
        ),
    )
    seq = cursor.lastrowid
    if seq is None:
        raise SpoolError("the database gave no row number")
    return seq
