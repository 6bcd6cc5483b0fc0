"""The configuration in force, and how another one takes its place.

Promises: a configuration that cannot be used changes nothing, is said in the log, in the status and to the fleet, and
the one before goes on. A configuration that says the same restarts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relayd import clock, config
from relayd.config import Loaded
from relayd.errors import ConfigError, SpoolError
from relayd.spool import Spool
from relayd.status import ConfigStatus

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

    def status(self) -> ConfigStatus:
        """For the snapshot."""
        return ConfigStatus(
            sha256=self.loaded.sha256,
            loaded_at=clock.rfc3339(self._loaded_at),
            error=self._refused,
            files=[str(path) for path in self.loaded.files],
        )

    async def read_again(self) -> bool:
        """Whether the files are good, differ from what is in force, and took its place."""
        try:
            loaded = config.load(self._files)
        except ConfigError as error:
            for problem in error.problems:
                log.error("configuration refused, the previous one goes on: %s", problem)
            await self._refuse([str(problem) for problem in error.problems])
            return False
        if loaded.sha256 == self.loaded.sha256:
            self._refused = None
            log.info("configuration read again: nothing changed")
            return False
        if loaded.config.spool.path != self.loaded.config.spool.path:
            refusal = "spool.path cannot change while relayd runs: restart it"
            log.error("configuration refused: %s", refusal)
            await self._refuse([refusal])
            return False
        self.loaded, self._loaded_at, self._refused = loaded, clock.now(), None
        files = [str(path) for path in loaded.files]
        log.info("configuration loaded: %s", ", ".join(files))
        await self._tell_fleet("config_reloaded", {"sha256": loaded.sha256, "files": files})
        return True

    async def _refuse(self, problems: list[str]) -> None:
        self._refused = problems[0]
        shown = [problem[:LONGEST_TOLD] for problem in problems[:MOST_TOLD]]
        await self._tell_fleet("config_rejected", {"problems": shown, "problem_count": len(problems)})

    async def _tell_fleet(self, type_name: str, fields: dict[str, Any]) -> None:
        try:
            await self._spool.fleet.report([(type_name, fields)], now=clock.now())
        except SpoolError as error:
            log.warning("the fleet is not told of %s: %s", type_name, error)
