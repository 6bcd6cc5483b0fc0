"""The Jinja2 environment that texts and conditions run in: what exists there, and how far it may grow.

Promises: only listed filters and methods exist; every operation that could grow is bounded; a value that is missing is
an error that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import jinja2
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from relayd.errors import RelaydError

LONGEST_TEXT = 65_536
LONGEST_RANGE = 1_000
LARGEST_BITS = 512


class TemplateError(RelaydError):
    """A text or a condition cannot be read, or cannot be filled in with this item. Says why, in words."""


# fmt: off
_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length",
    "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "sort",
    "string", "sum", "title", "trim", "truncate", "unique", "upper", "urlencode", "wordcount",
)
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset({
        "capitalize", "count", "endswith", "find", "lower", "lstrip", "removeprefix", "removesuffix", "rstrip", "split",
        "splitlines", "startswith", "strip", "title", "upper",
    }),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
}
# fmt: on


class _Missing(jinja2.StrictUndefined):
    """A value that is not there: an error that names the field."""

    @property
    def _undefined_message(self) -> str:
        name = str(self._undefined_name)[:64]
        if self._undefined_obj is None:
            return f'there is no field "{name}": the value before it is empty'
        if isinstance(self._undefined_obj, dict):
            return f'there is no field "{name}"'
        if self._undefined_hint:
            return str(self._undefined_hint)
        return f'there is no "{name}"'


class _Cage(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The key of a table before the method of a dict: `payload.items` is what the message says."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, LoopContext):
            return super().is_safe_attribute(obj, attr, value)
        return attr in _METHODS.get(type(obj), frozenset())

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        return self.undefined(f'there is no "{attribute}" here', name=attribute, obj=obj, exc=jinja2.UndefinedError)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise TemplateError("% does not work on texts, write a ~ b")
        if operator == "*":
            _bound_product(left, right)
        if operator == "**" and (abs(right) > 64 or abs(left) > 1_000_000):
            raise TemplateError("the power is too large")
        return super().call_binop(context, operator, left, right)


def _bound_product(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > LONGEST_TEXT:
            raise TemplateError(f"the text becomes longer than {LONGEST_TEXT} characters")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > LARGEST_BITS:
        raise TemplateError("the number becomes too large")


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > LONGEST_RANGE:
        raise TemplateError(f"range has more than {LONGEST_RANGE} numbers")
    return numbers


def _replace(text: Any, old: str, new: str) -> str:
    whole, old, new = str(text), str(old), str(new)
    if len(whole) + whole.count(old) * len(new) > LONGEST_TEXT:
        raise TemplateError(f"the text becomes longer than {LONGEST_TEXT} characters")
    return whole.replace(old, new)


def _join(values: Iterable[Any], separator: str = "") -> str:
    parts = [str(value) for value in values]
    if sum(map(len, parts)) + len(parts) * len(separator) > LONGEST_TEXT:
        raise TemplateError(f"the text becomes longer than {LONGEST_TEXT} characters")
    return separator.join(parts)


def _tojson(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _finalize(value: Any) -> Any:
    """What a person expects to read: nothing for None, true and false as in JSON, tables and lists as JSON."""
    if value is None:
        return ""
    return _tojson(value) if isinstance(value, (bool, dict, list)) else value


def _built() -> _Cage:
    cage = _Cage(undefined=_Missing, autoescape=False, finalize=_finalize, cache_size=0)
    own: dict[str, Callable[..., Any]] = {"replace": _replace, "join": _join, "tojson": _tojson}
    cage.filters = {name: cage.filters[name] for name in _FILTERS} | own
    cage.globals = {"range": _range}
    return cage


ENVIRONMENT = _built()
