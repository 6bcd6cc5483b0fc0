"""Links: which network interface may carry what, when, and how much. So far its configuration only. Pure policy.

Promises: what `[link.NAME]` says is checked and turned into numbers here; no clock, no I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from relayd.fields import Section, parse_size

_PERIOD_SECONDS = {"hour": 3_600, "day": 86_400, "week": 604_800, "month": 2_592_000}
_BUDGET = re.compile(r"\s*(.+?)\s*/\s*(\w+)\s*")
_HOURS = re.compile(r"\s*([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-4]):([0-5]\d)\s*")


@dataclass(frozen=True, slots=True)
class Budget:
    """So many bytes in each period."""

    size_bytes: int
    period: str
    period_seconds: int


@dataclass(frozen=True, slots=True)
class Hours:
    """From minute to minute of the local day; `first` after `last` passes midnight."""

    first_minute: int
    last_minute: int


def parse_budget(value: Any) -> Budget:
    """`"500MB/day"` → 500,000,000 bytes a day. Raises ValueError with the remedy."""
    match = _BUDGET.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in _PERIOD_SECONDS:
        raise ValueError('not a budget, write for example "500MB/day" (hour, day, week or month)')
    return Budget(parse_size(match[1]), match[2], _PERIOD_SECONDS[match[2]])


def parse_rate(value: Any) -> int:
    """`"1MB/s"` → 1,000,000 bytes a second. Raises ValueError with the remedy."""
    if not isinstance(value, str) or not value.strip().endswith("/s"):
        raise ValueError('not a rate, write for example "1MB/s"')
    rate = parse_size(value.strip().removesuffix("/s"))
    if rate == 0:
        raise ValueError("must be more than 0; to send nothing leave the link out of `hours`")
    return rate


def parse_hours(value: Any) -> Hours:
    """`"06:00-22:00"` → minutes 360 to 1320. Raises ValueError with the remedy."""
    match = _HOURS.fullmatch(value) if isinstance(value, str) else None
    first, last = (int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])) if match else (0, 0)
    if first == last or last > 24 * 60:
        raise ValueError('not a span of hours, write for example "06:00-22:00"')
    return Hours(first, last)


class LinkConfig(Section):
    """A network interface, by its name; one that is not named here is unmetered and unlimited."""

    metered: bool = False
    """Whether bytes cost money: such a link carries `high` and `emergency` only, unless a rule says otherwise."""
    budget: Annotated[
        Budget | None,
        PlainValidator(lambda value: None if value is None else parse_budget(value)),
        WithJsonSchema({"type": "string", "pattern": r"^.+/\s*(hour|day|week|month)$", "examples": ["500MB/day"]}),
    ] = None
    """How much may go over it; what is of priority `emergency` always may. Absent: no limit."""
    hours: Annotated[
        Hours | None,
        PlainValidator(lambda value: None if value is None else parse_hours(value)),
        WithJsonSchema(
            {"type": "string", "pattern": r"^\s*\d?\d:\d\d\s*-\s*\d?\d:\d\d\s*$", "examples": ["06:00-22:00"]}
        ),
    ] = None
    """When it may be used, local time; absent: always."""
    max_rate: Annotated[
        int | None,
        PlainValidator(lambda value: None if value is None else parse_rate(value)),
        WithJsonSchema({"type": "string", "pattern": r"^.+/s\s*$", "examples": ["1MB/s"]}),
    ] = None
    """How fast uploads over it may be; absent: as fast as it goes."""
