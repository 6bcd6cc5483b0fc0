"""MQTT topics as a source. So far its configuration only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from relayd.fields import Size, written
from relayd.sources.base import SourceConfig


class TopicConfig(SourceConfig):
    """Messages, or images, that others publish."""

    type: Literal["mqtt"]
    """Always `mqtt`."""
    broker: Annotated[str, Field(min_length=1, examples=["local"])]
    """Name of a `[broker.NAME]`."""
    topics: Annotated[tuple[str, ...], Field(min_length=1, max_length=100, examples=[["vehicle/panic"]])]
    """Topics to take; `+` and `#` as MQTT has them."""
    kind: Literal["message", "media"] = "message"
    """`media`: each message is a whole image."""
    qos: Annotated[int, Field(ge=0, le=2)] = 1
    """MQTT quality of service asked for; below 1 messages may be lost on the way here."""
    retained: bool = False
    """Whether to take what the broker kept from before."""
    max_message: Size = written("256KB", gt=0)
    """Larger messages are refused and counted."""
    max_per_second: Annotated[int, Field(ge=1)] = 200
    """More than this are slowed down."""

    @field_validator("topics")
    @classmethod
    def _are_filters(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for topic in value:
            if not is_topic_filter(topic):
                raise ValueError(f"{topic[:80]!r} is no topic: # only at the end, + and # only between slashes")
        return value


def is_topic_filter(text: str) -> bool:
    """Whether MQTT takes `text` as a subscription."""
    levels = text.split("/")
    if not text or len(text.encode("utf-8", "replace")) > 65_535 or "\0" in text or "#" in levels[:-1]:
        return False
    return all(level in ("+", "#") or not set(level) & {"+", "#"} for level in levels)


def topic_matches(topic: str, pattern: str) -> bool:
    """Whether a message under `topic` comes by the subscription `pattern`."""
    wanted, given = pattern.split("/"), topic.split("/")
    if given[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted, given = wanted[:-1], given[: len(wanted) - 1]
    return len(wanted) == len(given) and all(one in ("+", other) for one, other in zip(wanted, given, strict=True))
