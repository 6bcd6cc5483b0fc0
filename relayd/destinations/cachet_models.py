"""Cachet: its section of the configuration and the arguments of its actions, named as in the API's own pages.

Promises: texts are templates; whatever an incident is not given, the fault itself says.
"""

from __future__ import annotations

import zoneinfo
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from relayd.destinations.at_most_once import BudgetConfig, DoubtConfig
from relayd.destinations.base import DestinationConfig
from relayd.fields import Secret, Section
from relayd.httpconfig import HttpConfig

STATUSES = {"reported": 0, "investigating": 1, "identified": 2, "watching": 3, "fixed": 4}
"""The states of an incident, and the numbers that the API has for them."""
FIXED = STATUSES["fixed"]
INVESTIGATING = STATUSES["investigating"]


def _status(value: Any) -> Any:
    """A state by name or number, also where a template wrote it; nothing for an empty text."""
    text = value.strip().lower() if isinstance(value, str) else value
    if text is None or text == "":
        return None
    number = STATUSES.get(text, text)
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = int(number)
    if isinstance(number, bool) or number not in STATUSES.values():
        raise ValueError(f"not a state of an incident, write one of {', '.join(STATUSES)}, or 0 to {FIXED}")
    return number


Status = Annotated[
    int | None,
    BeforeValidator(_status),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": FIXED}, {"type": "string"}]}),
]
ComponentStatus = Annotated[int, Field(ge=1, le=6, examples=[3])]
"""1 operational, 2 performance issues, 3 partial outage, 4 major outage, 5 unknown, 6 under maintenance."""
ComponentId = Annotated[int, Field(ge=1, examples=[1])]


class CachetConfig(HttpConfig, DoubtConfig, BudgetConfig, DestinationConfig):
    """A status page; `url` ends in `/api`."""

    type: Literal["cachet"]
    """Always `cachet`."""
    token: Secret
    """Where the API token is; it needs incidents.manage, incident-updates.manage and components.manage."""
    visible: bool = False
    """Whether everybody sees incidents, or signed-in users only, unless a rule says otherwise. Servers before July 2026
    show them to everybody who asks their API."""
    marker: Literal["name", "meta"] = "name"
    """Where an incident carries the marker by which it is found again: at the end of its name, which every server can
    look for, or in its metadata, out of sight (servers from July 2026 on)."""
    time_zone: str = "UTC"
    """Time zone of the server's own clock (APP_TIMEZONE): the time of an incident is written in it."""

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            if value != "UTC":
                raise ValueError('no time zone of this machine, write for example "Europe/Copenhagen"') from None
        return value


class Component(Section):
    """One of several components that an incident concerns."""

    id: ComponentId
    """Number of the component."""
    status: ComponentStatus
    """What it becomes."""


class IncidentArguments(Section):
    """`incident`: one incident per fault: opened, updated, and resolved when the fault is gone."""

    key: Annotated[str | None, Field(examples=["{{ device.id }} pump {{ payload.pump }}"])] = None
    """What the fault is called: messages with the same key are about one incident. Absent: device and part of the
    relay's own faults; else the relay's incident, or the topic."""
    status: Annotated[Status, Field(examples=["{{ 'fixed' if payload.ok else 'investigating' }}"])] = None
    """`investigating`, `identified`, `watching`, `fixed` (resolves it), `reported`, or 0 to 4. Absent: fixed if the
    message is of type `fault_cleared`, else investigating."""
    name: Annotated[str | None, Field(examples=["{{ device.name }}: uplink lost"])] = None
    """Title, cut to what the page takes; absent or blank: device and fault."""
    message: str | None = None
    """Text (Markdown); absent: what the fault says."""
    template: str | None = None
    """Slug of an incident template of the status page, instead of `message` when it is opened."""
    template_vars: dict[str, str] | None = None
    """Values for that template."""
    visible: bool | None = None
    """Whether everybody sees it, or signed-in users only; absent: as the destination says."""
    stickied: bool = False
    """Whether it stays on top."""
    notifications: bool = False
    """Whether subscribers get a mail."""
    occurred_at: Annotated[str | None, Field(examples=["{{ payload.since }}"])] = None
    """When it began, like 2026-01-31T12:00:00Z; absent: as the fault or the `at` of the message says, else when it
    came."""
    published_at: str | None = None
    """From when on it shows, in the same form; absent: at once. Newer servers only."""
    component_id: ComponentId | None = None
    """The component it concerns; `component_status` goes with it."""
    component_status: ComponentStatus | None = None
    """What that component becomes while the incident is open; newer servers show it only if it is visible to all."""
    components: tuple[Component, ...] = ()
    """Several components at once, `{ id = 1, status = 3 }`; servers from December 2025 on."""
    meta: dict[str, str] | None = None
    """Metadata of the incident; servers from July 2026 on."""

    @model_validator(mode="after")
    def _has_both(self) -> IncidentArguments:
        if (self.component_id is None) != (self.component_status is None):
            raise ValueError("component_id and component_status go together, write both or neither")
        return self


class ComponentArguments(Section):
    """`component`: set the status of a component."""

    component_id: ComponentId
    """Number of the component."""
    status: ComponentStatus
    """What it becomes."""
