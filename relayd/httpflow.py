"""One HTTP exchange as it moves: when it stands still, it is ended.

Promises: what counts as moving is bytes that leave this machine and are acknowledged by the other one, so that a slow
link is not taken for a dead one because the kernel has swallowed the rest of a file.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Protocol

from relayd.errors import DeliveryError, TryAgain
from relayd.httpconfig import HttpConfig
from relayd.traffic import Lane, Pace, lane
from relayd.trips import Trips

LOOK_EVERY_SECONDS = 1.0
RESEND_LIMIT_BYTES = 4 * 1024 * 1024
"""A request that has handed over more than this was not stopped by a connection that was dead before."""
YIELD_EVERY_CHUNKS = 16
"""A sink that is faster than we are never makes us wait, so the loop gets its turn this often (1 MiB)."""

current: ContextVar[Flow | None] = ContextVar("relayd_flow", default=None)
"""The exchange that this task is in, for the parts of aiohttp that are called without it."""


class Body(Protocol):
    """A request body of known length whose chunks can be asked for again. Chunks are never changed once handed out."""

    length: int

    def chunks(self) -> Iterable[bytes]: ...


class Flow:
    """One exchange: moves its `deadline` on as long as bytes flow.

    `fault` is what the body raised while it was read, `refusal` why the guard opened no socket.
    """

    def __init__(self, config: HttpConfig, deadline: asyncio.Timeout, total: int, trips: Trips) -> None:
        self._config = config
        self._trips = trips
        self._lane = lane.get()
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen: tuple[int, int, int] | None = None
        self._is_answered = False
        self._look_every = min(LOOK_EVERY_SECONDS, config.stall_timeout / 4, config.answer_timeout / 4)
        self._total = total
        self.handed = 0
        self.is_connection_new = False
        self.refusal = ""
        self.fault: DeliveryError | None = None

    @property
    def is_begun(self) -> bool:
        """The request is on its way: what breaks from here on may have had its effect."""
        return self._transport is not None

    @property
    def is_handed_over(self) -> bool:
        """The last byte has left this program: what breaks before that left the other side with half a request, which
        nobody may act upon (RFC 9112, 8)."""
        return self.handed >= self._total

    @property
    def is_sent(self) -> bool:
        """Everything has left for the kernel."""
        return self.handed >= self._total and self._buffered() == 0

    @property
    def may_have_met_a_dead_connection(self) -> bool:
        return self.is_begun and not self.is_connection_new and self.fault is None and self.handed <= RESEND_LIMIT_BYTES

    def begin(self, transport: asyncio.Transport | None) -> None:
        self._transport = transport
        self._look()

    def answered(self) -> None:
        """The answer has begun: its body gets `answer_timeout`, however slowly it drips."""
        self._is_answered = True
        self.end()
        self._deadline.reschedule(self._loop.time() + self._config.answer_timeout)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def standstill(self, place: str) -> DeliveryError:
        """The deadline passed: in words."""
        if self._is_answered:
            return TryAgain(f"{place}: the answer did not end within {self._config.answer_timeout:g} s")
        if self.is_sent and self._unacknowledged() == 0:
            return TryAgain(f"{place} gave no answer within {self._config.answer_timeout:g} s")
        return TryAgain(f"{place}: not one byte moved for {self._config.stall_timeout:g} s")

    def _look(self) -> None:
        seen = (self.handed, self._buffered(), self._unacknowledged())
        if seen != self._seen:
            self._seen = seen
            if self._lane is not None:
                self._lane.moved()
            is_sent = self.handed >= self._total and seen[1:] == (0, 0)
            patience = self._config.answer_timeout if is_sent else self._config.stall_timeout
            self._deadline.reschedule(self._loop.time() + patience)
        self._timer = self._loop.call_later(self._look_every, self._look)

    def waiting_bytes(self, pace: Pace, own: Lane) -> int:
        """How much has been handed over and not been acknowledged; the pace is told."""
        waiting = self._buffered() + self._unacknowledged()
        pace.look(self.handed - waiting, self._loop.time(), own.least_ahead_bytes)
        return waiting

    def trip_seconds(self) -> float:
        """How long it takes there and back while nothing is queued on the way."""
        if self._transport is None or self._transport.is_closing():
            return 0.0
        return self._trips.seconds(self._transport.get_extra_info("socket"))

    def _buffered(self) -> int:
        """Bytes that wait in this process."""
        if self._transport is None or self._transport.is_closing():
            return 0
        return self._transport.get_write_buffer_size()

    def _unacknowledged(self) -> int:
        """Bytes in the kernel that the other side has not acknowledged."""
        if self._transport is None or self._transport.is_closing():
            return 0
        descriptor = self._transport.get_extra_info("socket").fileno()
        try:
            return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0  # closed meanwhile


async def pump(body: Body, flow: Flow) -> AsyncIterator[bytes]:
    """The chunks of a body, counted; slowly while something more urgent is under way. Reads block the loop on purpose:
    they come from the page cache, and a thread hop per chunk costs more than twice the whole upload."""
    own = lane.get()
    pace = Pace(0 if own is None else own.least_ahead_bytes, flow.trip_seconds)
    try:
        for number, chunk in enumerate(body.chunks(), 1):
            if own is None:
                flow.handed += len(chunk)
                yield chunk
            else:
                async for piece in own.pieces(chunk, pace, partial(flow.waiting_bytes, pace, own)):
                    flow.handed += len(piece)
                    yield piece
            if number % YIELD_EVERY_CHUNKS == 0:
                await asyncio.sleep(0)
    except DeliveryError as error:
        flow.fault = error
        raise
    except OSError as error:
        flow.fault = TryAgain(f"the spooled file cannot be read: {error.strerror}")
        raise
