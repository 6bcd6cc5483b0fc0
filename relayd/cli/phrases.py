"""How a person is told a size, a span or a moment.

Promises: pure; the present is an argument. Moments are local time and how long ago, spans have at most two units.
"""

from __future__ import annotations

import datetime
import time

from relayd.files import size_in_words as size

__all__ = ["count", "is_ahead", "local", "relative", "size", "span", "took", "when"]

_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def count(number: int) -> str:
    """`2,301`"""
    return f"{number:,}"


def span(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    left = max(0, round(seconds))
    for index, (length, unit) in enumerate(_SPANS):
        if left < length or length == 1:
            continue
        whole, rest = divmod(left, length)
        if length == 60 or index + 1 == len(_SPANS):
            return f"{whole} {unit}"
        smaller, smaller_unit = _SPANS[index + 1]
        part = rest // smaller
        return f"{whole} {unit} {part} {smaller_unit}" if part else f"{whole} {unit}"
    return f"{left} s"


def relative(moment: str | None, now: float, *, never: str = "never") -> str:
    """`3 min ago`, `in 12 s`, `now`."""
    if moment is None:
        return never
    seconds = _unix(moment) - now
    if abs(seconds) < 0.5:
        return "now"
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def local(moment: str, now: float) -> str:
    """`14:02:10`; with the date unless it is today's."""
    then, today = time.localtime(_unix(moment)), time.localtime(now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)


def when(moment: str | None, now: float, *, never: str = "never") -> str:
    """`14:02:10 (3 min ago)`"""
    return never if moment is None else f"{local(moment, now)} ({relative(moment, now)})"


def is_ahead(moment: str, now: float) -> bool:
    """Whether this is still to come."""
    return _unix(moment) > now


def took(began: str, ended: str) -> str:
    """`0.3 s` up to a minute, then as a span."""
    seconds = max(0.0, _unix(ended) - _unix(began))
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def _unix(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
