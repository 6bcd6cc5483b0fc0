"""The sections that belong to no room below: `[device]`, `[web]`, and the whole of a configuration."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, SerializeAsAny, field_validator

from relayd import destinations
from relayd.broker import Broker, BrokerConfig
from relayd.destinations.base import DestinationConfig
from relayd.faults import HealthConfig
from relayd.fields import Secret, Section
from relayd.links import LinkConfig
from relayd.model import Device, Location
from relayd.reporter import FleetConfig
from relayd.rule_config import RuleConfig
from relayd.rules import Wires
from relayd.sources.base import SourceConfig
from relayd.spool import SpoolConfig

_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")


class LocationConfig(Section):
    """A position in WGS 84 degrees."""

    latitude: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False, examples=[55.403])]
    """Degrees north."""
    longitude: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, examples=[10.402])]
    """Degrees east."""


class LocationTopicConfig(Section):
    """Where a moving device learns its position."""

    broker: Annotated[str, Field(min_length=1, examples=["local"])]
    """Name of a `[broker.NAME]`."""
    topic: Annotated[str, Field(min_length=1, pattern=r"^[^+#\x00]+$", examples=["vehicle/gps"])]
    """Messages `{"latitude": …, "longitude": …}`; the newest fix wins."""


class DeviceConfig(Section):
    """This relay."""

    id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", examples=["amb-0417"])] = None
    """Unique in the fleet; letters, digits, `.`, `_`, `-`. Absent: the host name."""
    name: Annotated[str | None, Field(min_length=1, max_length=128, examples=["Ambulance 417"])] = None
    """What people call it; absent: the id."""
    site: Annotated[str | None, Field(min_length=1, max_length=128, examples=["odense"])] = None
    """Where it belongs to."""
    location: Annotated[LocationConfig | None, Field(examples=[{"latitude": 55.403, "longitude": 10.402}])] = None
    """Where it stands, if it does not move."""
    location_topic: Annotated[
        LocationTopicConfig | None, Field(examples=[{"broker": "local", "topic": "vehicle/gps"}])
    ] = None
    """Where it learns its position, if it moves."""

    def as_device(self) -> Device:
        """The device as every room knows it: nothing optional that need not be."""
        identity = self.id or _host_name()
        place = self.location
        return Device(
            id=identity,
            name=self.name or identity,
            site=self.site,
            location=None if place is None else Location(latitude=place.latitude, longitude=place.longitude),
        )


class WebConfig(Section):
    """The status page, and the JSON API behind it."""

    listen: Annotated[str | None, Field(examples=["127.0.0.1:8480"])] = None
    """Address and port; absent: no web page."""
    token: Secret | None = None
    """Where the token is that actions ask for; absent: the page shows, but changes nothing."""
    hosts: Annotated[tuple[str, ...], Field(max_length=32, examples=[["relay.example.org"]])] = ()
    """Names under which browsers may reach it, besides its own addresses; any other name is refused."""

    @field_validator("listen")
    @classmethod
    def _is_address_and_port(cls, value: str | None) -> str | None:
        match = _LISTEN.fullmatch(value) if value is not None else None
        if value is not None and (match is None or int(match[2]) > 65_535):
            raise ValueError('must be an address and a port, write for example "127.0.0.1:8480"')
        return value


class ReloadConfig(Section):
    """How a changed configuration comes into force, besides by `systemctl reload relayd` (SIGHUP)."""

    watch: bool = False
    """Load it by itself, seconds after its files have changed. Off: a file may be saved half-way through a change."""


class Config(Section):
    """The whole configuration. Sections that are named (`[source.NAME]`) are tables by name."""

    device: DeviceConfig = DeviceConfig()
    spool: SpoolConfig = SpoolConfig()
    health: HealthConfig = HealthConfig()
    broker: Mapping[str, BrokerConfig] = {}
    fleet: FleetConfig | None = None
    web: WebConfig | None = None
    reload: ReloadConfig = ReloadConfig()
    link: Mapping[str, LinkConfig] = {}
    source: Mapping[str, SerializeAsAny[SourceConfig]] = {}
    destination: Mapping[str, SerializeAsAny[DestinationConfig]] = {}
    rule: tuple[RuleConfig, ...] = ()


def _host_name() -> str:
    """The machine's own name, as far as it makes an id."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64]
    return name or "relay"


def wires_of(config: Config) -> dict[str, Wires]:
    """How the actions of each destination hang together with incidents."""
    return {name: destinations.wired(section) for name, section in config.destination.items()}


def brokers_of(config: Config) -> dict[str, Broker]:
    """Every `[broker.NAME]`, not yet running."""
    return {name: one_broker(config, name) for name in config.broker}


def one_broker(config: Config, name: str) -> Broker:
    """`[broker.NAME]`, not yet running. Its client id stays the same as long as the names of device and broker do."""
    section = config.broker[name]
    return Broker(name, section, section.client_id or f"relayd-{config.device.as_device().id}-{name}")
