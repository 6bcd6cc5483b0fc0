"""Times as people write them on the command line.

Promises: pure but for the clock that is handed in; what cannot be read is wrong usage, with what to write instead.
"""

from __future__ import annotations

import datetime
import re

import click

from relayd import clock
from relayd.fields import parse_duration

_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def read(text: str, now: float) -> float:
    """Unix seconds of `14:00` (the last time the local clock said so), RFC 3339 (local time without a zone), or a span
    ago (`12h`). Raises ValueError."""
    of_day = _OF_DAY.fullmatch(text)
    if of_day is not None:
        today = datetime.datetime.fromtimestamp(now).astimezone()
        moment = today.replace(tzinfo=None, hour=int(of_day[1]), minute=int(of_day[2]), second=0, microsecond=0)
        if moment.timestamp() > now:
            moment -= datetime.timedelta(days=1)
        return moment.timestamp()
    if text[:4].isdigit() and "-" in text:
        return datetime.datetime.fromisoformat(text).timestamp()
    return now - parse_duration(text)


class _Moment(click.ParamType[str]):
    """RFC 3339 of what was written."""

    name = "T"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return clock.rfc3339(read(str(value), clock.now()))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time, write 14:00, 2026-01-31T14:00:00Z, or 12h for 12 hours ago", param, ctx)


MOMENT = _Moment()
