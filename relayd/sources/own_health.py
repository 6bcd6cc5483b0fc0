"""The relay itself as a source, named `relayd`: a message whenever one of its parts breaks, or is whole again.

Promises: each fault that stands is told once, and once that it is over, in turns, whatever is killed in between. The
ledger says what was told, in the very commit of the message: its entry is the part, the reason and since when, as
raised or as cleared. While the spool refuses, a message waits; if the fault is over before there is room, it was not
told at all. It is built only where a rule takes from `relayd`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Mapping
from typing import ClassVar

from relayd import clock, pulse
from relayd.errors import SpoolError, SpoolFull
from relayd.faults import SCHEMA, Standing, Turn, after, title, turns
from relayd.lookout import Lookout
from relayd.model import Arrival, Capture, Finding, Kind, Known, Origin, SourceView
from relayd.rule_config import OWN_HEALTH
from relayd.sources.base import Ledger, Put, Source, SourceConfig
from relayd.sources.silence import Silence

log = logging.getLogger("relayd.sources")

RAISED, CLEARED = 1, 2
"""What an entry of the ledger was told as, in the column that tells files apart."""
TRY_AGAIN_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 60.0
LEDGER_PAGE = 1_000


class OwnHealth(Source):
    """What stands, as `lookout` sees it, against what was told, as the ledger knows it."""

    Config: ClassVar[type[SourceConfig]] = SourceConfig
    while_held: ClassVar[str] = "what breaks and lasts is said after that"

    def __init__(self, ledger: Ledger, lookout: Lookout) -> None:
        super().__init__(OWN_HEALTH, Silence(None, "event"))
        self._ledger = ledger
        self._lookout = lookout
        self._trouble = ""
        self._last_at: float | None = None

    async def run(self, put: Put) -> None:
        told = await self._told()
        while True:
            news = self._lookout.news
            for turn in turns(told, self._lookout.standing):
                if not await self._tell(turn, put):
                    break
                told = after(turn, told)
            try:
                rest_seconds = TRY_AGAIN_SECONDS if self._trouble else LOOK_AGAIN_SECONDS
                pulse.beat(rest_seconds)
                async with asyncio.timeout(rest_seconds):
                    await news.wait()
            except TimeoutError:
                continue

    def state(self) -> SourceView:
        return SourceView(state="waiting" if self._trouble else "ok", reason=self._trouble, last_at=self._last_at)

    async def check(self) -> list[Finding]:
        """Nothing of its own."""
        return []

    async def _tell(self, turn: Turn, put: Put) -> bool:
        """Whether it is in the spool now."""
        origin = _origin(turn)
        try:
            await put(_capture(turn, origin))
        except (SpoolError, sqlite3.Error, OSError) as error:
            if not self._trouble:
                log.warning("%s cannot be told yet: %s", title(turn.type, turn.part), error)
            self._trouble = "the spool is full" if isinstance(error, SpoolFull) else f"the spool refuses: {error}"
            return False
        self._trouble = ""
        self._last_at = clock.now()
        if not turn.is_raised:
            self._ledger.forget(self.name, [origin.path])
        return True

    async def _told(self) -> Mapping[str, Standing]:
        """What was told before the restart to have broken, and not yet to be whole."""
        entries: list[Known] = []
        after_path = b""
        while page := await self._ledger.known(self.name, after_path, LEDGER_PAGE):
            entries += page
            after_path = page[-1].origin.path
        self._ledger.forget(self.name, [one.origin.path for one in entries if one.origin.inode != RAISED])
        return dict(_standing(one.origin) for one in entries if one.origin.inode == RAISED)


def _capture(turn: Turn, origin: Origin) -> Capture:
    now = clock.now()
    payload = {"schema": SCHEMA, "type": turn.type, **turn.fields(), "at": clock.rfc3339(now)}
    return Capture(
        source=OWN_HEALTH,
        name=title(turn.type, turn.part),
        kind=Kind.MESSAGE,
        content_type="application/json",
        captured_at=now,
        payload=json.dumps(payload, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        arrival=Arrival(origin=origin, is_repeat=True),
    )


def _origin(turn: Turn) -> Origin:
    """The same path for both turns of one fault, so that the second takes the place of the first."""
    return Origin(
        path=f"{turn.part}\0{turn.reason}".encode("utf-8", "backslashreplace"),
        device=0,
        inode=RAISED if turn.is_raised else CLEARED,
        size_bytes=0,
        mtime_ns=round(turn.since * 1000),
    )


def _standing(origin: Origin) -> tuple[str, Standing]:
    part, _, reason = origin.path.decode("utf-8", "replace").partition("\0")
    return part, Standing(reason, origin.mtime_ns / 1000)
