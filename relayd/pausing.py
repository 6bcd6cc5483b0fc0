"""What a person pauses and resumes: destinations, to which nothing is sent meanwhile, and sources, which take nothing.

Promises: a pause is durable before it is answered, and outlives restarts and reloads. A source that is paused lets go
of all that it has open.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from relayd import clock
from relayd.errors import UnknownName, WrongRequest
from relayd.files import printable
from relayd.sources.base import Source
from relayd.spool import Spool

log = logging.getLogger("relayd.operations")

Pausable = Literal["destination", "source"]


class Held(Protocol):
    """What can be paused."""

    def hold(self) -> None: ...
    def release(self) -> None: ...


def paused_note(name: str, kind: Pausable) -> str:
    """The durable note in the spool that says a person paused this."""
    return f"paused:{name}" if kind == "destination" else f"paused {kind}:{name}"


class Pausing:
    """Of one relay. `workers` and `sources` are those at work, by name."""

    def __init__(
        self, spool: Spool, workers: Callable[[], Mapping[str, Held]], sources: Callable[[], Mapping[str, Source]]
    ) -> None:
        self._spool = spool
        self._workers = workers
        self._sources = sources

    async def pause(self, name: str | None = None, kind: Pausable | None = None) -> dict[str, Any]:
        """Start nothing new towards a destination, or take nothing from a source, until resumed, also after a restart.
        `name` None: all destinations; `kind` None: whichever it is. `{"paused": [names], "text": what that means}`.
        Raises UnknownName, WrongRequest if both are called so."""
        found = self._found(name, kind)
        texts: list[str] = []
        for (one_kind, one), part in found.items():
            await self._spool.set_note(paused_note(one, one_kind), clock.rfc3339(clock.now()))
            part.hold()
            if isinstance(part, Source):
                is_over = await part.has_let_go()
                not_yet = "" if is_over else "; not yet, since its disk or server does not answer"
                texts.append(part.while_held + not_yet)
        return self._told("paused", found, "; ".join(dict.fromkeys(texts)))

    async def resume(self, name: str | None = None, kind: Pausable | None = None) -> dict[str, Any]:
        """Go on, at once: `{"resumed": [names]}`. As `pause`."""
        found = self._found(name, kind)
        for (one_kind, one), part in found.items():
            await self._spool.set_note(paused_note(one, one_kind), None)
            part.release()
        return self._told("resumed", found)

    def _told(self, done: str, found: Mapping[tuple[Pausable, str], Held], text: str = "") -> dict[str, Any]:
        names = [name for _, name in found]
        log.info("%s by hand: %s", done, ", ".join(names))
        return {done: names, "text": text} if text else {done: names}

    def _found(self, name: str | None, kind: Pausable | None) -> dict[tuple[Pausable, str], Held]:
        parts: Mapping[Pausable, Mapping[str, Held]] = {"destination": self._workers(), "source": self._sources()}
        if name is None:
            kind = kind or "destination"
            return {(kind, one): parts[kind][one] for one in sorted(parts[kind])}
        asked = [one for one in parts if kind in (None, one)]
        found = {(one, name): parts[one][name] for one in asked if name in parts[one]}
        if len(found) > 1:
            raise WrongRequest(f"a destination and a source are called {printable(name)}: say which is meant")
        if not found:
            known = ", ".join(sorted(each for one in asked for each in parts[one])) or "none"
            raise UnknownName(f"no {' or '.join(asked)} {printable(name)}; there are: {known}")
        return found
