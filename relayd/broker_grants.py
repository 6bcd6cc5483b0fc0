"""What a broker is asked to send, and which of it it grants.

Promises: every subscription hears why something that it wants does not come, or comes worse than it wants. A change
asks for what is new before it gives up what is gone, so nothing is missed in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable

from relayd.broker_routes import Routes, Subscription, retain_handling
from relayd.broker_settings import Welcome
from relayd.broker_wire import Wire
from relayd.broker_words import FIRST_BAD, in_words, meaning
from relayd.messages import about

log = logging.getLogger("relayd.broker")

_Asked = dict[str, frozenset[Subscription]]


class Grants:
    """Of one broker, over one connection after another. `refused` is filter → why."""

    def __init__(self, name: str, routes: Routes) -> None:
        self.refused: dict[str, str] = {}
        self._name = name
        self._routes = routes
        self._asked: _Asked = {}

    async def ask_for_everything(self, wire: Wire, welcome: Welcome) -> None:
        """Over a new connection. Raises ConnectionLost, TimeoutError."""
        wide = self._routes.wide
        self._asked = self._wanted()
        self.refused.clear()
        self._routes.refuse(())
        codes = await _all(self._ask_for(wire, welcome, pattern) for pattern in wide)
        refused = [pattern for pattern, code in zip(wide, codes, strict=True) if code >= FIRST_BAD]
        if refused and welcome.has_identifiers:
            self._routes.refuse(refused)
            await _all(self._ask_for(wire, welcome, pattern, is_again=True) for pattern in self._routes.granted)

    async def ask_for_what_changed(self, wire: Wire, welcome: Welcome) -> None:
        """New filters first, so that nothing is missed in between. Those that stay are asked for again where messages
        carry identifiers, which follow from all of them. Raises ConnectionLost, TimeoutError."""
        before, self._asked = self._asked, self._wanted()
        gone = [pattern for pattern in before if pattern not in self._asked]
        fresh = [pattern for pattern in self._asked if self._asked[pattern] - before.get(pattern, frozenset())]
        if not gone and not fresh:
            return
        for pattern in gone:
            self.refused.pop(pattern, None)
        self._routes.refuse(self._routes.refused & self._asked.keys() - set(fresh))
        known = frozenset(one for wanted in before.values() for one in wanted)
        codes = await _all(self._ask_for(wire, welcome, pattern, known=known) for pattern in fresh)
        refused = {pattern for pattern, code in zip(fresh, codes, strict=True) if code >= FIRST_BAD}
        if welcome.has_identifiers:
            self._routes.refuse({*self._routes.refused, *refused})
            again = self._routes.granted if refused else [one for one in self._routes.granted if one not in fresh]
            await _all(self._ask_for(wire, welcome, pattern, is_again=True) for pattern in again)
        for pattern in gone:
            await wire.ask_no_more_for(pattern)

    def _wanted(self) -> _Asked:
        return {pattern: frozenset(self._routes.wanted_by(pattern)) for pattern in self._routes.wide}

    async def _ask_for(
        self,
        wire: Wire,
        welcome: Welcome,
        pattern: str,
        *,
        is_again: bool = False,
        known: frozenset[Subscription] = frozenset(),
    ) -> int:
        """`is_again`: only for the identifier, which says what else is granted. Those `known` have what the broker kept
        from before."""
        wanted = self._routes.wanted_by(pattern)
        new = [one for one in wanted if one not in known]
        qos = max((one.qos for one in wanted), default=0)
        code = await wire.ask_for(
            pattern,
            qos=qos,
            identifier=self._routes.identifier(pattern) if welcome.has_identifiers else None,
            retain_handling=2 if is_again or not new else retain_handling(new),
        )
        if code >= FIRST_BAD:
            reason = f"subscribing to {pattern!a} is refused: {in_words(code)}; {meaning(code).remedy}"
        elif code < qos:
            reason = f"{pattern!a} comes with QoS {code} only, not {qos}: messages may be lost on the way here"
        else:
            reason = ""
        for one in wanted:
            one.troubles.pop(pattern, None)
            if reason:
                one.troubles[pattern] = reason
        if reason:
            self.refused[pattern] = reason
            log.warning("broker %s: %s", self._name, reason, extra=about(broker=self._name))
        return code


async def _all(asked: Iterable[Awaitable[int]]) -> list[int]:
    """What each of them returns, once all are through; raises the first failure."""
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, int)]
