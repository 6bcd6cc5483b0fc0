"""Flussonic Watcher: its section of the configuration and the arguments of its actions, named as in the API's own
pages; texts are templates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from relayd.destinations.at_most_once import BudgetConfig
from relayd.destinations.base import DestinationConfig
from relayd.fields import Duration, Section, written
from relayd.watcher_client import WatcherLogin

Speed = Annotated[int, Field(ge=0, le=100)]
NameOrId = int | str | None
OwnName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class Coordinates(Section):
    """Where a camera stands."""

    latitude: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
    """Degrees north."""
    longitude: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
    """Degrees east."""


class CameraConfig(Section):
    """A camera: activated once, then kept as configured, as far as something is written here."""

    name: Annotated[OwnName, Field(examples=["gate-3"])]
    """What the camera is called here, in rules and in `relayd cameras`."""
    title: Annotated[str, Field(min_length=1, examples=["Gate 3"])]
    """What people see in Watcher."""
    formerly: Annotated[OwnName | None, Field(examples=["gate-2"])] = None
    """What it was called here before: it stays the same camera, and is not activated again."""
    stream_name: Annotated[str | None, Field(min_length=1, examples=["cam-e7fee73458"])] = None
    """A stream that is there already: it is taken over instead of activating a camera."""
    organization: Annotated[NameOrId, Field(examples=["Acme"])] = None
    """Name or id; needed if the user belongs to several."""
    preset: Annotated[NameOrId, Field(examples=["7 days"])] = None
    """Name or id of the recording preset; absent: the organization's own."""
    folder: Annotated[NameOrId, Field(examples=["Gates"])] = None
    """Name or id of the folder it is shown in."""
    enabled: bool = True
    """Whether the stream runs."""
    static: bool = True
    """Whether it is captured all the time, or on demand."""
    dvr_depth: Annotated[int | None, Field(ge=0, examples=[7])] = None
    """Days of recording."""
    dvr_space: Annotated[int | None, Field(ge=0, examples=[50])] = None
    """Gigabytes of recording."""
    comment: Annotated[str | None, Field(examples=["behind the fence"])] = None
    """Note shown with the camera."""
    coordinates: Annotated[Coordinates | None, Field(examples=[{"latitude": 55.403, "longitude": 10.402}])] = None
    """Where it stands."""
    postal_address: Annotated[str | None, Field(examples=["Havnegade 1, Odense"])] = None
    """Where it stands, as an address."""


class WatcherConfig(WatcherLogin, BudgetConfig, DestinationConfig):
    """A Watcher server; `url` ends in `/watcher/client-api/v3`."""

    type: Literal["watcher"]
    """Always `watcher`."""
    poll_every: Duration = written("15s", gt=0)
    """How often a camera that waits for its activation is looked at; more and more seldom, up to `backoff_cap`, until
    `relayd cameras` is asked for again."""
    look_every: Duration = written("1m", gt=0)
    """How often an activated camera is looked at: whether it is alive, and as configured."""
    command_max_age: Duration = written("10s", gt=0)
    """Pan-tilt-zoom and reboot older than this are dropped: they are never replayed late."""
    qr: Annotated[str, Field(pattern=r"\{token\}")] = "{token}"
    """What the QR code of an activation says; what cameras expect beside the token is not published."""
    camera: Annotated[tuple[CameraConfig, ...], Field(max_length=500)] = ()
    """Cameras to activate, each a `[[destination.NAME.camera]]`."""

    @model_validator(mode="after")
    def _names_differ(self) -> WatcherConfig:
        names = [camera.name for camera in self.camera]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f'two cameras are called "{twice}", give each its own name')
        streams = [camera.stream_name for camera in self.camera if camera.stream_name]
        if len(set(streams)) < len(streams):
            raise ValueError("two cameras have the same stream_name")
        return self


class CameraArguments(Section):
    """`camera`: activate a camera of this destination; delivered when it is."""

    name: Annotated[str, Field(min_length=1, examples=["gate-3"])]
    """Its name here."""


class MessageArguments(Section):
    """`message`: send a message to a user."""

    body: Annotated[str, Field(min_length=1, examples=["{{ item.name }} arrived"])]
    """Text (Markdown)."""
    user_id: Annotated[int, Field(ge=1, examples=[12])]
    """Who gets it."""
    title: str | None = None
    """Title."""
    type: Literal["info", "warning", "danger"] = "info"
    """How it is shown."""
    is_push: bool = False
    """Whether it is pushed to the user's devices."""
    is_dashboard: bool = False
    """Whether it is shown on the dashboard."""


class CommandArguments(Section):
    """What every command to a camera has."""

    name: Annotated[str, Field(min_length=1, examples=["gate-3"])]
    """The camera: its name here, or its stream's name."""
    asked_at: Annotated[AwareDatetime | None, Field(examples=["{{ payload.at }}"])] = None
    """When it was asked for (RFC 3339), by a clock that agrees with this one: `command_max_age` counts from there.
    Absent: when relayd took it."""


class PtzArguments(CommandArguments):
    """`ptz`: move a camera until the next command; all speeds 0 stop it."""

    command: Literal["move_continuous"] = "move_continuous"
    """What to do."""
    up: Speed = 0
    """Speed upwards."""
    down: Speed = 0
    """Speed downwards."""
    left: Speed = 0
    """Speed to the left."""
    right: Speed = 0
    """Speed to the right."""
    in_: Annotated[Speed, Field(alias="in")] = 0
    """Speed of zooming in."""
    out: Speed = 0
    """Speed of zooming out."""


class RebootArguments(CommandArguments):
    """`reboot`: restart a camera."""
