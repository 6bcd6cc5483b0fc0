"""The relay with shorter patience, and a loop or a disk that hangs where a test wants it:
`python -m tests.daemon.hurried PLANT… -- --config FILE run`, with `stuck-housekeeping`, `stuck-worker`, `slow-disk`."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from relayd import housekeeping, parts, pulse, service
from relayd.cli import main
from relayd.spool import Spool, disk_queue, opening

SLOW_DISK_SECONDS = 2.0


async def hang(*_: Any, **__: Any) -> Any:
    """Never returns, and blocks nobody."""
    await asyncio.Event().wait()


def slow_disk() -> None:
    whole = opening.open_database

    def open_database(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SLOW_DISK_SECONDS)  # as the repair of a large database takes it, in its thread
        return whole(*args, **kwargs)

    disk_queue.__dict__["open_database"] = open_database


def plant(name: str) -> None:
    match name:
        case "stuck-housekeeping":
            housekeeping.tidy = hang
        case "stuck-worker":
            Spool.begin = hang  # type: ignore[method-assign]
        case "slow-disk":
            slow_disk()


if __name__ == "__main__":
    parts.FINISH_SECONDS = 0.5
    pulse.GRACE_SECONDS = 1.0
    service.PATIENCE_SECONDS = 0.9
    housekeeping.TURN_SECONDS = 0.3
    end = sys.argv.index("--") if "--" in sys.argv else 0
    for wanted in sys.argv[1:end]:
        plant(wanted)
    main(sys.argv[end + 1 :])
