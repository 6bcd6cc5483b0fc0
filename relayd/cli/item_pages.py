"""Items for people: the queue as a table, and one item with all that happened to it.

Promises: pure; every text of a stranger is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from relayd.cli.client import Document, escaped
from relayd.cli.phrases import is_ahead, local, relative, size, took, when
from relayd.cli.tables import Block, Column, Line, Table

BY_HAND = "hand"
"""The source of what `relayd send` brought; its origin is no path that means anything to people."""

_ITEMS = (
    Column("id"),
    Column("state"),
    Column("size", is_number=True),
    Column("age"),
    Column("name, and where it goes", gives_way=True),
)
_ASKED = {"state": "in state", "source": "from source", "destination": "for destination", "before": "older than"}
_QUARANTINED = (Column("source"), Column("since"), Column("file, and why it is not taken", gives_way=True))
_ATTEMPTS = (
    Column("try", is_number=True),
    Column("began"),
    Column("took", is_number=True),
    Column("outcome"),
    Column("what was said", gives_way=True),
)


def listed(page: Document, *, now: float, state: str | None = None, of: Mapping[str, Any] | None = None) -> list[Block]:
    """A page of the queue; `of` is what was asked for, to say so if there is nothing."""
    found = page["items"]
    if not found:
        asked = [f" {words} {escaped(value)}" for key, words in _ASKED.items() if (value := (of or {}).get(key))]
        return [Line(f"no items{''.join(asked)}")]
    table = _quarantined(found, now) if state == "quarantined" else _queue(found, now)
    more = [] if page["next"] is None else [Line(f"there are more: `relayd items --before {escaped(page['next'])}`")]
    return [table, *more]


def _queue(found: list[Mapping[str, Any]], now: float) -> Table:
    rows = []
    for item in found:
        called = f"{escaped(item['name'])} from {escaped(item['source'])}"
        story = "; ".join([called, *_short(item["deliveries"]), *_trouble(item)])
        age = relative(item["accepted_at"], now).removesuffix(" ago")
        rows.append((escaped(item["id"]), item["state"], size(item["size"]), age, story))
    return Table(_ITEMS, rows)


def _trouble(item: Mapping[str, Any]) -> Iterator[str]:
    if item.get("trouble"):
        yield "its rules could not do all that they say (see `relayd items show`)"


def _short(deliveries: list[Mapping[str, Any]]) -> Iterator[str]:
    """Where it goes and how far that is; the action only where it tells one delivery from another."""
    places = Counter(delivery["destination"] for delivery in deliveries)
    for delivery in deliveries:
        tries = f" after {_tries(delivery['attempts'])}" if delivery["attempts"] else ""
        action = f" {escaped(delivery['action'])}" if places[delivery["destination"]] > 1 else ""
        yield f"{escaped(delivery['destination'])}{action} {delivery['state']}{tries}"


def _quarantined(found: list[Mapping[str, Any]], now: float) -> Table:
    rows = [
        (
            escaped(one["source"]),
            relative(one["at"], now),
            f"{escaped(one.get('path') or one['name'])}: {escaped(one['reason'])}",
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
        *_rest(item),
        *(block for delivery in item["deliveries"] for block in _delivery(delivery, now)),
    ]


def _rest(item: Document) -> Iterator[Block]:
    """What only some items have."""
    if item["origin_path"] and item["source"] != BY_HAND:
        yield Line(f"file {escaped(item['origin_path'])}")
    if item.get("damage"):
        yield Line(f"taken as it is: {escaped(item['damage'])}", state="waiting")
    if item["topic"]:
        yield Line(f"topic {escaped(item['topic'])}")
    for key, value in item["attributes"].items():
        yield Line(f"{escaped(key)} {escaped(str(value))}")
    for incident in item.get("incidents", ()):
        yield Line(f"in incident {escaped(incident)}: `relayd incidents show {escaped(incident)}`")
    for missed in item.get("missed", ()):
        yield Line(f"not in incident {escaped(missed['incident'])}: {escaped(missed['why'])}", state="waiting")
    if item["reason"]:
        yield Line(escaped(item["reason"]), state=item["state"])
    for sentence in item.get("trouble", ()):
        yield Line(f"trouble: {escaped(sentence)}", state="fault")
    if not item["content_kept"] and item["state"] != "delivered":
        yield Line("its content is no longer kept")
    if not item["deliveries"]:
        yield Line("no rule wanted it: it goes nowhere")


def _delivery(delivery: Mapping[str, Any], now: float) -> Iterator[Block]:
    yield Line("")
    dropped = ", dropped by hand" if delivery["dropped"] else ""
    yield Line(
        f"{escaped(delivery['destination'])} {escaped(delivery['action'])}: {delivery['state']} "
        f"after {_tries(delivery['attempts'])}{dropped} ({escaped(delivery['rule'])}, {delivery['priority']})",
        state=delivery["state"],
    )
    if delivery["waits_for"]:
        needs = " and ".join(escaped(need.rpartition(".")[2]) for need in delivery["waits_for"])
        yield Line(f"waits for the {needs} of incident {escaped(delivery['incident'])}", indent=2)
    elif delivery["due_at"]:
        words = "next try" if is_ahead(delivery["due_at"], now) else "waits its turn (see `relayd why`), due since"
        yield Line(f"{words} {when(delivery['due_at'], now)}", indent=2)
    if delivery["reason"] and not delivery["proof"]:
        yield Line(f"last answer: {escaped(delivery['reason'])}", indent=2)
    if delivery["proof"]:
        yield Line(f"proof: {escaped(delivery['proof'])}", indent=2)
    for key, value in (delivery["receipt"] or {}).items():
        if value is not None:
            yield Line(f"{escaped(key)}: {escaped(str(value))}", indent=2)
    for name, progress in delivery["steps"].items():
        yield Line(f"step {escaped(name)}: {escaped(progress)}", indent=2)
    if delivery["history"]:
        yield Table(_ATTEMPTS, [_attempt(record, now) for record in delivery["history"]])


def _attempt(record: Mapping[str, Any], now: float) -> tuple[str, ...]:
    return (
        str(record["number"]),
        local(record["started_at"], now),
        "" if record["ended_at"] is None else took(record["started_at"], record["ended_at"]),
        record["outcome"],
        escaped(record["reason"]),
    )


def _tries(number: int) -> str:
    return "1 try" if number == 1 else f"{number} tries"
