"""One message on its way to a broker: looked at before it goes, answered after.

Promises: what the broker would never take is not sent; no more are under way at once than it allows; only its own good
answer counts.
"""

from __future__ import annotations

import asyncio

from relayd.broker_config import BrokerConfig
from relayd.broker_filters import is_topic
from relayd.broker_settings import ConnectionLost, Welcome
from relayd.broker_wire import Wire
from relayd.broker_words import FIRST_BAD, refusal
from relayd.errors import Rejected, Unavailable


class Outgoing:
    """Everything that goes to one broker. `answered` counts, across connections."""

    def __init__(self, name: str, config: BrokerConfig) -> None:
        self.answered = 0
        self._name = name
        self._config = config
        self._under_way = asyncio.Semaphore(1)

    def allow(self, welcome: Welcome) -> None:
        """A new connection: as many at once as it takes."""
        self._under_way = asyncio.Semaphore(welcome.outgoing)

    async def send(self, wire: Wire, welcome: Welcome, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """The reason code of the broker's good answer. Raises as `Broker.publish` says."""
        self._refuse_what_cannot_be(welcome, topic, payload, qos, retain=retain)
        try:
            async with self._under_way:
                code = await wire.send(topic, payload, qos=qos, retain=retain)
        except ConnectionLost as error:
            raise Unavailable(f"broker {self._name}: the connection ended before the answer: {error}") from None
        except TimeoutError:
            raise Unavailable(f"broker {self._name}: no answer within {self._config.connect_timeout:.0f} s") from None
        self.answered += 1
        if code >= FIRST_BAD:
            raise refusal(self._name, topic, code)
        return code

    def _refuse_what_cannot_be(self, welcome: Welcome, topic: str, payload: bytes, qos: int, *, retain: bool) -> None:
        if not is_topic(topic):
            raise Rejected(f"{topic[:200]!a} is no topic to publish under")
        limit_bytes = min(self._config.max_packet, welcome.max_packet_bytes or self._config.max_packet)
        size_bytes = len(payload) + len(topic.encode()) + 16
        if size_bytes > limit_bytes:
            raise Rejected(f"{size_bytes} bytes are more than a packet to broker {self._name} may have, {limit_bytes}")
        if qos > welcome.max_qos:
            raise refusal(self._name, topic, 0x9B)
        if retain and not welcome.can_retain:
            raise refusal(self._name, topic, 0x9A)
