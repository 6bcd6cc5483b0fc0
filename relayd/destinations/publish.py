"""MQTT as a destination: messages stored here and forwarded to another broker. So far its configuration only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.destinations import Models
from relayd.destinations.base import DestinationConfig
from relayd.fields import Section


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
    """What; absent: the message as it came."""
    qos: Annotated[int, Field(ge=0, le=2)] = 1
    """MQTT quality of service."""
    retain: bool = False
    """Whether the broker keeps it for later subscribers."""


PLANNED = Models(config=MqttConfig, actions={"publish": PublishArguments}, receipt=frozenset())
