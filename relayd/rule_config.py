"""`[[rule]]` as a technician writes it, and what its conditions and texts may speak of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from relayd.fields import Duration, Section, written
from relayd.model import Fields
from relayd.templates import Known

OWN_HEALTH = "relayd"
"""The source of the relay's own health events; a rule takes them only if it names it."""

ITEM_FIELDS = frozenset(
    {"id", "name", "source", "kind", "size", "content_type", "sha256", "captured_at", "topic", "damage"}
)
INCIDENT_FIELDS = frozenset({"id", "key", "rule", "opened_at", "remote"})
"""What is known of an incident from its beginning; its remote ids (`report_id`, `stream_id`, …) come later."""
KNOWN: Known = {
    "item": ITEM_FIELDS,
    "payload": None,
    "device": frozenset({"id", "name", "site", "location"}),
    "location": frozenset({"latitude", "longitude", "accuracy_meters", "age_seconds"}),
    "incident": INCIDENT_FIELDS,
}
"""What conditions and texts see; `receipt` comes along in `then`, the names of a path template along in `item`, and the
remote ids that the configured destinations give along in `incident`."""


class DeliverConfig(Section):
    """One delivery. Every key besides `to`, `action`, `then` is an argument of the action; its texts are templates."""

    model_config = ConfigDict(extra="allow")

    to: Annotated[str, Field(examples=["rapidsos"])]
    """Name of the destination."""
    action: Annotated[str | None, Field(examples=["upload"])] = None
    """What to do there; may be left out where the destination's type has only one action."""
    then: tuple[DeliverConfig, ...] = ()
    """Deliveries that follow once this one has arrived; their texts also see `receipt`."""

    @property
    def arguments(self) -> Fields:
        """The arguments as written: texts are still templates."""
        return self.model_extra or {}


class IncidentConfig(Section):
    """Ties items together into one incident: what arrives under the same key, and the media around it."""

    key: Annotated[str, Field(min_length=1, examples=["panic-{{ device.id }}"])]
    """Template; items with the same key belong to the same open incident."""
    collect: tuple[str, ...] = ()
    """Sources whose items belong to the incident while it is open."""
    before: Duration = written("60s", ge=0)
    """Items captured up to this long before the incident belong to it too."""
    after: Duration = written("10m", gt=0)
    """The incident closes this long after the last message under its key."""
    most_open: int = Field(default=100, ge=1, le=10_000)
    """So many incidents of this rule may be open at once; what would open another one is delivered outside of any."""
    closes: bool = False
    """Such an item ends the incident that is open under the key, instead of opening one."""


class RuleConfig(Section):
    """One rule: items of these sources, on this condition, are delivered like this."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["incident media"])]
    """Shown by `explain`, `items` and `why`; each rule has its own."""
    from_: Annotated[tuple[str, ...], Field(alias="from", min_length=1, examples=[["front-camera"]])]
    """Names of sources; `"*"` stands for every configured source, `"relayd"` for the relay's own health events."""
    when: Annotated[str | None, Field(min_length=1, examples=["payload.pressed"])] = None
    """One expression over `item`, `payload`, `device`, `location` and `incident`; absent: always."""
    priority: Literal["emergency", "high", "normal", "bulk"] = "normal"
    """How urgent the deliveries are."""
    metered: bool | None = None
    """Whether the deliveries may use metered links; absent: only those of priority `high` and `emergency`."""
    incident: IncidentConfig | None = None
    """Opens an incident, or adds to the one that is open under the same key."""
    deliver: tuple[DeliverConfig, ...] = ()
    """What is owed for each item that matches."""
