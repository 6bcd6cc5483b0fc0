"""Disks of their own for tests: small file systems in loop-mounted files, and the power cut that needs no machine.

The cut: stop the writer, copy the backing file as it is, with no sync and no unmount, and mount the copy. What the file
system had not been made to write is lost, as it would be. As a program (`python -m tests.crash.powercut SPOOL DROP
[--normal] [--no-fsync]`) it is the writer: it puts and delivers until it is killed, and says what it was promised. The
options are the planted bugs: a database that syncs at checkpoints only, and media that is not synced at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from relayd import files
from relayd.model import Receipt
from relayd.spool import Spool, database
from tests.crash.spool_life import say
from tests.spool.rig import NOW, begin, camera_file, config, message, order

DISK_MEGABYTES = 64


@contextlib.contextmanager
def mounted(source: Path, where: Path) -> Iterator[Path]:
    """A file with a file system in it, mounted at `where` as long as the context lasts."""
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(source), str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def new_disk(path: Path, megabytes: int = DISK_MEGABYTES, *options: str) -> Path:
    """An empty ext4 in a file."""
    with path.open("wb") as disk:
        disk.truncate(megabytes * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", *options, str(path)], check=True)
    return path


def cut(disk: Path, copy: Path) -> Path:
    """The disk as it would be after the power went."""
    return Path(shutil.copyfile(disk, copy))


@contextlib.contextmanager
def tmpfs(where: Path, *options: str) -> Iterator[Path]:
    """A file system in memory with hard limits."""
    where.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


async def write_for_ever(parent: Path, drop: Path) -> None:
    spool = await Spool.open(config(parent), now=NOW)
    say("opened")
    number = 0
    while True:
        number += 1
        await _put_file(spool, drop / f"{number}.jpg", number)
        await _put_message(spool, number)
        found = await begin(spool, "api", delay=lambda _: 1e9, longest_backoff=1e12)
        if found is not None and number % 2:
            await spool.record_delivered(found.delivery.id, Receipt(proof="p"), now=NOW)
            say("delivered", item=found.item.id)


async def _put_file(spool: Spool, path: Path, number: int) -> None:
    path.write_bytes(number.to_bytes(4, "big") * 5_000)
    with camera_file(path) as capture:
        item = await spool.put(capture, [order("nas")], now=NOW)
    say("put", id=item.id, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    path.unlink()


async def _put_message(spool: Spool, number: int) -> None:
    payload = b"message %d" % number
    item = await spool.put(dataclasses.replace(message(payload), name=str(number)), [order("api")], now=NOW)
    say("put", id=item.id, sha256=hashlib.sha256(payload).hexdigest())


def _leave_media_unsynced() -> None:
    """The planted bug: relayd's own syncs do nothing; those of the database are left alone."""

    def nothing(_: int) -> None:
        return

    files.os.fsync = nothing  # type: ignore[attr-defined]


if __name__ == "__main__":
    if "--normal" in sys.argv:
        database.SYNCHRONOUS = "NORMAL"
    if "--no-fsync" in sys.argv:
        _leave_media_unsynced()
    assert os.path.ismount(Path(sys.argv[1])), "this is for a disk of its own"
    asyncio.run(write_for_ever(Path(sys.argv[1]), Path(sys.argv[2])))
