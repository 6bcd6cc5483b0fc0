"""What is wrong with a source, for its view: said in the log once when it comes and once when it goes."""

from __future__ import annotations

import logging

from relayd.messages import about

log = logging.getLogger("relayd.sources")


class Faults:
    """Reasons by kind; the oldest one is shown."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._reasons: dict[str, str] = {}

    def set(self, kind: str, reason: str) -> None:
        """This does not work, for this reason, until `clear`. The reason may change without another log line."""
        if kind not in self._reasons:
            log.warning("source %s: %s", self._source, reason, extra=about(source=self._source))
        self._reasons[kind] = reason

    def clear(self, kind: str) -> None:
        """It works, or works again."""
        was = self._reasons.pop(kind, None)
        if was is not None:
            log.info("source %s: no longer so: %s", self._source, was, extra=about(source=self._source))

    def clear_all_but(self, kind: str) -> None:
        """What they were about is gone."""
        for other in [each for each in self._reasons if each != kind]:
            self.clear(other)

    def of(self, kind: str) -> str:
        """Why, of this kind alone; empty if it is not so."""
        return self._reasons.get(kind, "")

    @property
    def reason(self) -> str:
        """Why the source is at fault; empty if it is not."""
        return next(iter(self._reasons.values()), "")
