"""Where the device is: the newest fixes of `device.location_topic`.

Promises: a message that is no position is ignored and counted, never an error; memory is bounded. Fixes are not kept
across restarts: the next one comes within seconds, and an old one would mislead.
"""

from __future__ import annotations

import json
from collections import deque
from datetime import datetime

from relayd import clock
from relayd.broker import Broker, Message, Subscription
from relayd.model import Location

KEPT = 600
SPACING_SECONDS = 1.0
"""Fixes nearer to one another than this replace one another, so that the ones kept reach back at least 10 minutes."""
LARGEST_BYTES = 64 * 1024


class Whereabouts:
    """Fixes as they come, and which of them belongs to a moment. Without a topic there never is one."""

    def __init__(self) -> None:
        self._fixes: deque[tuple[float, bool, Location]] = deque(maxlen=KEPT)
        self._broker: Broker | None = None
        self._subscription: Subscription | None = None
        self.ignored = 0

    def follow(self, broker: Broker, topic: str) -> None:
        """Learn from this topic, and from no other any more. Losing a fix is no harm: QoS 0."""
        self.leave()
        self._broker = broker
        self._subscription = broker.subscribe((topic,), self._take, name="device.location_topic", qos=0)

    def leave(self) -> None:
        """Learn nothing new; what is known stays."""
        if self._broker is not None and self._subscription is not None:
            self._broker.unsubscribe(self._subscription)
        self._broker = self._subscription = None

    @property
    def reason(self) -> str:
        """Why no fixes come; empty if they may."""
        return "" if self._subscription is None else self._subscription.reason

    def at(self, moment: float) -> Location | None:
        """The newest fix that is not younger than `moment` (Unix seconds), else the oldest known; None: there is none.

        `age_seconds` is how old it was then; negative if it came later; None if a broker kept it for an unknown time.
        """
        if not self._fixes:
            return None
        found = next((fix for fix in reversed(self._fixes) if fix[0] <= moment), self._fixes[0])
        came_at, is_dated, place = found
        return Location(
            latitude=place.latitude,
            longitude=place.longitude,
            accuracy_meters=place.accuracy_meters,
            age_seconds=round(moment - came_at, 3) if is_dated else None,
        )

    async def _take(self, message: Message) -> None:
        place, told_at = read(message.payload)
        if place is None:
            self.ignored += 1
            return
        came_at = clock.now() if told_at is None or not message.is_retained else told_at
        is_dated = told_at is not None or not message.is_retained
        if self._fixes and 0 <= came_at - self._fixes[-1][0] < SPACING_SECONDS:
            came_at = self._fixes.pop()[0] if len(self._fixes) > 1 and self._is_dense(came_at) else came_at
        self._fixes.append((came_at, is_dated, place))

    def _is_dense(self, came_at: float) -> bool:
        return came_at - self._fixes[-2][0] < SPACING_SECONDS


def read(payload: bytes) -> tuple[Location | None, float | None]:
    """The position in a message, and its time if it tells one (`time` or `timestamp`: Unix seconds or RFC 3339)."""
    try:
        told = json.loads(payload) if len(payload) <= LARGEST_BYTES else None
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(told, dict):
        return None, None
    latitude, longitude = _number(told.get("latitude"), 90.0), _number(told.get("longitude"), 180.0)
    if latitude is None or longitude is None:
        return None, None
    accuracy = _number(told.get("accuracy_meters", told.get("accuracy")), 1e7)
    place = Location(
        latitude=latitude,
        longitude=longitude,
        accuracy_meters=accuracy if accuracy is not None and accuracy >= 0 else None,
    )
    return place, _time(told.get("time", told.get("timestamp")))


def _number(value: object, limit: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= limit else None  # also of integers that are too long for a float


def _time(value: object) -> float | None:
    seconds = _number(value, 4e9)
    if seconds is not None or not isinstance(value, str):
        return seconds
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None
