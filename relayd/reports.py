"""What is published to the fleet, and what may be asked of us: shapes, and their JSON Schemas for consumers.

Promises: fields are added to, never renamed. `relayd schema state|event|command|response` prints what is here;
`relayd schema status` is the payload of `health`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

COMMANDS = ("status", "pause", "resume", "retry", "flush", "ptz", "reboot")
MOST_ITEMS = 1_000


class Report(BaseModel):
    """Base of everything that is published."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class StateReport(Report):
    """`state`, retained: whether this relay is there."""

    state: Literal["online", "offline", "stopped"]
    """`offline` is said by the broker when the connection breaks; `stopped` by a relay that was told to stop."""
    session: str
    """Stays the same from start to stop: an `offline` with another session than the last `online` is an old one."""
    at: str
    """When this was written, RFC 3339 UTC; for `offline`: when the connection was made that broke since."""
    version: str
    """Version of relayd."""


class Stamped(Report):
    """Base of what tells of something that happened."""

    schema_: Literal[1] = Field(alias="schema")
    """Version of this form."""
    at: str
    """When it happened, RFC 3339 UTC."""


class Event(Stamped):
    """Base of every event: not retained, at least once, in order."""

    id: str
    """Stays the same however often the event is sent: whoever saw it before lets it go."""
    number: int
    """Counts up, one by one; a gap says that events were dropped because the fleet was away for too long."""


class DeliveryEvent(Event):
    """A delivery has ended."""

    type: Literal["delivered", "dead", "evicted", "dropped"]
    """`dead`: it will not be tried again unless a person says so; `evicted`: it had to make room for something else;
    `dropped`: a person gave it up."""
    item: str
    """Id of the item."""
    name: str
    """What the outside called the item: data, never to be trusted."""
    source: str
    """Where it came from."""
    size: int
    """Bytes."""
    destination: str
    """To whom it was owed."""
    action: str
    """What was to be done with it there."""
    rule: str
    """Which rule asked for it."""
    state: Literal["delivered", "dead", "expired", "evicted", "dropped"]
    """As `relayd items` shows it; `expired`: given up for its age."""
    attempts: int
    """How often it was tried."""
    reason: str
    """The last answer, or what proves the delivery, in words."""
    receipt: dict[str, JsonValue] | None
    """What the destination gave back; null if nothing, or too much for an event."""


class FaultTurn(Report):
    """A part broke, or is whole again."""

    type: Literal["fault_raised", "fault_cleared"]
    part: str
    """Which one: `destination NAME`, `source NAME`, `broker NAME`, `spool`, `clock` or `configuration`."""
    kind: Literal["source", "destination", "broker", "spool", "clock", "configuration"]
    """What sort of part."""
    source: str | None = None
    """Its name, if it is a source."""
    destination: str | None = None
    """Its name, if it is a destination."""
    broker: str | None = None
    """Its name, if it is a broker."""
    reason: str
    """What is, or was, wrong."""
    since: str
    """When it was first seen, RFC 3339 UTC."""


class FaultEvent(FaultTurn, Event):
    """A part broke, or is whole again."""


class FaultMessage(FaultTurn, Stamped):
    """The payload of an item of the source `relayd`: what rules see as `payload` of the relay's own health events."""


class CameraEvent(Event):
    """A camera was activated: from now on its stream is at the server."""

    type: Literal["camera_activated"]
    destination: str
    """Where."""
    camera: str
    """What it is called in the configuration."""
    title: str
    """What people see."""
    stream_name: str
    """What its stream is called at the server."""


class IncidentOpened(Event):
    """Something happened: what belongs to it is tied together from now on."""

    type: Literal["incident_opened"]
    incident: str
    """Id of the incident."""
    key: str
    """What joins items to it."""
    rule: str
    """Which rule opened it."""
    item: str
    """Id of the item that did."""


class IncidentClosed(Event):
    """It is over: what is captured from now on does not belong to it."""

    type: Literal["incident_closed"]
    incident: str
    """Id of the incident."""
    key: str
    """What joined items to it."""
    rule: str
    """Which rule had opened it."""
    reason: str
    """Why it closed."""
    items: int
    """How many items belong to it so far."""


class ConfigReloaded(Event):
    """A changed configuration was read and is in use."""

    type: Literal["config_reloaded"]
    sha256: str
    """Of all its files."""
    files: list[str]
    """Which they are."""


class ConfigRejected(Event):
    """A changed configuration was refused; the one before goes on."""

    type: Literal["config_rejected"]
    problems: list[str]
    """What is wrong, as `relayd check` says it; the first of them."""
    problem_count: int
    """How many there are."""


AnyEvent = Annotated[
    DeliveryEvent | FaultEvent | CameraEvent | IncidentOpened | IncidentClosed | ConfigReloaded | ConfigRejected,
    Field(discriminator="type"),
]

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:@=-]{1,128}$")]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class Command(BaseModel):
    """`command/NAME`, not retained: asks for something. The answer comes under `response/ID`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    id: Id
    """The sender's own, new for each command: a repeated one is answered again, not run again."""


class StatusCommand(Command):
    """`status`: the status snapshot."""


class OneOrAllCommand(Command):
    """`flush`: this destination, or all."""

    destination: Annotated[Name | None, Field(validation_alias=AliasChoices("destination", "name"))] = None
    """Absent: all of them. `name` is understood too."""


class PauseCommand(Command):
    """`pause`, `resume`: this destination, this source, or all destinations."""

    destination: Name | None = None
    """Absent, and `source` too: all destinations."""
    source: Name | None = None
    """A source, instead of a destination."""
    name: Name | None = None
    """Whichever of them is called so, instead of both."""


class RetryCommand(Command):
    """`retry`: deliveries that are dead, expired or evicted are due again."""

    items: Annotated[list[Name] | None, Field(min_length=1, max_length=MOST_ITEMS)] = None
    """Ids of items; absent: all."""
    destination: Name | None = None
    """Only deliveries to this one; absent: to any."""


class CameraCommand(Command):
    """`ptz`, `reboot`: an action of a destination with one of its cameras, through the queue. What else is named is an
    argument of that action. Nothing of this is done late."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | int | float | bool | None]

    camera: Annotated[str, Field(min_length=1, max_length=256, validation_alias=AliasChoices("camera", "name"))]
    """Its name in the configuration, or its stream's name. `name` is understood too."""
    destination: Name | None = None
    """Which destination does it; absent: the only one that can."""
    priority: Literal["emergency", "high"] = "high"
    """How urgent it is."""
    asked_at: Annotated[str | None, Field(max_length=64)] = None
    """When it was asked for, RFC 3339 with its zone: it is dropped if that is longer ago than the destination's
    `command_max_age`. Absent: now, so one that may have waited at the broker is refused."""

    @property
    def arguments(self) -> dict[str, JsonValue]:
        """Of the action, besides the camera."""
        asked_at = {} if self.asked_at is None else {"asked_at": self.asked_at}
        return {**self.__pydantic_extra__, **asked_at}


MODELS: Mapping[str, type[Command]] = {
    "status": StatusCommand,
    "pause": PauseCommand,
    "resume": PauseCommand,
    "flush": OneOrAllCommand,
    "retry": RetryCommand,
    "ptz": CameraCommand,
    "reboot": CameraCommand,
}
"""Command → what may be asked with it."""


class Done(Report):
    """`response/ID`: it was done."""

    id: Id
    ok: Literal[True]
    result: dict[str, JsonValue]
    """As the local control API answers it."""


class NotDone(Report):
    """`response/ID`: it was not done, or not all of it."""

    id: Id
    ok: Literal[False]
    error: str
    """Why, in words."""


def state_schema() -> dict[str, Any]:
    return _titled("state", StateReport)


def event_schema() -> dict[str, Any]:
    """Of the fleet's events; `#/$defs/FaultMessage` is the payload of the items of the source `relayd`."""
    schema = _titled("event", AnyEvent)
    schema["$defs"]["FaultMessage"] = TypeAdapter(FaultMessage).json_schema(mode="validation")
    return schema


def command_schema() -> dict[str, Any]:
    """Of the payload; its command is the last level of the topic."""
    return _titled("command", RetryCommand | PauseCommand | OneOrAllCommand | StatusCommand | CameraCommand)


def response_schema() -> dict[str, Any]:
    return _titled("response", Done | NotDone)


def encoded(document: Mapping[str, Any]) -> bytes:
    """As it goes over the wire."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _titled(what: str, shape: Any) -> dict[str, Any]:
    schema = TypeAdapter(shape).json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:relayd:{what}:1",
        "title": f"relayd {what}",
        **{key: value for key, value in schema.items() if key != "title"},
    }
