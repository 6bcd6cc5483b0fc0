"""Cachet v3: incidents and components of a status page. So far its configuration only.

Arguments are named as in the API's own pages; texts are templates.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from relayd.destinations import Models
from relayd.destinations.base import DestinationConfig
from relayd.fields import Secret, Section
from relayd.httpconfig import HttpConfig

ComponentStatus = Annotated[int, Field(ge=1, le=6, examples=[3])]
"""1 operational, 2 performance issues, 3 partial outage, 4 major outage, 5 unknown, 6 under maintenance."""
ComponentId = Annotated[int, Field(ge=1, examples=[1])]


class CachetConfig(HttpConfig, DestinationConfig):
    """A status page; `url` ends in `/api`."""

    type: Literal["cachet"]
    """Always `cachet`."""
    token: Secret
    """Where the API token is; it needs incidents.manage, incident-updates.manage and components.manage."""


class Component(Section):
    """One of several components that an incident concerns."""

    id: ComponentId
    """Number of the component."""
    status: ComponentStatus
    """What it becomes."""


class IncidentArguments(Section):
    """`incident`: one incident per fault: opened, updated, and resolved when the fault is gone."""

    name: Annotated[str | None, Field(max_length=200, examples=["{{ device.name }}: uplink lost"])] = None
    """Title; absent: device and fault. A marker is added, by which it is found again."""
    message: str | None = None
    """Text (Markdown); absent: what the fault says."""
    template: str | None = None
    """Slug of an incident template of the status page, instead of `message`."""
    template_vars: dict[str, str] | None = None
    """Values for that template."""
    visible: bool = False
    """Whether everybody sees it, or signed-in users only."""
    stickied: bool = False
    """Whether it stays on top."""
    notifications: bool = False
    """Whether subscribers get a mail."""
    component_id: ComponentId | None = None
    """The component it concerns; `component_status` goes with it."""
    component_status: ComponentStatus | None = None
    """What that component becomes while the incident is open."""
    components: tuple[Component, ...] = ()
    """Several components at once, `{ id = 1, status = 3 }`."""


class ComponentArguments(Section):
    """`component`: set the status of a component."""

    component_id: ComponentId
    """Number of the component."""
    status: ComponentStatus
    """What it becomes."""


PLANNED = Models(
    config=CachetConfig,
    actions={"incident": IncidentArguments, "component": ComponentArguments},
    receipt=frozenset({"incident_id"}),
)
