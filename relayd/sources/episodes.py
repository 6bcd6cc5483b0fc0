"""Episodes of a Flussonic Watcher (motion, faces, vehicles) as a source. So far its configuration only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.fields import Duration, written
from relayd.sources.base import SourceConfig


class EpisodesConfig(SourceConfig):
    """Episodes, each a message, followed by their time of change."""

    type: Literal["watcher-episodes"]
    """Always `watcher-episodes`."""
    watcher: Annotated[str, Field(min_length=1, examples=["watcher"])]
    """Name of the `[destination.NAME]` of type watcher whose login is used."""
    media: Annotated[tuple[str, ...], Field(examples=[["cam-e7fee73458"]])] = ()
    """Names of streams; empty: all that the user sees."""
    episode_type: Annotated[str | None, Field(examples=["generic"])] = None
    """Only episodes of this type; absent: all."""
    group_view: bool = False
    """Only the last episode of each person or vehicle."""
    poll_timeout: Duration = written("30s", ge=1)
    """How long the server may hold its answer until there is something new."""
