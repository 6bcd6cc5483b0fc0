"""How the demo tells its story: a live view for people at a terminal, plain lines for everybody else.

Promises: the same sentences in both; without a terminal there is not one escape code.
"""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relayd import clock


class Place(enum.StrEnum):
    """Where a file is."""

    CAMERA = "in the camera folder"
    SPOOL = "safe in the spool"
    UPLOADING = "uploading"
    STORED = "arrived"


@dataclass(frozen=True, slots=True)
class Seen:
    """One file as the view shows it; `share` is how much of it has come, 0 to 1."""

    name: str
    size_bytes: int
    place: Place
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the closing table; `trouble` is empty when the file arrived byte for byte, under one key."""

    name: str
    size_bytes: int
    sha256: str
    stored: int
    trouble: str = ""


class Telling:
    """Plain lines. `with` it around the play. `linger_seconds` is the time that a reader gets now and then."""

    linger_seconds = 0.0

    def __init__(self) -> None:
        self._start = clock.monotonic()
        self._places: dict[str, Place] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def chapter(self, title: str) -> None:
        """A new part of the journey."""
        click.echo(f"\n{self._clock()} == {title}")

    def say(self, text: str) -> None:
        """One sentence."""
        click.echo(f"{self._clock()} {text}")

    def command(self, line: str, output: str) -> None:
        """What a technician would type now, and see."""
        click.echo(f"{self._clock()} $ {line}")
        click.echo("\n".join(f"        | {each}".rstrip() for each in _folded(output)))

    def look(self, link: str, seen: Sequence[Seen]) -> None:
        """Where everything is now; only what changed is worth a line."""
        for each in seen:
            if self._places.get(each.name) != each.place:
                self._places[each.name] = each.place
                click.echo(f"{self._clock()}   {each.name}: {each.place}")

    def close_with(self, verdicts: Sequence[Verdict]) -> None:
        """The closing table."""
        width = max((len(each.name) for each in verdicts), default=4)
        click.echo(f"\n{'FILE':{width}}  {'SIZE':>7}  {'SHA-256':12}  {'STORED':>6}  BYTE FOR BYTE")
        for each in verdicts:
            told = f"NO: {each.trouble}" if each.trouble else "yes"
            click.echo(f"{each.name:{width}}  {each.size_bytes:>7}  {each.sha256[:12]}  {each.stored:>6}  {told}")

    def _clock(self) -> str:
        return f"{clock.monotonic() - self._start:6.1f} s"


class LiveTelling(Telling):
    """The same at a terminal: sentences scroll above a view of every file."""

    linger_seconds = 1.2

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def chapter(self, title: str) -> None:
        self._console.print(Text.assemble("\n", (self._clock(), "dim"), "  ", (title, "bold cyan")))

    def say(self, text: str) -> None:
        self._console.print(Text.assemble((self._clock(), "dim"), "  ", text))

    def command(self, line: str, output: str) -> None:
        self._console.print(Text.assemble((self._clock(), "dim"), "  ", (f"$ {line}", "bold")))
        for each in _folded(output, self._console.width - 12):
            self._console.print(Text.assemble(("        │ ", "dim"), each))

    def look(self, link: str, seen: Sequence[Seen]) -> None:
        table = Table.grid(padding=(0, 2))
        for each in seen:
            table.add_row(each.name, _bar(each), Text(each.place, _STYLE_OF_PLACE[each.place]))
        self._live.update(Group(Text(f"\nlink: {link}", _STYLE_OF_LINK.get(link, "yellow")), table))

    def close_with(self, verdicts: Sequence[Verdict]) -> None:
        self._live.stop()
        table = Table("file", title="what the sandbox holds", title_justify="left")
        for title in ("size", "sha256", "stored"):
            table.add_column(title, justify="right")
        table.add_column("byte for byte")
        for each in verdicts:
            told = Text(f"NO: {each.trouble}", "bold red") if each.trouble else Text("yes", "green")
            table.add_row(each.name, f"{each.size_bytes:,} B", each.sha256[:12], f"{each.stored} ×", told)
        self._console.print()
        self._console.print(table)


def _folded(output: str, width: int = 110) -> list[str]:
    """Lines that fit; what is longer goes on in the next one."""
    return [part for line in output.strip().splitlines() for part in textwrap.wrap(line, max(40, width)) or [""]]


_STYLE_OF_PLACE = {Place.CAMERA: "dim", Place.SPOOL: "yellow", Place.UPLOADING: "cyan", Place.STORED: "green"}
_STYLE_OF_LINK = {"up": "bold green", "away": "bold red"}


def _bar(seen: Seen) -> RenderableType:
    share = 1.0 if seen.place is Place.STORED else seen.share
    return ProgressBar(total=1.0, completed=share, width=24)
