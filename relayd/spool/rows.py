"""Rows to records and back. The only place that knows how a model word is written in a column."""

from __future__ import annotations

import json
import math
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from relayd.files import text_of
from relayd.model import (
    Capture,
    Delivery,
    Fields,
    Incident,
    Item,
    Kind,
    Location,
    Order,
    Origin,
    Priority,
    State,
)
from relayd.spool.limits import UNCLAIMED
from relayd.spool.records import Step
from relayd.spool.timeline import Timeline

ITEM_COLUMNS = (
    "items.seq, items.id, items.source, items.name, items.kind, items.content_type, items.size_bytes, items.sha256,"
    " items.md5, items.captured_at, items.accepted_at, items.topic, items.attributes, items.location,"
    " items.origin_path, items.state, items.priority, items.has_content, items.ended_at, items.reason, items.trouble,"
    " items.damage"
)
"""Everything but the payload."""

MOST_TROUBLE, LONGEST_TROUBLE = 20, 1_000
"""Sentences kept of what the rules could not answer, and characters of each."""

NO_TROUBLE = "[]"
"""As the column says it."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_TIME_LETTERS, _CHANCE_LETTERS = 10, 8


def new_id(now: float) -> str:
    """18 letters of Crockford base32: 50 bits of milliseconds, then 40 bits of chance. Safe as a file name."""
    milliseconds = min(max(int(now * 1000), 0), 32**_TIME_LETTERS - 1) if math.isfinite(now) else 0
    chance = secrets.randbits(5 * _CHANCE_LETTERS)
    return _letters(milliseconds, _TIME_LETTERS) + _letters(chance, _CHANCE_LETTERS)


def is_id(text: str) -> bool:
    """Whether this could be the id of an item; anything else is never looked for on disk."""
    return len(text) == _TIME_LETTERS + _CHANCE_LETTERS and all(letter in _ALPHABET for letter in text)


def to_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=False)


def attributes_of(capture: Capture) -> str:
    return to_json(dict(capture.attributes))


def location_of(location: Location | None) -> str | None:
    return None if location is None else to_json(asdict(location))


def trouble_to_json(trouble: Sequence[str]) -> str:
    return to_json([sentence[:LONGEST_TROUBLE] for sentence in trouble[:MOST_TROUBLE]])


def trouble_from(row: sqlite3.Row) -> tuple[str, ...]:
    """From a row with ITEM_COLUMNS."""
    return tuple(json.loads(row["trouble"]))


def orders_to_json(orders: Iterable[Order]) -> str:
    return to_json([_plain(order) for order in orders])


def orders_from_json(text: str) -> tuple[Order, ...]:
    return tuple(_order(entry) for entry in json.loads(text))


def step_from(text: str | None) -> Step | None:
    return None if text is None else json.loads(text)


def item_from(row: sqlite3.Row, payload: bytes | None = None) -> Item:
    """From a row with ITEM_COLUMNS."""
    return Item(
        id=row["id"],
        source=row["source"],
        name=row["name"],
        kind=Kind(row["kind"]),
        content_type=row["content_type"],
        size_bytes=row["size_bytes"],
        sha256=row["sha256"],
        md5=row["md5"],
        captured_at=row["captured_at"],
        accepted_at=row["accepted_at"],
        payload=payload,
        topic=row["topic"],
        attributes=json.loads(row["attributes"]),
        location=None if row["location"] is None else Location(**json.loads(row["location"])),
        origin_path=None if row["origin_path"] is None else text_of(row["origin_path"]),
        damage=row["damage"],
    )


def priority_from(stored: int) -> Priority | None:
    return None if stored == UNCLAIMED else Priority(stored)


def priority_of(orders: Sequence[Order]) -> int:
    """What an item with these orders is stored with."""
    return min((int(order.priority) for order in orders), default=UNCLAIMED)


def delivery_from(row: sqlite3.Row, item_id: str, times: Timeline) -> Delivery:
    """From a whole row of `deliveries`; `due_at` by the wall clock."""
    return Delivery(
        id=row["id"],
        item_id=item_id,
        destination=row["destination"],
        action=row["action"],
        rule=row["rule"],
        priority=Priority(row["priority"]),
        state=State(row["state"]),
        attempts=row["attempts"],
        created_at=row["created_at"],
        due_at=times.wall_of_due(row["due_at"]),
        arguments=fields_from(row["arguments"]),
        then=orders_from_json(row["follow_ups"]),
        parent_receipt=fields_from(row["parent_receipt"]),
        reason=row["reason"],
        incident=row["incident"],
        waits_for=names_from(row["waits_for"]),
        is_held=bool(row["held"]),
    )


def fields_from(text: str) -> Fields:
    found: Fields = json.loads(text)
    return found


def origin_from(row: sqlite3.Row) -> Origin:
    """From a row of `ledger`."""
    return Origin(
        path=row["path"],
        device=_unsigned(row["device"]),
        inode=_unsigned(row["inode"]),
        size_bytes=row["size_bytes"],
        mtime_ns=row["mtime_ns"],
    )


def signed(number: int) -> int:
    """Inode and device numbers are 64 bits without a sign; the column has one."""
    return number - 2**64 if number >= 2**63 else number


def _unsigned(number: int) -> int:
    return number + 2**64 if number < 0 else number


def _letters(number: int, length: int) -> str:
    """An even number of letters, two at a time."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(5 * length - 10, -1, -10)])


def _plain(order: Order) -> dict[str, Any]:
    return {
        "destination": order.destination,
        "action": order.action,
        "priority": int(order.priority),
        "rule": order.rule,
        "arguments": dict(order.arguments),
        "then": [_plain(one) for one in order.then],
        "incident": order.incident,
        "needs": list(order.needs),
        "opens": list(order.opens),
        "is_tied": order.is_tied,
    }


def _order(entry: dict[str, Any]) -> Order:
    return Order(
        destination=entry["destination"],
        action=entry["action"],
        priority=Priority(entry["priority"]),
        rule=entry["rule"],
        arguments=entry["arguments"],
        then=tuple(_order(one) for one in entry["then"]),
        incident=entry.get("incident", ""),
        needs=tuple(entry.get("needs", ())),
        opens=tuple(entry.get("opens", ())),
        is_tied=entry.get("is_tied", False),
    )


def names_to_column(names: Collection[str]) -> str:
    """A JSON list; empty for none, which partial indexes look for."""
    return to_json(sorted(names)) if names else ""


def names_from(column: str) -> tuple[str, ...]:
    return tuple(json.loads(column)) if column else ()


def incident_from(row: sqlite3.Row) -> Incident:
    """From a whole row of `incidents`."""
    return Incident(
        id=row["id"],
        key=row["key"],
        rule=row["rule"],
        collect=tuple(json.loads(row["collect"])),
        opened_at=row["opened_at"],
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        closed_at=row["closed_at"],
        close_reason=row["close_reason"],
        remote=json.loads(row["remote"]),
    )
