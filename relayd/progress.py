"""Work in a thread says that it goes on, and hears that it shall end: asked between two blocks of what may take long.

Promises: costs a look at a variable; outside of such work it does nothing.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable

from relayd.errors import RelaydError


class Stopped(RelaydError):
    """Nobody wants the result any more: raised inside the work, between two blocks."""

    def __init__(self) -> None:
        super().__init__("relayd stops here: nothing of it was kept, it comes again")


here: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar("work of this thread", default=None)
"""Who is told, in this thread."""


def go_on() -> None:
    """There is progress. Raises Stopped if it shall end here."""
    tell = here.get()
    if tell is not None:
        tell()
