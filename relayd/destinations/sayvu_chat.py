"""Chat lines for SayVU: those that wait for the same report go together, in one call.

Promises: lines go in the order in which they were ordered. What was sent along is stored with each of the others in one
commit, and they are delivered by it without being sent again; a crash between the answer and that commit sends them
again, as after a lost answer. Lines whose answer is lost are in doubt together and go together again, within one
budget. A line that the control center refuses does not take the others with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

from relayd.destinations import sayvu_api
from relayd.destinations.at_most_once import SENDING, Find, Once, Terms
from relayd.destinations.base import Attempt, Sibling, Step
from relayd.errors import Rejected
from relayd.httpanswer import Answer
from relayd.model import JSON, Fields

SENT = "message"
"""The step that holds what proves a line: a wire format."""

MOST_LINES = 50
"""In one call; more go with the next one."""

Send = Callable[[bytes], Awaitable[Answer]]


class Chat:
    """The chats of one control center; one call at a time, so that no line goes twice."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._along: dict[int, dict[str, Step]] = {}

    async def say(self, attempt: Attempt, report: str, send: Send, find: Find, terms: Terms) -> Step:
        """The step that proves the line of this attempt: it was sent now, or along with another one."""
        async with self._turn:
            book = _Book(attempt, self._along)
            told = book.recall(SENT)
            if told is not None:
                return told
            effect = Once(book, terms)
            group = (effect.facts or {}).get("group")
            await effect.look(find)
            others = await _others(attempt, report, group)
            said = await self._sent(attempt, effect, book, others, send)
            await attempt.step(SENT, _known, said)
            await book.tell(SENT, {**said, "proof": f"{said['proof']}, together with other lines"})
            return said

    async def _sent(self, attempt: Attempt, effect: Once, book: _Book, others: Sequence[Sibling], send: Send) -> Step:
        """All of them, or this one alone where the control center refuses them together."""
        try:
            return await self._send(attempt, effect, book, others, send)
        except Rejected:
            if not others:
                raise
        return await self._send(attempt, effect, book, [], send)

    async def _send(self, attempt: Attempt, effect: Once, book: _Book, others: Sequence[Sibling], send: Send) -> Step:
        book.others = others
        told = [(other.delivery.id, other.arguments or {}) for other in others]
        lines = [
            _line(arguments) for _, arguments in sorted([(attempt.delivery.id, attempt.arguments), *told], key=_id)
        ]

        async def say(doubts: int) -> Step:
            answer = await send(json.dumps({"data": lines}).encode())
            sayvu_api.judge(answer, "messages_path")
            sayvu_api.envelope(answer)
            return {"proof": sayvu_api.proof(answer, doubts)}

        return await effect.send(say, {"group": (effect.facts or {}).get("group") or attempt.key(SENT)})


class _Book:
    """What is known of the line of one attempt, and of those that go with it: what is noted while they are sent is
    noted of each of them first, so that their budget is one, whichever of them is tried next."""

    def __init__(self, attempt: Attempt, along: dict[int, dict[str, Step]]) -> None:
        """`along`: what was told of lines since their steps were read."""
        self.others: Sequence[Sibling] = ()
        self._attempt = attempt
        self._along = along
        self._known = along.pop(attempt.delivery.id, {})

    def recall(self, name: str) -> Step | None:
        return self._known.get(name) or self._attempt.recall(name)

    async def note(self, name: str, known: Step) -> None:
        await self.tell(name, known)
        await self._attempt.note(name, known)
        self._known[name] = known

    async def tell(self, name: str, known: Step) -> None:
        """Of the others alone."""
        await self._attempt.tell(self.others, name, known)
        for other in self.others:
            self._along.setdefault(other.delivery.id, {})[name] = known


async def _others(attempt: Attempt, report: str, group: JSON) -> list[Sibling]:
    """Those that go with it: of what is in doubt, what was in the same call, and of what is not, the same."""
    found: list[Sibling] = []
    async for sibling in attempt.siblings():
        if len(found) >= MOST_LINES - 1:
            break
        is_owed = sibling.arguments is not None and not sibling.steps.get(SENT)
        if is_owed and _group(sibling.steps) == group and _is_of(sibling, attempt, report):
            found.append(sibling)
    return found


def _group(steps: Mapping[str, Step | None]) -> JSON:
    """The call in which an answer was lost; None for a line that is in no doubt."""
    noted = steps.get(SENDING) or {}
    facts = noted.get("facts")
    return facts.get("group") if noted.get("is_open") and isinstance(facts, dict) else None


def _is_of(sibling: Sibling, attempt: Attempt, report: str) -> bool:
    given = (sibling.arguments or {}).get("report_id")
    if given in (None, ""):
        return attempt.delivery.incident != "" and sibling.delivery.incident == attempt.delivery.incident
    return str(sayvu_api.report_id(given)) == report


def _line(arguments: Fields) -> dict[str, JSON]:
    line: dict[str, JSON] = {"text": arguments["text"], "type": "text"}
    if arguments.get("label"):
        line["label"] = arguments["label"]
    return line


def _id(told: tuple[int, Fields]) -> int:
    return told[0]


async def _known(said: Step) -> Step:
    return said
