"""Who gets which message: the subscriptions of one broker, however they overlap.

Promises: each taker is given a message once, as far as the broker tells copies apart; only the widest filters are asked
of the broker. Finding the takers of a topic costs one look-up, once the topic has been seen.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from relayd.broker_filters import covers, is_shared, matches, widest
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
        self._found: dict[str, tuple[tuple[Taker, ...], dict[int, tuple[Taker, ...]]]] = {}
        self._refused: frozenset[str] = frozenset()
        self.wide: list[str] = []
        self.unwanted = 0

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        return tuple(self._subscriptions)

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

    def refuse(self, patterns: Iterable[str]) -> None:
        """The broker sends nothing by these of the widest filters, for now."""
        self._refused = frozenset(patterns)
        self._found.clear()

    @property
    def refused(self) -> frozenset[str]:
        return self._refused

    @property
    def granted(self) -> list[str]:
        """The widest filters without those that the broker refuses."""
        return [pattern for pattern in self.wide if pattern not in self._refused]

    def identifier(self, pattern: str) -> int:
        """The same as long as the filters that the broker grants are the same. Messages that wait at the broker carry
        it: those from before a change are known by it, and of those no copy is let go."""
        return 1 + zlib.crc32("\0".join((pattern, *self.granted)).encode()) % 0xFFF_FFFE

    def takers_of(self, message: Message) -> Sequence[Taker]:
        """Who takes it. Where several of our subscriptions match, a broker may send a copy for each: only the copy of
        the first one counts, as far as the broker tells them apart. A shared subscription has copies of its own."""
        found = self._found.get(message.topic)
        if found is None:
            if len(self._found) >= ROUTES_KEPT:
                self._found.clear()
            found = self._found[message.topic] = self._find(message.topic)
        takers, ways = found
        if not takers:
            self._let_go(message)
        elif len(ways) > 1:
            named = [ways[number] for number in message.subscriptions if number in ways]
            if named:
                return tuple(taker for some in named for taker in some)
        return takers

    def skipped(self, topic: str, size_bytes: int) -> None:
        """Tell those who wanted it that a message was too large to be read."""
        for one in self._subscriptions:
            if one.on_skipped and any(matches(topic, own) for own in one.filters):
                one.on_skipped(topic, size_bytes)

    def _lay(self) -> None:
        self.wide = widest(pattern for one in self._subscriptions for pattern in one.filters)
        self._found.clear()

    def _find(self, topic: str) -> tuple[tuple[Taker, ...], dict[int, tuple[Taker, ...]]]:
        """Everybody who wants it, and who of them is served by the copy of which subscription."""
        plain = tuple(
            one.taker
            for one in self._subscriptions
            if topic in one.asked
            or any(matches(topic, own) for own in (*one.filters, *one.asked) if not is_shared(own))
        )
        shared: dict[str, tuple[Taker, ...]] = {
            pattern: tuple(one.taker for one in self._subscriptions if pattern in one.filters)
            for pattern in self.wide
            if is_shared(pattern) and matches(topic, pattern)
        }
        ways: dict[int, tuple[Taker, ...]] = {}
        rest = plain
        for pattern in self.granted:
            if pattern in shared:
                ways[self.identifier(pattern)] = shared[pattern]
            elif matches(topic, pattern):
                ways[self.identifier(pattern)], rest = rest, ()
        return tuple(dict.fromkeys((*plain, *(one for some in shared.values() for one in some)))), ways

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
