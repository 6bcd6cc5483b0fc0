"""What the sources and destinations of one relay share: given to each of them when it is built.

Promises: frozen, and cheap to make; a part that is built without it is alone: no brokers, an unnamed device,
a memory that ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from relayd.broker import Broker
from relayd.fields import Section
from relayd.location import Whereabouts
from relayd.memory import Memory, Unkept
from relayd.model import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`brokers` by their name in the configuration; each is run by `app`. `sections` is what each `[destination.NAME]`
    says, for a source that uses the login of one. `memory(OWNER)` is what that source or destination remembers."""

    device: Device = field(default_factory=lambda: Device(id="relayd", name="relayd"))
    brokers: Mapping[str, Broker] = field(default_factory=dict)
    whereabouts: Whereabouts = field(default_factory=Whereabouts)
    sections: Mapping[str, Section] = field(default_factory=dict)
    memory: Callable[[str], Memory] = field(default=lambda owner: Unkept())
