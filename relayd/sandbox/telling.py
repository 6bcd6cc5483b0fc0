"""How the demo tells its story: a live view for people at a terminal, plain lines for everybody else.

Promises: the same sentences in both; without a terminal there is not one escape code; no line is wider than the
terminal.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relayd import clock
from relayd.sandbox.promises import Verdict
from relayd.sandbox.terminal import Screen

LINGER_SECONDS = 1.5
CAMERA, SPOOL, UPLOADING = "in the camera's folder", "safe in the spool", "uploading"
_BAR = "  | "
"""Left of what a command says."""
_WIDEST = 100
_WIDEST_PROMISE = 44
_WHOLE: Any = {"break_on_hyphens": False}
"""Ids are not broken at their hyphens."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One file as the view shows it: where it is in words, how much of it has come (0 to 1), whether that is all."""

    name: str
    place: str
    share: float = 0.0
    has_arrived: bool = False


class Telling:
    """Plain lines. `with` it around the play. `linger_seconds` is the time that people get to read, now and then."""

    def __init__(self, pace: float = 1.0) -> None:
        self.linger_seconds = LINGER_SECONDS * pace if sys.stdout.isatty() else 0.0
        self._start = clock.monotonic()
        self._places: dict[str, str] = {}
        self._width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    @property
    def screen(self) -> Screen:
        """What commands are shown at."""
        return Screen(min(self._width, _WIDEST) - len(_BAR), has_colours=False)

    def chapter(self, title: str) -> None:
        """A new part of the journey."""
        click.echo(f"\n{self._clock()} == {title}")

    def say(self, text: str) -> None:
        """A sentence or two."""
        for line in self._folded(text):
            click.echo(line)

    def hear(self, who: str, text: str) -> None:
        """Something that one of the servers has recorded."""
        self.say(f"-> {who}: {text}")

    def command(self, line: str, output: str) -> None:
        """What a technician would type now, and see."""
        click.echo(f"{self._clock()} $ {line}")
        click.echo("\n".join(f"{_BAR}{each}".rstrip() for each in output.rstrip().splitlines()))

    def look(self, link: str, seen: Sequence[Seen]) -> None:
        """Where everything is now; only what changed is worth a line."""
        changed: dict[str, list[str]] = {}
        for each in seen:
            if self._places.get(each.name) != each.place:
                self._places[each.name] = each.place
                if each.place != CAMERA:
                    changed.setdefault(each.place, []).append(each.name)
        for place, names in changed.items():
            self.say(f"   {', '.join(names)}: {place}")

    def close_with(self, verdicts: Sequence[Verdict]) -> None:
        """The closing table."""
        click.echo("\nWhat was promised, and what the servers themselves have on record:\n")
        for each in verdicts:
            head = f"{' NO' if each.trouble else 'yes'}  {each.promise:{_WIDEST_PROMISE}}  "
            for line in textwrap.wrap(each.trouble or each.seen, max(20, self._width - len(head))):
                click.echo(head + line)
                head = " " * len(head)
        click.echo("")

    def _clock(self) -> str:
        return f"{clock.monotonic() - self._start:6.1f} s"

    def _folded(self, text: str) -> Iterator[str]:
        indent = " " * (len(text) - len(text.lstrip()))
        head = f"{self._clock()} "
        for line in textwrap.wrap(text, max(40, self._width - len(head)), subsequent_indent=f"{indent}  ", **_WHOLE):
            yield head + line
            head = " " * len(head)


class LiveTelling(Telling):
    """The same at a terminal: sentences scroll above a view of every file."""

    def __init__(self, pace: float = 1.0) -> None:
        super().__init__(pace)
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)
        self._width = self._console.width

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    @property
    def screen(self) -> Screen:
        return Screen(min(self._width, _WIDEST) - len(_BAR), has_colours=True)

    def chapter(self, title: str) -> None:
        self._console.print(Text.assemble("\n", (self._clock(), "dim"), "  ", (title, "bold cyan")))

    def say(self, text: str) -> None:
        self._print("  ", text, "")

    def hear(self, who: str, text: str) -> None:
        self._print("  → ", f"{who}: {text}", "green")

    def command(self, line: str, output: str) -> None:
        self._console.print(Text.assemble((self._clock(), "dim"), "  ", (f"$ {line}", "bold")))
        for each in output.rstrip().splitlines():
            self._console.print(
                Text.assemble((_BAR.replace("|", "│"), "dim"), Text.from_ansi(each)), no_wrap=True, overflow="crop"
            )

    def look(self, link: str, seen: Sequence[Seen]) -> None:
        table = Table.grid(padding=(0, 2))
        for each in seen:
            table.add_row(each.name, _bar(each), Text(each.place, _style(each)))
        self._live.update(Group(Text(f"\nlink: {link}", _STYLE_OF_LINK.get(link, "yellow")), table))

    def close_with(self, verdicts: Sequence[Verdict]) -> None:
        self._live.stop()
        table = Table(box=box.SIMPLE_HEAD)
        for title in ("", "what was promised", "on record at the servers"):
            table.add_column(title, no_wrap=title == "what was promised", overflow="fold")
        for each in verdicts:
            told = Text("NO", "bold red") if each.trouble else Text("yes", "green")
            table.add_row(told, each.promise, Text(each.trouble or each.seen, "bold red" if each.trouble else ""))
        self._console.print()
        self._console.print(table)

    def _print(self, lead: str, text: str, style: str) -> None:
        head, width = self._clock(), self._width - len(self._clock()) - len(lead)
        for line in textwrap.wrap(text, max(40, width), **_WHOLE):
            self._console.print(Text.assemble((head, "dim"), lead, (line, style)))
            head, lead = " " * len(head), " " * len(lead)


_STYLE_OF_LINK = {"up": "bold green", "away": "bold red"}


def _style(seen: Seen) -> str:
    return "green" if seen.has_arrived else {CAMERA: "dim", SPOOL: "yellow"}.get(seen.place, "cyan")


def _bar(seen: Seen) -> RenderableType:
    return ProgressBar(total=1.0, completed=1.0 if seen.has_arrived else seen.share, width=16)
