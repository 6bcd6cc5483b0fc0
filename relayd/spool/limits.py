"""How much room the spool may take, and who may take the last of it.

Promises: `max_size`, the floor of free space and the floor of free inodes hold for everything that is put, counting
what other puts have claimed but not yet written; only `emergency` may use the last `urgent_reserve`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from relayd.fields import Duration, Section, Size, written
from relayd.files import size_in_words
from relayd.model import Priority

UNCLAIMED = 4
"""Stored in place of a priority for an item that no rule wanted: less urgent than bulk."""


BLOCK_BYTES = 4096


class SpoolConfig(Section):
    """`[spool]`: where the disk queue is, how large it may grow, and how long it keeps things."""

    path: Path = Path("/var/lib/relayd")
    """Folder of the spool; owned by relayd, readable by nobody else."""
    max_size: Size = written("20GB", ge=1_000_000)
    """The spool never grows past this."""
    min_free: Size = written("1GB", ge=0)
    """Free space that stays on the file system for others."""
    min_free_percent: float = Field(default=5.0, ge=0.0, le=90.0)
    """The same as a share of the file system; the larger of the two counts."""
    min_free_inodes_percent: float = Field(default=1.0, ge=0.0, le=90.0)
    """Share of the file system's inodes that stays free."""
    urgent_reserve: Size = written("64MiB", ge=0)
    """The last part of both limits, kept for `emergency`; never more than an eighth of `max_size`."""
    max_file_size: Size = written("4GiB", gt=0)
    """Larger files go to quarantine."""
    when_full: Literal["evict-lower", "evict-oldest", "wait"] = "evict-lower"
    """What makes room. `evict-lower`: an undelivered item only for one of a higher priority; equals wait at their
    source. `evict-oldest`: the oldest of the same priority, too. `wait`: nothing undelivered is ever given up."""
    keep_delivered: Duration = written("30d", ge=0)
    """How long the record of a delivered item stays in the lists, and its content at the most."""
    keep_content: Duration = written("1d", ge=0)
    """How long media is kept after it was delivered, so that `relayd resend` can send it again; it is the first to go
    when room is needed. "0s": it goes at once."""
    keep_dead: Duration = written("30d", ge=0)
    """How long a dead or expired item is kept for `relayd retry`, media included; the record of a dropped one;
    and what a damaged database left behind."""
    keep_unclaimed: Duration = written("10m", ge=0)
    """How long media that no rule wanted is kept, so that an incident can still claim it."""
    give_up_after: Duration = written("30d", gt=0)
    """Age at which trying ends; a number of tries never ends it."""

    @property
    def own_bytes(self) -> int:
        """What the write-ahead log, and the headroom for a full disk, take of `max_size`: this much each."""
        return min(4 * 2**20, self.max_size // 16)

    @property
    def spare_bytes(self) -> int:
        """So much is free of delivered content ahead of what comes."""
        return min(256 * 2**20, self.max_size // 16)

    @property
    def events_kept(self) -> int:
        """How many events wait for the fleet at most; few in a small spool."""
        return min(10_000, self.max_size // 20_000)

    @property
    def commands_kept(self) -> int:
        """How many commands from the fleet are known again by their id."""
        return min(1_000, max(10, self.max_size // 200_000))

    def floor_bytes(self, disk: Disk) -> int:
        """Free space that stays for others."""
        return max(self.min_free, int(disk.total_bytes * self.min_free_percent / 100))

    def floor_inodes(self, disk: Disk) -> int:
        """Free inodes that stay for others."""
        return int(disk.total_inodes * self.min_free_inodes_percent / 100)

    @property
    def reserve_bytes(self) -> int:
        """The last of the room, for `emergency` alone."""
        return min(self.urgent_reserve, self.max_size // 8)


def on_disk(size_bytes: int) -> int:
    """What a file of this size takes, in whole blocks."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What is missing for one more put. Of `bytes_missing`, `media_missing` only files can give back: free pages of the
    database are no room for a file where the disk itself is short. `text` says which limit it is, for people."""

    bytes_missing: int
    media_missing: int
    inodes_missing: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What may still be put that is no emergency; the content of what was delivered counts as room. `limit` is the
    setting that comes first; `left_inodes` is None where the file system has no fixed number of them, else what is left
    above `inode_floor`. `refusal` is why something was refused not long ago, as long as that is so; else empty.
    `unwritable` is why its disk takes nothing at all, else empty."""

    used_bytes: int
    max_bytes: int
    left_bytes: int
    limit: str
    left_inodes: int | None
    inode_floor: int
    refusal: str
    disk_bytes: int
    unwritable: str

    @property
    def used_percent(self) -> float:
        """Of what the spool could hold as things are on the disk."""
        return 100.0 * self.used_bytes / max(1, self.used_bytes + max(0, self.left_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system as statvfs sees it; `free_*` is what an unprivileged process may use."""

    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int
    is_read_only: bool = False

    @classmethod
    def of(cls, path: Path) -> Disk:
        found = os.statvfs(path)
        return cls(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            total_inodes=found.f_files,
            free_inodes=found.f_favail,
            is_read_only=bool(found.f_flag & os.ST_RDONLY),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What something takes of the disk: a file of `size_bytes`, and `row_bytes` in the database, which takes its free
    pages first. A message takes no inode, it lives in its row."""

    size_bytes: int = 0
    row_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(
            size_bytes=self.size_bytes + other.size_bytes,
            row_bytes=self.row_bytes + other.row_bytes,
            inodes=self.inodes + other.inodes,
        )

    def __sub__(self, other: Need) -> Need:
        return Need(
            size_bytes=self.size_bytes - other.size_bytes,
            row_bytes=self.row_bytes - other.row_bytes,
            inodes=self.inodes - other.inodes,
        )

    @property
    def total_bytes(self) -> int:
        return self.size_bytes + self.row_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What the spool takes of its `max_size`, and the free pages of its database, which it takes of the disk only."""

    used_bytes: int = 0
    free_page_bytes: int = 0


def shortage(
    config: SpoolConfig,
    disk: Disk,
    *,
    used: Used,
    claimed: Need,
    need: Need,
    priority: int,
) -> Shortage | None:
    """What keeps `need` from being put, or None; `claimed` is what other puts are about to take."""
    reserve = config.reserve_bytes
    spared = 0 if priority == Priority.EMERGENCY else reserve
    over = used.used_bytes + claimed.total_bytes + need.total_bytes - (config.max_size - spared)
    floor = max(0, config.floor_bytes(disk) - (reserve - spared))
    growth = max(0, claimed.row_bytes + need.row_bytes - used.free_page_bytes)
    below = floor - (disk.free_bytes - claimed.size_bytes - need.size_bytes - growth)
    if need.size_bytes == 0:  # where the database has free pages, a message takes nothing of the disk
        below = min(below, growth)
    inode_floor = config.floor_inodes(disk)
    lacking_inodes = inode_floor + claimed.inodes + need.inodes - disk.free_inodes
    if disk.total_inodes == 0 or need.inodes == 0:  # btrfs and others have no fixed number
        lacking_inodes = 0
    if over <= 0 and below <= 0 and lacking_inodes <= 0:
        return None
    if over >= below and over > 0:
        taken, spare = size_in_words(used.used_bytes + claimed.total_bytes), size_in_words(spared)
        text = f"max_size: {taken} of {size_in_words(config.max_size)} are taken"
        if spared:
            text += f", and the last {spare} are kept for emergencies"
    elif below > 0:
        free, kept = size_in_words(disk.free_bytes), size_in_words(floor)
        text = f"min_free: {free} are free on the disk, {kept} stay free for others"
    else:
        text = f"min_free_inodes_percent: {disk.free_inodes} inodes are free on the disk"
    return Shortage(
        bytes_missing=max(over, below, 0),
        media_missing=max(below, 0) if need.size_bytes else 0,
        inodes_missing=max(lacking_inodes, 0),
        text=text,
    )


def room(
    config: SpoolConfig,
    disk: Disk,
    *,
    used_bytes: int,
    kept_bytes: int,
    claimed: Need,
    refusal: str,
    unwritable: str = "",
) -> Room:
    """What is left now, see `Room`; `kept_bytes` of what is used give way to whatever comes."""
    used_bytes -= kept_bytes
    within_size = config.max_size - config.reserve_bytes - used_bytes - claimed.total_bytes
    on_this_disk = disk.free_bytes + kept_bytes - config.floor_bytes(disk) - claimed.total_bytes
    floor = config.floor_inodes(disk)
    return Room(
        used_bytes=used_bytes,
        max_bytes=config.max_size,
        left_bytes=min(within_size, on_this_disk),
        limit="max_size" if within_size <= on_this_disk else "min_free",
        left_inodes=disk.free_inodes - floor - claimed.inodes if disk.total_inodes else None,
        inode_floor=floor,
        refusal=refusal,
        disk_bytes=disk.total_bytes,
        unwritable=unwritable,
    )
