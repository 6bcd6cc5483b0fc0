"""Questions on whatever there is: a terminal, a serial console, or a pipe of answers. Lines in, lines out.

Promises: no escape code, no letter outside of ASCII of our own; a secret is not echoed, and the terminal is as before
however the question ends; the end of the answers is OutOfAnswers, never an empty answer.
"""

from __future__ import annotations

import contextlib
import termios
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

from relayd.errors import RelaydError
from relayd.files import printable

T = TypeVar("T")
W = TypeVar("W", bound=str)
WIDTH = 79
LONGEST_ANSWER = 64 * 1024
NONE = "-"
"""What one types for nothing where Enter alone would mean the default."""


class OutOfAnswers(RelaydError):
    """The answers ended before the questions did."""


def text(answer: str) -> str:
    """Any answer is right."""
    return answer


class Console:
    """One conversation."""

    def __init__(self, answers: TextIO, shown: TextIO) -> None:
        self._answers = answers
        self._shown = shown
        self.is_terminal = answers.isatty()

    def say(self, words: str = "", *, indent: int = 0) -> None:
        """A paragraph."""
        folded = textwrap.fill(
            words,
            WIDTH,
            initial_indent=" " * indent,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        self._write(folded + "\n")

    def show(self, line: str) -> None:
        """A command or a path: on one line, however long, so that it can be copied."""
        self._write(f"  {line}\n")

    def ask(
        self,
        question: str,
        check: Callable[[str], T],
        *,
        default: str = "",
        help_text: str = "",
    ) -> T:
        """Ask until `check` takes the answer; what it raises as ValueError is said. `?` explains."""
        while True:
            shown = f" [{printable(default)}]" if default else ""
            answer = self._line(f"{question}{shown}: ").strip()
            if answer == "?" and help_text:
                self.say(help_text, indent=2)
                continue
            try:
                return check("" if answer == NONE else answer or default)
            except ValueError as error:
                self.say(f"! {error}", indent=2)

    def ask_secret(self, question: str, check: Callable[[str], T]) -> T:
        """The same, unseen."""
        while True:
            with self._unseen():
                answer = self._line(f"{question}: ")
            if self.is_terminal:
                self._write("\n")
            try:
                return check(answer)
            except (ValueError, RelaydError) as error:
                self.say(f"! {error}", indent=2)

    def confirm(self, question: str, *, default: bool) -> bool:
        """Yes or no."""

        def said(answer: str) -> bool:
            if answer.lower() in ("y", "yes", "n", "no"):
                return answer.lower().startswith("y")
            raise ValueError("type y for yes or n for no")

        return self.ask(question, said, default="y" if default else "n")

    def choose(self, question: str, options: Sequence[tuple[W, str]], *, default: str = "") -> W:
        """One of the options, each a word and what it means; by its number or its word. The only one is the default."""
        self._list(options)
        usual = default or (options[0][0] if len(options) == 1 else "")
        return self.ask(question, lambda answer: _picked(answer, options), default=usual)

    def choose_several(self, question: str, options: Sequence[tuple[str, str]], *, default: str = "") -> list[str]:
        """Any of the options, parted by commas; maybe none."""
        self._list(options)

        def picked(answer: str) -> list[str]:
            return list(dict.fromkeys(_picked(one.strip(), options) for one in answer.split(",") if one.strip()))

        return self.ask(question, picked, default=default)

    def _list(self, options: Sequence[tuple[str, str]]) -> None:
        width = max((len(word) for word, _ in options), default=0)
        for number, (word, meaning) in enumerate(options, 1):
            self._write(f"  {number}) {word:<{width}}  {meaning}".rstrip() + "\n")

    def _line(self, prompt: str) -> str:
        self._write(prompt)
        try:
            line = self._answers.readline(LONGEST_ANSWER)
        except UnicodeDecodeError:
            raise OutOfAnswers("the answers are not UTF-8 text") from None
        if not self.is_terminal:
            self._write("\n")
        if not line:
            raise OutOfAnswers(f"the answers end before the question: {prompt.rstrip(': ')}")
        return line.rstrip("\r\n")

    def _write(self, words: str) -> None:
        self._shown.write(words)
        self._shown.flush()

    @contextlib.contextmanager
    def _unseen(self) -> Iterator[None]:
        """Without echo; whatever was typed ahead is thrown away with the change, as a login does."""
        if not self.is_terminal:
            yield
            return
        descriptor = self._answers.fileno()
        before = termios.tcgetattr(descriptor)
        silent = termios.tcgetattr(descriptor)
        silent[3] &= ~termios.ECHO
        try:
            termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _picked(answer: str, options: Sequence[tuple[W, str]]) -> W:
    words = [word for word, _ in options]
    if answer in words:
        return words[words.index(answer)]
    if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(words):
        return words[int(answer) - 1]
    raise ValueError(f"type a number from 1 to {len(words)}" if words else "there is nothing to choose from")
