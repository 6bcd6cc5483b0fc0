"""`[source.NAME]` with `type = "mqtt"`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from relayd.broker_filters import is_filter
from relayd.fields import Duration, Size, written
from relayd.sources.base import SourceConfig
from relayd.sources.name_pattern import NamePattern


class TopicConfig(SourceConfig):
    """Messages, or images, that others publish."""

    type: Literal["mqtt"]
    """Always `mqtt`."""
    broker: Annotated[str, Field(min_length=1, examples=["local"])]
    """Name of a `[broker.NAME]`."""
    topics: Annotated[tuple[str, ...], Field(min_length=1, max_length=100, examples=[["vehicle/panic"]])]
    """Topics to take; `+` and `#` as MQTT has them, `$share/GROUP/TOPIC` to share them with other relays."""
    kind: Literal["message", "media"] = "message"
    """`media`: each message is a whole file, for example an image."""
    qos: Annotated[int, Field(ge=0, le=2)] = 1
    """MQTT quality of service asked for; below 1 messages may be lost on the way here."""
    retained: Literal["ignore", "take", "once"] = "ignore"
    """What to do with messages that the broker kept from before: `take` each time they come (with every connection),
    or `once` while they stay the same."""
    topic_pattern: Annotated[str | None, Field(examples=["cameras/{camera}/snapshot"])] = None
    """What topics tell: each `{field}` becomes an attribute of the item."""
    min_interval: Annotated[Duration | None, Field(examples=["1s"])] = None
    """At most one message per topic in this time; those in between are let go. Absent: each is taken."""
    max_message: Size = written("256KB", gt=0)
    """Larger messages are refused and counted; the broker's `max_packet` must be larger than this."""
    max_topic: Size = written("512B", gt=0)
    """The same for longer topics."""
    max_per_second: Annotated[int, Field(ge=1)] = 2000
    """More than this are slowed down: they wait at the broker."""

    @field_validator("topics")
    @classmethod
    def _are_filters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for topic in value:
            if not is_filter(topic):
                raise ValueError(f"{topic[:80]!r} is no topic: # only at the end, + and # only between slashes")
        return value

    @field_validator("topic_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            NamePattern(pattern)
        return pattern
