"""`[source.NAME]` with `type = "watcher-episodes"`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.fields import Duration, Size, written
from relayd.sources.base import SourceConfig


class EpisodesConfig(SourceConfig):
    """Episodes, each a message, followed by their time of change."""

    type: Literal["watcher-episodes"]
    """Always `watcher-episodes`."""
    watcher: Annotated[str, Field(min_length=1, examples=["watcher"])]
    """Name of the `[destination.NAME]` of type watcher whose login is used."""
    media: Annotated[tuple[str, ...], Field(max_length=16, examples=[["cam-e7fee73458"]])] = ()
    """Names of streams, each asked for by itself; empty: all that the user sees."""
    episode_type: Annotated[str | None, Field(examples=["generic"])] = None
    """Only episodes of this type; absent: all."""
    group_view: bool = False
    """Only the last episode of each person or vehicle."""
    preview: bool = False
    """Whether the images of an episode (`preview`, `frame_preview`, base64) stay in the message."""
    select: Annotated[
        str | None, Field(pattern=r"^[A-Za-z0-9_.,]+$", examples=["episode_id,media,updated_at,title"])
    ] = None
    """Fields that the server should send, for a thin link; `episode_id` and `updated_at` are needed. Absent: all,
    images included."""
    since: Duration = written("1m", ge=0)
    """How far back to begin when there is no memory of an earlier run."""
    overlap: Duration = written("10s", gt=0)
    """How long a change may take to appear in the list, out of order; it is looked back so far."""
    poll_timeout: Duration = written("30s", ge=1)
    """How long the server may hold its answer until there is something new."""
    page: Annotated[int, Field(ge=1, le=1000)] = 20
    """Episodes asked for at once; fewer after an answer that failed."""
    max_answer: Size = written("8MB", gt=0)
    """Longest answer that is read; episodes carry images, whether they are kept or not."""
    backoff_first: Duration = written("1s", gt=0)
    """Longest wait after the first failure; it doubles with each further one."""
    backoff_cap: Duration = written("1m", gt=0)
    """No wait is longer than this, whatever the server asks for."""
