"""The fleet as one table for people, and as one document for programs.

Promises: pure; one line for each relay, whatever is in it; on a narrow terminal the less important columns go first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from relayd.cli.client import escaped
from relayd.cli.phrases import count, span
from relayd.cli.tables import Block, Column, Line, Table
from relayd.fleet import STATES, Relay

WIDE_COLUMNS = 100
LONGEST_ID = 24
LONGEST_NARROW_ID = 14
HEAD_LINES = 5
"""Lines of the page that are no relay: three of text (the first may be folded), two of the table's head."""

_NARROW = (
    Column("relay"),
    Column("state"),
    Column("age", is_number=True),
    Column("health"),
    Column("pending", is_number=True),
    Column("oldest", is_number=True),
    Column("dead", is_number=True),
)
_WIDE = (Column("version"), Column("site"))
_REASON = Column("reason", gives_way=True, is_cut=True)


def document(relays: Sequence[Relay], everything: Sequence[Relay], **about: Any) -> dict[str, Any]:
    """For programs; `relays` are the chosen ones in their order."""
    return {
        "schema": 1,
        **about,
        "total": len(everything),
        "states": _states(everything),
        "relays": [{**asdict(relay), "reasons": list(relay.reasons)} for relay in relays],
    }


def blocks(
    relays: Sequence[Relay], everything: Sequence[Relay], *, width: int | None, note: str = "", trouble: str = ""
) -> list[Block]:
    """The head, then a line for each of `relays`."""
    no_broker = [Line(f"NO BROKER: {escaped(trouble)}", state="fault")] if trouble else []
    head = Line(_head(everything), state="fault" if any(one.state in ("lost", "stale") for one in everything) else "")
    is_wide = width is None or width >= WIDE_COLUMNS
    columns = (*_NARROW, *(_WIDE if is_wide else ()), _REASON)
    rows = [_row(relay, is_wide=is_wide) for relay in relays]
    foot = [Line(note)] if note else []
    return [*no_broker, head, Table(columns, rows) if rows else Line("no relay to show"), *foot]


def _head(everything: Sequence[Relay]) -> str:
    states = ", ".join(f"{count(number)} {state}" for state, number in _states(everything).items() if number)
    ill = sum(1 for relay in everything if relay.health == "fault" and relay.state == "online")
    faults = f"; {count(ill)} online with faults" if ill else ""
    if not everything:
        return "no relays yet"
    return f"{'1 relay' if len(everything) == 1 else f'{count(len(everything))} relays'}: {states}{faults}"


def _states(everything: Sequence[Relay]) -> dict[str, int]:
    return {state: sum(relay.state == state for relay in everything) for state in STATES}


def _row(relay: Relay, *, is_wide: bool) -> tuple[str, ...]:
    age = relay.health_age_seconds
    oldest = relay.oldest_pending_seconds
    cells = (
        _short(relay.id, LONGEST_ID if is_wide else LONGEST_NARROW_ID),
        relay.state,
        "?" if age is None else _brief(age),
        relay.health,
        "?" if relay.pending is None else count(relay.pending),
        "" if oldest is None else _brief(oldest),
        "?" if relay.dead is None else count(relay.dead),
    )
    wide = (_short(relay.version or "", 12), _short(relay.site or "", 16)) if is_wide else ()
    return (*cells, *wide, _reason(relay))


def _reason(relay: Relay) -> str:
    """The first one, and how many more there are."""
    reasons = list(relay.reasons)
    if relay.clock_ahead_seconds is not None:
        side = "ahead of" if relay.clock_ahead_seconds > 0 else "behind"
        reasons.append(f"its clock is {span(abs(relay.clock_ahead_seconds))} {side} ours")
    if not reasons:
        return ""
    more = f" (+{len(reasons) - 1})" if len(reasons) > 1 else ""
    return escaped(reasons[0]) + more


def _brief(seconds: float) -> str:
    """The larger unit alone: `12 s`, `3 min`, `2 h`, `3 d`."""
    return " ".join(span(seconds).split()[:2])


def _short(text: str, most: int) -> str:
    """Beginning and end: names that differ in their number stay apart."""
    shown = escaped(text if len(text) <= 2 * most else text[:most] + text[-most:])
    head = most // 2
    return shown if len(shown) <= most else f"{shown[:head]}…{shown[len(shown) - (most - head - 1) :]}"
