"""Which relays of a fleet a person wants to see, and in which order. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from relayd.errors import RelaydError
from relayd.fleet import STATES, Relay
from relayd.fleet_payloads import HEALTHS


class WrongFilter(RelaydError):
    """A filter that cannot be understood; says what to write instead."""


SORTS: Mapping[str, Callable[[Relay], Any]] = {
    "attention": lambda relay: relay.attention,
    "relay": lambda relay: 0,
    "state": lambda relay: STATES.index(relay.state),
    "health": lambda relay: HEALTHS.index(relay.health),
    "age": lambda relay: -_or_least(relay.health_age_seconds),
    "pending": lambda relay: -_or_least(relay.pending),
    "oldest": lambda relay: -_or_least(relay.oldest_pending_seconds),
    "dead": lambda relay: -_or_least(relay.dead),
    "version": lambda relay: relay.version or "",
    "site": lambda relay: relay.site or "",
}
"""Name → what comes first: the worst, the oldest, the most, the first letter. Equals by id."""

_FILTERS: Mapping[str, Callable[[Relay], Sequence[str | None]]] = {
    "state": lambda relay: (relay.state,),
    "health": lambda relay: (relay.health,),
    "name": lambda relay: (relay.id, relay.name),
    "site": lambda relay: (relay.site,),
    "version": lambda relay: (relay.version,),
    "reason": lambda relay: relay.reasons,
}


def chosen(relays: Iterable[Relay], filters: Sequence[str]) -> list[Relay]:
    """Those that every kind of filter takes: `state=lost`, `name=amb-*`, `site=…`, `health=…`, `version=…`,
    `reason=*login*`, or `faults`: everything that stands out. Several of one kind: any of them. Raises WrongFilter."""
    wanted: dict[str, list[str]] = {}
    for one in filters:
        key, equals, pattern = one.partition("=")
        if one != "faults" and (key not in _FILTERS or not equals):
            raise WrongFilter(f"no such filter: {one!a}; write faults, or KEY=PATTERN with {', '.join(_FILTERS)}")
        wanted.setdefault(key, []).append(pattern.casefold())
    return [relay for relay in relays if all(_fits(relay, key, patterns) for key, patterns in wanted.items())]


def ordered(relays: Iterable[Relay], sort: str, *, is_reversed: bool = False) -> list[Relay]:
    """By one of SORTS."""
    key = SORTS[sort]
    return sorted(relays, key=lambda relay: (key(relay), relay.id), reverse=is_reversed)


def _fits(relay: Relay, key: str, patterns: Sequence[str]) -> bool:
    if key == "faults":
        return relay.is_troubled
    texts = [text.casefold() for text in _FILTERS[key](relay) if text is not None]
    return any(fnmatch.fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _or_least(number: float | None) -> float:
    return -1.0 if number is None else number
