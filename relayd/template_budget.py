"""How much one filling-in may handle: every value that goes into an operation, or comes out of it, is weighed.

Promises: an operation is begun only if the budget covers what goes into it. So no template, whatever the message that
it is filled in with, takes more than a bounded time or memory. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from relayd.errors import RelaydError

LONGEST_TEXT = 65_536
"""Characters, or values in tables and lists, that one operation may bring forth."""
BUDGET = 4_000_000
"""Characters and values that one filling-in may handle: a payload of 1 MB can be looked through a few times."""
DEEPEST = 100
_SHORTEST, _FLOAT, _BITS_PER_DIGIT = 2, 24, 3


class TemplateError(RelaydError):
    """A text or a condition cannot be read, or cannot be filled in with this item. Says why, in words."""


class Budget:
    """What is left for one filling-in."""

    def __init__(self) -> None:
        self.left = BUDGET

    def spend(self, amount: int) -> None:
        """Raises TemplateError when it is used up."""
        self.left -= amount
        if self.left < 0:
            raise TemplateError("it handles too much: compare or look through less of the message")


_present: ContextVar[Budget | None] = ContextVar("template_budget", default=None)


@contextmanager
def budgeted() -> Iterator[None]:
    """Everything that is filled in inside shares one budget."""
    token = _present.set(Budget())
    try:
        yield
    finally:
        _present.reset(token)


def weigh(*values: Any) -> None:
    """These go into an operation. Raises TemplateError if they are more than what is left."""
    budget = _present.get() or Budget()
    for value in values:
        budget.spend(_weight(value, budget.left))


def weighed(value: Any) -> Any:
    """The same value, which goes into an operation."""
    weigh(value)
    return value


def paced(values: Any, cost: int) -> Any:
    """The same values, for a loop whose body costs so much each time. Raises TemplateError, also later, on the way."""
    weigh(values)
    if hasattr(values, "__len__"):
        (_present.get() or Budget()).spend(len(values) * cost)
        return values
    return _paced(iter(values), cost)


def _paced(values: Iterator[Any], cost: int) -> Iterator[Any]:
    budget = _present.get() or Budget()
    for value in values:
        budget.spend(cost)
        yield value


def guarded(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which is charged for what it is given and for what it makes of that."""

    def guard(*values: Any, **named: Any) -> Any:
        weigh(*values, *named.values())
        return weighed(work(*values, **named))

    guard.__dict__.update(getattr(work, "__dict__", {}))  # whether jinja2 gives it the environment or the context
    return guard


def _weight(value: Any, most: int, depth: int = 0) -> int:
    """How many characters it has when written out, roughly; what is there twice counts twice. Stops past `most`."""
    if isinstance(value, (str, bytes)):
        return 1 + len(value)
    if isinstance(value, int):
        return _SHORTEST + value.bit_length() // _BITS_PER_DIGIT
    if isinstance(value, float):
        return _FLOAT
    if isinstance(value, dict):
        return _weight_of_all((part for pair in value.items() for part in pair), most, depth)
    if isinstance(value, (list, tuple)):
        return _weight_of_all(value, most, depth)
    return _SHORTEST


def _weight_of_all(parts: Iterable[Any], most: int, depth: int) -> int:
    if depth > DEEPEST:
        raise TemplateError("it is nested too deeply")
    weight = _SHORTEST
    for part in parts:
        weight += _weight(part, most - weight, depth + 1)
        if weight > most:
            break
    return weight
