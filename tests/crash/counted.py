"""The relay, and on SIGUSR1 how many tasks it has and what they are called, in the file that $RELAYD_COUNTS names.

`python -m tests.crash.counted --config FILE run`
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter
from pathlib import Path

from relayd.app import App
from relayd.cli import main

_NUMBERS = re.compile(r"[0-9][0-9a-z]{3,}|[0-9]+")


def count_tasks() -> None:
    """Write it whole or not at all."""
    names = Counter(_NUMBERS.sub("N", task.get_name()) for task in asyncio.all_tasks())
    place = Path(os.environ["RELAYD_COUNTS"])
    partial = place.with_suffix(".part")
    partial.write_text(json.dumps(names))
    partial.rename(place)


if __name__ == "__main__":
    run = App.run

    async def run_counted(self: App) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, count_tasks)
        await run(self)

    App.run = run_counted  # type: ignore[method-assign]
    main()
