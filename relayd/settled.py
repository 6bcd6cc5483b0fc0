"""The configuration in force, and how another one takes its place.

Promises: a configuration that cannot be used changes nothing, is said in the log, in the status and to the fleet, and
the one before goes on. Whether the files still say what is in force can be seen at any time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relayd import clock, config, last_good
from relayd.config import Loaded
from relayd.errors import ConfigError, SpoolError
from relayd.messages import Message, about
from relayd.spool import Spool
from relayd.status import ConfigStatus
from relayd.threads import in_own_thread

log = logging.getLogger("relayd.settled")

MOST_TOLD = 20
LONGEST_TOLD = 500


class Settled:
    """What was loaded last and is good; `files` None: from the usual places."""

    def __init__(self, files: Sequence[Path] | None, loaded: Loaded, spool: Spool) -> None:
        self.loaded = loaded
        self._files = files
        self._spool = spool
        self._loaded_at = clock.now()
        self._refused: str | None = None
        self._elsewhere: dict[Path, int] = {}
        self._looked: tuple[object, str | None] = (None, None)

    def status(self) -> ConfigStatus:
        """For the snapshot."""
        on_disk = self._on_disk()
        return ConfigStatus(
            sha256=self.loaded.sha256,
            loaded_at=clock.rfc3339(self._loaded_at),
            error=self._refused,
            files=[str(path) for path in self.loaded.files],
            files_sha256=on_disk,
            is_current=on_disk == self.loaded.sha256,
        )

    @property
    def refusal(self) -> str | None:
        """Why the newest configuration was refused; None if it was not."""
        return self._refused

    async def read_again(self) -> Loaded | None:
        """What the files say now, if they are good and differ from what is in force; to be accepted or refused."""
        try:
            loaded = config.load(self._files)
        except ConfigError as error:
            await self.refuse(error)
            return None
        if loaded.sha256 == self.loaded.sha256:
            self._refused = None
            log.info("configuration read again: nothing changed")
            return None
        if loaded.config.spool.path != self.loaded.config.spool.path:
            pending, path = self._spool.counters.pending, self._spool.folder
            moved = _still_holds(path, pending, loaded.config.spool.path)
            await self.refuse(ConfigError([loaded.problem(("spool", "path"), moved)]))
            return None
        return loaded

    async def accept(self, loaded: Loaded) -> None:
        """It is in force now."""
        self.loaded, self._loaded_at, self._refused = loaded, clock.now(), None
        await self.keep()
        files = [str(path) for path in loaded.files]
        log.info("configuration loaded: %s", ", ".join(files))
        await self._tell_fleet("config_reloaded", {"sha256": loaded.sha256, "files": files})

    async def keep(self) -> None:
        """It is at work, so the next start can go on with it."""
        spool = self._spool.folder
        found = await in_own_thread("look", last_good.elsewhere, self._files, spool)
        if found != self._elsewhere:
            self._elsewhere = found
            for note in self.notes:
                log.warning("%s", note, extra=about(Message.SPOOL_ELSEWHERE))
        await in_own_thread("keep", last_good.keep, self._files, self.loaded, list(found))

    @property
    def notes(self) -> list[str]:
        """Other spools of this relay that are still owed something."""
        here = self._spool.folder
        return [f"spool.path: {_still_holds(path, count, here)}" for path, count in self._elsewhere.items()]

    async def refuse(self, error: ConfigError) -> None:
        """It is not; the one before goes on."""
        problems = [str(problem) for problem in error.problems]
        for problem in problems:
            log.error(
                "configuration refused, the previous one goes on: %s", problem, extra=about(Message.CONFIG_REFUSED)
            )
        self._refused = problems[0]
        shown = [problem[:LONGEST_TOLD] for problem in problems[:MOST_TOLD]]
        await self._tell_fleet("config_rejected", {"problems": shown, "problem_count": len(problems)})

    def _on_disk(self) -> str | None:
        """The hash of the files as they are now; read only when one of them has changed. None: they cannot be read."""
        seen = config.look_of(self._files)
        if seen != self._looked[0]:
            self._looked = (seen, config.sha256_of(self._files))
        return self._looked[1]

    async def _tell_fleet(self, type_name: str, fields: dict[str, Any]) -> None:
        try:
            await self._spool.fleet.report([(type_name, fields)], now=clock.now())
        except SpoolError as error:
            log.warning("the fleet is not told of %s: %s", type_name, error)


def _still_holds(path: Path, count: int, target: Path) -> str:
    items = f"{count} undelivered item{'' if count == 1 else 's'}" if count else "what is known of delivered items"
    return (
        f"the spool at {path} still holds {items}. Move it: `systemctl stop relayd; relayd spool move {target}`, "
        "or take the change back"
    )
