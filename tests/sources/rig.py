"""What folder tests need: a durable store that is a ledger too, a running source, and waiting with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relayd import files
from relayd.errors import SpoolFull
from relayd.model import Capture, Held, Item, Origin
from relayd.sources.base import Known
from relayd.sources.folder import FolderSource
from relayd.sources.folder_config import FolderConfig
from tests.patience import PATIENT_SECONDS

JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x02" + b"picture" * 50 + b"\xff\xd9"
CUT_JPEG = JPEG[:-100]


@dataclass
class Store:
    """A spool in miniature: content in a folder, what is known of files in a dict. Can be full, slow or interrupted."""

    folder: Path
    items: list[Item] = field(default_factory=list)
    rows: dict[bytes, Known] = field(default_factory=dict)
    unshared: list[str] = field(default_factory=list)
    holding: dict[str, Held] = field(default_factory=dict)
    is_full: bool = False
    puts: int = 0
    before_put: Callable[[Capture], None] | None = None
    after_put: Callable[[Capture], None] | None = None
    gate: asyncio.Event | None = None

    async def put(self, capture: Capture) -> Item:
        self.puts += 1
        assert capture.file is not None
        if self.before_put is not None:
            self.before_put(capture)
        if self.is_full:
            raise SpoolFull("no room")
        origin = capture.file.origin
        row = self.rows.get(origin.path)
        if capture.earlier is not None and capture.earlier.is_same_content:
            return self._correct(capture, capture.earlier.item_id)
        if row is not None and row.item_id is not None and same(row.origin, origin):
            return next(item for item in self.items if item.id == row.item_id)
        item = await asyncio.to_thread(self._store, capture)
        if capture.earlier is not None:
            self._take_over(capture.earlier.item_id, item)
        self.rows[origin.path] = Known(origin=origin, item_id=item.id, reason=None)
        self.items.append(item)
        if capture.is_held:
            self._hold(item, origin)
        if self.gate is not None:
            await self.gate.wait()
        if self.after_put is not None:
            self.after_put(capture)
        return item

    def _hold(self, item: Item, origin: Origin) -> None:
        self.holding[item.id] = Held(origin=origin, item_id=item.id, sha256=item.sha256, captured_at=item.captured_at)

    def _correct(self, capture: Capture, item_id: str) -> Item:
        assert capture.file is not None
        place = next(place for place, item in enumerate(self.items) if item.id == item_id)
        item = dataclasses.replace(self.items[place], name=capture.name, captured_at=capture.captured_at)
        self.items[place] = item
        self.rows = {path: row for path, row in self.rows.items() if row.item_id != item_id}
        self.rows[capture.file.origin.path] = Known(origin=capture.file.origin, item_id=item_id, reason=None)
        self._hold(item, capture.file.origin)
        return item

    def _take_over(self, earlier_id: str, item: Item) -> None:
        """As the spool does while nothing was sent."""
        self.holding.pop(earlier_id, None)
        with (self.folder / earlier_id).open("rb") as earlier, (self.folder / item.id).open("rb") as later:
            if files.is_continued(earlier.fileno(), later.fileno()):
                self.items = [one for one in self.items if one.id != earlier_id]

    def _store(self, capture: Capture) -> Item:
        file = capture.file
        assert file is not None
        item_id = f"item{len(os.listdir(self.folder)):06d}{os.urandom(4).hex()}"
        folder_fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            staged = files.link_or_copy(
                file.descriptor,
                folder_fd,
                item_id,
                may_link=file.is_finished,
                size_limit=2**32,
                origin=file.origin,
            )
        finally:
            os.close(folder_fd)
        return Item(
            id=item_id,
            source=capture.source,
            name=capture.name,
            kind=capture.kind,
            content_type=capture.content_type,
            size_bytes=staged.size_bytes,
            sha256=staged.sha256,
            md5=staged.md5,
            captured_at=capture.captured_at,
            accepted_at=0.0,
            attributes=capture.attributes,
            damage=capture.damage,
        )

    async def known(self, source: str, after: bytes, limit: int) -> list[Known]:
        return [self.rows[path] for path in sorted(self.rows) if path > after][:limit]

    async def quarantine(self, source: str, origin: Origin, reason: str) -> None:
        self.rows[origin.path] = Known(origin=origin, item_id=None, reason=reason)

    def forget(self, source: str, paths: Iterable[bytes]) -> None:
        for path in paths:
            self.rows.pop(path, None)

    async def held(self, source: str) -> list[Held]:
        return list(self.holding.values())

    async def release(self, item_ids: Sequence[str]) -> None:
        for item_id in item_ids:
            self.holding.pop(item_id, None)

    def vouch_for(self, item_ids: Collection[str]) -> None:
        return

    async def unshare(self, item_id: str) -> None:
        content = (self.folder / item_id).read_bytes()
        (self.folder / "copy").write_bytes(content)
        (self.folder / "copy").rename(self.folder / item_id)
        self.unshared.append(item_id)

    @property
    def reasons(self) -> dict[bytes, str]:
        return {path: row.reason for path, row in self.rows.items() if row.reason is not None}

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.items]

    def content(self, item: Item) -> bytes:
        return (self.folder / item.id).read_bytes()


def same(one: Origin, other: Origin) -> bool:
    return (one.inode, one.size_bytes, one.mtime_ns) == (other.inode, other.size_bytes, other.mtime_ns)


def config_for(folder: Path, **options: Any) -> FolderConfig:
    defaults = {"type": "folder", "path": str(folder), "settle": "200ms", "rescan": "1s", "linger": "0s"}
    return FolderConfig.model_validate(defaults | options)


@contextlib.asynccontextmanager
async def running(source: FolderSource, put: Any) -> AsyncIterator[FolderSource]:
    """The source at work; it must not end by itself."""
    task = asyncio.create_task(source.run(put))
    try:
        yield source
    finally:
        failed = task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert not failed


async def until(condition: Callable[[], Any], what: str = "") -> None:
    """Wait for a state."""
    deadline = time.monotonic() + PATIENT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {PATIENT_SECONDS} s: {what or condition.__code__.co_names}")
        await asyncio.sleep(0.005)


async def watched(source: FolderSource) -> None:
    """Until the first scan is done."""
    await until(lambda: source.view().state != "waiting", "opened")


def known(source: FolderSource) -> int:
    """How many files it knows already; none before its first look."""
    pickup = None if source._visit is None else source._visit._pickup
    return 0 if pickup is None else len(pickup.known)


def drop(folder: Path, name: str | bytes, content: bytes = JPEG) -> Path:
    """Write a file the way a camera does."""
    path = folder / os.fsdecode(name)
    path.write_bytes(content)
    return path
