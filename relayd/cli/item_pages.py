"""Items for people: the queue as a table, and one item with all that happened to it.

Promises: pure; every text of a stranger is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from relayd.cli.client import Document, escaped
from relayd.cli.phrases import relative, size, when
from relayd.cli.tables import Block, Column, Line, Table

_ITEMS = (
    Column("id"),
    Column("state"),
    Column("size", is_number=True),
    Column("age"),
    Column("name, and where it goes", gives_way=True),
)
_QUARANTINED = (Column("source"), Column("since"), Column("file, and why it is not taken", gives_way=True))
_ATTEMPTS = (Column("try", is_number=True), Column("began"), Column("outcome"), Column("what was said", gives_way=True))


def listed(page: Document, *, state: str | None, now: float) -> list[Block]:
    """A page of the queue."""
    found = page["items"]
    if not found:
        return [Line(f"no items in state {state}" if state else "no items")]
    table = _quarantined(found, now) if state == "quarantined" else _queue(found, now)
    more = [] if page["next"] is None else [Line(f"there are more: `relayd items --before {escaped(page['next'])}`")]
    return [table, *more]


def _queue(found: list[Mapping[str, Any]], now: float) -> Table:
    rows = []
    for item in found:
        story = "; ".join([f"{escaped(item['name'])} from {escaped(item['source'])}", *map(_short, item["deliveries"])])
        age = relative(item["accepted_at"], now).removesuffix(" ago")
        rows.append((escaped(item["id"]), item["state"], size(item["size"]), age, story))
    return Table(_ITEMS, rows)


def _short(delivery: Mapping[str, Any]) -> str:
    tries = f" after {_tries(delivery['attempts'])}" if delivery["attempts"] else ""
    return f"{escaped(delivery['destination'])} {delivery['state']}{tries}"


def _quarantined(found: list[Mapping[str, Any]], now: float) -> Table:
    rows = [
        (
            escaped(one["source"]),
            relative(one.get("quarantined_at"), now, never="-"),
            f"{escaped(one['path'])}: {escaped(one['reason'])}",
        )
        for one in found
    ]
    return Table(_QUARANTINED, rows)


def one(item: Document, *, now: float) -> list[Block]:
    """One item: what it is, and every delivery with every attempt."""
    return [
        Line(f"{escaped(item['id'])} {item['state']}: {escaped(item['name'])}", state=item["state"]),
        Line(f"{item['kind']} from {escaped(item['source'])}, {escaped(item['content_type'])}, {size(item['size'])}"),
        Line(f"captured {when(item['captured_at'], now)}, accepted {when(item['accepted_at'], now)}"),
        Line(f"sha256 {item['sha256']}"),
        *(Line(f"file {escaped(item['path'])}") for _ in [0] if item.get("path")),
        *(block for delivery in item["deliveries"] for block in _delivery(delivery, now)),
        *(Line(text) for text in ["no rule wanted it: it goes nowhere"] if not item["deliveries"]),
    ]


def _delivery(delivery: Mapping[str, Any], now: float) -> Iterator[Block]:
    yield Line("")
    rule = f", rule {escaped(delivery['rule'])!r}" if delivery.get("rule") else ""
    yield Line(
        f"{escaped(delivery['destination'])} {escaped(delivery['action'])}: {delivery['state']} "
        f"after {_tries(delivery['attempts'])}{rule}",
        state=delivery["state"],
    )
    if delivery["state"] == "pending":
        yield Line(f"next try {when(delivery['due_at'], now)}", indent=2)
    if delivery.get("reason"):
        yield Line(f"last answer: {escaped(delivery['reason'])}", indent=2)
    for key, value in (delivery.get("receipt") or {}).items():
        yield Line(f"{escaped(key)}: {escaped(str(value))}", indent=2)
    for name in delivery.get("steps") or {}:
        yield Line(f"step done: {escaped(name)}", indent=2)
    attempts = delivery.get("tries") or []
    if attempts:
        yield Table(
            _ATTEMPTS,
            [(str(a["number"]), when(a["started_at"], now), a["outcome"], escaped(a["reason"])) for a in attempts],
        )


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"
