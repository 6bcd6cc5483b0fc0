"""Tells when the files of the configuration have changed.

Promises: folders are watched, so a file that is replaced by another one of its name, or comes later, is seen; a burst
of changes is one hint. At most one wake-up a second, by watchfiles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from relayd import config

CALM_MILLISECONDS = 2000
STEP_MILLISECONDS = 1000


async def changes(files: Sequence[Path] | None) -> AsyncIterator[None]:
    """Yield after each burst in which a file of the configuration (None: in the usual places) became another one."""
    import watchfiles  # costs a tenth of an idle relay's memory, and few relays watch

    before = config.look_of(files)
    async for _ in watchfiles.awatch(
        *config.folders_of(files),
        watch_filter=None,
        debounce=CALM_MILLISECONDS,
        step=STEP_MILLISECONDS,
        recursive=False,
        rust_timeout=0,
        stop_event=None,
    ):
        now = config.look_of(files)
        if now != before:
            before = now
            yield
