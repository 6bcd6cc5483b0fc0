"""What a configuration says should run: one key for each part, and all that the part depends on. Pure.

Promises: two configurations give a part the same terms exactly if it may run on untouched from one to the other: its
own section and everything that it takes from others (the device, its broker, the fleet's will). Rules are no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from relayd import destinations
from relayd.config.sections import Config
from relayd.rule_config import OWN_HEALTH

Kind = Literal["broker", "destination", "fleet", "housekeeping", "incidents", "location", "source", "upkeep", "watch"]


class Key(NamedTuple):
    """Names one part: `destination rapidsos`; parts that exist once have no name."""

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


OWN = Key("source", OWN_HEALTH)
"""The relay itself, a source where a rule takes from it."""
Plan = Mapping[Key, object]
"""Part → its terms: everything that it depends on, compared by value."""


def plan_of(config: Config) -> Plan:
    """Every part that this configuration asks for. Sections of types that nothing runs for have none."""
    device = config.device.as_device()
    plan: dict[Key, object] = {Key("housekeeping"): config.spool, Key("incidents"): "the rules change under it"}
    for name, broker in config.broker.items():
        # The will and the commands of the fleet belong to the connection.
        fleet = (config.fleet, device) if config.fleet is not None and config.fleet.broker == name else None
        plan[Key("broker", name)] = (broker, broker.client_id or device.id, fleet)
    brokers = dict(plan)
    if config.fleet is not None:
        plan[Key("fleet")] = (config.fleet, device, brokers[Key("broker", config.fleet.broker)])
    topic = config.device.location_topic
    if topic is not None:
        plan[Key("location")] = (topic, brokers[Key("broker", topic.broker)])
    if config.reload.watch:
        plan[Key("watch")] = config.reload
    for name, source in config.source.items():
        login = config.destination.get(getattr(source, "watcher", ""))  # some use the login of a destination
        plan[Key("source", name)] = (source, device, brokers.get(Key("broker", broker_of(source))), login)
    if any(OWN_HEALTH in rule.from_ for rule in config.rule):
        plan[OWN] = "it depends on nothing"
    for name, section in config.destination.items():
        # Nobody knows which brokers a type of another package uses.
        used = brokers.get(Key("broker", broker_of(section))) if section.type in destinations.TYPES else brokers
        plan[Key("destination", name)] = plan[Key("upkeep", name)] = (section, device, used)
    return plan


def changed(before: Plan, after: Plan) -> tuple[list[Key], list[Key]]:
    """(what ends, what begins) on the way from one to the other; what is replaced is in both."""
    ended = [key for key in before if key not in after or before[key] != after[key]]
    begun = [key for key in after if key not in before or before[key] != after[key]]
    return ended, begun


def broker_of(section: object) -> str:
    """The `[broker.NAME]` that a section names; empty if it names none."""
    name = getattr(section, "broker", "")
    return name if isinstance(name, str) else ""
