"""The way in, step by step: make room, bring the content in, commit; and take back what did not get in.

Promises: the content is on the disk under its final name before the commit that names it. A put that fails leaves at
most a stray file, which is swept. Puts that run side by side do not promise the same room to each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from relayd.errors import Quarantined, SpoolError, SpoolFull, Unsettled
from relayd.files import Staged, printable
from relayd.model import Capture, Item, Order
from relayd.spool import evicting
from relayd.spool.accepting import Content, accept, pass_over, prove_writable
from relayd.spool.engine import Engine
from relayd.spool.limits import Need, Shortage, on_disk
from relayd.spool.rows import new_id, priority_of
from relayd.spool.tying import Ties
from relayd.threads import PartThreads

log = logging.getLogger("relayd.spool")

ROW_BYTES = 2048
"""What the rows of one item take, roughly, with a message that is not larger; counted when looking for room."""

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
    said = _Said(orders, trouble, ties)
    passed = await _pass_over(engine, capture, _measure(payload), said, now)
    if passed is not None:
        return passed
    with await _claim(engine, Need(row_bytes=_row_bytes(len(payload))), priority_of(orders), now):
        return await _commit(engine, capture, _measure(payload), new_id(now), said, now)


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
        said = _Said(orders, trouble, ties)
        unread = Content(size_bytes=size_bytes, sha256="", md5="")
        passed = await _pass_over(engine, capture, unread, said, now)
        if passed is not None:
            return passed
        need = Need(size_bytes=on_disk(size_bytes), row_bytes=ROW_BYTES, inodes=1)
        with await _claim(engine, need, priority_of(orders), now):
            return await _stage_and_commit(engine, capture, source_fd, threads, said, now)


async def _pass_over(engine: Engine, capture: Capture, content: Content, said: _Said, now: float) -> Item | None:
    """What no rule wants and no incident can claim is counted, and leaves no row: it needs no room and no copy. None:
    it is to be kept."""
    if said.orders or said.trouble or engine.may_be_claimed(capture.source):
        return None
    return await engine.write(
        partial(pass_over, capture=capture, content=content, item_id=new_id(now), now=now, ties=said.ties)
    )


async def _stage_and_commit(
    engine: Engine, capture: Capture, source_fd: int | None, threads: PartThreads, said: _Said, now: float
) -> Item:
    item_id = new_id(now)
    if engine.writer.failed_last:  # no file is brought in that no row could be written for
        await engine.write(prove_writable, grows=True)
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
            await _take_back(engine, item_id, staged)
            raise
        if item.id != item_id:
            await engine.in_files(engine.folder.discard, [item_id])
        return item
    finally:
        engine.arriving.discard(item_id)


async def _take_back(engine: Engine, item_id: str, staged: Staged) -> None:
    """The pages of a commit that failed may still reach the disk, and then the row needs its file: until a commit
    succeeds, it stays. As a copy: a second name would keep the original from being taken when it is tried again."""
    if not engine.writer.failed_last:
        await engine.in_files(engine.folder.discard, [item_id])
        return
    engine.strays.add(item_id)
    if staged.was_linked:
        try:
            await engine.in_files(engine.folder.unshare, item_id, staged.sha256)
        except (SpoolError, Unsettled) as error:
            log.warning("the original of %s keeps a second name until the spool can be written to: %s", item_id, error)


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
    if engine.missing(need, priority) is not None:
        async with engine.making_room:  # else each of many that come together would let go of enough for itself
            await _make_room_for(engine, need, priority, now)
    lacking = engine.missing(need, priority)
    if lacking is None:
        return _claimed(engine, need)
    engine.refused(need, priority)
    raise SpoolFull(f"no room for {need.size_bytes} bytes, {lacking.text}; the original is kept at its source")


async def _make_room_for(engine: Engine, need: Need, priority: int, now: float) -> None:
    for _ in range(EVICTION_ROUNDS):
        lacking = engine.missing(need, priority)
        if lacking is None:
            return
        if engine.leftovers.size_bytes and await engine.in_files(engine.leftovers.make_room):
            continue
        if not await make_room(engine, lacking, priority, now=now):
            return


async def make_room(
    engine: Engine, lacking: Shortage, priority: int | None, *, now: float, is_spare: bool = False
) -> int:
    """Let go of what is enough, as far as that is there; how many items went, their space returned. 0: nothing may go
    for this newcomer, or nothing is gained by it. With `is_spare` only the content of what was delivered goes."""
    room = evicting.Room(
        bytes_wanted=lacking.bytes_missing,
        media_wanted=lacking.media_missing,
        inodes_wanted=lacking.inodes_missing,
        priority=priority,
        when_full=engine.config.when_full,
        is_spare=is_spare,
    )
    planned = await engine.browse(evicting.plan, room)
    gain = evicting.Gain()
    for start in range(0, len(planned), evicting.AT_ONCE):
        left = gain.left_of(room)
        page = planned[start : start + evicting.AT_ONCE]
        try:
            gain += await engine.write(partial(evicting.let_go, room=left, planned=page, now=now))
        except evicting.GainedNothing:
            break
        if gain.is_enough(room):
            break
    await engine.settled()
    return gain.items


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


def _row_bytes(payload_bytes: int) -> int:
    return ROW_BYTES if payload_bytes <= ROW_BYTES // 2 else on_disk(payload_bytes) + ROW_BYTES


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
