"""The Jinja2 environment that texts and conditions run in: what exists there, and how far it may grow.

Promises: only listed filters and methods exist; every operation is paid for out of the budget of its filling-in before
it begins, and what it may bring forth is bounded; a value that is missing is an error that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from relayd.template_budget import LONGEST_TEXT, TemplateError, guarded, paced, weigh, weighed

LONGEST_RANGE = 1_000
LARGEST_BITS = 512
MOST_DECIMALS = 30
_WEIGHED, _PACED = "weighed value", "paced loop"
"""Filters that no template can name."""


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


class _Charging(NodeTransformer):
    """Has the operations weigh their values that Python carries out without asking the environment."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - jinja2 finds it by this name
        self.generic_visit(node)
        cost = nodes.Const(sum(1 for _ in node.find_all(nodes.Node)))
        node.iter = nodes.Filter(node.iter, _PACED, [cost], [], None, None, lineno=node.lineno)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _weighing(node.expr)
        for operand in node.ops:
            operand.expr = _weighing(operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [_weighing(part) for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _weighing(node.node)
        return node


def _weighing(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else nodes.Filter(node, _WEIGHED, [], [], None, None)


class _Cage(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def _generate(self, source: nodes.Template, *rest: Any, **named: Any) -> str:
        charging: nodes.Template = _Charging().visit(source)
        charging.set_environment(self)
        return super()._generate(charging, *rest, **named)

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

    def call(self, context: Context, obj: Any, *values: Any, **named: Any) -> Any:
        weigh(getattr(obj, "__self__", None), *values, *named.values())
        return weighed(super().call(context, obj, *values, **named))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        weigh(left, right)
        if operator == "%" and isinstance(left, str):
            raise TemplateError("% does not work on texts, write a ~ b")
        if operator == "*":
            _bound_product(left, right)
        if operator == "**" and (abs(right) > 64 or abs(left) > 1_000_000):
            raise TemplateError("the power is too large")
        if any(isinstance(one, int) and one.bit_length() > LARGEST_BITS for one in (left, right)):
            raise TemplateError("the number becomes too large")
        return weighed(super().call_binop(context, operator, left, right))


def _bound_product(left: Any, right: Any) -> None:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, (str, bytes, list, tuple)) and isinstance(other, int) and len(one) * other > LONGEST_TEXT:
            raise TemplateError(f"the text becomes longer than {LONGEST_TEXT} characters")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > LARGEST_BITS:
        raise TemplateError("the number becomes too large")


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > MOST_DECIMALS:
        raise TemplateError(f"round knows at most {MOST_DECIMALS} decimals")
    return _ROUND(value, precision, method)


@jinja2.pass_environment
def _sum(
    environment: jinja2.Environment, values: Iterable[Any], attribute: str | int | None = None, start: float = 0
) -> Any:
    found = values if attribute is None else map(make_attrgetter(environment, attribute), values)
    numbers = [start, *found]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise TemplateError("sum adds up numbers only")
    return sum(numbers)


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
    weigh(value)
    if value is None:
        return ""
    return _tojson(value) if isinstance(value, (bool, dict, list)) else value


def _built() -> _Cage:
    cage = _Cage(undefined=_Missing, autoescape=False, finalize=_finalize, cache_size=0)
    own: dict[str, Callable[..., Any]] = {
        "replace": _replace,
        "join": _join,
        "tojson": _tojson,
        "round": _round,
        "sum": _sum,
    }
    filters: dict[str, Callable[..., Any]] = {name: cage.filters[name] for name in _FILTERS} | own
    cage.filters = {name: guarded(work) for name, work in filters.items()} | {_WEIGHED: weighed, _PACED: paced}
    tests: Mapping[str, Any] = cage.tests
    cage.tests = {name: guarded(work) for name, work in tests.items()}
    cage.globals = {"range": _range}
    return cage


_ROUND = jinja2.filters.FILTERS["round"]
ENVIRONMENT = _built()
