"""Chat lines for SayVU: those that wait for the same report go together, in one call.

Promises: lines go in the order in which they were ordered. What was sent along is stored with each of the others in one
commit, and they are delivered by it without being sent again; a crash between the answer and that commit sends them
again, as after a lost answer. A line that the control center refuses does not take the others with it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable

from relayd.destinations import sayvu_api
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
        self._along: dict[int, Step] = {}

    async def say(self, attempt: Attempt, report: str, send: Send) -> Step:
        """The step that proves the line of this attempt: it was sent now, or along with another one."""
        async with self._turn:
            told = self._along.pop(attempt.delivery.id, None) or attempt.recall(SENT)
            if told is not None:
                return told
            others = await _others(attempt, report)
            try:
                said = await self._send(attempt, others, send)
            except Rejected:
                if not others:
                    raise
                others = []
                said = await self._send(attempt, others, send)
            await attempt.step(SENT, _known, said)
            along: Step = {"proof": f"{said['proof']}, together with other lines"}
            await attempt.tell(others, SENT, along)
            self._along |= {other.delivery.id: along for other in others}
            return said

    async def _send(self, attempt: Attempt, others: Iterable[Sibling], send: Send) -> Step:
        told = [(other.delivery.id, other.arguments or {}) for other in others]
        lines = [
            _line(arguments) for _, arguments in sorted([(attempt.delivery.id, attempt.arguments), *told], key=_id)
        ]
        answer = await send(json.dumps({"data": lines}).encode())
        sayvu_api.judge(answer, "messages_path")
        sayvu_api.envelope(answer)
        return {"proof": f"{answer.where} answered {answer.status}"}


async def _others(attempt: Attempt, report: str) -> list[Sibling]:
    found: list[Sibling] = []
    async for sibling in attempt.siblings():
        if len(found) >= MOST_LINES - 1:
            break
        if sibling.arguments is not None and not sibling.steps.get(SENT) and _is_of(sibling, attempt, report):
            found.append(sibling)
    return found


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
