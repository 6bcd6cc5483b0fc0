"""What relays publish about themselves, read with suspicion: whatever the bytes, an answer and no error.

Promises: texts and numbers come out bounded, or as None where they are not what they should be.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CLOCK_TOLERANCE_SECONDS = 120.0
LARGEST_PAYLOAD_BYTES = 1_000_000
MOST_REASONS = 8
LONGEST_TEXT = 300
HEALTHS = ("fault", "degraded", "ok", "unknown")


@dataclass(slots=True)
class State:
    """`word` is what it says it is; `at` Unix seconds by its own clock."""

    word: str = ""
    session: str | None = None
    at: float | None = None
    version: str | None = None


@dataclass(slots=True)
class Health:
    """`heard_at` monotonic, None for one that the broker had kept; `at` by the relay's own clock, which is
    `ahead_seconds` of ours where that is plain."""

    at: float | None = None
    session: str | None = None
    word: str = "unknown"
    reasons: tuple[str, ...] = ()
    name: str | None = None
    site: str | None = None
    version: str | None = None
    pending: int | None = None
    oldest: float | None = None
    dead: int | None = None
    heard_at: float | None = None
    ahead_seconds: float | None = None


def document_of(payload: bytes) -> Mapping[str, Any] | str:
    """A JSON object, or why it is none."""
    if len(payload) > LARGEST_PAYLOAD_BYTES:
        return f"{len(payload):,} bytes are too many"
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return "it is no JSON"
    return document if isinstance(document, dict) else "it is no JSON object"


def state_of(document: Mapping[str, Any]) -> State:
    """What `state` says, as far as it can be used."""
    return State(
        word=_text(document.get("state")) or "",
        session=_text(document.get("session")),
        at=_time(document.get("at")),
        version=_text(document.get("version")),
    )


def health_of(document: Mapping[str, Any], *, now: float, heard_at: float | None) -> Health:
    """What `health` says, as far as it can be used; `heard_at` None for one that the broker had kept."""
    device, spool = _table(document.get("device")), _table(document.get("spool"))
    destinations = [_table(one) for one in _table(document.get("destinations")).values()]
    at, word = _time(document.get("at")), _text(document.get("state"))
    is_ahead = at is not None and at - now > CLOCK_TOLERANCE_SECONDS
    is_behind = at is not None and heard_at is not None and now - at > CLOCK_TOLERANCE_SECONDS
    return Health(
        at=at,
        session=_text(document.get("session")),
        word=word if word in HEALTHS else "unknown",
        reasons=_texts(document.get("reasons")),
        name=_text(device.get("name")),
        site=_text(device.get("site")),
        version=_text(document.get("version")),
        pending=_count(spool.get("pending")),
        oldest=_number(spool.get("oldest_pending_seconds")),
        dead=_dead(spool, destinations),
        heard_at=heard_at,
        ahead_seconds=round(at - now, 1) if at is not None and (is_ahead or is_behind) else None,
    )


def _dead(spool: Mapping[str, Any], destinations: Sequence[Mapping[str, Any]]) -> int | None:
    """Items that are dead; where that is not told, deliveries."""
    told = _count(spool.get("dead"))
    if told is not None:
        return told
    counts = [count for one in destinations if (count := _count(one.get("dead"))) is not None]
    return sum(counts) if counts else None


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value[:LONGEST_TEXT] if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(text for one in value[:MOST_REASONS] if (text := _text(one)) is not None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= 1e15 and math.isfinite(value) else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _time(value: Any) -> float | None:
    if not isinstance(value, str) or not 20 <= len(value) <= 40:
        return None
    try:
        moment = datetime.datetime.fromisoformat(value)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
