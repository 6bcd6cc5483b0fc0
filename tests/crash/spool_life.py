"""One life of a spool in a process of its own, for tests that kill it or make its disk fail at every call.

Run: `python -m tests.crash.spool_life WORK [--unlink-first] [--stubborn]`. It takes files from WORK/drop into
WORK/spool as a source would (unlinked once they are taken), and delivers as a worker would. Each thing that the spool
promised is said in one line on standard output, after the promise and not before. `--unlink-first` is the planted bug:
the original goes before the spool has promised anything. `--stubborn` tries again what the spool refuses, a few times.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from relayd.errors import SpoolError
from relayd.files import hold_lease
from relayd.model import Capture, Item, Order, Outcome, Priority, Receipt, State
from relayd.spool import Begun, Spool, Terms, disk_queue, engine
from tests.spool.rig import NOW, camera_file, config, message, order

T = TypeVar("T")
TRIES = 6
_OPENER = ThreadPoolExecutor(1)
FOLLOW_UP = order("control-room", Priority.HIGH)


def say(what: str, **fields: Any) -> None:
    os.write(1, json.dumps({"what": what, **fields}).encode() + b"\n")


class Life:
    def __init__(self, work: Path, *, unlink_first: bool, is_stubborn: bool) -> None:
        self.drop = work / "drop"
        self.config = config(work, keep_content="1d")
        self.unlink_first = unlink_first
        self.is_stubborn = is_stubborn

    async def run(self) -> None:
        spool = await self.surely(lambda: Spool.open(self.config, now=NOW))
        say("opened")
        try:
            await spool.sweep()
            for path in sorted(self.drop.iterdir()):
                await self.take(spool, path)
            await self.tell(spool)
            await self.deliver(spool)
            await self.resend(spool)
            await self.reject(spool)
            await self.tidy(spool)
        finally:
            await spool.close()
        say("closed")

    async def take(self, spool: Spool, path: Path) -> None:
        """Names that begin with `linked` are linked, others copied."""
        with camera_file(path) as found:
            capture = _leased(found) if path.name.startswith("linked") else found
            if self.unlink_first:
                path.unlink()
            orders: list[Order] = [order("api", Priority.NORMAL, FOLLOW_UP)]
            item: Item = await self.surely(lambda: spool.put(capture, orders, now=NOW))
        say("put", id=item.id, name=path.name, sha256=item.sha256)
        with contextlib.suppress(OSError):  # it stays, and the spool knows it
            path.unlink()

    async def tell(self, spool: Spool) -> None:
        orders = [order("mqtt", Priority.EMERGENCY)]
        item = await self.surely(lambda: spool.put(message(b"pressed"), orders, now=NOW))
        say("put", id=item.id, name="message", sha256=hashlib.sha256(b"pressed").hexdigest())

    async def begin(self, spool: Spool, to: str) -> Begun:
        found = await self.surely(
            lambda: spool.begin(to, now=NOW, longest_backoff=300, delay=lambda _: 0.0, exclude=(), probe=False)
        )
        assert found is not None
        say("begun", delivery=found.delivery.id, item=found.item.id, attempts=found.delivery.attempts)
        return found

    async def deliver(self, spool: Spool) -> None:
        it = await self.begin(spool, "api")
        number = it.delivery.id
        await self.surely(lambda: spool.store_intent(number, "upload"))
        say("intent", delivery=number, item=it.item.id)
        await self.surely(lambda: spool.store_step(number, "upload", {"etag": "e"}))
        say("step", delivery=number, item=it.item.id)
        await self.surely(
            lambda: spool.record_deferred(number, Outcome.FAILED, "500", due_at=NOW, now=NOW, forget_from="none")
        )
        say("deferred", delivery=number, item=it.item.id)
        await self.surely(lambda: spool.record_delivered(number, Receipt(proof="p", fields={"uri": "u"}), now=NOW))
        say("delivered", delivery=number, item=it.item.id)
        it = await self.begin(spool, "control-room")
        number = it.delivery.id
        await self.surely(lambda: spool.record_delivered(number, Receipt(proof="p"), now=NOW))
        say("delivered", delivery=number, item=it.item.id)

    async def resend(self, spool: Spool) -> None:
        """What was delivered, once more, to the one that is owed nothing else."""
        item_id = (await spool.items(state="delivered"))[0].item.id
        terms = Terms(destination="control-room", priority=Priority.HIGH, rule="by hand")
        done, _ = await self.surely(lambda: spool.resend([item_id], terms, now=NOW))
        if not done[0].why:
            say("resent", item=item_id)
        it = await self.begin(spool, "control-room")
        number = it.delivery.id
        await self.surely(lambda: spool.record_delivered(number, Receipt(proof="p"), now=NOW))
        say("delivered again", delivery=number, item=it.item.id)

    async def reject(self, spool: Spool) -> None:
        it = await self.begin(spool, "mqtt")
        number = it.delivery.id
        await self.surely(lambda: spool.record_ended(number, State.DEAD, Outcome.REJECTED, "no", now=NOW))
        say("dead", delivery=number, item=it.item.id)

    async def tidy(self, spool: Spool) -> None:
        await self.surely(lambda: spool.purge(now=NOW + 10, keep_delivered=0, keep_dead=1e9))
        say("purged")
        await self.surely(lambda: spool.retry(None, None, now=NOW))
        say("retried")

    async def surely(self, work: Callable[[], Awaitable[T]]) -> T:
        for _ in range(TRIES if self.is_stubborn else 0):
            try:
                return await work()
            except SpoolError as error:
                say("refused", why=str(error))
        return await work()


async def _in_one_thread(what: str, do: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_OPENER, do, *args)


def _leased(capture: Capture) -> Capture:
    """With the proof that its writer is done, so that it is linked and not copied."""
    assert capture.file is not None
    is_finished = hold_lease(capture.file.descriptor) is True
    return dataclasses.replace(capture, file=dataclasses.replace(capture.file, is_finished=is_finished))


if __name__ == "__main__":
    engine.FILE_THREADS = 1  # strace counts calls thread by thread: one thread, one count
    vars(disk_queue)["in_own_thread"] = _in_one_thread
    life = Life(Path(sys.argv[1]), unlink_first="--unlink-first" in sys.argv, is_stubborn="--stubborn" in sys.argv)
    asyncio.run(life.run())
