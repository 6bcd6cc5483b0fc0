"""What can be written in the section of a drop folder."""

from __future__ import annotations

import datetime
import zoneinfo
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from relayd.fields import Duration, Size, written
from relayd.sources.base import SourceConfig
from relayd.sources.name_pattern import NamePattern


class FolderConfig(SourceConfig):
    """`[source.NAME]` with `type = "folder"`: a folder whose files become items."""

    type: Literal["folder"]
    """Always `folder`."""
    path: Annotated[Path, Field(examples=["/srv/cameras/front"])]
    """Absolute path of the folder. The service needs write permission on it, to remove what it has taken."""
    include: Annotated[tuple[str, ...], Field(examples=[["*.jpg", "*.mp4"]])] = ()
    """Only files that match one of these globs (upper and lower case are the same); empty: all. Hidden and unfinished
    files (`.part`, `.tmp`, `~` and the like) are never taken; litter of NAS and Windows (`@eaDir`, `#recycle`,
    `@Recycle`, `LOST.DIR`, `desktop.ini`, `Thumbs.db`, `*.idx`) only where a glob names it."""
    exclude: Annotated[tuple[str, ...], Field(examples=[["*_thumb.jpg", "test/**"]])] = ()
    """Not these, even if included. A glob with a `/` is matched with the path below the folder."""
    recursive: bool = False
    """Also the files of sub-folders, however many there are."""
    remove_empty: Annotated[Duration | None, Field(gt=0, examples=["1d"])] = None
    """Remove a sub-folder when all was taken out of it and it has been empty for so long; one that somebody made and
    nothing was ever taken from stays. Absent: all stay."""
    settle: Duration = written("2s", gt=0)
    """How long size and time of a file must stay the same, where nothing proves that its writer is done."""
    unfinished: Literal["take", "keep"] = "take"
    """What is cut off for good (a camera that lost its power, an upload that broke) is the most valuable: `take` it as
    it is, marked in `item.damage`, or `keep` it where it is."""
    unfinished_after: Duration = written("10m", gt=0)
    """How long a cut-off file must have been quiet before it counts as cut off for good."""
    trust_close: bool = True
    """Take a file as soon as its writer has closed it. Turn it off for writers that close a file and go on later."""
    settle_unproven: Duration = written("1m", gt=0)
    """The same where nothing at all tells about its writer (network and FUSE mounts, files of other users where the
    service may take no leases and saw no close) and its content has no end that shows. The original stays for as long
    again, so that what goes on then is not lost."""
    linger: Duration = written("2s", ge=0)
    """How long the original stays after it was taken and after its last change: its writer may set its times, rename it
    or look at it, and that is the same item. What is urgent does not wait for it; `0s`: the original goes at once."""
    same_again: Duration = written("1d", ge=0)
    """A file that comes again with the same name and content within this time is the same item; `0s`: it is a new
    one."""
    rescan: Duration = written("30s", ge=1)
    """How often the folder is listed, whatever the kernel tells."""
    watch: Literal["auto", "inotify", "poll"] = "auto"
    """How changes are noticed: `inotify` for local folders, `poll` for network mounts; `auto` finds out."""
    poll_every: Duration = written("5s", gt=0)
    """How often a polled folder is looked at; there a file must be the same for two looks, and for `settle`."""
    name_pattern: Annotated[str | None, Field(examples=["{camera}_{time}.jpg", "{camera}/{date}/{file}"])] = None
    """What file names tell: each `{field}` becomes an attribute of the item. `{time}`, `{epoch}`, or `{date}` (or
    `{year}` or `{year2}`, `{month}`, `{day}`) with `{time}` (or `{hour}`, `{minute}`, `{second}`) is the time of
    capture if it reads like one. With a `/` it is matched with the path below the folder."""
    time_zone: Annotated[str, Field(examples=["UTC", "Europe/Copenhagen"])] = "local"
    """The zone of times in file names that name none: `local` is the one of this machine."""
    max_file_size: Size = written("4GiB", gt=0)
    """Bigger files go to quarantine."""
    concurrency: int = Field(default=16, ge=1, le=64)
    """How many files may be on their way into the spool at once."""
    hard_link: bool = True
    """Share the file with the spool, instead of copying it, where that is safe and possible: once nobody wants it any
    more."""
    keep_originals: bool = False
    """Leave the files where they are (a read-only card, an archive); each is taken once while it stays the same."""
    must_be_mounted: bool = False
    """The folder is a mount point: as long as nothing is mounted there, that is a fault."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError(f'write an absolute path, for example "/srv/{path}"')
        return path

    @field_validator("name_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            NamePattern(pattern)
        return pattern

    @field_validator("time_zone")
    @classmethod
    def _exists(cls, name: str) -> str:
        zone_of(name)
        return name


def zone_of(name: str) -> datetime.tzinfo | None:
    """The zone of a `time_zone`; None is the machine's own. Raises ValueError."""
    if name == "local":
        return None
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        raise ValueError(f'no time zone {name!r}, write "local", "UTC" or a name like "Europe/Copenhagen"') from None
