"""Blocks on a terminal, and without one."""

import io

import pytest
from rich.console import Console

from relayd.cli import tables
from relayd.cli.client import escaped
from relayd.cli.tables import Column, Line, Table

TABLE = Table(
    (Column("name", gives_way=True), Column("state"), Column("pending", is_number=True)),
    [("front-camera", "ok", "2,301"), ("x", "waiting", "3")],
)
HOSTILE = "a\x1b[2Jb\nc\r\u202ed[red]e[/red]\x00\x9b1m\udcff"


def drawn(blocks: list[tables.Block], width: int) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, highlight=False, markup=False, emoji=False)
    console.print(tables.rendered(blocks))
    return screen.getvalue()


def test_plain_tables_are_aligned_and_numbers_stand_right() -> None:
    assert list(tables.plain([TABLE], width=None)) == [
        "NAME          STATE    PENDING",
        "front-camera  ok         2,301",
        "x             waiting        3",
    ]


def test_plain_text_for_a_program_is_never_folded() -> None:
    long = "word " * 100
    assert (
        list(tables.plain([Line(long), Table((Column("a", gives_way=True),), [(long,)])], width=None))[2]
        == long.rstrip()
    )


@pytest.mark.parametrize("width", [80, 60])
def test_a_plain_table_fits_the_terminal_by_folding_the_column_that_gives_way(width: int) -> None:
    table = Table((Column("id"), Column("story", gives_way=True)), [("0123456789abcdef", "x" * 300)])
    lines = list(tables.plain([table, Line("word " * 60, indent=4)], width=width))
    assert max(map(len, lines)) <= width
    assert "".join(lines).count("x") == 300
    assert all(line.startswith("    word") for line in lines if "word" in line)


def test_a_sentence_is_folded_between_words_and_only_a_long_word_within() -> None:
    said = "waits for the next try and then " + "y" * 30 + " カメラ カメラ カメラ カメラ done"
    table = Table((Column("id"), Column("story", gives_way=True)), [("1", said)])
    lines = [line[4:] for line in tables.plain([table], width=24)][1:]
    assert lines[:2] == ["waits for the next", "try and then"]
    assert "".join(lines).replace(" ", "") == said.replace(" ", ""), "nothing is lost"
    assert all(len(line) <= 20 for line in lines)
    blank = Table((Column("story", gives_way=True),), [(" " * 90 + "x",)])
    assert "".join(tables.plain([blank], width=20)).replace(" ", "") == "STORYx"


def test_wide_letters_keep_the_columns_aligned() -> None:
    table = Table((Column("n", gives_way=True), Column("s")), [("カメラ", "ok"), ("abcdef", "ok"), ("e\u0301a", "ok")])
    lines = list(tables.plain([table], width=None))
    assert lines[1] == "カメラ  ok"
    assert lines[2] == "abcdef  ok"
    assert lines[3] == "e\u0301a      ok"


def test_a_hostile_name_moves_no_cursor_and_is_no_markup() -> None:
    cell = escaped(HOSTILE)
    assert cell.isprintable()
    assert "[red]e[/red]" in cell
    for width in (80, 40):
        text = drawn([Table((Column("n", gives_way=True),), [(cell,)]), Line(cell)], width)
        assert "\x1b[2J" not in text
        assert not any(letter in text for letter in "\r\u202e\x00\x9b\udcff")
        assert "[red]" in text.replace("\n", "")


def test_a_text_longer_than_any_name_is_escaped_whole() -> None:
    assert escaped("x" * 5000 + "\x07") == "x" * 5000 + "\\x07"


def test_states_are_coloured_on_a_terminal() -> None:
    assert "\x1b[" in drawn([TABLE, Line("trouble", state="fault")], 80)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    tables.show([TABLE])
    assert "\x1b" not in capsys.readouterr().out
