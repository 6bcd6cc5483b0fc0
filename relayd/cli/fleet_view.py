"""What a person wants to see of the fleet, and the page that is seen now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relayd.fleet import Relay
from relayd.fleet_choice import SORTS, chosen, ordered


@dataclass(slots=True)
class Wish:
    """`choose` applies all but the limit."""

    filters: Sequence[str]
    sort: str
    is_reversed: bool
    limit: int | None

    def choose(self, relays: Sequence[Relay]) -> list[Relay]:
        """Raises WrongFilter."""
        return ordered(chosen(relays, self.filters), self.sort, is_reversed=self.is_reversed)

    def sort_by_next(self) -> None:
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]


@dataclass(slots=True)
class Pages:
    """Which part of a list fits on the screen."""

    first: int = 0

    def turn(self, rows: int) -> None:
        """On by so many rows; back if negative."""
        self.first += rows

    def part(self, relays: Sequence[Relay], rows: int) -> Sequence[Relay]:
        """What is to be seen now; the place stays inside the list however it shrinks."""
        last = max(0, (len(relays) - 1) // rows * rows)
        self.first = min(max(0, self.first), last)
        return relays[self.first : self.first + rows]
