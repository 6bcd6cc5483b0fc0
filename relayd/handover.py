"""What is handed over by hand: a file that a person sends, a command for a camera; each an item like any other.

Promises: what its destination could never take is refused before it is an item. Texts in a command are data: none is
ever filled in as a template.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from relayd import clock, mediatype
from relayd.arguments import check_arguments
from relayd.destinations.base import Destination
from relayd.errors import UnknownName, WrongRequest
from relayd.files import printable
from relayd.model import Capture, Fields, Kind, OpenFile, Order, Priority
from relayd.spool import Spool
from relayd.templates import is_template

log = logging.getLogger("relayd.operations")

BY_HAND = "hand"
"""The source of items that were handed over."""
RULE = "by hand"
"""Stands for a rule in what a person asked for."""


class HandOver:
    """One relay's."""

    def __init__(self, spool: Spool, destinations: Callable[[], Mapping[str, Destination]]) -> None:
        self._spool = spool
        self._destinations = destinations

    def stage(self) -> AbstractContextManager[BinaryIO]:
        """A new file inside the spool for `send` to be written into; it is gone when the context ends."""
        return self._spool.stage()

    async def send(
        self,
        file: OpenFile,
        name: str,
        destination: str,
        action: str | None,
        arguments: Fields,
        priority: Priority,
        as_it_is: bool = False,
    ) -> dict[str, Any]:
        """Take a file that a person hands over, and deliver it: `{"id": ID}`. With `as_it_is` also what is cut off, or
        is not what its name says. Raises WrongRequest, SpoolFull."""
        order = _order(destination, self._action(destination, action), arguments, priority)
        verdict = mediatype.judge(file.descriptor, name)
        if verdict.is_empty or (verdict.is_refused and not as_it_is):
            remedy = "" if verdict.is_empty else ". To send it all the same, marked: --as-it-is"
            raise WrongRequest(f"{printable(name)}: {verdict.damage}{remedy}")
        capture = Capture(
            source=BY_HAND,
            name=name,
            kind=Kind.MEDIA,
            content_type=verdict.content_type,
            captured_at=file.origin.mtime_ns / 1e9,
            file=file,
            damage=verdict.damage,
        )
        item = await self._spool.put(capture, (order,), now=clock.now())
        self._spool.forget(BY_HAND, [file.origin.path])
        log.info("%s (%s) handed over for %s", item.id, printable(name), destination)
        return {"id": item.id}

    async def command(
        self, action: str, destination: str | None, camera: str, arguments: Fields, priority: Priority
    ) -> dict[str, Any]:
        """Have this done with a camera, by the one destination that can, or the one that is named: `{"id": ID}` of the
        message that stands for it. Raises WrongRequest, UnknownName, SpoolFull."""
        name = self._one_that_can(action) if destination is None else destination
        self._action(name, action)
        wish = {**arguments, "name": camera}
        for key, value in wish.items():
            if isinstance(value, str) and is_template(value):
                raise WrongRequest(f"{printable(key)[:80]}: it must be plain, nothing is filled in here")
        check_arguments(self._destinations()[name].actions[action], wish)
        capture = Capture(
            source=BY_HAND,
            name=f"{action} {camera}",
            kind=Kind.MESSAGE,
            content_type="application/json",
            captured_at=clock.now(),
            payload=json.dumps({"action": action, "destination": name, **wish}).encode(),
        )
        item = await self._spool.put(capture, (_order(name, action, wish, priority),), now=clock.now())
        log.info("%s (%s) asked of %s", item.id, printable(capture.name), name)
        return {"id": item.id}

    def _action(self, destination: str, action: str | None) -> str:
        known = self._destinations()
        if destination not in known:
            raise UnknownName(f"no destination {printable(destination)}; there are: {_listed(known) or 'none'}")
        actions = known[destination].actions
        if action is None:
            if len(actions) == 1:
                return next(iter(actions))
            raise WrongRequest(f"{destination} has several actions, name one: {_listed(actions)}")
        if action not in actions:
            raise WrongRequest(f"{destination} has no action {printable(action)}; there are: {_listed(actions)}")
        return action

    def _one_that_can(self, action: str) -> str:
        able = [name for name, destination in self._destinations().items() if action in destination.actions]
        if len(able) == 1:
            return able[0]
        if able:
            raise WrongRequest(f"destination: several can do this, name one: {_listed(able)}")
        raise WrongRequest(f"no destination of this relay has an action {action}")


def _order(destination: str, action: str, arguments: Fields, priority: Priority) -> Order:
    return Order(destination=destination, action=action, priority=priority, rule=RULE, arguments=arguments)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
