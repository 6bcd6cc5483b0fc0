"""Jinja2 in a cage: the texts and conditions that a technician writes into the configuration.

Promises: data (payloads, file names, receipts) is never read as a template. Only listed filters and methods exist;
there is no import, macro, assignment or loop in a loop; the length of a template, the size of what comes out and what
is handled on the way are bounded. What is missing is an error in words, never an empty text.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jinja2
from jinja2 import meta, nodes
from jinja2.parser import Parser

from relayd.cage import ENVIRONMENT
from relayd.template_budget import LONGEST_TEXT, TemplateError, budgeted

LONGEST_TEMPLATE = 4_096
Known = Mapping[str, frozenset[str] | None]
"""Name of a variable → the fields it has; None where they are not known beforehand."""

Context = Mapping[str, Any]
T = TypeVar("T")


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
_FAILURES = (
    ArithmeticError,
    AssertionError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    MemoryError,
)
_GUARDS = frozenset({"default", "d", "defined", "undefined"})
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


def fields_needed(text: str, variable: str) -> frozenset[str]:
    """Which fields of `variable` the template `text` cannot do without: not those with a default, or that are only
    asked whether they are defined. Raises TemplateError."""
    tree = _parse_text(text)
    spared = {name for guard in _guards(tree) for name in _fields(nodes.Template([nodes.Output([guard])]))}
    return frozenset(field for name, field in set(_fields(tree)) - spared if name == variable)


def named_within(text: str, variable: str, field: str) -> frozenset[tuple[str, str]]:
    """The same for what lies two steps within a field: `incident.remote["room"].report_id` asks within `remote` of
    `incident` for ("room", "report_id"). Raises TemplateError."""
    tree = _parse_text(text)
    spared = {path for guard in _guards(tree) for path in _paths(nodes.Template([nodes.Output([guard])]))}
    return frozenset(
        (path[2], path[3]) for path in set(_paths(tree)) - spared if path[:2] == (variable, field) and len(path) == 4
    )


def mentions(text: str, variable: str, *, is_condition: bool = False) -> bool:
    """Whether the template, or the condition, speaks of `variable` at all. False for what cannot be read."""
    try:
        tree = _parse_condition(text) if is_condition else _parse_text(text)
    except TemplateError:
        return False
    return variable in meta.find_undeclared_variables(tree)


# --- use


def fill_in(text: str, context: Context) -> str:
    """The template `text` with the values of `context`. Raises TemplateError."""
    if not is_template(text):
        return text
    pieces: list[str] = []
    size = 0
    try:
        with budgeted():
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
        with budgeted():
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
        with budgeted():
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


def _guards(tree: nodes.Template) -> list[nodes.Filter | nodes.Test]:
    """Where the template says what to do without a value."""
    found: list[nodes.Filter | nodes.Test] = [*tree.find_all(nodes.Filter), *tree.find_all(nodes.Test)]
    return [guard for guard in found if guard.name in _GUARDS]


def _paths(tree: nodes.Template) -> Iterator[tuple[str, ...]]:
    """`a.b["c"]` as ("a", "b", "c"), and everything shorter in it."""
    for node in (*tree.find_all(nodes.Getattr), *tree.find_all(nodes.Getitem)):
        names: list[str] = []
        inner: nodes.Node = node
        while isinstance(inner, nodes.Getattr | nodes.Getitem):
            if isinstance(inner, nodes.Getattr):
                names.insert(0, inner.attr)
            elif isinstance(inner.arg, nodes.Const):
                names.insert(0, str(inner.arg.value))
            else:
                break
            inner = inner.node
        if isinstance(inner, nodes.Name):
            yield (inner.name, *names)


def _fields(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    for dotted in tree.find_all(nodes.Getattr):
        if isinstance(dotted.node, nodes.Name):
            yield dotted.node.name, dotted.attr
    for indexed in tree.find_all(nodes.Getitem):
        if isinstance(indexed.node, nodes.Name) and isinstance(indexed.arg, nodes.Const):
            yield indexed.node.name, str(indexed.arg.value)


def _clipped(message: str) -> str:
    flat = "".join(letter if letter.isprintable() else "\\x%02x" % ord(letter) for letter in message[:300])  # noqa: UP031
    return flat if len(message) <= 300 else flat + "…"
