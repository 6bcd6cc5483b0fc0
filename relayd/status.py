"""One snapshot of everything: pulled by the command line, the web page, MQTT and metrics; never pushed.

Promises: the fields are those of the published schema (`relayd schema status`): added to, never renamed. Taking one
costs a few reads of `/proc` and of counters in memory, whatever the backlog. Times are RFC 3339 UTC.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from relayd import __version__, clock
from relayd.diagnosis import Diagnosis, Overall, Views
from relayd.model import CameraView, DestinationView, Device, SourceView
from relayd.spool import DestinationCounters, SourceCounters, Spool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    id: str
    name: str
    site: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStatus:
    """`synchronized` is null where the kernel will not say."""

    synchronized: bool | None
    offset_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigStatus:
    """`sha256` is that of the configuration that runs. `error` is why the newest one was refused; null while the one
    that runs is the newest. `files_sha256` is that of the files as they are now, null if they cannot be read;
    `is_current`: they still say what runs."""

    sha256: str
    loaded_at: str
    error: str | None = None
    files: list[str] = field(default_factory=list)
    files_sha256: str | None = None
    is_current: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolStatus:
    """`items` = pending + delivered + dead + evicted + expired + unclaimed + dropped: every item ever accepted, across
    restarts. `unclaimed`: no rule wanted it; `dropped`: a person gave it up."""

    items: int
    bytes: int
    max_bytes: int
    free_bytes: int
    pending: int
    delivered: int
    dead: int
    evicted: int
    expired: int
    unclaimed: int
    dropped: int
    oldest_pending_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    state: Literal["ok", "waiting", "paused", "fault"]
    reason: str
    captured: int
    repeated: int
    quarantined: int
    last_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraStatus:
    """A camera that a destination looks after: waiting for its activation, ok, dead (no frames), or at fault. What the
    server did not say is null; its times are by its own clock."""

    state: Literal["waiting", "ok", "dead", "fault"]
    reason: str
    stream_name: str | None
    alive: bool | None
    last_change_at: str | None
    last_frame_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationStatus:
    state: Literal["ok", "waiting", "paused", "fault"]
    reason: str
    pending: int
    delivered: int
    dead: int
    under_way: int
    last_success_at: str | None
    next_try_at: str | None
    bytes_sent: int
    cameras: dict[str, CameraStatus] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStatus:
    state: Literal["ok", "waiting", "fault"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentsStatus:
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    rss_bytes: int
    cpu_seconds: float
    open_files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The health of one relay at one moment."""

    schema: Literal[1]
    device: DeviceStatus
    version: str
    state: Overall
    reasons: list[str]
    at: str
    started_at: str
    uptime_seconds: float
    session: str
    clock: ClockStatus
    config: ConfigStatus
    spool: SpoolStatus
    sources: dict[str, SourceStatus]
    destinations: dict[str, DestinationStatus]
    brokers: dict[str, BrokerStatus]
    links: dict[str, dict[str, Any]]
    incidents: IncidentsStatus
    process: ProcessStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What the snapshot cannot ask the spool: who we are, since when, with which configuration."""

    device: Device
    session: str
    started_at: float
    started_monotonic: float


async def snapshot(
    running: Running,
    config: ConfigStatus,
    spool: Spool,
    views: Views,
    diagnosis: Diagnosis,
) -> Status:
    """The status as of now; `diagnosis` says what is wrong."""
    spool_status = await _spool(spool)
    state, reasons = diagnosis.overall()
    sync = clock.synchronization()
    device = running.device
    return Status(
        schema=1,
        device=DeviceStatus(id=device.id, name=device.name, site=device.site),
        version=__version__,
        state=state,
        reasons=reasons,
        at=clock.rfc3339(clock.now()),
        started_at=clock.rfc3339(running.started_at),
        uptime_seconds=round(clock.monotonic() - running.started_monotonic, 3),
        session=running.session,
        clock=ClockStatus(synchronized=sync.is_synchronized, offset_seconds=sync.offset_seconds),
        config=config,
        spool=spool_status,
        sources={name: _source(spool, name, view) for name, view in views.sources.items()},
        destinations={
            name: _destination(spool, name, view, views.cameras.get(name, ()))
            for name, view in views.destinations.items()
        },
        brokers={name: BrokerStatus(state=view.state, reason=view.reason) for name, view in views.brokers.items()},
        links={},
        incidents=IncidentsStatus(open=spool.counters.open_incidents),
        process=process(),
    )


def as_json(status: Status) -> dict[str, Any]:
    """The document of the contract."""
    return asdict(status)


def json_schema() -> dict[str, Any]:
    """JSON Schema of the snapshot, for consumers."""
    from pydantic import TypeAdapter  # the schema is asked for by people only, not on a gateway's way

    schema = TypeAdapter(Status).json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "relayd status", **schema}


async def _spool(spool: Spool) -> SpoolStatus:
    counters = spool.counters
    oldest = await spool.oldest_pending()
    return SpoolStatus(
        items=counters.items,
        bytes=counters.bytes,
        max_bytes=counters.max_bytes,
        free_bytes=counters.free_bytes,
        pending=counters.pending,
        delivered=counters.delivered,
        dead=counters.dead,
        evicted=counters.evicted,
        expired=counters.expired,
        unclaimed=counters.unclaimed,
        dropped=counters.dropped,
        oldest_pending_seconds=None if oldest is None else max(0.0, round(clock.now() - oldest, 3)),
    )


def _source(spool: Spool, name: str, view: SourceView) -> SourceStatus:
    counters = spool.counters.sources.get(name, SourceCounters())
    return SourceStatus(
        state=view.state,
        reason=view.reason,
        captured=counters.captured,
        repeated=counters.repeated,
        quarantined=counters.quarantined,
        last_at=_time(view.last_at or counters.last_at),
    )


def _destination(spool: Spool, name: str, view: DestinationView, cameras: Sequence[CameraView]) -> DestinationStatus:
    counters = spool.counters.destinations.get(name, DestinationCounters())
    return DestinationStatus(
        state=view.state,
        reason=view.reason,
        pending=counters.pending,
        delivered=counters.delivered,
        dead=counters.dead,
        under_way=view.under_way,
        last_success_at=_time(counters.last_success_at),
        next_try_at=_time(view.next_try_at),
        bytes_sent=counters.bytes_sent,
        cameras={camera.name: _camera(camera) for camera in cameras if camera.state != "removed"},
    )


def _camera(view: CameraView) -> CameraStatus:
    return CameraStatus(
        state="fault" if view.state == "removed" else view.state,
        reason=view.reason,
        stream_name=view.stream_name,
        alive=view.alive,
        last_change_at=_time(view.last_change_at),
        last_frame_at=_time(view.last_frame_at),
    )


def _time(moment: float | None) -> str | None:
    return None if moment is None else clock.rfc3339(moment)


def process() -> ProcessStatus:
    """Memory, processor time and descriptors of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessStatus(
        rss_bytes=pages * resource.getpagesize(),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
        open_files=len(os.listdir("/proc/self/fd")),
    )
