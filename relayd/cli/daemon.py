"""The command that is the relay itself."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial

import click

from relayd.cli import WRONG, Options
from relayd.errors import ConfigError
from relayd.messages import Message, about

log = logging.getLogger("relayd.app")


@click.command()
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="How much to log, to standard error.",
)
@click.pass_obj
def run(options: Options, log_level: str) -> None:
    """Run the relay in the foreground until SIGTERM.

    Stops cleanly on SIGTERM, reads the configuration again on SIGHUP. Exit code 2 if the configuration is wrong.
    """
    from relayd import app, journal, leaving, systemd
    from relayd.web import control

    journal.set_up(log_level.upper())

    async def live() -> None:
        await app.run(options.files, partial(control.serve, has_own_config=options.config is not None))
        leaving.leave(0)  # asyncio would wait for threads that hang

    try:
        asyncio.run(live())
    except ConfigError as error:
        systemd.notify(f"STATUS=configuration refused: {error.problems[0]}")
        if not systemd.is_journal(sys.stderr.fileno()):
            raise
        for problem in error.problems:
            log.error("configuration refused: %s", problem, extra=about(Message.CONFIG_REFUSED))
        raise click.exceptions.Exit(WRONG) from None
