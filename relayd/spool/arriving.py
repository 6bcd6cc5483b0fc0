"""The way in, step by step: make room, bring the content in, commit; and take back what did not get in.

Promises: the content is on the disk under its final name before the commit that names it. A put that fails leaves at
most a stray file, which is swept. Puts that run side by side do not promise the same room to each other.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from relayd.errors import Quarantined, SpoolFull
from relayd.files import Staged, printable
from relayd.model import Capture, Item, Order
from relayd.spool import upkeep
from relayd.spool.accepting import Content, accept
from relayd.spool.engine import Engine
from relayd.spool.limits import Need, Shortage, on_disk
from relayd.spool.rows import new_id, priority_of
from relayd.spool.tying import Ties
from relayd.threads import PartThreads

ROW_BYTES = 2048
"""What the rows of one item take, roughly; counted when looking for room."""

EVICTION_ROUNDS = 8
"""Space that was let go may take its time (somebody still reads the file): rather refuse than evict on and on."""


async def take_message(
    engine: Engine,
    capture: Capture,
    orders: Sequence[Order],
    *,
    now: float,
    trouble: Sequence[str] = (),
    ties: Ties | None = None,
) -> Item:
    """The short way: no file, so nothing to take back; the commit goes on even if the caller is cancelled."""
    if capture.file is not None:
        raise ValueError("a message lives in its row: hand its bytes over as payload")
    payload = capture.payload or b""
    _within_limit(engine, len(payload))
    with await _claim(engine, Need(size_bytes=on_disk(len(payload)) + ROW_BYTES), priority_of(orders), now):
        return await _commit(engine, capture, _measure(payload), new_id(now), _Said(orders, trouble, ties), now)


async def take_media(
    engine: Engine,
    capture: Capture,
    source_fd: int | None,
    orders: Sequence[Order],
    *,
    now: float,
    trouble: Sequence[str] = (),
    ties: Ties | None = None,
) -> Item:
    """Durable when it returns. Closes `source_fd`, a descriptor of the caller's that is given away."""
    threads = engine.files if capture.file is None or capture.file.threads is None else capture.file.threads
    with _released(source_fd, threads):
        size_bytes = _size_of(capture)
        _within_limit(engine, size_bytes)
        need = Need(size_bytes=on_disk(size_bytes) + ROW_BYTES, inodes=1)
        with await _claim(engine, need, priority_of(orders), now):
            return await _stage_and_commit(engine, capture, source_fd, threads, _Said(orders, trouble, ties), now)


async def _stage_and_commit(
    engine: Engine, capture: Capture, source_fd: int | None, threads: PartThreads, said: _Said, now: float
) -> Item:
    item_id = new_id(now)
    engine.arriving.add(item_id)  # the sweeper keeps its hands off until the row is there
    try:
        with engine.noticing("media"):
            staged: Staged = await threads.run(
                f"{printable(capture.name)} is copied",
                engine.folder.stage,
                capture,
                source_fd,
                item_id,
                engine.config.max_file_size,
                undo=lambda staged: engine.folder.discard([item_id]),
                uses=-1 if source_fd is None else source_fd,
            )
        completes = capture.earlier is not None and await engine.in_files(
            engine.folder.completes, capture.earlier.item_id, item_id
        )
        content = Content(size_bytes=staged.size_bytes, sha256=staged.sha256, md5=staged.md5, completes=completes)
        try:
            item = await _commit(engine, capture, content, item_id, said, now)
        except Exception:
            # The pages of a commit that failed may still reach the disk: then the row needs its file, and
            # otherwise the file is a stray that does no harm.
            if not engine.writer.failed_last:
                await engine.in_files(engine.folder.discard, [item_id])
            raise
        if item.id != item_id:
            await engine.in_files(engine.folder.discard, [item_id])
        return item
    finally:
        engine.arriving.discard(item_id)


@dataclass(frozen=True, slots=True)
class _Said:
    """What the rules say of a newcomer."""

    orders: Sequence[Order]
    trouble: Sequence[str]
    ties: Ties | None


async def _commit(engine: Engine, capture: Capture, content: Content, item_id: str, said: _Said, now: float) -> Item:
    operation = partial(
        accept,
        capture=capture,
        content=content,
        orders=said.orders,
        item_id=item_id,
        now=now,
        trouble=said.trouble,
        ties=said.ties,
    )
    return await engine.write(operation, weight=len(capture.payload or b""), grows=True)


async def _claim(engine: Engine, need: Need, priority: int, now: float) -> contextlib.AbstractContextManager[None]:
    """Room for this many bytes until the context ends. Raises SpoolFull."""
    for _ in range(EVICTION_ROUNDS):
        lacking = engine.missing(need, priority)
        if lacking is None:
            return _claimed(engine, need)
        if not await make_room(engine, lacking, priority, now=now):
            break
    lacking = engine.missing(need, priority)
    if lacking is None:
        return _claimed(engine, need)
    engine.refused(need, priority)
    raise SpoolFull(f"no room for {need.size_bytes} bytes, {lacking.text}; the original is kept at its source")


async def make_room(engine: Engine, lacking: Shortage, priority: int | None, *, now: float) -> int:
    """Evict once; how many items went, their space returned. 0: nothing may go for this newcomer."""
    room = upkeep.Room(
        bytes_wanted=lacking.bytes_missing,
        inodes_wanted=lacking.inodes_missing,
        priority=priority,
        when_full=engine.config.when_full,
    )
    gone = await engine.write(partial(upkeep.evict, room=room, now=now))
    await engine.settled()
    return gone


@contextlib.contextmanager
def _claimed(engine: Engine, need: Need) -> Iterator[None]:
    engine.claimed += need
    try:
        yield
    finally:
        engine.claimed -= need


@contextlib.contextmanager
def _released(descriptor: int | None, threads: PartThreads) -> Iterator[None]:
    """Closed in the threads that read it: the close of a file on a share that hangs waits, too."""
    try:
        yield
    finally:
        if descriptor is not None:
            threads.release(descriptor)


def _within_limit(engine: Engine, size_bytes: int) -> None:
    if size_bytes > engine.config.max_file_size:
        raise Quarantined(f"{size_bytes} bytes are more than spool.max_file_size, {engine.config.max_file_size}")


def _size_of(capture: Capture) -> int:
    return len(capture.payload or b"") if capture.file is None else capture.file.origin.size_bytes


def _measure(payload: bytes) -> Content:
    return Content(
        size_bytes=len(payload),
        sha256=hashlib.sha256(payload).hexdigest(),
        md5=hashlib.md5(payload, usedforsecurity=False).hexdigest(),
    )
