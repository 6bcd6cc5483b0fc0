"""MQTT as a destination: messages stored here and forwarded to another broker.

Promises: a delivery ends with the broker's own acknowledgement and its reason code, never earlier. A crash between the
broker's answer and our record publishes the message again: at least once, as MQTT's QoS 1 has it, and without a budget
(`at_most_once`): who subscribes must expect repeats by the protocol itself, and a lost PUBACK is what a bad link looks
like. A broker that speaks only 3.1.1 acknowledges messages that it does not allow, too: the receipt says so.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from relayd.broker import Broker
from relayd.destinations.base import Attempt, Destination, DestinationConfig
from relayd.errors import Rejected
from relayd.fields import Section
from relayd.model import Finding, Kind, Receipt
from relayd.surroundings import Surroundings

NOBODY_SUBSCRIBES = 0x10


class MqttConfig(DestinationConfig):
    """A broker that messages are forwarded to."""

    type: Literal["mqtt"]
    """Always `mqtt`."""
    broker: Annotated[str, Field(min_length=1, examples=["fleet"])]
    """Name of a `[broker.NAME]`."""


class PublishArguments(Section):
    """`publish`: publish the message."""

    topic: Annotated[str | None, Field(min_length=1, examples=["sites/{{ device.site }}/{{ item.topic }}"])] = None
    """Where to; absent: the topic it came from."""
    payload: str | None = None
    """What; absent: the message, or the file, as it came."""
    qos: Annotated[int, Field(ge=1, le=2)] = 1
    """MQTT quality of service; 0 would prove nothing, so it is not offered."""
    retain: bool = False
    """Whether the broker keeps it for later subscribers."""


class Publish(Destination):
    """One broker."""

    Config = MqttConfig
    actions: ClassVar = {"publish": PublishArguments}
    receipt_fields = frozenset()

    def __init__(self, name: str, config: MqttConfig, surroundings: Surroundings) -> None:
        self.name = name
        self._broker: Broker = surroundings.brokers[config.broker]

    async def deliver(self, attempt: Attempt) -> Receipt:
        arguments = PublishArguments.model_validate(dict(attempt.arguments))
        topic = arguments.topic or attempt.item.topic
        if not topic:
            raise Rejected("it came from no topic: write topic = … in the rule")
        payload = self._content(attempt) if arguments.payload is None else arguments.payload.encode()
        code = await self._broker.publish(topic, payload, qos=arguments.qos, retain=arguments.retain)
        answer = "PUBACK" if arguments.qos == 1 else "PUBCOMP"
        proof = f"{answer} 0x{code:02x} from broker {self._broker.name}"
        if code == NOBODY_SUBSCRIBES:
            proof += " (nobody subscribes there)"
        elif self._broker.version != "5":
            proof += " (MQTT 3.1.1: without a word on whether that is allowed)"
        return Receipt(proof=proof)

    async def check(self) -> list[Finding]:
        """Nothing of its own: the broker has its own lines."""
        return []

    def _content(self, attempt: Attempt) -> bytes:
        item = attempt.item
        if item.kind is Kind.MESSAGE:
            return item.payload or b""
        limit_bytes = self._broker.config.max_packet
        if item.size_bytes > limit_bytes:
            name = self._broker.name
            raise Rejected(f"a file of {item.size_bytes} bytes is more than max_packet of broker {name}, {limit_bytes}")
        with attempt.open_media() as stream:
            return stream.read()
