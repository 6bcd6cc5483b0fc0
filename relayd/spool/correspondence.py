"""The spool's side that faces the fleet: events that wait to be told, commands that were asked.

Promises: an event is there from the commit that it tells of until it is known to have arrived; a command's id is there
before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from relayd.model import Fields
from relayd.spool import answers, outbox
from relayd.spool.answers import Remembered
from relayd.spool.change import Change
from relayd.spool.desk import set_note
from relayd.spool.engine import Engine
from relayd.spool.outbox import Event

Told = tuple[str, Fields]
"""(type, fields) of an event that is no end of a delivery."""


class Correspondence:
    """`Spool.fleet`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- events

    @property
    def wants_events(self) -> bool:
        """Whether events are written at all: without a fleet, nobody would ever take them away."""
        return bool(self._engine.writer.events_kept)

    @wants_events.setter
    def wants_events(self, wanted: bool) -> None:
        self._engine.writer.events_kept = self._engine.config.events_kept if wanted else 0

    @property
    def events_dropped(self) -> int:
        """How many went untold because too many waited, ever."""
        return self._engine.tally.value("dropped", outbox.EVENTS)

    def subscribe(self, hint: Callable[[], None]) -> None:
        """`hint` is called in the loop, after a commit that brought events."""
        self._engine.subscribe_to_events(hint)

    async def report(self, told: Sequence[Told], *, now: float, notes: Fields | None = None) -> None:
        """Store these events, and notes that must say the same, in one commit."""
        await self._engine.write(partial(_report, told=tuple(told), notes=dict(notes or {}), now=now))

    async def events(self, after: int, limit: int) -> list[Event]:
        """Those that wait, oldest first, with a number above `after`."""
        return await self._engine.read(outbox.events_after, after, limit)

    def forget_events(self, up_to: int) -> None:
        """These have arrived. Goes along with the next commit, at the latest in some seconds: until then a crash would
        have them told again."""
        self._engine.writer.ride(partial(outbox.forget_events, up_to=up_to))

    # --- commands

    async def begin_command(self, command_id: str, name: str, *, now: float) -> Remembered | None:
        """None: run it, its id is remembered durably. Otherwise it began before: do not."""
        most = self._engine.config.commands_kept
        return await self._engine.write(
            partial(answers.begin_command, command_id=command_id, name=name, most=most, now=now)
        )

    async def finish_command(self, command_id: str, answer: Fields, too_long: Fields) -> None:
        """Remember the answer, or `too_long` in place of one that is too long to keep."""
        await self._engine.write(
            partial(answers.finish_command, command_id=command_id, answer=answer, too_long=too_long)
        )


def _report(change: Change, told: Sequence[Told], notes: Fields, now: float) -> None:
    for type_name, fields in told:
        outbox.report(change, type_name, fields, now=now)
    for key, value in notes.items():
        set_note(change, key, None if value is None else str(value))
