"""What people and sources look up, on a connection of its own that cannot write.

Promises: nothing here waits for the writer or holds it up; every list is a page, so memory is flat.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from relayd.model import Incident, Item, Known, Outcome, Priority, State
from relayd.spool import timekeeping, tying
from relayd.spool.delivering import steps_of
from relayd.spool.missed import missed_by
from relayd.spool.records import (
    AttemptRecord,
    DeadDelivery,
    DeliveryDetail,
    IncidentSummary,
    ItemDetail,
    ItemSummary,
    QuarantinedFile,
)
from relayd.spool.rows import (
    ITEM_COLUMNS,
    delivery_from,
    fields_from,
    incident_from,
    item_from,
    origin_from,
    priority_from,
    trouble_from,
)
from relayd.spool.timeline import Timeline


def items(
    db: sqlite3.Connection,
    *,
    state: str | None,
    source: str | None,
    destination: str | None,
    before: str | None,
    limit: int,
) -> list[ItemSummary]:
    """Newest first, by order of acceptance; `before` is the id of the last item of the page before."""
    wanted: list[tuple[str, str | None]] = [
        ("items.state = ?", state),
        ("items.source = ?", source),
        ("EXISTS (SELECT 1 FROM deliveries WHERE item = items.seq AND destination = ?)", destination),
        ("items.seq < (SELECT seq FROM items AS last WHERE last.id = ?)", before),
    ]
    conditions = " AND ".join(condition for condition, value in wanted if value is not None) or "TRUE"
    rows = db.execute(
        f"SELECT {ITEM_COLUMNS} FROM items WHERE {conditions} ORDER BY items.seq DESC LIMIT ?",  # noqa: S608
        [value for _, value in wanted if value is not None] + [limit],
    ).fetchall()
    times = timekeeping.read_now(db)
    return [_summary(db, row, times) for row in rows]


def item(db: sqlite3.Connection, item_id: str) -> ItemDetail | None:
    row = db.execute(f"SELECT {ITEM_COLUMNS}, items.payload FROM items WHERE id = ?", (item_id,)).fetchone()  # noqa: S608
    if row is None:
        return None
    deliveries = db.execute("SELECT * FROM deliveries WHERE item = ? ORDER BY id", (row["seq"],)).fetchall()
    times = timekeeping.read_now(db)
    return ItemDetail(
        item=item_from(row, row["payload"]),
        state=State(row["state"]),
        priority=priority_from(row["priority"]),
        reason=row["reason"],
        has_content=bool(row["has_content"]),
        ended_at=row["ended_at"],
        deliveries=tuple(_detail(db, delivery, item_id, times) for delivery in deliveries),
        trouble=trouble_from(row),
        incidents=tuple(
            one["incident"] for one in db.execute("SELECT incident FROM incident_items WHERE item = ?", (row["seq"],))
        ),
        missed=missed_by(db, times, row["seq"]),
    )


def incidents(db: sqlite3.Connection, *, is_open: bool | None, before: str | None, limit: int) -> list[IncidentSummary]:
    """Newest first."""
    wanted = {None: "TRUE", True: "closed_at IS NULL", False: "closed_at IS NOT NULL"}[is_open]
    rows = db.execute(
        f"SELECT * FROM incidents WHERE {wanted}"  # noqa: S608 - from the line above
        " AND (?1 IS NULL OR seq < (SELECT seq FROM incidents AS last WHERE last.id = ?1)) ORDER BY seq DESC LIMIT ?2",
        (before, limit),
    ).fetchall()
    return [_incident_summary(db, row) for row in rows]


def incident(db: sqlite3.Connection, incident_id: str) -> IncidentSummary | None:
    row = db.execute("SELECT * FROM incidents WHERE id = ?", (incident_id,)).fetchone()
    return None if row is None else _incident_summary(db, row)


def items_of_incident(db: sqlite3.Connection, incident_id: str, limit: int) -> list[ItemSummary]:
    """What belongs to it, newest first."""
    rows = db.execute(
        f"SELECT {ITEM_COLUMNS} FROM items WHERE seq IN (SELECT item FROM incident_items WHERE incident = ?)"  # noqa: S608
        " ORDER BY seq DESC LIMIT ?",
        (incident_id, limit),
    ).fetchall()
    times = timekeeping.read_now(db)
    return [_summary(db, row, times) for row in rows]


def open_incidents(db: sqlite3.Connection) -> list[Incident]:
    """Oldest first."""
    return [incident_from(row) for row in db.execute("SELECT * FROM incidents WHERE closed_at IS NULL ORDER BY seq")]


def claiming_incidents(db: sqlite3.Connection) -> list[str]:
    """Ids of those that have not looked through all that came before, oldest first."""
    rows = db.execute("SELECT id FROM incidents INDEXED BY incidents_claiming WHERE has_claimed = 0 ORDER BY seq")
    return [row["id"] for row in rows]


def find_by_path(db: sqlite3.Connection, source: str, path: bytes) -> str | None:
    """The id of the newest item that came from this path."""
    row = db.execute(
        "SELECT id FROM items WHERE source = ? AND origin_path = ? ORDER BY seq DESC LIMIT 1", (source, path)
    ).fetchone()
    return None if row is None else row["id"]


def quarantined(db: sqlite3.Connection, source: str | None, limit: int) -> list[QuarantinedFile]:
    """Files that wait for a technician, newest first."""
    rows = db.execute(
        "SELECT source, path, size_bytes, reason, at FROM ledger WHERE reason IS NOT NULL"
        " AND (?1 IS NULL OR source = ?1) ORDER BY at DESC LIMIT ?2",
        (source, limit),
    )
    return [
        QuarantinedFile(
            source=row["source"], path=row["path"], size_bytes=row["size_bytes"], reason=row["reason"], at=row["at"]
        )
        for row in rows
    ]


def known(db: sqlite3.Connection, source: str, after: bytes, limit: int) -> list[Known]:
    """A page of the ledger, in path order."""
    rows = db.execute(
        "SELECT * FROM ledger WHERE source = ? AND path > ? ORDER BY path LIMIT ?", (source, after, limit)
    )
    return [Known(origin=origin_from(row), item_id=row["item"], reason=row["reason"]) for row in rows]


def oldest_pending(db: sqlite3.Connection) -> float | None:
    """When the oldest item that is still owed to somebody was accepted, by the clock as it is set now."""
    found = [
        db.execute(
            "SELECT taken_steady FROM items INDEXED BY items_kept"
            " WHERE has_content = 1 AND priority = ? AND state = 'pending' ORDER BY seq LIMIT 1",
            (int(priority),),
        ).fetchone()
        for priority in Priority
    ]
    oldest = min((row["taken_steady"] for row in found if row is not None), default=None)
    return None if oldest is None else timekeeping.read_now(db).wall(oldest)


def is_owed_more(db: sqlite3.Connection, destination: str, besides: tuple[str, Collection[str]]) -> bool:
    """Whether a delivery to it is pending whose item is not of that source and called one of those names."""
    source, names = besides
    marks = ",".join("?" * len(names))
    row = db.execute(
        "SELECT 1 FROM deliveries INDEXED BY deliveries_due JOIN items ON items.seq = deliveries.item"  # noqa: S608
        " WHERE deliveries.state = 'pending' AND waits_for = '' AND deliveries.held = 0 AND destination = ?"
        f" AND NOT (source = ? AND name IN ({marks})) LIMIT 1",
        (destination, source, *names),
    ).fetchone()
    return row is not None


def worst_dead(db: sqlite3.Connection, destinations: Collection[str], limit: int) -> list[DeadDelivery]:
    """Dead deliveries to these, the most urgent first, of those the newest."""
    marks = ",".join("?" * len(destinations))
    rows = db.execute(
        "SELECT items.id, name, destination, action, deliveries.priority, deliveries.reason"  # noqa: S608
        " FROM deliveries INDEXED BY deliveries_dead JOIN items ON items.seq = deliveries.item"
        f" WHERE deliveries.state = 'dead' AND destination IN ({marks})"
        " ORDER BY deliveries.priority, deliveries.id DESC LIMIT ?",
        (*destinations, limit),
    )
    return [
        DeadDelivery(
            item_id=row["id"],
            name=row["name"],
            destination=row["destination"],
            action=row["action"],
            priority=Priority(row["priority"]),
            reason=row["reason"],
        )
        for row in rows
    ]


def note(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
    return None if row is None else row["value"]


def notes(db: sqlite3.Connection, prefix: str) -> dict[str, str]:
    """Every note whose key begins so; `prefix` ends in a colon."""
    rows = db.execute("SELECT key, value FROM notes WHERE key >= ? AND key < ?", (prefix, prefix[:-1] + ";"))
    return {row["key"]: row["value"] for row in rows}


def kept_media(db: sqlite3.Connection, item_ids: Sequence[str]) -> set[str]:
    """Those of these ids whose media belongs to a row."""
    marks = ",".join("?" * len(item_ids))
    rows = db.execute(
        f"SELECT id FROM items WHERE id IN ({marks}) AND kind = 'media' AND has_content = 1",  # noqa: S608
        item_ids,
    )
    return {row["id"] for row in rows}


def media_after(db: sqlite3.Connection, seq: int, limit: int) -> list[tuple[int, Item]]:
    """A page of the items whose media should be there, in order of acceptance."""
    rows = db.execute(
        f"SELECT {ITEM_COLUMNS} FROM items INDEXED BY items_media WHERE seq > ? AND kind = 'media' AND has_content = 1"  # noqa: S608
        " ORDER BY seq LIMIT ?",
        (seq, limit),
    )
    return [(row["seq"], item_from(row)) for row in rows]


def newest(db: sqlite3.Connection) -> int:
    """The number of the newest item, 0 if there is none."""
    found: int = db.execute("SELECT coalesce(max(seq), 0) FROM items").fetchone()[0]
    return found


def number_of(db: sqlite3.Connection, item_id: str) -> int | None:
    """The number of an item in the order of acceptance."""
    row = db.execute("SELECT seq FROM items WHERE id = ?", (item_id,)).fetchone()
    return None if row is None else int(row["seq"])


def _incident_summary(db: sqlite3.Connection, row: sqlite3.Row) -> IncidentSummary:
    count = db.execute("SELECT count(*) FROM incident_items WHERE incident = ?", (row["id"],)).fetchone()[0]
    states = db.execute(
        "SELECT state, count(*) AS number FROM deliveries WHERE incident = ? AND incident <> '' GROUP BY state",
        (row["id"],),
    )
    return IncidentSummary(
        incident=incident_from(row),
        opened_by=row["item"],
        items=count,
        deliveries={one["state"]: one["number"] for one in states},
    )


def _summary(db: sqlite3.Connection, row: sqlite3.Row, times: Timeline) -> ItemSummary:
    deliveries = db.execute("SELECT * FROM deliveries WHERE item = ? ORDER BY id", (row["seq"],))
    return ItemSummary(
        item=item_from(row),
        state=State(row["state"]),
        priority=priority_from(row["priority"]),
        reason=row["reason"],
        has_content=bool(row["has_content"]),
        ended_at=row["ended_at"],
        deliveries=tuple(delivery_from(delivery, row["id"], times) for delivery in deliveries),
        trouble=trouble_from(row),
    )


def _detail(db: sqlite3.Connection, row: sqlite3.Row, item_id: str, times: Timeline) -> DeliveryDetail:
    attempts = db.execute("SELECT * FROM attempts WHERE delivery = ? ORDER BY number", (row["id"],))
    return DeliveryDetail(
        delivery=delivery_from(row, item_id, times),
        attempts=tuple(
            AttemptRecord(
                number=attempt["number"],
                started_at=attempt["started_at"],
                ended_at=attempt["ended_at"],
                outcome=Outcome(attempt["outcome"]),
                reason=attempt["reason"],
            )
            for attempt in attempts
        ),
        steps=steps_of(db, row["id"]),
        receipt=None if row["receipt"] is None else fields_from(row["receipt"]),
        proof=row["proof"],
        ended_at=row["ended_at"],
        is_replaced=row["state"] in (State.DEAD, State.EXPIRED, State.EVICTED) and tying.is_replaced(db, row["id"]),
    )
