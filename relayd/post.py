"""Where reports to the fleet are handed to its broker: topics below one base, one JSON document each.

Promises: what `publish` returned from, the broker has acknowledged. A topic that the broker refuses is remembered, with
the reason, until it takes one again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from relayd.broker import Broker
from relayd.errors import Rejected, TryAgain
from relayd.reports import encoded

log = logging.getLogger("relayd.post")


class Post:
    """One relay's way to the fleet's broker."""

    def __init__(self, broker: Broker, base: str) -> None:
        self._broker = broker
        self._base = base
        self._refused: dict[str, str] = {}

    @property
    def is_open(self) -> bool:
        """Whether the broker is connected."""
        return self._broker.is_connected

    @property
    def trouble(self) -> str:
        """Why the broker does not take everything; empty if it does."""
        return next(iter(self._refused.values()), "")

    async def publish(self, topic: str, document: Mapping[str, Any], *, retain: bool = False) -> None:
        """Below the base. Raises Unavailable; TryAgain and Rejected where the broker refuses it."""
        await self.publish_at(f"{self._base}/{topic}", encoded(document), kind=topic.partition("/")[0], retain=retain)

    async def publish_at(self, topic: str, payload: bytes, *, kind: str, retain: bool) -> None:
        """Anywhere; `kind` is what a refusal is remembered under."""
        try:
            await self._broker.publish(topic, payload, qos=1, retain=retain)
        except (TryAgain, Rejected) as error:
            if kind not in self._refused:
                log.warning("reports to the fleet: %s", error)
            self._refused[kind] = str(error)
            raise
        if self._refused.pop(kind, None) is not None:
            log.info("reports to the fleet: the broker takes %s again", kind)
