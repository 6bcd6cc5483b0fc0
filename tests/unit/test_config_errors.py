"""What `relayd check` says: every error at once, at its file and line, with what to write instead.

The broken samples say themselves what is wrong: `#! KEY: text` at the end of the line, or `#! LINE KEY: text`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from relayd import config
from relayd.errors import ConfigError

BROKEN = sorted((Path(__file__).parent / "config_samples" / "broken").glob("*.toml"))


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong with the file, without its name."""
    place = folder / "relayd.toml"
    place.write_text(text, encoding="utf-8")
    return _problems(place)


def _problems(place: Path) -> list[str]:
    try:
        config.load([place])
    except ConfigError as error:
        return [str(problem).removeprefix(f"{place}:") for problem in error.problems]
    return []


def _announced(place: Path) -> list[str]:
    said = []
    for number, line in enumerate(place.read_text(encoding="utf-8").splitlines(), 1):
        for text in line.partition("#! ")[2].split(" ## "):
            elsewhere = re.match(r"(\d+) (.*)", text)
            if text:
                said.append(f"{elsewhere[1]}: {elsewhere[2]}" if elsewhere else f"{number}: {text}")
    return said


@pytest.mark.parametrize("place", BROKEN, ids=lambda place: place.stem)
def test_every_fault_of_a_file_is_said_at_its_line(place: Path) -> None:
    assert sorted(_problems(place)) == sorted(_announced(place))


def test_problems_come_in_the_order_of_the_lines() -> None:
    for place in BROKEN:
        lines = [int(said.split(":")[0]) for said in _problems(place)]
        assert lines == sorted(lines)


ELSEWHERE = {
    "a section that is no table": ("device = 'x'\n", "1: device: must be a table, write [device] and its keys below"),
    "a section without a name": (
        "[source]\ntype = 'folder'\n",
        "2: source.type: each source has a name, write [source.NAME] above its keys",
    ),
    "rules with one bracket": ("[rule]\nname = 'x'\n", "1: rule: rules are a list, write [[rule]] with two brackets"),
    "a dotted key": (
        "\ndevice.location.latitud = 3\n",
        '2: device.location.latitud: unknown key, did you mean "latitude"?',
    ),
}
SYNTAX = {
    "no value": ("[device]\nid\n", "2: TOML: there is no `=` after the key, write key = value"),
    "no quotes": ("[device]\nid = amb\n", '2: TOML: not a value, write text in quotes: key = "text"'),
    "key twice": ("[device]\nid = 'a'\nid = 'b'\n", "3: TOML: this key is written twice, keep one of them"),
    "table twice": ("[device]\n[device]\n", "2: TOML: this table is written twice, put its keys under one header"),
    "open quote": ('[device]\nid = "a\n', "2: TOML: the text is not closed on its line, a quote is missing"),
    "open list": ("[fleet]\ncommands = ['a',\n\n", "2: TOML: opened here and never closed: a quote, ] or } is missing"),
    "open text": ("\nid = '''a\n\n\n", "2: TOML: opened here and never closed: a quote, ] or } is missing"),
    "open header": ("[fleet]\nbroker = 'b'\n[fleet.x\ny = 1\n", "3: TOML: the header is not closed, a ] is missing"),
    "two on a line": ("[device]\nid = 'a' name = 'b'\n", "2: TOML: one key a line: something follows the value"),
}


@pytest.mark.parametrize("kind", [*ELSEWHERE, *SYNTAX])
def test_a_fault_that_hides_the_rest_is_said_at_its_line(kind: str, tmp_path: Path) -> None:
    text, expected = (ELSEWHERE | SYNTAX)[kind]
    assert expected in problems(tmp_path, text)


def test_bytes_that_are_no_text_are_said_at_their_line(tmp_path: Path) -> None:
    place = tmp_path / "relayd.toml"
    place.write_bytes(b"[device]\nname = 'K\xf8benhavn'\n")
    assert _problems(place) == ["2: file: is not UTF-8 text here, save the file as UTF-8"]


def test_a_missing_and_an_oversized_file_are_problems(tmp_path: Path) -> None:
    big = tmp_path / "big.toml"
    big.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError) as caught:
        config.load([tmp_path / "no.toml", big, tmp_path])
    assert [f"{problem.key}: {problem.text}" for problem in caught.value.problems] == [
        "file: does not exist, write it with `relayd init` or name another with --config",
        "file: is larger than 1000000 bytes: this is no configuration",
        "file: cannot be read: Is a directory",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "[" * 900 + "]" * 900,
        "device.location = " + "{ a = " * 400 + "1" + " }" * 400,
        "a" + ".a" * 200_000 + " = 1",
        "[a" + ".a" * 20_000 + "]",
        "[spool]\nmax_size = " + "9" * 5000,
        "[spool]\nmax_size = '" + "9" * 5000 + "B'",
        "[spool]\nmin_free_percent = nan\nkeep_dead = 1979-05-27T07:32:00Z",
    ],
    ids=range(8),
)
def test_a_monstrous_file_is_a_problem_and_not_a_crash(text: str, tmp_path: Path) -> None:
    assert problems(tmp_path, text)


def test_no_error_repeats_the_value_of_a_secret(tmp_path: Path) -> None:
    for value in (
        '"hunter2"',
        '["hunter2"]',
        '{ credential = "hunter2 !" }',
        '{ env = "hunter2-" }',
        "{ x = 'hunter2' }",
    ):
        said = problems(
            tmp_path, f"[web]\ntoken = {value}\n[destination.x]\ntype = 'rapidsos'\nclient_secret = {value}\n"
        )
        assert len(said) > 2
        assert "hunter2" not in "".join(said)


def test_hostile_names_stay_on_one_line(tmp_path: Path) -> None:
    hostile = r'"a\nb\u001b[31m\u202e"'
    rule = f'[[rule]]\nname = {hostile}\nfrom = [{hostile}, "b\\n"]\n'
    text = f'[{hostile}]\nx = 1\n[source.{hostile}]\ntype = "folder"\n{rule}'
    said = problems(tmp_path, text)
    assert len(said) >= 3
    assert all(one.isprintable() for one in said)
