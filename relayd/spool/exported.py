"""What `relayd spool export` writes of each item and of each incident: one JSON object a line.

Promises: pure looks at rows; everything that is stored is told, but for the content itself.
"""

from __future__ import annotations

import json
import sqlite3

from relayd import clock
from relayd.model import Item
from relayd.spool.rows import names_from


def item(db: sqlite3.Connection, row: sqlite3.Row, found: Item, written: str | None) -> dict[str, object]:
    """`written` is where its content went, None if it is not kept."""
    deliveries = db.execute(
        "SELECT destination, action, state, attempts, reason, receipt, incident, waits_for FROM deliveries"
        " WHERE item = ? ORDER BY id",
        (row["seq"],),
    )
    return {
        "id": found.id,
        "file": written,
        "source": found.source,
        "name": found.name,
        "kind": found.kind,
        "content_type": found.content_type,
        "size": found.size_bytes,
        "sha256": found.sha256,
        "damage": found.damage or None,
        "captured_at": clock.rfc3339(found.captured_at),
        "accepted_at": clock.rfc3339(found.accepted_at),
        "state": row["state"],
        "deliveries": [
            {
                **delivery,
                "waits_for": list(names_from(delivery["waits_for"])),
                "receipt": None if delivery["receipt"] is None else json.loads(delivery["receipt"]),
            }
            for delivery in map(dict, deliveries)
        ],
    }


def incident(db: sqlite3.Connection, row: sqlite3.Row) -> dict[str, object]:
    """With the ids of its items, oldest first."""
    items = db.execute(
        "SELECT id FROM incident_items JOIN items ON items.seq = item WHERE incident = ? ORDER BY seq", (row["id"],)
    )
    times = {
        name: None if row[name] is None else clock.rfc3339(row[name])
        for name in ("opened_at", "starts_at", "ends_at", "closed_at")
    }
    return {
        "id": row["id"],
        "key": row["key"],
        "rule": row["rule"],
        **times,
        "close_reason": row["close_reason"],
        "remote": json.loads(row["remote"]),
        "items": [item["id"] for item in items],
    }
