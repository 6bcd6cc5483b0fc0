"""Commands from the fleet: read, allowed, remembered, carried out, answered.

Promises: only what the configuration allows is done, and each id once, also across a crash: an id is remembered before
its command runs. Whatever the bytes are, the outcome is an answer or nothing; what came is data and never a template.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError

from relayd import clock
from relayd.clock import rfc3339
from relayd.errors import RelaydError, SpoolError, WrongRequest
from relayd.files import printable
from relayd.model import Priority
from relayd.operations import Operations
from relayd.pausing import Pausable
from relayd.reports import MODELS, CameraCommand, Command
from relayd.spool import Correspondence

log = logging.getLogger("relayd.commands")

LARGEST_COMMAND_BYTES = 65_536
RATE_PER_SECOND = 5.0
BURST = 50
"""So many at once, then so many a second; what comes faster is let go."""
LOG_EVERY_SECONDS = 60.0

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes to `response/ID`."""

    id: str
    document: Document


class CommandDesk:
    """Takes what came under `command/NAME`, one after the other."""

    def __init__(self, operations: Operations, memory: Correspondence, allowed: Collection[str]) -> None:
        self._operations = operations
        self._memory = memory
        self._allowed = frozenset(allowed)
        self._turn = asyncio.Lock()
        self._tokens = float(BURST)
        self._filled_at = clock.monotonic()
        self._gone = 0
        self._logged_at = -LOG_EVERY_SECONDS

    async def answer(self, name: str, payload: bytes, *, may_be_old: bool = False) -> Answer | None:
        """Do it, unless it was done before. None: there is nobody to answer to, or too much comes. `may_be_old`: it may
        have waited at the broker."""
        if not self._has_room():
            self.let_go(name, "they come too fast")
            return None
        try:
            request = read(payload)
        except WrongRequest as error:
            self.let_go(name, str(error))
            return None
        command_id = id_of(request)
        if command_id is None:
            self.let_go(name, "without an id that could be answered to")
            return None
        async with self._turn:
            outcome = await self._outcome(name, command_id, request, may_be_old=may_be_old)
            return Answer(command_id, {"id": command_id, **outcome})

    def let_go(self, name: str, why: str) -> None:
        """Count it, and say so in the log now and then, however many come."""
        self._gone += 1
        if clock.monotonic() - self._logged_at >= LOG_EVERY_SECONDS:
            self._logged_at = clock.monotonic()
            log.warning(
                "commands from the fleet refused or let go: %d, the last (%s): %s",
                self._gone,
                printable(name)[:80],
                why,
            )
            self._gone = 0

    async def _outcome(self, name: str, command_id: str, request: Document, *, may_be_old: bool) -> Document:
        try:
            command = self._checked(name, request)
            before = await self._memory.begin_command(command_id, name, now=clock.now())
        except (WrongRequest, SpoolError) as error:
            self.let_go(name, str(error))
            return _not_done(str(error))
        if before is not None:
            log.debug("command %s (%s) from the fleet is asked again: answered from memory", name, command_id)
            if before.name != name:
                return _not_done(f"this id was used before, for the command {before.name}: each needs an id of its own")
            return dict(before.answer) if before.answer is not None else _cut(before.at)
        outcome = await self._carry_out(name, command, may_be_old=may_be_old)
        log.info("command %s (%s) from the fleet: %s", name, command_id, "done" if outcome["ok"] else outcome["error"])
        try:
            await self._memory.finish_command(
                command_id, outcome, _not_done("done, but the answer was too long to keep")
            )
        except SpoolError as error:
            log.warning("the answer to command %s (%s) is not kept: %s", name, command_id, error)
        return outcome

    def _checked(self, name: str, request: Document) -> Command:
        """Raises WrongRequest."""
        if name not in MODELS:
            raise WrongRequest(f"there is no command {printable(name)[:80]}; there are: {', '.join(sorted(MODELS))}")
        if name not in self._allowed:
            allowed = ", ".join(sorted(self._allowed)) or "none"
            raise WrongRequest(f"the command {name} is not allowed here, [fleet] commands allows: {allowed}")
        try:
            return MODELS[name].model_validate(request)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(printable(str(part))[:80] for part in first["loc"])
            raise WrongRequest(f"{place}: {first['msg']}") from None

    async def _carry_out(self, name: str, command: Command, *, may_be_old: bool) -> Document:
        try:
            if isinstance(command, CameraCommand):
                return {"ok": True, "result": await self._ask_camera(name, command, may_be_old=may_be_old)}
            return {"ok": True, "result": await self._run(name, command)}
        except RelaydError as error:
            return _not_done(str(error))

    async def _run(self, name: str, command: Command) -> Document:
        operations = self._operations
        asked = command.model_dump(exclude={"id"})
        match name:
            case "pause":
                return await operations.pausing.pause(*_which(asked))
            case "resume":
                return await operations.pausing.resume(*_which(asked))
            case "flush":
                return await operations.flush(asked["destination"])
            case "retry":
                return await operations.retry(asked["items"], asked["destination"])
            case _:
                return await operations.status()

    async def _ask_camera(self, name: str, command: CameraCommand, *, may_be_old: bool) -> Document:
        if may_be_old and command.asked_at is None:
            raise WrongRequest(
                f"this {name} may have waited at the broker and is never done late: ask again under a new id, or say"
                " asked_at, the time at which it is asked for"
            )
        priority = Priority[command.priority.upper()]
        hand_over = self._operations.handover.command
        return await hand_over(name, command.destination, command.camera, command.arguments, priority)

    def _has_room(self) -> bool:
        now = clock.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._filled_at) * RATE_PER_SECOND)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def _which(asked: Mapping[str, Any]) -> tuple[str | None, Pausable | None]:
    """Name and kind; only one may be named. Raises WrongRequest."""
    ways: Mapping[str, Pausable | None] = {"destination": "destination", "source": "source", "name": None}
    named = [(asked[key], kind) for key, kind in ways.items() if asked[key] is not None]
    if len(named) > 1:
        raise WrongRequest("name one destination or one source, not several")
    return named[0] if named else (None, None)


def read(payload: bytes) -> Document:
    """The JSON object in a command. Raises WrongRequest."""
    if len(payload) > LARGEST_COMMAND_BYTES:
        raise WrongRequest(f"{len(payload)} bytes are more than a command may have, {LARGEST_COMMAND_BYTES}")
    try:
        document = json.loads(payload.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        raise WrongRequest("it is no JSON, is nested too deeply, or says a key twice") from None
    if not isinstance(document, dict):
        raise WrongRequest("it is no JSON object")
    return document


def id_of(request: Mapping[str, Any]) -> str | None:
    """The id, if it can be one level of a topic."""
    try:
        return Command.model_validate({"id": request.get("id")}).id
    except ValidationError:
        return None


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _each_once(pairs: list[tuple[str, Any]]) -> Document:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key twice")
    return document


def _not_done(error: str) -> Document:
    return {"ok": False, "error": error}


def _cut(at: float) -> Document:
    return _not_done(
        f"relayd ended after {rfc3339(at)}, while it carried this out: whether it took effect is not known. Look at "
        "the status; it is not run again under this id"
    )
