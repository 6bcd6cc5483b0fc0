"""Reports to the fleet: state, health and events over MQTT, and commands from there. So far its configuration only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from relayd.fields import Duration, Section, written


class FleetConfig(Section):
    """The broker that watches the fleet, and what it may ask."""

    broker: Annotated[str, Field(min_length=1, examples=["fleet"])]
    """Name of a `[broker.NAME]`."""
    topic: Annotated[str, Field(min_length=1, max_length=256)] = "relayd/v1"
    """Everything is below TOPIC/DEVICE-ID/."""
    health_every: Duration = written("60s", ge=1)
    """How often the status snapshot is published, besides on every change."""
    commands: tuple[Literal["status", "pause", "resume", "retry", "flush"], ...] = ("status",)
    """What may be asked remotely."""

    @field_validator("topic")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        if set(value) & {"+", "#", "\0"} or value.startswith(("/", "$")) or value.endswith("/"):
            raise ValueError('must be a plain topic, write for example "relayd/v1"')
        return value
