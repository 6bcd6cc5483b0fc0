"""Which files of a drop folder are to be looked at, in which order, how many at once, and which have to wait.

Promises: a bounded number of names remembered; what does not fit is left to the next scan, which is asked for as soon
as there is room. Never two looks at one file at once. What was just written goes before what the scan found. While the
spool is full, a new file tries once at once (it may be urgent), and of those refused one at a time, now and then.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from relayd import clock
from relayd.model import Origin
from relayd.sources.folder_file import Quiet

MOST_NAMES = 4096
FULL_FIRST_SECONDS = 0.5
FULL_CAP_SECONDS = 5.0


@dataclass(slots=True)
class Parked:
    """A path that is looked at again when its timer fires. `origin` is what it was when it began to wait."""

    origin: Origin | None
    since: float
    reason: str
    timer: asyncio.TimerHandle


class Backlog:
    """`start(path)` begins a look; it must call `done(path)` at its end. `hungry()` asks for another scan."""

    def __init__(
        self, *, concurrency: int, quiet_seconds: float, start: Callable[[bytes], None], hungry: Callable[[], None]
    ) -> None:
        self._concurrency = concurrency
        self._quiet_seconds = quiet_seconds
        self._start = start
        self._hungry = hungry
        self._fresh: OrderedDict[bytes, None] = OrderedDict()
        self._todo: OrderedDict[bytes, None] = OrderedDict()
        self._busy: set[bytes] = set()
        self._again: set[bytes] = set()
        self._parked: dict[bytes, Parked] = {}
        self._has_more = False
        self._is_stopped = False
        self._full_delay_seconds = 0.0
        self._probe: asyncio.TimerHandle | None = None

    def held(self) -> frozenset[bytes]:
        """Every path that is remembered."""
        return frozenset(self._fresh) | frozenset(self._todo) | frozenset(self._busy) | frozenset(self._parked)

    def is_busy(self, path: bytes) -> bool:
        return path in self._busy

    @property
    def is_full(self) -> bool:
        """Whether the spool refused the last file for want of room."""
        return self._full_delay_seconds > 0

    def offer(self, path: bytes) -> None:
        """Look at this file, which was just written, before those of the scan."""
        if path in self._busy:
            self._again.add(path)
        elif path in self._todo and self.is_full:
            return  # it was refused already, and takes its turn
        elif path in self._fresh or len(self._fresh) < MOST_NAMES:
            self._todo.pop(path, None)
            self._fresh[path] = None
            self.start_more()
        else:
            self._has_more = True

    def offer_all(self, paths: Iterable[bytes], *, has_more: bool) -> None:
        """Look at these, in this order; `has_more`: they are not all that there are."""
        self._has_more = has_more
        for path in paths:
            if path not in self._busy and path not in self._parked and path not in self._fresh:
                self._todo[path] = None
        self.start_more()

    def done(self, path: bytes) -> None:
        """A look has ended. If the file was offered meanwhile, it is looked at again."""
        self._busy.discard(path)
        if path in self._again:
            self._again.discard(path)
            self.unpark(path)
            self.offer(path)
        self.start_more()

    def start_more(self) -> None:
        """Begin as many looks as may be."""
        allowed = self._concurrency
        if self.is_full:
            allowed = 1 if self._probe is None else 0
        for names, most in ((self._fresh, self._concurrency), (self._todo, allowed)):
            while names and len(self._busy) < most and not self._is_stopped:
                path, _ = names.popitem(last=False)
                self._busy.add(path)
                self._start(path)
        if self._has_more and len(self._fresh) + len(self._todo) + len(self._parked) < MOST_NAMES // 2:
            self._has_more = False
            self._hungry()

    def stop(self) -> None:
        """Begin nothing more."""
        self._is_stopped = True
        self._fresh.clear()
        self._todo.clear()
        for path in tuple(self._parked):
            self.unpark(path)
        if self._probe is not None:
            self._probe.cancel()

    # --- waiting

    def quiet(self, path: bytes) -> Quiet | None:
        """What the file was when it began to wait, and for how long it does."""
        parked = self._parked.get(path)
        if parked is None or parked.origin is None:
            return None
        seconds = clock.monotonic() - parked.since
        return Quiet(origin=parked.origin, seconds=seconds, is_settled=seconds >= self._quiet_seconds)

    def wait_until_quiet(self, origin: Origin, reason: str, seconds: float | None = None) -> None:
        """Look again when it has been the very same for as long as a writer may pause."""
        parked = self._parked.get(origin.path)
        is_same = parked is not None and parked.origin == origin
        since = parked.since if parked is not None and is_same else clock.monotonic()
        until = since + (self._quiet_seconds if seconds is None else seconds)
        self._keep(origin.path, until - clock.monotonic(), origin, since, reason)

    def park(self, path: bytes, delay_seconds: float, reason: str) -> None:
        """Look again after a while."""
        self._keep(path, delay_seconds, None, clock.monotonic(), reason)

    def unpark(self, path: bytes) -> None:
        parked = self._parked.pop(path, None)
        if parked is not None:
            parked.timer.cancel()

    def _keep(self, path: bytes, delay_seconds: float, origin: Origin | None, since: float, reason: str) -> None:
        self.unpark(path)
        if self._is_stopped or len(self._parked) >= MOST_NAMES:
            self._has_more = True
            return
        timer = asyncio.get_running_loop().call_later(max(0.0, delay_seconds), self._due, path)
        self._parked[path] = Parked(origin, since, reason, timer)

    def _due(self, path: bytes) -> None:
        if path in self._busy:
            self._again.add(path)
            return
        self._todo[path] = None
        self.start_more()

    # --- a full spool

    def wait_for_room(self, path: bytes) -> None:
        """The spool refused this file. It goes behind the others: a smaller one may still fit."""
        if self._is_stopped:
            return
        self._todo[path] = None
        if self._probe is not None:
            return
        self._full_delay_seconds = min(FULL_CAP_SECONDS, max(FULL_FIRST_SECONDS, 2 * self._full_delay_seconds))
        delay = self._full_delay_seconds / 2 + clock.jitter(self._full_delay_seconds / 2)
        self._probe = asyncio.get_running_loop().call_later(delay, self._try_one)

    def has_room(self) -> None:
        """The spool took a file."""
        self._full_delay_seconds = 0.0

    def _try_one(self) -> None:
        self._probe = None
        self.start_more()

    # --- for people

    def reason_for(self, path: bytes) -> str | None:
        """Why this file is still in its folder, if it is remembered."""
        if path in self._parked:
            return self._parked[path].reason
        if path not in self._fresh and path not in self._todo and path not in self._busy:
            return None
        return "it waits until the spool takes files again" if self.is_full else "it is about to be taken"
