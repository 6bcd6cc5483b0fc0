"""The seam between every source and the intake: `Source.run(put)`.

A source keeps the original until `put(capture)` returns, which is after the commit; only then it unlinks the file or
acknowledges the message. `put` may raise SpoolFull: keep, wait, try again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import ClassVar, Protocol

from relayd import pulse
from relayd.fields import Duration, Section
from relayd.model import Capture, Finding, Held, Item, Known, Origin, SourceView
from relayd.sources.silence import Silence

LET_GO_SECONDS = 10.0
"""How long whoever pauses a source waits until it has let go of everything."""

__all__ = ["Held", "Known", "Ledger", "Put", "Source", "SourceConfig", "SourceView"]


class SourceConfig(Section):
    """What every `[source.NAME]` section has, whatever its type."""

    type: str
    """Where items come from: `folder` or `mqtt`."""
    expect_every: Duration | None = None
    """Silence longer than this is a fault of the source; absent: silence is normal."""


Put = Callable[[Capture], Awaitable[Item]]


class Ledger(Protocol):
    """What a folder source remembers of the files in its folder, durably; the spool is one. Sorted by path."""

    async def known(self, source: str, after: bytes, limit: int) -> list[Known]:
        """Up to `limit` entries with a path greater than `after`, in path order."""

    async def quarantine(self, source: str, origin: Origin, reason: str) -> None:
        """Remember that this file will not be taken as it is, and why. Returns after the commit."""

    def forget(self, source: str, paths: Iterable[bytes]) -> None:
        """These files are gone from the folder. Not waited for: goes along with the next commit."""

    async def held(self, source: str) -> list[Held]:
        """What was taken and not let go of when the last process ended."""

    async def release(self, item_ids: Sequence[str]) -> None:
        """The originals of these are let go: whatever is owed of them may begin."""

    def vouch_for(self, item_ids: Collection[str]) -> None:
        """These are still looked after. What nobody vouches for is let go after a while."""

    async def unshare(self, item_id: str) -> None:
        """A writer came back to the file that this item is a hard link of: give the item a copy of its own, now."""


class Source(ABC):
    """One configured source. `run` never returns by itself; it ends by cancellation. `serve` is `run` while nobody
    holds it."""

    Config: ClassVar[type[SourceConfig]]
    """The model of this type's `[source.NAME]` section."""
    while_held: ClassVar[str]
    """What becomes of what it would take while a person holds it: words that follow a colon."""

    def __init__(self, name: str, silence: Silence) -> None:
        """`silence`: made with `expect_every`, and told whenever something came."""
        self.name = name
        self.silence = silence
        self.is_held = False
        self._released = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    async def serve(self, put: Put) -> None:
        """`run`, for ever, except while it is held."""
        while True:
            if self.is_held:
                pulse.rest()
                await self._released.wait()
            self._work = work = asyncio.create_task(self.run(put), name=f"source {self.name}")
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError:
                work.cancel()
                await asyncio.wait({work})
                raise
            if not work.cancelled():
                return work.result()

    def hold(self) -> None:
        """A person paused it: take nothing until `release`, and let go of everything that is open."""
        if self._work is not None and not self.is_held:
            self._work.cancel()
        self.is_held = True
        self._released.clear()

    def release(self) -> None:
        """Go on. Silence counts from now on."""
        self.is_held = False
        self.silence.start_over()
        self._released.set()

    async def has_let_go(self) -> bool:
        """Whether a source that is held has come to its end, with nothing open any more; waits a while for it."""
        try:
            async with asyncio.timeout(LET_GO_SECONDS):
                if self._work is not None:
                    await asyncio.wait({self._work})
                await self.let_go()
        except TimeoutError:
            return False
        return True

    async def let_go(self) -> None:
        """Until all that `run` opened is closed, once it has ended."""
        return

    @abstractmethod
    async def run(self, put: Put) -> None:
        """Watch, and hand every capture to `put`, for ever."""

    def leave(self) -> None:
        """It is replaced or gone, and its broker stays: take nothing new. Called once, in the step in which the
        successor takes its place, before `run` is cancelled; what was begun goes on to its end."""
        return

    async def why(self, path: str) -> str | None:
        """What this source knows of the file at the absolute `path` that is no item; None if it is not its own."""
        return None

    def path_within(self, path: str) -> bytes | None:
        """The absolute `path` as an `Origin.path` of this source, whether or not it is there; None: not within it.
        It may look at the disk, which may hang."""
        return None

    def path_of(self, path: bytes) -> str | None:
        """Where an `Origin.path` of this source is on the disk; None: it is no file there."""
        return None

    async def discard(self, path: str) -> bool:
        """Remove the file at the absolute `path`, which is in quarantine, for good. False: it is not its own. Raises
        WrongRequest if it is not in quarantine, or has changed since, or cannot be removed."""
        return False

    def view(self) -> SourceView:
        """For the status snapshot; cheap, no I/O."""
        if self.is_held:
            reason = f"paused by hand, `relayd resume {self.name}`: {self.while_held}"
            return SourceView(state="paused", reason=reason, last_at=self.state().last_at)
        return self.silence.judge(self.state())

    @abstractmethod
    def state(self) -> SourceView:
        """The view, but for silence, which is judged alike for all; cheap, no I/O."""

    @abstractmethod
    async def check(self) -> list[Finding]:
        """Permissions, presence, reachability; for `check --online`."""
