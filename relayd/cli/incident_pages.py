"""Incidents for people: the list, and one with everything that belongs to it.

Promises: pure; every text of a stranger is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from relayd.cli import item_pages
from relayd.cli.client import Document, escaped
from relayd.cli.phrases import relative, when
from relayd.cli.tables import Block, Column, Line, Table

_INCIDENTS = (
    Column("id"),
    Column("state"),
    Column("opened"),
    Column("items", is_number=True),
    Column("key, and ids elsewhere", gives_way=True),
)


def listed(page: Document, *, now: float) -> list[Block]:
    """A page of incidents."""
    if not page["incidents"]:
        return [Line("no incidents")]
    rows = [
        (
            escaped(one["id"]),
            one["state"],
            relative(one["opened_at"], now),
            str(one["items"]),
            "; ".join([escaped(one["key"]), *_ids(one)]),
        )
        for one in page["incidents"]
    ]
    more = page["next"]
    return [
        Table(_INCIDENTS, rows),
        *([Line(f"there are more: `relayd incidents --before {escaped(more)}`")] if more else []),
    ]


def one(incident: Document, *, now: float) -> list[Block]:
    """One incident, what is owed in it, and its items."""
    return [Line(f"{escaped(incident['id'])} {incident['state']}: {escaped(incident['key'])}"), *_about(incident, now)]


def _about(incident: Document, now: float) -> Iterator[Block]:
    opened = f"opened {when(incident['opened_at'], now)} by rule {escaped(incident['rule'])}"
    yield Line(f"{opened}, item {escaped(incident['opened_by'])}")
    if incident["closed_at"]:
        yield Line(f"closed {when(incident['closed_at'], now)}: {escaped(incident['close_reason'])}")
    else:
        yield Line(f"closes {when(incident['ends_at'], now)}, unless something else joins it")
    if incident["collect"]:
        sources = ", ".join(map(escaped, incident["collect"]))
        yield Line(f"collects from {sources}, what was captured since {when(incident['starts_at'], now)}")
    for name in _names(incident):
        yield Line(name)
    owed = ", ".join(f"{number} {state}" for state, number in incident["deliveries"].items())
    yield Line(f"deliveries in it: {owed or 'none'}")
    yield Line("")
    yield from item_pages.listed({"items": incident["belonging"], "next": None}, now=now)


def _ids(incident: Mapping[str, Any]) -> list[str]:
    """The number or name that each destination gave it: `control-room 48213`."""
    return [
        f"{escaped(destination)} {escaped(str(value))}"
        for destination, fields in incident["remote"].items()
        for name, value in fields.items()
        if name.endswith("_id")
    ]


def _names(incident: Mapping[str, Any]) -> list[str]:
    """What each destination calls it."""
    return [
        f"{escaped(destination)} {escaped(name)} {escaped(str(value))}"
        for destination, fields in incident["remote"].items()
        for name, value in fields.items()
    ]
