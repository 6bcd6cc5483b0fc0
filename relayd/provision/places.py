"""Which folders a configuration works in, and what the sandbox of the unit must be told of them. Pure.

The unit sees the system read-only, homes not at all, and a /tmp of its own (`systemd/relayd.service`).

Promises: nothing is opened that the configuration does not name, but for the folder around a mount point: there a disk
that comes later is only seen if the sandbox does not hold the place itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd.config import Config
from relayd.destinations.copy import CopyConfig
from relayd.dropins import folder_line
from relayd.sources.folder_config import FolderConfig
from relayd.spool import SpoolConfig

HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - those that the unit has of its own
KERNEL = (Path("/proc"), Path("/sys"), Path("/dev"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One folder. `owner` is who works there: `source front-camera`. `is_written` False: it is only read."""

    path: Path
    owner: str
    is_written: bool = True
    is_mount: bool = False
    is_deep: bool = False
    is_drop: bool = False
    is_spool: bool = False

    @property
    def is_hidden(self) -> bool:
        """Whether the sandbox hides it: then it is brought in by itself, without the folders above it."""
        return _is_within(real(self.path), (*HOMES, *TEMPORARY))

    @property
    def is_impossible(self) -> bool:
        """Whether the sandbox cannot be opened there without giving up what it is for."""
        return real(self.path) == Path("/") or _is_within(real(self.path), KERNEL)


def places_of(config: Config) -> list[Place]:
    """Every folder of the configuration."""
    found = [Place(path=config.spool.path, owner="the spool", is_spool=True)]
    for name, source in config.source.items():
        if isinstance(source, FolderConfig):
            found.append(
                Place(
                    path=source.path,
                    owner=f"source {name}",
                    is_written=not source.keep_originals,
                    is_mount=source.must_be_mounted,
                    is_deep=source.recursive,
                    is_drop=True,
                )
            )
    for name, destination in config.destination.items():
        if isinstance(destination, CopyConfig):
            found.append(
                Place(path=destination.path, owner=f"destination {name}", is_mount=destination.must_be_mounted)
            )
    return found


def sandbox_lines(places: Sequence[Place]) -> list[str]:
    """What the unit must be told, `KEY=…`; nothing if it needs none. Raises CannotQuote."""
    lines = [line for place in places if not place.is_impossible for line in _lines(place)]
    if any(_is_within(real(place.path), HOMES) for place in places):
        lines.insert(0, "ProtectHome=tmpfs")
    return list(dict.fromkeys(lines))


def _lines(place: Place) -> Iterator[str]:
    path = real(place.path)
    if place.is_spool and place.path == SpoolConfig().path:
        return
    if place.is_hidden:
        yield folder_line("BindPaths" if place.is_written else "BindReadOnlyPaths", path)
    elif place.is_written:
        around = path.parent if place.is_mount and path.parent != Path("/") else path
        yield folder_line("ReadWritePaths", around)


def real(path: Path) -> Path:
    """Where it is in truth: systemd and the kernel look at that."""
    return Path(os.path.realpath(path))


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
