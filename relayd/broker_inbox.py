"""What came over one connection and is not acknowledged yet.

Promises: a message is acknowledged when everybody who wants it has taken it durably, in the order in which messages
came, all that are due in one write. When too much waits, reading stops; nothing is dropped. If anybody fails to take a
message, the connection ends instead, so that the broker sends it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from relayd.broker_packets import Message
from relayd.broker_wire import Wire

Handler = Callable[[Message], Awaitable[object]]
"""Takes a message durably. What it returns comes back in `Confirmed`; None: nothing to come back."""
Confirmed = Callable[[Sequence[object]], None]
"""The broker has seen these acknowledgements: it will not send those messages again."""

CONFIRM_SECONDS = 1.0
"""How long after an acknowledgement the broker is asked whether it has seen it."""
ENTRY_BYTES = 400
"""What a small message takes while it waits, besides its bytes."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Somebody who wants a message."""

    handler: Handler
    confirmed: Confirmed | None


@dataclass(slots=True)
class _Entry:
    qos: int
    mid: int
    size_bytes: int
    open: int = 0
    tokens: list[tuple[Confirmed, object]] = field(default_factory=list)


class Inbox:
    """Between the wire and those who take messages."""

    def __init__(
        self,
        route: Callable[[Message], Sequence[Taker]],
        failed: Callable[[BaseException], None],
        *,
        most: int,
        most_bytes: int,
    ) -> None:
        self._route = route
        self._failed = failed
        self._most = most
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_paused = False
        self._is_flushing = False
        self._acknowledged: list[tuple[Confirmed, object]] = []
        self._probed: list[tuple[Confirmed, object]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.taken = 0

    def attach(self, wire: Wire) -> None:
        self._wire = wire

    def close(self) -> None:
        """The connection has ended: what was not acknowledged comes again over the next one."""
        self._wire = None
        for task in self._tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    @property
    def waiting(self) -> int:
        return len(self._entries)

    # --- coming in

    def arrived(self, message: Message) -> None:
        """Called by the wire, in the loop, for each message in order."""
        takers = self._route(message)
        entry = _Entry(message.qos, message.mid, len(message.payload) + len(message.topic) + ENTRY_BYTES, len(takers))
        self._keep(entry)
        for taker in takers:
            task = self._loop.create_task(_take(taker.handler, message))
            self._tasks.add(task)
            task.add_done_callback(partial(self._taken, entry, taker.confirmed))

    def skipped(self, qos: int, mid: int) -> None:
        """A message that will never be taken: acknowledged when its turn comes."""
        self._keep(_Entry(qos, mid, ENTRY_BYTES))

    def _keep(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._bytes += entry.size_bytes
        if not entry.open:
            self._flush_soon()
        if not self._is_paused and self._wire is not None and self._is_too_much(1.0):
            self._is_paused = True
            self._wire.pause()

    def _is_too_much(self, share: float) -> bool:
        return len(self._entries) >= self._most * share or self._bytes >= self._most_bytes * share

    def _taken(self, entry: _Entry, confirmed: Confirmed | None, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            if entry.qos or self._wire is None:
                self._failed(error)
                return
        elif confirmed is not None and task.result() is not None:
            entry.tokens.append((confirmed, task.result()))
        entry.open -= 1
        if not entry.open and entry is self._entries[0]:
            self._flush_soon()

    # --- acknowledging

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._wire is None:
            return
        acks: list[tuple[int, int]] = []
        entries = self._entries
        while entries and not entries[0].open:
            entry = entries.popleft()
            self._bytes -= entry.size_bytes
            self.taken += 1
            if entry.qos:
                acks.append((entry.qos, entry.mid))
                self._acknowledged += entry.tokens
        if acks:
            self._wire.acknowledge(acks)
            self._confirm_later()
        if self._is_paused and not self._is_too_much(0.5):
            self._is_paused = False
            self._wire.resume()

    # --- what the broker has seen

    def _confirm_later(self) -> None:
        if self._timer is None and self._acknowledged and not self._probed:
            self._timer = self._loop.call_later(CONFIRM_SECONDS, self._probe)

    def _probe(self) -> None:
        self._timer = None
        if self._wire is not None and self._wire.probe():
            self._probed, self._acknowledged = self._acknowledged, []

    def confirmed(self) -> None:
        """Called by the wire: the broker has read everything up to the last probe."""
        by_taker: dict[Confirmed, list[object]] = {}
        for taker, token in self._probed:
            by_taker.setdefault(taker, []).append(token)
        self._probed = []
        for taker, tokens in by_taker.items():
            taker(tokens)
        self._confirm_later()


async def _take(handler: Handler, message: Message) -> object:
    return await handler(message)
