"""What goes before what on a status page: deliveries about one thing go in the order in which they were ordered.

Promises: nothing overtakes; the one whose turn it is learns of all that came after it, and can do their work too.
"""

from __future__ import annotations

from collections.abc import Callable

from relayd.destinations.base import Attempt, Sibling
from relayd.errors import NotReady

TOLD = "told"
"""The step of a delivery whose work an earlier one has done."""
_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 15.0, 300.0


async def later(attempt: Attempt, is_about_it: Callable[[Sibling], bool]) -> list[Sibling]:
    """Those that came after this one and are about the same thing. Raises NotReady while one before it waits; that one
    wakes this one when it is through."""
    found = []
    async for sibling in attempt.siblings():
        if sibling.arguments is None or sibling.steps.get(TOLD) is not None or not is_about_it(sibling):
            continue
        if sibling.delivery.id < attempt.delivery.id:
            wait = min(_WAIT_SECONDS * 2.0 ** min(attempt.number - 1, 10), _LONGEST_WAIT_SECONDS)
            why = sibling.delivery.reason or "its turn has not come"
            text = f"item {sibling.item.id} is about the same and goes first, but waits itself: {why}"
            raise NotReady(text, retry_after_seconds=wait)
        found.append(sibling)
    return found
