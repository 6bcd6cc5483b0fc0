"""Incidents: what ties the items of one event together. Pure policy: values in, values out; no clock, no I/O.

Promises: one incident is open under a key at any time; whatever joins it only makes its span longer; an item belongs to
it by when it was captured, whether it came before the incident opened, while it was open, or after it closed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from relayd.clock import rfc3339, span
from relayd.model import JSON, Incident, Opening

LONGEST_KEY = 200
"""A key is shown in lists and topics; of what is longer a digest stands for the rest, so that others stay others."""

EARLIEST_BELIEVABLE = 1_735_689_600.0
"""2025-01-01: a time before it was read from a clock that did not know the time."""
LATEST_AHEAD_SECONDS = 86_400.0
"""A time further in the future than this was read from a clock that has been put back since."""
AGREEING_SECONDS = 120.0
"""A file that comes within this after it was captured says that the camera's clock is right."""
MOST_HOURS_OFF = 14
"""No time zone is further from UTC."""
_QUARTER_SECONDS = 900
_LEAST_QUARTERS_SECONDS = 3 * 3600
"""No two zones that one place could be mistaken for differ by less than this and not by whole hours."""
RIGHT_FOR_SECONDS = 86_400.0
"""So long a clock that was right is taken for right."""

_DISPENSABLE = "?"


def dispensable(need: str) -> str:
    """The need in a form that says: waited for only as long as something in the incident may bring it."""
    return need + _DISPENSABLE


def is_dispensable(need: str) -> bool:
    return need.endswith(_DISPENSABLE)


def bare(need: str) -> str:
    """The need without that mark: the remote id that it names."""
    return need.removesuffix(_DISPENSABLE)


def short(key: str) -> str:
    """The key itself, or what stands for one that is too long."""
    if len(key) <= LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:16]
    return f"{key[: LONGEST_KEY - len(digest) - 1]}~{digest}"


def opened(opening: Opening, *, incident_id: str, now: float) -> Incident:
    """A new incident, from `before` ago to `after` from now."""
    return Incident(
        id=incident_id,
        key=opening.key,
        rule=opening.rule,
        collect=tuple(dict.fromkeys(opening.collect)),
        opened_at=now,
        starts_at=now - opening.before_seconds,
        ends_at=now + opening.after_seconds,
    )


def joined(incident: Incident, opening: Opening, *, now: float) -> Incident:
    """The same incident after one more item under its key: never shorter, never with fewer sources."""
    return replace(
        incident,
        collect=tuple(dict.fromkeys((*incident.collect, *opening.collect))),
        starts_at=min(incident.starts_at, incident.opened_at - opening.before_seconds),
        ends_at=max(incident.ends_at, now + opening.after_seconds),
    )


def closed(incident: Incident, reason: str, *, now: float) -> Incident:
    """Over: what is captured from now on does not belong to it any more. A clock that is behind its opening cannot say
    when that is."""
    ends_at = min(incident.ends_at, now) if now >= incident.opened_at else incident.ends_at
    return replace(incident, ends_at=ends_at, closed_at=now, close_reason=reason)


def moment_of(captured_at: float, accepted_at: float) -> float:
    """When something happened, in the clock of this relay: as captured, unless only a wrong clock can have said so."""
    is_believable = EARLIEST_BELIEVABLE <= captured_at <= accepted_at + LATEST_AHEAD_SECONDS
    return captured_at if is_believable or accepted_at < EARLIEST_BELIEVABLE else accepted_at


def covers(
    incident: Incident, source: str, captured_at: float, accepted_at: float, *, is_clock_right: bool = False
) -> bool:
    """Whether an item of `source` belongs to it. What came into the relay shortly before it opened does, and what comes
    while it is open, too: a file's own time may be that of a camera whose clock is wrong. Only a clock that was right
    lately (`is_clock_right`), and is not off by whole hours since, proves that something is old."""
    if source not in incident.collect:
        return False
    if incident.starts_at <= accepted_at <= incident.opened_at:
        return True
    moment = moment_of(captured_at, accepted_at)
    if incident.starts_at <= moment <= incident.ends_at:
        return True
    is_old = is_clock_right and moment < accepted_at and not is_off_by_hours(moment, accepted_at)
    return incident.opened_at <= accepted_at <= incident.ends_at and not is_old


def why_missed(incident: Incident, source: str, captured_at: float, accepted_at: float) -> str | None:
    """Why an item that does not belong to it does not, in words; None if that is not to be seen from their times."""
    if source not in incident.collect:
        return f"it collects from {', '.join(incident.collect) or 'no source'}, not from {source}"
    if covers(incident, source, captured_at, accepted_at, is_clock_right=True):
        return None
    moment = moment_of(captured_at, accepted_at)
    told = f"by its own time, {rfc3339(moment)}, it was captured"
    if moment > incident.ends_at:
        return f"{told} {span(moment - incident.ends_at)} after that ended"
    believed = ", and its camera's clock was right" if accepted_at >= incident.opened_at else ""
    return f"{told} {span(incident.starts_at - moment)} before that begins{believed}"


def agrees(captured_at: float, accepted_at: float) -> bool:
    """Whether this came as it was captured, by two clocks that say the same."""
    return abs(accepted_at - captured_at) <= AGREEING_SECONDS


def is_off_by_hours(captured_at: float, accepted_at: float) -> bool:
    """Whether the difference is that of another time zone, or of summer time."""
    return bool(zone_difference(captured_at, accepted_at))


def zone_difference(captured_at: float, accepted_at: float) -> int | None:
    """By how many seconds a clock is behind ours (negative) or ahead of it, if zones or summer time differ by as much:
    whole hours, from three hours on quarters, too; 0 where they agree, None where it is anything else."""
    difference = captured_at - accepted_at
    seconds = round(difference / _QUARTER_SECONDS) * _QUARTER_SECONDS
    is_between_zones = seconds % 3600 == 0 or abs(seconds) >= _LEAST_QUARTERS_SECONDS
    is_near = abs(seconds) <= MOST_HOURS_OFF * 3600 and abs(difference - seconds) <= AGREEING_SECONDS
    return seconds if is_near and is_between_zones else None


def document(incident: Incident) -> dict[str, JSON]:
    """What never changes of it: for a body that must be the same at every try."""
    return {"id": incident.id, "key": incident.key, "rule": incident.rule}


def seen(incident: Incident) -> dict[str, Any]:
    """What conditions and texts see: the document, and its remote ids: by destination, and plain."""
    plain: dict[str, JSON] = {}
    for fields in incident.remote.values():
        plain = {**fields, **plain}
    return {
        **plain,
        **document(incident),
        "opened_at": rfc3339(incident.opened_at),
        "remote": {name: dict(fields) for name, fields in incident.remote.items()},
    }


def remote_names(remote: Mapping[str, Mapping[str, JSON]]) -> frozenset[str]:
    """The needs that these remote ids meet: `DESTINATION.NAME`, and `NAME`."""
    given = {(destination, name) for destination, fields in remote.items() for name in fields}
    return frozenset({f"{destination}.{name}" for destination, name in given} | {name for _, name in given})
