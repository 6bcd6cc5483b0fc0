"""Which incident of each fault this relay has opened and not seen the end of, by its number: whatever a person does to
its name or to who may see it.

Promises: on the disk before the delivery counts as done; one write when an incident is opened and one when it is over.
"""

from __future__ import annotations

from relayd.memory import Memory
from relayd.model import Fields

MOST = 1000
"""Faults whose end never came are forgotten beyond so many, the oldest first: their marker still finds them."""


class Opened:
    """By the mark of the fault."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._known: dict[str, Fields] | None = None

    async def of(self, mark: str) -> int | None:
        """The number of the incident that is open, as far as we know."""
        number = (await self._everything()).get(mark, {}).get("incident_id")
        return number if isinstance(number, int) else None

    async def keep(self, mark: str, number: int) -> None:
        known = await self._everything()
        if known.get(mark, {}).get("incident_id") == number:
            return
        while len(known) >= MOST:
            await self.forget(next(iter(known)))
        fact: Fields = {"incident_id": number}
        await self._memory.remember(mark, fact)
        known[mark] = fact

    async def forget(self, mark: str) -> None:
        known = await self._everything()
        if mark in known:
            await self._memory.remember(mark, None)
            del known[mark]

    async def _everything(self) -> dict[str, Fields]:
        if self._known is None:
            found = await self._memory.everything()
            self._known = dict(sorted(found.items(), key=lambda each: str(each[1].get("incident_id")).zfill(20)))
        return self._known
