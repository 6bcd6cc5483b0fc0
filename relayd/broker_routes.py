"""Who gets which message: the subscriptions of one broker, however they overlap.

Promises: each taker is given a message once, as far as the broker tells copies apart; only the widest filters are asked
of the broker. Finding the takers of a topic costs one look-up, once the topic has been seen.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from relayd.broker_filters import covers, matches, widest
from relayd.broker_inbox import Taker
from relayd.broker_packets import Message

log = logging.getLogger("relayd.broker")

ROUTES_KEPT = 4096
_RETAIN_HANDLING = {"take": 0, "once": 1, "ignore": 2}


@dataclass(eq=False, slots=True, kw_only=True)
class Subscription:
    """What one taker wants of a broker. `troubles` says why for each filter that the broker refuses or weakens."""

    name: str
    filters: tuple[str, ...]
    qos: int
    retained: Literal["take", "once", "ignore"]
    taker: Taker
    on_skipped: Callable[[str, int], None] | None
    troubles: dict[str, str] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    """Filters that were asked for besides, over the present connection alone."""

    @property
    def reason(self) -> str:
        """Why not everything that is wanted comes; empty if it does."""
        return next(iter(self.troubles.values()), "")


class Routes:
    """The subscriptions of one broker."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._subscriptions: list[Subscription] = []
        self._found: dict[str, tuple[tuple[Taker, ...], int, frozenset[int]]] = {}
        self.wide: list[str] = []
        self.unwanted = 0

    def add(self, subscription: Subscription) -> None:
        self._subscriptions.append(subscription)
        self._lay()

    def remove(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)
        self._lay()

    def ask(self, subscription: Subscription, pattern: str) -> None:
        """One more filter, over the present connection alone."""
        subscription.asked.add(pattern)
        self._found.clear()

    def wanted_by(self, pattern: str) -> list[Subscription]:
        """Those whose messages come by this one of the widest filters."""
        return [one for one in self._subscriptions if any(covers(pattern, own) for own in one.filters)]

    def takers_of(self, message: Message) -> Sequence[Taker]:
        """Who takes it. Where several of our subscriptions match, a broker may send a copy for each: only the copy of
        the first one counts, as far as the broker tells them apart."""
        found = self._found.get(message.topic)
        if found is None:
            if len(self._found) >= ROUTES_KEPT:
                self._found.clear()
            found = self._found[message.topic] = self._find(message.topic)
        takers, first, all_of_them = found
        if not takers:
            self._let_go(message)
        elif len(all_of_them) > 1 and message.subscriptions:
            named = all_of_them.intersection(message.subscriptions)
            if named and first not in named:
                return ()
        return takers

    def skipped(self, topic: str, size_bytes: int) -> None:
        """Tell those who wanted it that a message was too large to be read."""
        for one in self._subscriptions:
            if one.on_skipped and any(matches(topic, own) for own in one.filters):
                one.on_skipped(topic, size_bytes)

    def _lay(self) -> None:
        self.wide = widest(pattern for one in self._subscriptions for pattern in one.filters)
        self._found.clear()

    def _find(self, topic: str) -> tuple[tuple[Taker, ...], int, frozenset[int]]:
        takers = tuple(
            one.taker
            for one in self._subscriptions
            if topic in one.asked or any(matches(topic, own) for own in (*one.filters, *one.asked))
        )
        ways = [identifier(pattern) for pattern in self.wide if matches(topic, pattern)]
        return takers, ways[0] if ways else 0, frozenset(ways)

    def _let_go(self, message: Message) -> None:
        if not self.unwanted:
            log.warning(
                "broker %s: messages come that no source wants, the first under %a (an old subscription?): let go",
                self._broker,
                message.topic,
            )
        self.unwanted += 1


def retain_handling(wanted: Sequence[Subscription]) -> int:
    """What to ask of the broker about messages that it kept from before: as much as anybody wants."""
    return min(_RETAIN_HANDLING[one.retained] for one in wanted)


def identifier(pattern: str) -> int:
    """The same for the same filter, for ever: messages that wait at the broker carry it."""
    return 1 + zlib.crc32(pattern.encode()) % 0xFFF_FFFE
