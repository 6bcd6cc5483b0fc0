"""How it stands with a broker: whether it is there, what is wrong, and when that was said.

Promises: the journal is told once when trouble comes and once when it goes. Connections that break again and again soon
after they were made are a fault of their own, whatever each of them says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from relayd import clock
from relayd.broker_config import BrokerConfig
from relayd.broker_trouble import Trouble
from relayd.messages import about

log = logging.getLogger("relayd.broker")

STEADY_SECONDS = 30.0
"""A connection that held this long, or over which something was taken, starts the backoff anew."""
MANY_SHORT = 3
"""So many connections in a row that broke before they were steady: something other than the network breaks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerView:
    """For the status snapshot. `waiting`: it mends itself; `fault`: a person has to do something."""

    state: Literal["ok", "waiting", "fault"]
    reason: str


class Standing:
    """Of one broker. Told by its `Broker` of every connection that came about and of every end."""

    def __init__(self, name: str, config: BrokerConfig, client_id: str) -> None:
        self._name = name
        self._suspicion = (
            f"connections to {config.host} port {config.port} break again and again soon after they are made:"
            f" does another relay use the client id {client_id!a}?"
        )
        self._trouble = Trouble("it is being connected to", is_fault=False)
        self._connected_at = float("-inf")
        self._short_lived = 0

    def connected(self) -> None:
        """The broker has taken the connection."""
        self._connected_at = clock.monotonic()

    def connected_seconds(self) -> float:
        """How long ago that was."""
        return clock.monotonic() - self._connected_at

    def serves(self, version: str) -> None:
        """Everything is asked for: it may be used from now on."""
        log.info("broker %s: connected, MQTT %s", self._name, version, extra=about(broker=self._name))
        self._trouble = Trouble("the connection has just ended", is_fault=False)

    def ended(self, trouble: Trouble, *, started_at: float) -> float:
        """A connection that was begun then (monotonic seconds) has ended so; how many seconds it lasted."""
        lasted_seconds = clock.monotonic() - started_at
        is_short = trouble.was_connected and self._connected_at >= started_at and lasted_seconds < STEADY_SECONDS
        self._short_lived = self._short_lived + 1 if is_short else 0
        return lasted_seconds

    def tell(self, trouble: Trouble) -> None:
        """Said once, as long as it stays the same."""
        if trouble.text != self._trouble.text:
            log.warning("broker %s: %s", self._name, trouble.text, extra=about(broker=self._name))
        self._trouble = trouble

    def view(self, *, is_connected: bool, refused: Mapping[str, str]) -> BrokerView:
        """`refused` is what the present connection does not get."""
        if self._short_lived >= MANY_SHORT and self.connected_seconds() < STEADY_SECONDS:
            return BrokerView(state="fault", reason=self._suspicion)
        if not is_connected:
            return BrokerView(state="fault" if self._trouble.is_fault else "waiting", reason=self._trouble.in_full)
        reason = next(iter(refused.values()), "")
        return BrokerView(state="fault" if reason else "ok", reason=reason)
