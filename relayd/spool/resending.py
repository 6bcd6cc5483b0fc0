"""Delivers again, asked by a person, what was delivered already: the same item, in a new delivery.

Promises: only what a destination was proven to have had is sent to it again, as it was ordered then, without what
followed it and without opening anything anew; nothing is under way twice to the same place. Each call is one commit of
a bounded amount; of each item that is left as it is it says why.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from relayd.model import Kind, Order, Priority, State
from relayd.rules import likeness
from relayd.spool.change import Change
from relayd.spool.records import Resent
from relayd.spool.rows import fields_from
from relayd.spool.states import add_deliveries, settle


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """To whom, and in whose name (`rule`), how urgently. Of `never_late` actions nothing is sent again."""

    destination: str
    priority: Priority
    rule: str
    never_late: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which items: those whose name has `text` in it, that were taken from `since` until before `until`."""

    text: str = ""
    since: float
    until: float | None = None
    source: str | None = None


def find(db: sqlite3.Connection, wanted: Wanted, *, after: int, limit: int) -> list[tuple[int, str]]:
    """A page of (number, id), oldest first, with numbers above `after`."""
    rows = db.execute(
        "SELECT seq, id FROM items WHERE seq > ?1 AND accepted_at >= ?2 AND (?3 IS NULL OR accepted_at < ?3)"
        " AND (?4 IS NULL OR source = ?4) AND (?5 = '' OR instr(lower(name), lower(?5)) > 0) ORDER BY seq LIMIT ?6",
        (after, wanted.since, wanted.until, wanted.source, wanted.text, limit),
    )
    return [(row["seq"], row["id"]) for row in rows]


def resend(change: Change, item_ids: Sequence[str], terms: Terms, *, now: float) -> list[Resent]:
    """Owe these items once more."""
    now = change.times.today(now)
    return [_resend_one(change, item_id, terms, now) for item_id in item_ids]


def _resend_one(change: Change, item_id: str, terms: Terms, now: float) -> Resent:
    item = change.db.execute("SELECT seq, name, kind, has_content FROM items WHERE id = ?", (item_id,)).fetchone()
    if item is None:
        return Resent(item_id=item_id, why="it is not in the spool")
    rows = change.db.execute("SELECT * FROM deliveries WHERE item = ? ORDER BY id", (item["seq"],)).fetchall()
    there = [row for row in rows if row["destination"] == terms.destination]
    why = _why_not(item, rows, there, terms.never_late)
    if why:
        return Resent(item_id=item_id, name=item["name"], why=why)
    again = [row for row in _each_once(there, terms) if row["action"] not in terms.never_late]
    for row in again:
        receipt = fields_from(row["parent_receipt"])
        add_deliveries(change, item["seq"], [_order(row, terms)], parent_receipt=receipt, now=now)
    settle(change, item["seq"], now=now)
    return Resent(item_id=item_id, name=item["name"], actions=tuple(row["action"] for row in again))


def _why_not(
    item: sqlite3.Row, rows: Sequence[sqlite3.Row], there: Sequence[sqlite3.Row], never_late: Collection[str]
) -> str:
    if any(row["state"] == State.PENDING for row in there):
        return "it is on its way there already"
    delivered = [row for row in there if row["state"] == State.DELIVERED]
    if not delivered and there:
        return f"its delivery there is {there[-1]['state']}, `relayd retry` is for that"
    if not delivered:
        others = sorted({row["destination"] for row in rows if row["state"] == State.DELIVERED})
        return f"it was never delivered there{', but to ' + ', '.join(others) if others else ''}"
    if not item["has_content"]:
        kept = " ([spool] keep_content)" if item["kind"] == Kind.MEDIA else ""
        return f"its content is no longer kept{kept}"
    if all(row["action"] in never_late for row in delivered):
        return f"a {delivered[-1]['action']} is never done late"
    return ""


def _each_once(there: Sequence[sqlite3.Row], terms: Terms) -> Iterator[sqlite3.Row]:
    """Of deliveries that were ordered alike, by rules or by hand, the last."""
    last = {likeness(_order(row, terms)): row for row in there if row["state"] == State.DELIVERED}
    yield from last.values()


def _order(row: sqlite3.Row, terms: Terms) -> Order:
    return Order(
        destination=row["destination"],
        action=row["action"],
        priority=terms.priority,
        rule=terms.rule,
        arguments=fields_from(row["arguments"]),
        incident=row["incident"],
    )
