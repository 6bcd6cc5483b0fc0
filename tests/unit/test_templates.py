"""The cage around texts and conditions."""

from __future__ import annotations

import contextlib
import resource
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.cage import ENVIRONMENT
from relayd.template_budget import LONGEST_TEXT, TemplateError
from relayd.templates import (
    LONGEST_TEMPLATE,
    Known,
    faults_of_condition,
    faults_of_text,
    fill_in,
    is_true,
)

KNOWN: Known = {"item": frozenset({"name", "size"}), "payload": None}
SEEN: dict[str, Any] = {
    "item": {"name": "a.jpg", "size": 3},
    "payload": {"a": [1, 2], "b": None, "items": 7, "on": True},
}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("{{ item.name }}", "a.jpg"),
        ("{{ payload.a }} {{ payload.b }} {{ payload.on }}", "[1, 2]  true"),
        ("{{ payload.items }}", "7"),
        ("{% if item.size > 2 %}big{% else %}small{% endif %}", "big"),
        ("{% for one in payload.a %}{{ loop.index }}:{{ one }} {% endfor %}", "1:1 2:2 "),
        ("{{ item.name | upper | replace('.', '_') }}", "A_JPG"),
        ("{{ item.name.split('.')[0] }}", "a"),
        ("{{ payload.get('c', 'none') }} {{ payload.c | default('d') }}", "none d"),
        ("{{ payload | tojson }}", '{"a": [1, 2], "b": null, "items": 7, "on": true}'),
    ],
)
def test_texts_are_filled_in(text: str, filled: str) -> None:
    assert faults_of_text(text, KNOWN) == []
    assert fill_in(text, SEEN) == filled


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{{ item.nam }}", 'item has no field "nam", did you mean "name"?'),
        ("{{ item['nam'] }}", 'item has no field "nam", did you mean "name"?'),
        ("{{ itm.name }}", 'there is no variable "itm", did you mean "item"?'),
        ("{{ item.name", "cannot be read: unexpected end of template, expected }}"),
        ("{{ item.name | uper }}", 'there is no filter "uper", did you mean "upper"?'),
        ("{% set x = 1 %}", "{% set %} is not available here"),
        ("{% include 'x' %}", "{% include %} is not available here"),
        ("{% import 'x' as y %}", "{% import %} is not available here"),
        ("{% macro x() %}{% endmacro %}", "macros are not available here"),
        ("{% for a in payload %}{% for b in a %}{% endfor %}{% endfor %}", "a loop inside a loop"),
        ("{{ x }}" + "x" * LONGEST_TEMPLATE, f"at most {LONGEST_TEMPLATE} are read"),
        ("{{" + "(" * 1000 + "1" + ")" * 1000 + "}}", "is nested too deeply"),
    ],
)
def test_a_text_that_cannot_work_is_said_in_words(text: str, fault: str) -> None:
    assert any(fault in found for found in faults_of_text(text, KNOWN))


@pytest.mark.parametrize(
    ("condition", "fault"),
    [
        ("payload.on and", "cannot be read"),
        ("{{ payload.on }}", "cannot be read"),
        ("payload.on payload.a", "there is more than one expression"),
        ("pyload.on", 'there is no variable "pyload", did you mean "payload"?'),
        ("item.colour == 'red'", 'item has no field "colour"'),
    ],
)
def test_a_condition_that_cannot_work_is_said_in_words(condition: str, fault: str) -> None:
    assert any(fault in found for found in faults_of_condition(condition, KNOWN))


def test_a_condition_is_one_expression() -> None:
    assert is_true("payload.on and item.size == 3", SEEN)
    assert not is_true("payload.b", SEEN)
    assert not is_true("payload.c is defined and payload.c > 3", SEEN)


@pytest.mark.parametrize("condition", ["payload.c", "payload.c.d", "payload.b.c", "item.name < 3", "payload.c == 1"])
def test_a_condition_on_what_is_missing_is_an_error_and_not_false(condition: str) -> None:
    with pytest.raises(TemplateError):
        is_true(condition, SEEN)


BOMBS = [
    "{{ 'a' * 10**9 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ (10 ** 60) * (10 ** 60) * (10 ** 60) }}",
    "{{ [1] * 10**9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ range(10 ** 9) | list }}",
    "{% for i in range(1000) %}{{ item.name * 1000 }}{% endfor %}",
    "{{ item.name.replace('a', 'b' * 60000) }}",
    "{{ ('a' * 60000) | replace('a', 'b' * 60000) }}",
    "{{ range(1000) | join('x' * 60000) }}",
    "{{ item.name.zfill(10 ** 9) }}",
    "{{ item.name.center(10 ** 9) }}",
    "{{ item.name | center(10 ** 9) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ lipsum(n=100000) }}",
    "{{ 1|round(100000000, 'ceil') }}",
    "{{ 1.5|round(-100000000, 'floor') }}",
    "{{ ['a' * 60000] * 60000 }}",
    "{{ (['a' * 60000] * 60000) | string }}",
    "{{ [['a' * 60000] * 60] * 1000 | length }}",
    "{{ [[1] * 60000, [2] * 60000] | sum(start=[]) }}",
    "{{ ([[1] * 60] * 1000) | sum(start=[]) }}",
    "{% for i in range(1000) %}{{ (item.name * 6000) | upper | lower | length }}{% endfor %}",
    "{% for i in range(1000) %}{% if 'x' in item.name * 60000 %}{% endif %}{% endfor %}",
    "{% for i in range(1000) %}{% if [1] * 6000 == [1] * 6000 %}{% endif %}{% endfor %}",
    "{% for i in range(1000) %}{{ ('a' * 60000)[::-1] | length }}{% endfor %}",
    "{{ range(1000) | map('string') | map('center', 10 ** 6) | list }}",
    "{{ range(1000) | map('round', 10 ** 9) | list }}",
    "{{ ('9' * 4000) | int ** 64 }}",
    "{{ ('f' * 60000) | int(base=16) * 7 }}",
]
ESCAPES = [
    "{{ item.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ item.name.__class__ }}",
    "{{ item.name['__class__'] }}",
    "{{ item | attr('__class__') }}",
    "{{ '{0.__class__}'.format(item) }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ range.__globals__ }}",
    "{{ payload.a.append(3) }}",
    "{{ payload.update({'a': 1}) }}",
    "{{ payload.pop('a') }}",
    "{{ config }}",
]


@pytest.mark.parametrize("text", BOMBS)
@pytest.mark.timeout(10)
def test_nothing_grows_past_its_limit(text: str) -> None:
    with pytest.raises(TemplateError):
        fill_in(text, SEEN)


LARGE = {
    "item": {"name": "a" * 250, "size": 10**9},
    "payload": {
        "list": list(range(100_000)),
        "text": "ab" * 250_000,
        "deep": [[["x"] * 50] * 50] * 20,
        "a": {"b": [1.5, None, True, "1" * 4000]},
    },
}
"""A message that is as large as a broker may send one."""
_NAMES = st.sampled_from(
    ["payload.list", "payload.text", "payload.deep", "payload.a", "payload.a.b", "payload", "item.name", "item.size"]
)
_NUMBERS = st.sampled_from(["0", "1", "-1", "3", "1.5", "64", "999", "60000", "100000000", "10**9", "2**64"])
_FILTER = st.sampled_from(sorted(name for name in ENVIRONMENT.filters if name.isidentifier()))


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or", "if"])
    ends = {"if": " else 0"}
    return st.one_of(
        st.builds(lambda a, o, b: f"({a} {o} {b}{ends.get(o, '')})", inner, operators, inner),
        st.builds(lambda a, f: f"({a}|{f})", inner, _FILTER),
        st.builds(lambda a, f, b: f"({a}|{f}({b}))", inner, _FILTER, inner),
        st.builds(lambda a, f, b, c: f"({a}|{f}({b}, {c}))", inner, _FILTER, inner, inner),
        st.builds(lambda a, f, b: f"({a}|map('{f}', {b})|list)", inner, _FILTER, inner),
        st.builds(lambda a, b, c: f"{a}[{b}:{c}]", inner, inner, inner),
        st.builds(lambda a, b: f"[{a}, {b}]", inner, inner),
        st.builds(lambda a, b: f"{a}.split({b})", inner, inner),
    )


EXPRESSIONS = st.recursive(st.one_of(_NAMES, _NUMBERS, st.just("'a'"), st.just("range(1000)")), _larger, max_leaves=12)


@given(EXPRESSIONS, st.booleans())
@settings(max_examples=60)
def test_no_expression_over_a_large_message_takes_more_than_a_bounded_time_and_memory(text: str, loops: bool) -> None:
    written = f"{{% for i in payload.list %}}{{{{ {text} }}}}{{% endfor %}}" if loops else f"{{{{ {text} }}}}"
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(TemplateError):
        fill_in(written, LARGE)
    assert time.process_time() - begun < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@pytest.mark.parametrize(
    "condition",
    ["payload.list|length > 10", "'ba' in payload.text", "payload.text|lower|length == 500000", "5 in payload.list"],
)
def test_a_large_message_can_be_looked_through(condition: str) -> None:
    assert is_true(condition, LARGE)


@pytest.mark.parametrize("text", ESCAPES)
def test_nothing_leads_out_of_the_cage(text: str) -> None:
    with pytest.raises(TemplateError):
        fill_in(text, SEEN)
    assert SEEN["payload"]["a"] == [1, 2]


HOSTILE = [
    "{{ 7*7 }}",
    "{% for i in range(10) %}x{% endfor %}",
    "{{ ''.__class__ }}",
    "${7*7}",
    "{0.__class__}",
    "{# x #}",
]


@pytest.mark.parametrize("data", HOSTILE)
def test_data_is_never_read_as_a_template(data: str) -> None:
    seen = {"item": {"name": data}, "payload": {"text": data, data: 1}}
    assert fill_in("<{{ item.name }}>", seen) == f"<{data}>"
    assert fill_in("{% for key in payload %}{{ key }},{% endfor %}", seen) == f"text,{data},"
    assert fill_in("{{ payload.text | upper | lower | trim }}", seen) == data.lower().strip()
    assert is_true("payload.text == item.name", seen)


@given(st.text())
def test_any_text_goes_through_unchanged(data: str) -> None:
    assert fill_in("{{ item.name }}", {"item": {"name": data}}) == data.encode("utf-8", "replace").decode()


def test_half_a_character_becomes_a_question_mark() -> None:
    assert fill_in("{{ payload }}", {"payload": "a\ud800b"}) == "a?b"


@given(st.text(alphabet="{}%#|()[]'\"abc.~+-*/ \n0123456789<=", max_size=60))
@settings(max_examples=400)
def test_any_template_is_filled_in_or_refused_in_words(text: str) -> None:
    with contextlib.suppress(TemplateError):
        assert len(fill_in(text, SEEN)) <= LONGEST_TEXT
    with contextlib.suppress(TemplateError):
        assert is_true(text, SEEN) in (True, False)
