"""`relayd init`: a few questions, and a first configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from relayd.cli import FAILED, WRONG, Options
from relayd.cli.client import escaped
from relayd.cli.rights import line, needs_root
from relayd.config.merge import MAIN_FILE
from relayd.errors import RelaydError
from relayd.first_config import Written, interview
from relayd.first_config.console import Console, OutOfAnswers
from relayd.provision import Account


@click.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=MAIN_FILE,
    metavar="FILE",
    show_default=True,
    help="Write it here.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there without asking.")
@click.pass_obj
def init(options: Options, output: Path, force: bool) -> None:
    """Ask a few questions and write a first configuration.

    Each answer is tried at once: folders, brokers, logins. Answers may also come from a pipe, one a line; exit code 2
    if they end too early. Until the last one nothing is written.
    """
    output = output.absolute()
    console = Console(sys.stdin, sys.stdout)
    try:
        _may_be_written(options, console, output, is_forced=force)
        written = interview(console, output, Account.of_service())
    except OutOfAnswers as error:
        _end(f"relayd: {error}; nothing was written", WRONG)
    except KeyboardInterrupt:
        _end("\nrelayd: interrupted, nothing was written", FAILED)
    except OSError as error:
        _end(f"relayd: {output}: {error.strerror or error}", FAILED)
    _tell(console, written)
    if not written.is_whole:
        raise click.exceptions.Exit(FAILED)


def _may_be_written(options: Options, console: Console, output: Path, *, is_forced: bool) -> None:
    """Asked before anything else, so that nobody answers in vain."""
    folder = output.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        words = ["init", *([] if output == MAIN_FILE else ["--output", str(output)])]
        raise needs_root(options, words, f"writing {escaped(str(output))}")
    if output.exists() and not is_forced:
        console.say(f"{escaped(str(output))} is there already.")
        if not console.confirm("Overwrite it at the end", default=False):
            raise RelaydError("nothing was written; --output FILE writes another file")


def _tell(console: Console, written: Written) -> None:
    console.say()
    for remark in written.remarks:
        console.show(remark)
    console.show(f"{escaped(str(written.path))} is written.")
    console.say("Next:" if not written.later else "Next, the secrets first:")
    options = Options(None if written.path == MAIN_FILE else written.path)
    for command in written.later:
        console.show(command)
    console.show(line(options, [], ["setup"]))
    console.show(line(options, [], ["check", "--online"]))
    console.say("and when both are content:")
    console.show("systemctl enable --now relayd" if options.config is None else line(options, [], ["run"]))


def _end(words: str, code: int) -> NoReturn:
    click.echo(words, err=True)
    raise click.exceptions.Exit(code)
