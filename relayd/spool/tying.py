"""Ties items to incidents: open, join, collect, close; and what rules order for an item because it belongs to one.

Promises: which incidents an item belongs to, and what is owed for it there, is decided in the transaction that stores
the item, so no order of arrival makes a difference; what was there before an incident opened is claimed afterwards,
page by page, and again after a crash. Nothing is ordered twice for the same item, and what opens an incident at a
destination is ordered once, however many items join it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from relayd import clock, incidents
from relayd.clock import Stamp
from relayd.model import Incident, Item, Opening, Order
from relayd.rules import likeness
from relayd.spool import timekeeping
from relayd.spool.change import INCIDENTS, Change
from relayd.spool.outbox import report
from relayd.spool.rows import (
    ITEM_COLUMNS,
    delivery_from,
    fields_from,
    incident_from,
    item_from,
    names_from,
    names_to_column,
    new_id,
    orders_from_json,
    to_json,
)
from relayd.spool.states import brought_by, create_deliveries, settle

CLAIMED_AT_ONCE = 50
"""Items that one transaction claims at most: bounds how long an emergency's commit waits behind it."""

OLD_IN_A_ROW = 200
"""After this many items of a source that are too old for an incident, the ones before them are not looked at."""

LATE_SECONDS = 7 * 86_400.0
"""How long after its end an incident is still looked at for items that were captured within its span."""


class Ties(Protocol):
    """What the rules say; pure, called in the writer's thread."""

    def openings(self, item: Item) -> tuple[Opening, ...]: ...

    def orders(self, item: Item, belongs_to: Sequence[Incident]) -> tuple[Order, ...]: ...


def tie(change: Change, seq: int, item: Item, ties: Ties, *, now: float) -> tuple[Order, ...]:
    """For an item that was just stored: open or join its incidents, and owe what the rules order in them."""
    openings = ties.openings(item)
    found = [_open_or_join(change, opening, item, now) for opening in openings if not opening.closes]
    ending = [_open_under(change, opening.key) for opening in openings if opening.closes]
    found += [incident for incident in ending if incident is not None]
    found += covering(change.db, item)
    belongs_to = list({incident.id: incident for incident in found}.values())
    for incident in belongs_to:
        _belong(change, incident, seq)
    orders = tuple(order for order in ties.orders(item, belongs_to) if not (order.opens and is_ordered(change, order)))
    create_deliveries(change, seq, orders, now=now)
    for opening in openings:
        over = _open_under(change, opening.key) if opening.closes else None
        if over is not None:
            _close(change, over, f"closed by rule {opening.rule!r}", now=now)
    return orders


def claim(change: Change, incident_id: str, ties: Ties, *, now: float) -> int:
    """A page of what came before the incident opened and belongs to it; how many items. 0: there is no more, which is
    remembered."""
    row = change.db.execute("SELECT * FROM incidents WHERE id = ?", (incident_id,)).fetchone()
    if row is None:
        return 0
    incident = incident_from(row)
    count = 0
    for seq in _candidates(change.db, incident):
        item_row = change.db.execute(
            f"SELECT {ITEM_COLUMNS}, items.payload FROM items WHERE seq = ?",  # noqa: S608
            (seq,),
        ).fetchone()
        item = item_from(item_row, item_row["payload"])
        _belong(change, incident, seq)
        wanted = ties.orders(item, [incident])
        orders = _missing(change, seq, [one for one in wanted if not (one.opens and is_ordered(change, one))])
        create_deliveries(change, seq, orders, now=now)
        if orders:
            settle(change, seq, now=now)
        count += 1
        if count >= CLAIMED_AT_ONCE:
            return count
    change.db.execute("UPDATE incidents SET has_claimed = 1 WHERE id = ?", (incident_id,))
    return count


def close(change: Change, incident_id: str, reason: str, *, now: float) -> bool:
    """Close one by hand; False if it is not open."""
    row = change.db.execute("SELECT * FROM incidents WHERE id = ? AND closed_at IS NULL", (incident_id,)).fetchone()
    if row is not None:
        _close(change, incident_from(row), reason, now=now)
    return row is not None


def close_overdue(change: Change, *, now: float) -> int:
    """Close those whose time is over, or was never right; how many."""
    is_synchronized = clock.synchronization().is_synchronized
    rows = change.db.execute(
        "SELECT * FROM incidents WHERE closed_at IS NULL AND (ends_at < ?1 OR (?2 AND starts_at > ?1 AND boot <> ?3))",
        (now, bool(is_synchronized), clock.boot()),
    ).fetchall()
    for row in rows:
        incident = incident_from(row)
        is_past = incident.ends_at < now
        _close(change, incident, "its time is over" if is_past else timekeeping.WRONG_CLOCK, now=now)
    return len(rows)


def forget(change: Change, *, now: float, keep_seconds: float) -> None:
    """Remove what closed long ago and has no items left."""
    change.db.execute(
        "DELETE FROM incidents WHERE closed_at IS NOT NULL AND ends_at < ?"
        " AND NOT EXISTS (SELECT 1 FROM incident_items WHERE incident = incidents.id)",
        (now - max(keep_seconds, LATE_SECONDS),),
    )


def _open_or_join(change: Change, opening: Opening, item: Item, now: float) -> Incident:
    stamp = clock.stamp()
    row = _row_under(change, opening.key)
    if row is not None:
        found = timekeeping.following(incident_from(row), row, stamp)
        over = timekeeping.why_over(found, row["boot"], now=now)
        if over is None:
            return _join(change, incidents.joined(found, opening, now=now), stamp)
        _close(change, found, over, now=now)
    incident = incidents.opened(opening, incident_id=new_id(now), now=now)
    change.db.execute(
        "INSERT INTO incidents (id, key, rule, item, collect, opened_at, starts_at, ends_at, boot, clock_offset)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            incident.id,
            incident.key,
            incident.rule,
            item.id,
            to_json(incident.collect),
            incident.opened_at,
            incident.starts_at,
            incident.ends_at,
            stamp.boot,
            stamp.offset_seconds,
        ),
    )
    change.count("open", 1, INCIDENTS)
    change.has_incidents = True
    change.say("incident %s opened by rule %r, key %a", incident.id, incident.rule, incident.key)
    report(change, "incident_opened", _told(incident) | {"item": item.id}, now=now)
    return incident


def _join(change: Change, incident: Incident, stamp: Stamp) -> Incident:
    change.db.execute(
        "UPDATE incidents SET collect = ?, opened_at = ?, starts_at = ?, ends_at = ?, boot = ?, clock_offset = ?,"
        " has_claimed = 0 WHERE id = ?",
        (
            to_json(incident.collect),
            incident.opened_at,
            incident.starts_at,
            incident.ends_at,
            stamp.boot,
            stamp.offset_seconds,
            incident.id,
        ),
    )
    change.has_incidents = True
    return incident


def _close(change: Change, incident: Incident, reason: str, *, now: float) -> None:
    over = incidents.closed(incident, reason, now=now)
    change.db.execute(
        "UPDATE incidents SET ends_at = ?, closed_at = ?, close_reason = ? WHERE id = ?",
        (over.ends_at, over.closed_at, reason, incident.id),
    )
    count = change.db.execute("SELECT count(*) FROM incident_items WHERE incident = ?", (incident.id,)).fetchone()[0]
    change.count("open", -1, INCIDENTS)
    change.say("incident %s closed with %d items: %s", incident.id, count, reason)
    report(change, "incident_closed", _told(incident) | {"reason": reason, "items": count}, now=now)
    change.touched[incident.id] = now


def _told(incident: Incident) -> dict[str, str]:
    return {"incident": incident.id, "key": incident.key, "rule": incident.rule}


def _open_under(change: Change, key: str) -> Incident | None:
    row = _row_under(change, key)
    return None if row is None else incident_from(row)


def _row_under(change: Change, key: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = change.db.execute(
        "SELECT * FROM incidents WHERE key = ? AND closed_at IS NULL", (key,)
    ).fetchone()
    return row


def covering(db: sqlite3.Connection, item: Item) -> list[Incident]:
    """Those whose span the item was captured in, closed ones too: a camera may send later."""
    moments = (incidents.moment_of(item.captured_at, item.accepted_at), item.accepted_at)
    rows = db.execute(
        "SELECT * FROM incidents INDEXED BY incidents_span WHERE ends_at >= ? AND starts_at <= ?"
        " AND instr(collect, ?) ORDER BY seq",
        (min(moments), max(moments), to_json(item.source)),
    )
    found = [incident_from(row) for row in rows]
    return [one for one in found if incidents.covers(one, item.source, item.captured_at, item.accepted_at)]


def _candidates(db: sqlite3.Connection, incident: Incident) -> Iterator[int]:
    """Items that belong to it and that it has not claimed yet, newest first."""
    for source in incident.collect:
        old = 0
        rows = db.execute(
            "SELECT seq, captured_at, accepted_at,"
            " EXISTS (SELECT 1 FROM incident_items WHERE incident = ? AND item = seq) AS is_claimed"
            " FROM items INDEXED BY items_source WHERE source = ? AND has_content = 1 ORDER BY seq DESC",
            (incident.id, source),
        )
        for row in rows:
            if incidents.covers(incident, source, row["captured_at"], row["accepted_at"]):
                old = 0
                if not row["is_claimed"]:
                    yield row["seq"]
                continue
            old += row["accepted_at"] < incident.starts_at
            if old >= OLD_IN_A_ROW:
                break


def _belong(change: Change, incident: Incident, seq: int) -> None:
    change.db.execute("INSERT OR IGNORE INTO incident_items (incident, item) VALUES (?, ?)", (incident.id, seq))


def is_ordered(change: Change, order: Order) -> bool:
    """Whether the incident has this opening delivery already, and it is not given up."""
    there = change.db.execute(
        "SELECT * FROM deliveries INDEXED BY deliveries_bringing WHERE incident = ? AND incident <> ''"
        " AND brings <> '' AND brings = ? AND state IN ('pending', 'delivered')",
        (order.incident, names_to_column(brought_by(order))),
    )
    return any(_is_alike(row, order) for row in there)


def is_replaced(change: Change, delivery: int) -> bool:
    """Whether what this one was to open at a destination was asked for again after it was given up: not twice."""
    row = change.db.execute("SELECT * FROM deliveries WHERE id = ? AND opens <> ''", (delivery,)).fetchone()
    if row is None or not row["incident"]:
        return False
    given_up = delivery_from(row, "")
    return is_ordered(
        change,
        Order(
            destination=given_up.destination,
            action=given_up.action,
            priority=given_up.priority,
            rule=given_up.rule,
            arguments=given_up.arguments,
            then=given_up.then,
            incident=given_up.incident,
            opens=names_from(row["opens"]),
            is_tied=True,
        ),
    )


def _missing(change: Change, seq: int, orders: Sequence[Order]) -> list[Order]:
    """Those that the item was not given yet."""
    there = change.db.execute("SELECT * FROM deliveries WHERE item = ?", (seq,)).fetchall()
    return [order for order in orders if not any(_is_alike(row, order) for row in there)]


def _is_alike(row: sqlite3.Row, order: Order) -> bool:
    """Whether this delivery came from such an order."""
    ordered = replace(
        order,
        destination=row["destination"],
        action=row["action"],
        arguments=fields_from(row["arguments"]),
        incident=row["incident"],
        then=orders_from_json(row["follow_ups"]),
    )
    return likeness(ordered) == likeness(order)
