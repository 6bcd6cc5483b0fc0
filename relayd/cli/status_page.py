"""The status snapshot as one screen for people.

Promises: pure; shows every source, destination, broker and link there is, and every reason in words, at 80 columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from relayd.cli.client import Document, escaped
from relayd.cli.phrases import count, local, relative, size, span, when
from relayd.cli.tables import Block, Column, Line, Table

GAUGE_CELLS = 20
_ENDED = ("delivered", "dead", "evicted", "expired", "unclaimed", "dropped")
"""How an item may have ended; a relay of an older version does not count all of them."""

_SOURCES = (
    Column("source", gives_way=True),
    Column("state"),
    Column("captured", is_number=True),
    Column("quarantined", is_number=True),
    Column("last item"),
)
_DESTINATIONS = (
    Column("destination", gives_way=True),
    Column("state"),
    Column("pending", is_number=True),
    Column("delivered", is_number=True),
    Column("dead", is_number=True),
    Column("next try"),
    Column("last success"),
)


def blocks(snapshot: Document, *, now: float) -> list[Block]:
    """Everything, the most important first."""
    return [
        *_head(snapshot, now),
        Line(""),
        *_spool(snapshot["spool"]),
        Line(""),
        *_sources(snapshot["sources"], now),
        *_destinations(snapshot["destinations"], now),
        *_others("broker", snapshot.get("brokers") or {}),
        *_others("link", snapshot.get("links") or {}),
        *_foot(snapshot, now),
    ]


def _head(snapshot: Document, now: float) -> Iterator[Block]:
    if "no_answer" in snapshot:
        yield Line(f"NO ANSWER since {local(snapshot['at'], now)}: {snapshot['no_answer']}", state="fault")
        yield Line("")
    device = snapshot["device"]
    name = escaped(device["name"])
    called = escaped(device["id"]) if device["name"] == device["id"] else f"{escaped(device['id'])} ({name})"
    site = f", {escaped(device['site'])}" if device["site"] else ""
    yield Line(f"relayd {escaped(snapshot['version'])} on {called}{site}: {snapshot['state']}", state=snapshot["state"])
    for reason in snapshot["reasons"]:
        yield Line(escaped(reason), state=snapshot["state"], indent=2)


def _spool(spool: Mapping[str, Any]) -> Iterator[Block]:
    share = min(1.0, spool["bytes"] / spool["max_bytes"]) if spool["max_bytes"] else 0.0
    filled = round(share * GAUGE_CELLS)
    gauge = "#" * filled + "-" * (GAUGE_CELLS - filled)
    yield Line(
        f"spool [{gauge}] {size(spool['bytes'])} of {size(spool['max_bytes'])}, "
        f"{size(spool['free_bytes'])} free on the disk"
    )
    oldest = spool["oldest_pending_seconds"]
    waiting = "" if oldest is None else f" (oldest for {span(oldest)})"
    ended = ", ".join(f"{count(spool[state])} {state}" for state in _ENDED if state in spool)
    yield Line(f"items {count(spool['items'])}: {count(spool['pending'])} pending{waiting}, {ended}")


def _sources(sources: Mapping[str, Any], now: float) -> Iterator[Block]:
    rows = [
        (
            escaped(name),
            source["state"],
            count(source["captured"]),
            count(source.get("quarantined", 0)),
            relative(source["last_at"], now),
        )
        for name, source in sources.items()
    ]
    yield Table(_SOURCES, rows) if rows else Line("no sources")
    yield from _reasons(sources)
    yield Line("")


def _destinations(destinations: Mapping[str, Any], now: float) -> Iterator[Block]:
    rows = [
        (
            escaped(name),
            there["state"],
            count(there["pending"]),
            count(there["delivered"]),
            count(there["dead"]),
            relative(there["next_try_at"], now, never="-"),
            relative(there["last_success_at"], now),
        )
        for name, there in destinations.items()
    ]
    yield Table(_DESTINATIONS, rows) if rows else Line("no destinations")
    yield from _reasons(destinations)
    yield Line("")


def _reasons(named: Mapping[str, Any]) -> Iterator[Block]:
    for name, one in named.items():
        if one.get("reason"):
            yield Line(f"{escaped(name)}: {escaped(one['reason'])}", state=one["state"], indent=2)


def _others(kind: str, named: Mapping[str, Any]) -> Iterator[Block]:
    """What has no table of its own: a line each."""
    for name, one in named.items():
        reason = f": {escaped(one['reason'])}" if one.get("reason") else ""
        state = str(one.get("state", ""))
        yield Line(f"{kind} {escaped(name)} {escaped(state)}{reason}", state=state)


def _foot(snapshot: Document, now: float) -> Iterator[Block]:
    yield Line(
        f"running for {span(snapshot['uptime_seconds'])}, since {local(snapshot['started_at'], now)}; "
        f"{_clock(snapshot['clock'])}"
    )
    config = snapshot["config"]
    yield Line(f"configuration {config['sha256'][:12]}, loaded {when(config['loaded_at'], now)}")
    if config["error"]:
        yield Line(f"a newer configuration was refused: {escaped(config['error'])}", state="fault")


def _clock(found: Mapping[str, Any]) -> str:
    if found["synchronized"] is None:
        return "whether the clock is right is not known"
    if not found["synchronized"]:
        return "the clock is NOT synchronized"
    offset = found["offset_seconds"]
    return "the clock is synchronized" + ("" if offset is None else f" (within {abs(offset) * 1000:.0f} ms)")
