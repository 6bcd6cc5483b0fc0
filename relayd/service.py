"""What the service manager is told: ready, loading, stopping, how it goes, and that everything makes progress.

Promises: the watchdog is fed only while the loop turns, the spool answers, and every loop that beats (`pulse`) has
beaten in time; a slow upload is nobody's silence. STATUS is one sentence for people, sent when it has changed, at most
every few seconds. Where nobody listens, nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator

from relayd import clock, systemd
from relayd.diagnosis import Views
from relayd.errors import SpoolError
from relayd.messages import Message, about
from relayd.pulse import Pulse
from relayd.spool import Spool, SpoolCounters

log = logging.getLogger("relayd.service")

LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""While a long start goes on, systemd is asked again and again to wait this much longer."""
LONGEST_START_SECONDS = 6 * 3600.0
"""A start that takes longer than this is no start."""
MOST_TOLD = 2
LONGEST_REASON = 100


@contextlib.asynccontextmanager
async def patience(doing: str) -> AsyncIterator[None]:
    """While this goes on, systemd neither gives up the start nor thinks that we hang."""

    async def ask() -> None:
        began = clock.monotonic()
        while (taken_seconds := clock.monotonic() - began) < LONGEST_START_SECONDS:
            since = f", for {taken_seconds:.0f} s now" if taken_seconds >= 1 else ""
            systemd.notify(f"EXTEND_TIMEOUT_USEC={PATIENCE_SECONDS * 1e6:.0f}", "WATCHDOG=1", f"STATUS={doing}{since}")
            await asyncio.sleep(PATIENCE_SECONDS / 3)

    asking = asyncio.create_task(ask(), name="patience")
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait({asking})


def ready(status: str) -> None:
    """Everything runs."""
    systemd.notify("READY=1", f"STATUS={status}")


@contextlib.contextmanager
def reloading() -> Iterator[None]:
    """The configuration is being loaded, and was accepted or refused when this ends."""
    systemd.notify("RELOADING=1", f"MONOTONIC_USEC={clock.monotonic() * 1e6:.0f}")
    try:
        yield
    finally:
        systemd.notify("READY=1")


def stopping() -> None:
    """Nothing new is begun."""
    systemd.notify("STOPPING=1", "STATUS=stopping: what is under way is due again at the next start")


async def report(heartbeats: Pulse, spool: Spool, status: Callable[[], str]) -> None:
    """For ever: the status when it changes, and the watchdog three times as often as systemd insists."""
    period = systemd.watchdog_seconds()
    every_seconds = LOOK_SECONDS if period is None else min(LOOK_SECONDS, period / 3)
    told, fed_at, silent = "", float("-inf"), frozenset[str]()
    while True:
        silent = _complain(heartbeats, silent)
        if (text := status()) != told:
            systemd.notify(f"STATUS={text}")
            told = text
        if period is not None and clock.monotonic() - fed_at > period / 3 - every_seconds and not silent:
            await _answer_of(spool)
            systemd.notify("WATCHDOG=1")
            fed_at = clock.monotonic()
        await asyncio.sleep(every_seconds)


def summary(views: Views, counters: SpoolCounters, refusal: str | None = None) -> str:
    """`3 sources, 2 of 3 destinations ok, 12 items wait (rapidsos: unreachable)`."""
    states = [view.state for view in views.destinations.values()]
    troubles = [f"source {name}: {view.reason}" for name, view in views.sources.items() if view.state == "fault"]
    troubles += [f"{name}: {view.reason}" for name, view in views.destinations.items() if view.state != "ok"]
    troubles += [f"broker {name}: {view.reason}" for name, view in views.brokers.items() if view.state == "fault"]
    told = "; ".join(trouble[:LONGEST_REASON] for trouble in troubles[:MOST_TOLD])
    more = f"; {len(troubles) - MOST_TOLD} more" if len(troubles) > MOST_TOLD else ""
    good, count = states.count("ok"), len(states)
    share = f"{_counted(count, 'destination')}" if good == count else f"{good} of {_counted(count, 'destination')}"
    text = f"{_counted(len(views.sources), 'source')}, {share} ok, {_counted(counters.pending, 'item')} wait"
    text += "s" if counters.pending == 1 else ""
    text += f" ({told}{more})" if told else ""
    return text if refusal is None else f"configuration refused, the previous one runs: {refusal[:200]}; {text}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _complain(heartbeats: Pulse, known: frozenset[str]) -> frozenset[str]:
    """Say once which loops are stuck, and once that they go on; returns those that are stuck."""
    stuck = heartbeats.stuck(clock.monotonic())
    for name, late_seconds in stuck.items():
        if name not in known:
            log.critical(
                "%s is stuck: no progress for %.0f s longer than it may rest; the watchdog is not fed any more",
                name,
                late_seconds,
                extra=about(Message.LOOP_STUCK, loop=name),
            )
    for name in known - stuck.keys():
        log.warning("%s makes progress again", name)
    return frozenset(stuck)


async def _answer_of(spool: Spool) -> None:
    """An answer that says no is one, too: a restart would not make it a better one."""
    with contextlib.suppress(SpoolError):
        await spool.note("watchdog")
