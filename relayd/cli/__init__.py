"""The command line: `relayd [--config FILE] COMMAND`. One module per group of commands, no logic of its own.

Promises: exit code 0 done, 1 tried and failed, 2 wrong usage or wrong configuration, 3 no running relay answers; an
expected error is one sentence on standard error, never a traceback. A command's module is imported only when that
command is used, so that `relayd --help` and `relayd status` start fast on a slow machine.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from relayd import __version__
from relayd.errors import ConfigError, NoRelay, RelaydError

FAILED, WRONG, NO_RELAY = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Options:
    """What stands before the command; every command gets it with `@click.pass_obj`."""

    config: Path | None

    @property
    def files(self) -> Sequence[Path] | None:
        """What `config.load` and `config.spool_path_of` take: the given file, or None for the system's own."""
        return None if self.config is None else (self.config,)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is defined, and its line in `relayd --help` (a test insists that both agree)."""

    module: str
    function: str
    help: str


COMMANDS = {
    "run": Entry("daemon", "run", "Run the relay in the foreground until SIGTERM."),
    "check": Entry("check", "check", "Check the configuration and report every error at once."),
    "init": Entry("first", "init", "Ask a few questions and write a first configuration."),
    "setup": Entry("setup", "setup", "Prepare this machine for the configuration: folders, rights, the unit."),
    "status": Entry("show", "status", "Show how the running relay is doing."),
    "items": Entry("show", "items", "List the queue, or show one item with every attempt."),
    "why": Entry("show", "why", "Say in one paragraph why an item or a file is where it is."),
    "explain": Entry("explain", "explain", "Dry run: which rules match, and what would be sent."),
    "send": Entry("queue", "send", "Hand files over by hand."),
    "retry": Entry("queue", "retry", "Try dead deliveries again."),
    "resend": Entry("queue", "resend", "Deliver again what was delivered, while its content is kept."),
    "drop": Entry("queue", "drop", "Give items up for good, or remove files that are in quarantine."),
    "pause": Entry("queue", "pause", "Stop delivering to one destination, or to all, or taking from one source."),
    "resume": Entry("queue", "resume", "Deliver again to one destination, or to all, or take from one source again."),
    "cameras": Entry("cameras", "cameras", "Show the cameras of Watcher, and the QR code that activates one."),
    "incidents": Entry("incidents", "incidents", "List open and past incidents, show one, close one."),
    "fleet": Entry("fleet", "fleet", "Show every relay on the fleet's broker, live."),
    "spool": Entry("stored", "spool", "Inspect, salvage or copy out what is stored."),
    "doctor": Entry("doctor", "doctor", "Gather everything that support asks first, secrets masked."),
    "credential": Entry(
        "credential", "credential", "Store, list or remove secrets that the service may read and nobody else."
    ),
    "schema": Entry("check", "schema", "Print a JSON Schema for editors and consumers."),
    "sandbox": Entry("sandbox", "sandbox", "Serve strict stand-ins of the APIs on loopback."),
    "demo": Entry("demo", "demo", "Show a drive through a dead zone, live, with the real relay on this machine."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and one line of help; imports a command's module when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"relayd.cli.{entry.module}"), entry.function)
        if not isinstance(command, click.Command):
            raise TypeError(f"relayd.cli.{entry.module}.{entry.function} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else "`relayd --help` lists them."
            raise click.UsageError(f"No such command {name!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RelaydError as error:
            fail(error)


def fail(error: RelaydError) -> NoReturn:
    """Say it on standard error, and leave with the exit code of the contract."""
    is_listing = isinstance(error, ConfigError)
    click.echo(str(error) if is_listing else f"relayd: {error}", err=True)
    code = WRONG if is_listing else NO_RELAY if isinstance(error, NoRelay) else FAILED
    raise click.exceptions.Exit(code)


def _never_choke_on_names() -> None:
    """A terminal that cannot show a character gets it escaped instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):
                stream.reconfigure(errors="backslashreplace")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Use this configuration instead of /etc/relayd/relayd.toml and /etc/relayd/conf.d/*.toml.",
)
@click.version_option(__version__, prog_name="relayd", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """Edge relay: takes camera files and sensor messages, keeps them through power cuts and dead zones, and
    delivers them to emergency APIs.

    Exit codes: 0 done, 1 tried and failed, 2 wrong usage or wrong configuration, 3 no running relay answers.
    """
    _never_choke_on_names()
    ctx.obj = Options(config)
