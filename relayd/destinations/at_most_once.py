"""An effect that cannot be taken back is brought about once, though answers get lost and requests go on without us.

START HERE: `once` for a destination with one such effect in a delivery; `Once` where more has to be decided between the
look and the sending.

Promises:

* What is about to be sent is noted first (step `sending`), with the `facts` by which it can be found again. The note is
  closed where it is certain that nothing happened; else the effect is *in doubt*, across restarts, until it is found.
* A request may go on at the server after we have lost sight of it (a gateway's 504, a kill -9 of relayd, a database
  that is locked), so a look that finds nothing proves nothing yet. In doubt nothing is sent again before `doubt_wait`
  has passed since the answer was lost and a look after that has found nothing. Until then NotReady is raised: nobody
  sleeps, and a restart does not begin the wait anew.
* A look that could not be read never counts as not there. It is repeated; what `on_unknown = "look"` does for ever.
* What the far side does not show, although it was asked for in whole more than once, is sent again at most
  `most_unknown` times, `unknown_wait` longer before each further one, and is looked for once more before it is
  Rejected: a list that is cached, or that hides what it has, is no leave to go on for ever.
* Where nobody can tell (there is no `find`, it raises NoLook, `MOST_UNREAD` looks could not be read, or absence is not
  certain), the effect is *unknown*: "retry" sends again at most `most_unknown` times, the first time at once, and
  `unknown_wait` longer before each further one; then, and under "ask" at once, it is Rejected, for a person to look. A
  `relayd retry` begins with a new budget.
* What was sent more than once is looked at once more, `doubt_wait` after the last answer, and `undo` takes back what is
  there twice.

Time is counted from the start of the machine: no clock that is set makes a wait endless or none; after a restart of
the machine, what has passed since then counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol

from pydantic import Field

from relayd import clock
from relayd.destinations.base import Attempt, Step
from relayd.errors import DeliveryError, LoginRefused, NotReady, Rejected, TryAgain
from relayd.fields import Duration, Section, written

SENDING = "sending"
"""The step that holds what is known of the sending: a wire format."""
LOOK_EVERY_SECONDS = 5.0
LONGEST_SAID = 300
"""Characters of the last failure that the reason repeats when it is left to a person."""
MOST_UNREAD = 5
"""Looks that could not be read, one after the other, before the effect is unknown."""


class DoubtConfig(Section):
    """What the section of a destination has that looks before it sends again."""

    doubt_wait: Duration = written("20s", ge=0)
    """After a lost answer: how long the server is given to finish what it may still be doing, before what it does not
    show is sent again. Longer than any gateway in front of it waits for its own answer."""


class BudgetConfig(Section):
    """What the section of a destination has where nobody can look up what a lost answer would have told."""

    most_unknown: int = Field(default=2, ge=0, le=100)
    """How often at most something is sent again of which nobody can tell whether it came; then a person has to look."""
    unknown_wait: Duration = written("5m", ge=0)
    """The first time it is sent again at once, the second time after so long, and each further one so much later."""

    def budget(self, where: str, attempt: Attempt) -> Terms:
        """For an effect that nobody can look up at `where`."""
        return Terms(
            doubt_wait=0.0,
            on_unknown="retry",
            most_unknown=self.most_unknown,
            unknown_wait=self.unknown_wait,
            where=where,
            item=attempt.item.id,
        )


class NoLook(DeliveryError):
    """The far side cannot be asked whether the effect is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How doubts are dealt with. `where` and `item` are for the person who is asked to look at `the control center`."""

    doubt_wait: float
    on_unknown: Literal["look", "retry", "ask"] = "look"
    most_unknown: int = 2
    unknown_wait: float = 300.0
    is_absence_certain: bool = True
    where: str = "the destination"
    item: str = "ID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What to look for: the `facts` noted when it was sent. `is_last`: if it is not there now, it is sent again."""

    facts: Step
    is_last: bool


Send = Callable[[int], Awaitable[Step]]
"""Bring it about; given how many earlier sendings nobody knows the outcome of."""
Find = Callable[[Doubt], Awaitable[Step | None]]
"""What is found of the effect; None if the far side shows that it is not there. Raises NoLook, or what stops a look."""
Undo = Callable[[Step], Awaitable[str]]
"""Given the effect that counts: take back what is there of it besides, and say what that was; empty: nothing was.
Repeatable."""


class Notebook(Protocol):
    """Where the note is kept: an Attempt, for one."""

    def recall(self, name: str) -> Step | None: ...

    async def note(self, name: str, known: Step) -> None: ...


async def once(
    attempt: Attempt,
    name: str,
    send: Send,
    find: Find | None = None,
    *,
    terms: Terms,
    facts: Callable[[], Step] = dict,
    undo: Undo | None = None,
) -> Step:
    """The step `name`: what `send` brought about, in this try or an earlier one. `facts` are taken when it is sent."""

    async def brought_about() -> Step:
        effect = Once(attempt, terms)
        made = effect.made or await effect.look(find)
        if made is None:
            made = await effect.send(send, facts())
        return await effect.settled(made, undo)

    return await attempt.step(name, brought_about)


class Once:
    """One effect of one delivery, across its tries."""

    def __init__(self, notebook: Notebook, terms: Terms) -> None:
        self._notebook = notebook
        self._terms = terms
        self._unknown = 0

    @property
    def facts(self) -> Step | None:
        """Of a sending that is in doubt; None if none is."""
        noted = self._noted
        if not noted.get("is_open"):
            return None
        facts = noted.get("facts")
        return dict(facts) if isinstance(facts, dict) else noted

    @property
    def made(self) -> Step | None:
        """What is known to be brought about, and only has to be `settled`."""
        made = self._noted.get("made")
        return dict(made) if isinstance(made, dict) else None

    async def look(self, find: Find | None) -> Step | None:
        """What is there of the effect that is in doubt; None if it is to be sent (again). Raises NotReady to look
        again, Rejected if it must not be sent, or what stopped the look."""
        facts = self.facts
        if facts is None:
            return None
        terms, repeats = self._terms, _count(self._noted, "repeats")
        passed_seconds = _passed_seconds(await self._lost_at())
        left_seconds = terms.doubt_wait - passed_seconds
        if terms.is_absence_certain:
            left_seconds += terms.unknown_wait * repeats
        found, is_known = await self._found(find, Doubt(facts=facts, is_last=left_seconds <= 0))
        if found is not None:
            found = {**found, "proof": f"{found['proof']}, though an answer was lost"}
            return await self._known(found) if repeats else found
        if is_known and left_seconds > 0:
            raise NotReady(
                "the answer to an earlier try was lost, and what came of it is not there yet: looking again",
                retry_after_seconds=min(left_seconds, LOOK_EVERY_SECONDS)
                if passed_seconds < terms.doubt_wait
                else left_seconds,
            )
        if not (is_known and terms.is_absence_certain):
            await self._spend()
        elif repeats >= terms.most_unknown:
            await self._give_up(f"it was sent {repeats + 1} times, every answer got lost, and it is not shown")
        return None

    async def send(self, do: Send, facts: Step | None = None) -> Step:
        """Note it, and bring it about. The result is for `settled`."""
        before = self._noted
        was_open = bool(before.get("is_open"))
        sending: Step = {
            "is_open": True,
            "doubts": _count(before, "doubts") + (self._unknown > 0),
            "unknown": self._unknown or _count(before, "unknown"),
            "repeats": _count(before, "repeats") + was_open,
            "facts": facts or {},
        }
        await self._notebook.note(SENDING, sending)
        try:
            made = await do(_count(sending, "doubts"))
        except DeliveryError as error:
            await self._note_failure(error, sending, before)
            raise
        return await self._known(made) if was_open else made

    async def settled(self, made: Step, undo: Undo | None) -> Step:
        """The result, once it is sure that it is there no more often than once. Raises NotReady until then."""
        noted = self._noted
        if undo is None or not isinstance(noted.get("made"), dict):
            return made
        left_seconds = self._terms.doubt_wait - _passed_seconds(noted.get("answered"))
        if left_seconds > 0:
            raise NotReady(
                f"{made['proof']}; an earlier answer was lost: looking once more whether it is there twice",
                retry_after_seconds=left_seconds,
            )
        undone = await undo(made)
        return {**made, "proof": f"{made['proof']}; {undone}"} if undone else made

    # --- in doubt

    async def _found(self, find: Find | None, doubt: Doubt) -> tuple[Step | None, bool]:
        """What is there, and whether the far side told. Raises what stopped the look, so that it is repeated."""
        if find is None:
            return None, False
        try:
            return await find(doubt), True
        except NoLook:
            return None, False
        except (TryAgain, LoginRefused):
            unread = _count(self._noted, "unread") + 1
            if self._terms.on_unknown == "look":
                raise
            if unread < MOST_UNREAD:
                await self._notebook.note(SENDING, {**self._noted, "unread": unread})
                raise
            return None, False

    async def _spend(self) -> None:
        """One more of the sendings that nobody knows the outcome of. Raises NotReady or Rejected if it may not be."""
        noted, terms = self._noted, self._terms
        unknown = _count(noted, "unknown") + 1
        if terms.on_unknown == "look":
            raise TryAgain("the answer to an earlier try was lost, and nobody can tell what came of it")
        if terms.on_unknown == "ask" or unknown > terms.most_unknown:
            doubts = _count(noted, "doubts") + 1
            times = "the answer to an earlier try" if doubts == 1 else f"the answers to {doubts} tries"
            await self._give_up(f"{times} got lost, and nobody can tell what came of it")
        left_seconds = terms.unknown_wait * (unknown - 1) - _passed_seconds(await self._lost_at())
        if left_seconds > 0:
            raise NotReady(
                f"{unknown} answers got lost, and nobody can tell what came of it: sent again later",
                retry_after_seconds=left_seconds,
            )
        self._unknown = unknown

    async def _give_up(self, why: str) -> NoReturn:
        """Leave it to a person; who has it tried again begins with a new budget."""
        terms, said = self._terms, self._noted.get("said")
        await self._notebook.note(SENDING, {"is_open": False, "doubts": _count(self._noted, "doubts") + 1})
        last = f" (the last time: {said})" if isinstance(said, str) else ""
        raise Rejected(
            f"{why}{last}: look in {terms.where}; if it is not there, `relayd retry {terms.item}` sends it again, if it"
            f" is, `relayd drop` it"
        )

    async def _lost_at(self) -> object:
        """When the answer was lost, as far as we know: not later than now."""
        noted = self._noted
        if not isinstance(noted.get("lost"), dict):  # we died in the middle of it
            noted = {**noted, "lost": _moment()}
            await self._notebook.note(SENDING, noted)
        return noted["lost"]

    # --- notes

    @property
    def _noted(self) -> Step:
        return self._notebook.recall(SENDING) or {}

    async def _known(self, made: Step) -> Step:
        """It is there; what may be there besides can still come."""
        await self._notebook.note(SENDING, {**self._noted, "is_open": False, "made": made, "answered": _moment()})
        return made

    async def _note_failure(self, error: DeliveryError, sending: Step, before: Step) -> None:
        left: Step
        if error.nothing_happened:  # an earlier sending is in doubt as it was before this one
            left = before if before.get("is_open") else {"is_open": False, "doubts": _count(before, "doubts")}
        elif isinstance(error, Rejected):  # it may have been done in part: a person is told to look
            left = {"is_open": False, "doubts": _count(sending, "doubts") + 1}
        else:
            left = {**sending, "lost": _moment(), "said": str(error)[:LONGEST_SAID]}
        await self._notebook.note(SENDING, left)


def _count(noted: Step, name: str) -> int:
    found = noted.get(name)
    return found if isinstance(found, int) else 0


def _moment() -> Step:
    return {"boot": clock.boot(), "up": clock.since_boot()}


def _passed_seconds(moment: object) -> float:
    """How long ago that was, at least."""
    up = clock.since_boot()
    before = moment.get("up") if isinstance(moment, dict) and moment.get("boot") == clock.boot() else None
    return up - before if isinstance(before, (int, float)) and before <= up else up
