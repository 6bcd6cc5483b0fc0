"""How commands show things: the same blocks as rich tables on a terminal, and as plain aligned text elsewhere.

Promises: with NO_COLOR or without a terminal there is not one escape code; text of strangers is escaped by whoever
makes a cell (`client.escaped`), and is never read as markup. rich is imported only when it is used.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_STYLES = {
    "ok": "green",
    "delivered": "green",
    "waiting": "yellow",
    "pending": "yellow",
    "degraded": "yellow",
    "paused": "magenta",
    "fault": "bold red",
    "dead": "bold red",
    "evicted": "red",
    "expired": "red",
    "unclaimed": "dim",
    "dropped": "dim",
    "removed": "dim",
    "quarantined": "red",
    "lost": "bold red",
    "stale": "bold yellow",
    "offline": "yellow",
    "online": "green",
    "stopped": "dim",
}
NARROWEST = 60
RICH_GAP = 3
"""Between two columns of a rich table: padding and a divider."""


@dataclass(frozen=True, slots=True)
class Column:
    """`is_number` aligns right; `gives_way` is the one that is folded (`is_cut`: cut) when the terminal is narrow."""

    title: str
    is_number: bool = False
    gives_way: bool = False
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of finished cells. A cell that is a state's name is coloured."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Line:
    """One paragraph; `state` colours it. Folded at the terminal's width, further lines indented like the first."""

    text: str
    state: str = ""
    indent: int = 0


Block: TypeAlias = "Table | Line"


def is_for_people() -> bool:
    """Whether standard output is a terminal that may have colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def show(blocks: Sequence[Block]) -> None:
    """Print the blocks in whatever way fits where standard output goes."""
    if is_for_people():
        console().print(rendered(blocks))
    else:
        click.echo("\n".join(plain(blocks, width=terminal_width() if sys.stdout.isatty() else None)))


def show_json(document: Any, *, is_compact: bool = False) -> None:
    """One JSON document; ASCII only, so that no name can do anything to a terminal."""
    click.echo(json.dumps(document, indent=None if is_compact else 2))


def terminal_width() -> int:
    return max(NARROWEST, shutil.get_terminal_size().columns)


# --- for people


def console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False, width=terminal_width())


def rendered(blocks: Sequence[Block]) -> RenderableType:
    """The blocks as rich draws them."""
    from rich.console import Group

    return Group(*(_rich_table(block) if isinstance(block, Table) else _rich_line(block) for block in blocks))


def _rich_table(block: Table) -> RenderableType:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True)
    for column in block.columns:
        table.add_column(
            Text(column.title.upper(), style="bold"),
            justify="right" if column.is_number else "left",
            no_wrap=not column.gives_way or column.is_cut,
            overflow="ellipsis" if column.is_cut else "fold",
            ratio=1 if column.gives_way else None,
        )
    for row in _cut_to_width(block, terminal_width()):
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return table


def _cut_to_width(block: Table, width: int) -> Iterator[Sequence[str]]:
    """The rows, with what may be cut so short that rich need not squeeze the other columns too."""
    titles = [column.title for column in block.columns]
    widths = [max(_columns(row[index]) for row in (titles, *block.rows)) for index in range(len(titles))]
    is_cut = [column.is_cut for column in block.columns]
    left = width - RICH_GAP * (len(titles) - 1) - sum(wide for wide, cut in zip(widths, is_cut, strict=True) if not cut)
    for row in block.rows:
        yield [_cut(cell, max(8, left))[0] if cut else cell for cell, cut in zip(row, is_cut, strict=True)]


def _rich_line(block: Line) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(block.text, style=_STYLES.get(block.state, "")), (0, 0, 0, block.indent))


# --- for programs, files and terminals without colours


def plain(blocks: Sequence[Block], *, width: int | None) -> Iterator[str]:
    """The blocks as lines of aligned text; folded to `width` columns unless that is None."""
    for block in blocks:
        if isinstance(block, Table):
            yield from _plain_table(block, width)
        else:
            yield from _folded(block.text, None if width is None else width - block.indent, " " * block.indent)


def _plain_table(block: Table, width: int | None) -> Iterator[str]:
    rows = [[column.title.upper() for column in block.columns], *block.rows]
    widths = [max(_columns(row[index]) for row in rows) for index in range(len(block.columns))]
    flexible = [index for index, column in enumerate(block.columns) if column.gives_way]
    if width is not None and flexible:
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        widths[flexible[0]] = max(8, widths[flexible[0]] - max(0, excess))
    for row in rows:
        yield from _plain_row(block.columns, row, widths)


def _plain_row(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    cells = [
        _cut(cell, limit) if column.is_cut else list(_pieces(cell, limit))
        for column, cell, limit in zip(columns, row, widths, strict=True)
    ]
    for number in range(max(len(cell) for cell in cells)):
        parts = []
        for column, cell, limit in zip(columns, cells, widths, strict=True):
            text = cell[number] if number < len(cell) else ""
            gap = " " * (limit - _columns(text))
            parts.append(gap + text if column.is_number else text + gap)
        yield "  ".join(parts).rstrip()


def _cut(text: str, limit: int) -> list[str]:
    """The text itself, or its beginning and an ellipsis."""
    return [text if _columns(text) <= limit else _beginning(text, limit - 1) + "…"]


def _pieces(text: str, limit: int) -> Iterator[str]:
    """The text cut into pieces of at most `limit` columns, between words where there is a blank."""
    while _columns(text) > limit:
        piece = _beginning(text, limit)
        words = piece if text[len(piece)] == " " else piece.rpartition(" ")[0]
        piece = words if words.strip() else piece
        yield piece
        text = text[len(piece) :].lstrip(" ")
    yield text


def _beginning(text: str, limit: int) -> str:
    """As much of the text as fits into `limit` columns; at least one letter."""
    taken = 0
    for length, letter in enumerate(text):
        taken += _columns(letter)
        if taken > limit and length:
            return text[:length]
    return text


def _folded(text: str, width: int | None, indent: str) -> Iterator[str]:
    if width is None or len(text) <= width:
        yield indent + text
        return
    yield from (indent + line for line in textwrap.wrap(text, max(20, width)))


def _columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
