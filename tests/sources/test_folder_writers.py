"""Writers that do whatever programs do: what each one left whole is delivered once, and never a part of it.

`RELAYD_WRITERS=100` plays it for as many writers and for longer; `RELAYD_SEED` plays a run again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from relayd import clock, files
from relayd.model import Receipt
from relayd.sources import folder_visit
from relayd.sources.folder import FolderSource
from relayd.spool import Spool
from tests.patience import PATIENT_SECONDS
from tests.sources.rig import running, watched
from tests.sources.test_folder_linger import lingering, opened
from tests.sources.writers import End, Writing

WRITERS = int(os.environ.get("RELAYD_WRITERS", "12"))
SECONDS = 4.0 if WRITERS <= 12 else 60.0
LINGER_SECONDS = 0.3
SEED = os.environ.get("RELAYD_SEED") or os.urandom(4).hex()


@dataclass(frozen=True)
class Delivered:
    item_id: str
    name: str
    sha256: str
    captured_at: float


async def deliver(spool: Spool, delivered: list[Delivered]) -> None:
    """As a worker would, and whatever is owed at once."""
    while True:
        now = clock.now()
        begun = await spool.begin("site", now=now, longest_backoff=300, delay=lambda _: 0.0, exclude=(), probe=False)
        if begun is None:
            await asyncio.sleep(0.02)
            continue
        item = begun.item
        with spool.open_media(item.id) as media:
            sha256 = hashlib.sha256(media.read()).hexdigest()
        delivered.append(Delivered(item.id, item.name, sha256, item.captured_at))
        await spool.record_delivered(begun.delivery.id, Receipt(proof="here it is"), now=clock.now())


async def all_is_settled(spool: Spool, folder: Path) -> set[str]:
    """Wait until all that lies in the folder has a reason to, and nothing is owed. The names of what lies there."""
    deadline = time.monotonic() + PATIENT_SECONDS
    while True:
        reasons = {os.fsdecode(row.path) for row in await spool.quarantined("cam", 10_000)}
        unsaid = set(visible(folder)) - reasons
        if (not unsaid and spool.counters.pending == 0) or time.monotonic() > deadline:
            return reasons
        await asyncio.sleep(0.05)


def wrong_with(
    ends: list[End], delivered: list[Delivered], lying: dict[str, bytes], reasons: set[str], *, leases: bool
) -> list[str]:
    """Everything that is not as promised, in words."""
    wrong = [f"{name} lies there and nobody says why" for name in lying if name not in reasons]
    by_content: dict[str, list[Delivered]] = {}
    for one in delivered:
        by_content.setdefault(one.sha256, []).append(one)
    allowed = set()
    for end in ends:
        if end.is_cut_loose and not leases:  # only a lease lets nobody in while a name goes
            allowed |= {digest(content) for content in (end.content, *end.parts, *end.others)}
            continue
        mark = digest(end.content)
        found = by_content.get(mark, [])
        allowed |= {mark, *map(digest, end.others)}
        is_lying = lying.get(end.name) == end.content and end.name in reasons
        if len(found) > 1 or (not found and not is_lying and not end.is_removed):
            wrong.append(f"{end.name}: delivered {len(found)} times: {found}; {', '.join(end.told)}")
        is_known = bool(found) and not end.is_removed and not end.is_late
        if is_known and found[0].name != end.name:
            wrong.append(f"{end.name}: delivered as {found[0].name}; {', '.join(end.told)}")
        if is_known and end.time is not None and found[0].captured_at != end.time:
            wrong.append(f"{end.name}: delivered with the time {found[0].captured_at}; {', '.join(end.told)}")
        others = [one for content in end.others for one in by_content.get(digest(content), [])]
        if len({one.sha256 for one in others}) < len(others):
            wrong.append(f"{end.name}: something before it was delivered twice; {', '.join(end.told)}")
        parts = [one for part in end.parts for one in by_content.get(digest(part), []) if one.sha256 not in allowed]
        allowed |= {one.sha256 for one in parts}
        if parts and not end.is_removed:  # else it is all that there is left of it
            wrong.append(f"{end.name}: a part was delivered: {parts}; {', '.join(end.told)}")
    wrong += [f"nobody wrote {one}" for one in delivered if one.sha256 not in allowed]
    return wrong


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def visible(folder: Path) -> dict[str, bytes]:
    """What lies there; names that are never taken are left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".part"}


@pytest.fixture(params=["leases", "no leases"])
def leases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no leases":
        monkeypatch.setattr(files, "hold_lease", lambda descriptor: None)
        monkeypatch.setattr(folder_visit, "may_lease_of_others", lambda: False)
    return str(request.param)


@pytest.mark.timeout(300)
async def test_what_each_writer_left_whole_is_delivered_once(folder: Path, tmp_path: Path, leases: str) -> None:
    delivered: list[Delivered] = []
    writings = [Writing(folder, number, SEED, SECONDS, LINGER_SECONDS) for number in range(WRITERS)]
    options = {"settle": "50ms", "settle_unproven": "1s"}
    async with opened(tmp_path / "spool") as (spool, intake):
        source = FolderSource("cam", lingering(folder, f"{LINGER_SECONDS}s", **options), spool)
        worker = asyncio.create_task(deliver(spool, delivered))
        async with running(source, intake.put):
            await watched(source)
            with ThreadPoolExecutor(WRITERS) as threads:
                loop = asyncio.get_running_loop()
                await asyncio.gather(*(loop.run_in_executor(threads, writing.run) for writing in writings))
            reasons = await all_is_settled(spool, folder)
        worker.cancel()
        await asyncio.wait({worker})
        assert worker.cancelled(), worker.exception()
    ends = [end for writing in writings for end in writing.ends]
    wrong = wrong_with(ends, delivered, visible(folder), reasons, leases=leases == "leases")
    shown = "\n".join(wrong[:20])
    assert not wrong, f"RELAYD_SEED={SEED} plays {leases} again: {len(wrong)} of {len(ends)} files:\n{shown}"
    assert len(delivered) > len(ends) / 2
