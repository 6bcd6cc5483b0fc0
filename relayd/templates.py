"""Jinja2 in a cage: the texts and conditions that a technician writes into the configuration.

Promises: data (payloads, file names, receipts) is never read as a template. Only listed filters and methods exist;
there is no import, macro, assignment or loop in a loop; the length of a template, the size of what comes out and every
growing operation are bounded. What is missing is an error in words, never an empty text.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jinja2
from jinja2 import meta, nodes
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from relayd.errors import RelaydError

LONGEST_TEMPLATE = 4_096
LONGEST_TEXT = 65_536
LONGEST_RANGE = 1_000
LARGEST_BITS = 512

Known = Mapping[str, frozenset[str] | None]
"""Name of a variable → the fields it has; None where they are not known beforehand."""

Context = Mapping[str, Any]
T = TypeVar("T")


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
_FORBIDDEN: dict[type[nodes.Node], str] = {
    nodes.Assign: "{% set %} is not available",
    nodes.AssignBlock: "{% set %} is not available",
    nodes.Macro: "macros are not available",
    nodes.CallBlock: "{% call %} is not available",
    nodes.FilterBlock: "{% filter %} is not available",
    nodes.With: "{% with %} is not available",
    nodes.Include: "{% include %} is not available",
    nodes.Import: "{% import %} is not available",
    nodes.FromImport: "{% import %} is not available",
    nodes.Extends: "{% extends %} is not available",
    nodes.Block: "{% block %} is not available",
}
_FAILURES = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError)
_MARKS = re.compile(r"\{\{|\{%|\{#")


def is_template(text: str) -> bool:
    """Whether `text` has anything to fill in."""
    return _MARKS.search(text) is not None


# --- checking, for `relayd check`


def faults_of_text(text: str, known: Known) -> list[str]:
    """What is wrong with the template `text`, in words; empty if nothing is."""
    try:
        tree = _parse_text(text)
        _compiled_text(text)
    except TemplateError as error:
        return [str(error)]
    return list(_unknown_names(tree, known))


def faults_of_condition(text: str, known: Known) -> list[str]:
    """What is wrong with the expression `text`, in words; empty if nothing is."""
    try:
        tree = _parse_condition(text)
        _compiled_condition(text)
    except TemplateError as error:
        return [str(error)]
    return list(_unknown_names(tree, known))


def fields_used(text: str, variable: str) -> frozenset[str]:
    """Which fields of `variable` the expression `text` asks for. Raises TemplateError."""
    return frozenset(field for name, field in _fields(_parse_condition(text)) if name == variable)


# --- use


def fill_in(text: str, context: Context) -> str:
    """The template `text` with the values of `context`. Raises TemplateError."""
    if not is_template(text):
        return text
    pieces: list[str] = []
    size = 0
    try:
        for piece in _compiled_text(text).generate(context):
            size += len(piece)
            if size > LONGEST_TEXT:
                raise TemplateError(f"the text becomes longer than {LONGEST_TEXT} characters")
            pieces.append(piece)
    except jinja2.TemplateError as error:
        raise TemplateError(_clipped(error.message or type(error).__name__)) from None
    except _FAILURES as error:
        raise TemplateError(_clipped(f"{type(error).__name__}: {error}")) from None
    # JSON may carry half a character ("\\ud800"), which no UTF-8 text can: shown as "?" instead of failing for ever.
    return "".join(pieces).encode("utf-8", "replace").decode("utf-8")


def is_true(text: str, context: Context) -> bool:
    """Whether the expression `text` holds. Raises TemplateError, also where a value it needs is missing."""
    try:
        return bool(_compiled_condition(text)(**context))
    except jinja2.TemplateError as error:
        raise TemplateError(_clipped(error.message or type(error).__name__)) from None
    except _FAILURES as error:
        raise TemplateError(_clipped(f"{type(error).__name__}: {error}")) from None


# --- reading templates


@functools.lru_cache(maxsize=1024)
def _compiled_text(text: str) -> jinja2.Template:
    _parse_text(text)
    return _compiled(lambda: ENVIRONMENT.from_string(text))


@functools.lru_cache(maxsize=1024)
def _compiled_condition(text: str) -> Callable[..., Any]:
    _parse_condition(text)
    return _compiled(lambda: ENVIRONMENT.compile_expression(text, undefined_to_none=False))


def _parse_text(text: str) -> nodes.Template:
    return _inspected(text, lambda: ENVIRONMENT.parse(text))


def _parse_condition(text: str) -> nodes.Template:
    def parse() -> nodes.Template:
        parser = Parser(ENVIRONMENT, text, state="variable")
        expression = parser.parse_expression()
        if not parser.stream.eos:
            raise jinja2.TemplateSyntaxError("there is more than one expression", 1)
        tree = nodes.Template([nodes.Output([expression])], lineno=1)
        tree.set_environment(ENVIRONMENT)
        return tree

    return _inspected(text, parse)


def _inspected(text: str, parse: Callable[[], nodes.Template]) -> nodes.Template:
    if len(text) > LONGEST_TEMPLATE:
        raise TemplateError(f"is {len(text)} characters long, at most {LONGEST_TEMPLATE} are read")
    tree = _compiled(parse)
    for node in tree.find_all(nodes.Node):
        if type(node) in _FORBIDDEN:
            raise TemplateError(f"{_FORBIDDEN[type(node)]} here, only {{{{ … }}}}, {{% if %}} and {{% for %}} are")
        if isinstance(node, nodes.For) and (node.recursive or node.find(nodes.For) is not None):
            raise TemplateError("a loop inside a loop is not available")
    return tree


def _compiled(make: Callable[[], T]) -> T:
    try:
        return make()
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(_syntax_words(error)) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise TemplateError("is nested too deeply") from None
    except _FAILURES as error:
        raise TemplateError(_clipped(f"cannot be read: {error}")) from None


def _syntax_words(error: jinja2.TemplateSyntaxError) -> str:
    message = (error.message or "is not a template").rstrip(".")
    match = re.match(r"No (filter|test) named '(\w+)'", message)
    if match is None:
        message = message.replace("'end of print statement'", "}}").replace("'end of statement block'", "%}")
        message = message.replace("'end of template'", "end")
        return f"cannot be read: {message}"
    names = ENVIRONMENT.filters if match[1] == "filter" else ENVIRONMENT.tests
    return f'there is no {match[1]} "{match[2]}"{did_you_mean(match[2], names)}'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean "near"?` if a known word is near, else the known words if they are few."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f', did you mean "{near[0]}"?'
    return f" (known: {', '.join(names)})" if 0 < len(names) <= 24 else ""


def _unknown_names(tree: nodes.Template, known: Known) -> Iterator[str]:
    undeclared = meta.find_undeclared_variables(tree) - set(ENVIRONMENT.globals)
    for name in sorted(undeclared - set(known)):
        yield f'there is no variable "{name}"{did_you_mean(name, known)}'
    for name, field in sorted(set(_fields(tree))):
        fields = known.get(name) if name in undeclared else None
        if fields is not None and field not in fields:
            yield f'{name} has no field "{field}"{did_you_mean(field, fields)}'


def _fields(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    for dotted in tree.find_all(nodes.Getattr):
        if isinstance(dotted.node, nodes.Name):
            yield dotted.node.name, dotted.attr
    for indexed in tree.find_all(nodes.Getitem):
        if isinstance(indexed.node, nodes.Name) and isinstance(indexed.arg, nodes.Const):
            yield indexed.node.name, str(indexed.arg.value)


# --- the cage


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


def _clipped(message: str) -> str:
    flat = "".join(letter if letter.isprintable() else "\\x%02x" % ord(letter) for letter in message[:300])  # noqa: UP031
    return flat if len(message) <= 300 else flat + "…"


def _build() -> _Cage:
    cage = _Cage(undefined=_Missing, autoescape=False, finalize=_finalize, cache_size=0)
    own: dict[str, Callable[..., Any]] = {"replace": _replace, "join": _join, "tojson": _tojson}
    cage.filters = {name: cage.filters[name] for name in _FILTERS} | own
    cage.globals = {"range": _range}
    return cage


ENVIRONMENT = _build()
