"""What one source or destination remembers across restarts: small JSON facts, kept by the spool.

Promises: a fact is on the disk when `remember` returns, and an event that tells of it in the same commit. Facts of one
owner are its own; nobody else's are seen. They outlive the section of the configuration that made them.
"""

from __future__ import annotations

import json
from typing import Protocol

from relayd import clock
from relayd.model import Fields
from relayd.spool import Spool

Told = tuple[str, Fields]
"""(type, fields) of an event for the fleet."""


class Memory(Protocol):
    """The facts of one owner, by key."""

    async def everything(self) -> dict[str, Fields]:
        """All that is remembered."""

    async def remember(self, key: str, fact: Fields | None, *, event: Told | None = None) -> None:
        """Keep a fact in place of what was known under `key`; None forgets it. Returns after the commit, in which the
        fleet is told `event` too. Raises SpoolError, or what the disk says."""


class Notes:
    """A Memory in the spool. `owner` is `destination:NAME` or `source:NAME`."""

    def __init__(self, spool: Spool, owner: str) -> None:
        self._spool = spool
        self._prefix = f"memory:{owner}:"

    async def everything(self) -> dict[str, Fields]:
        found = await self._spool.notes(self._prefix)
        read = {key.removeprefix(self._prefix): _fact(text) for key, text in found.items()}
        return {key: fact for key, fact in read.items() if fact is not None}

    async def remember(self, key: str, fact: Fields | None, *, event: Told | None = None) -> None:
        text = None if fact is None else json.dumps(dict(fact), ensure_ascii=False)
        told = () if event is None else (event,)
        await self._spool.fleet.report(told, now=clock.now(), notes={self._prefix + key: text})


class Unkept:
    """A Memory that ends with the process: for a part that stands alone."""

    def __init__(self) -> None:
        self.facts: dict[str, Fields] = {}
        self.events: list[Told] = []

    async def everything(self) -> dict[str, Fields]:
        return dict(self.facts)

    async def remember(self, key: str, fact: Fields | None, *, event: Told | None = None) -> None:
        self.facts.pop(key, None)
        if fact is not None:
            self.facts[key] = fact
        if event is not None:
            self.events.append(event)


def _fact(text: str) -> Fields | None:
    """What was kept; None for what a damaged database left of it."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
