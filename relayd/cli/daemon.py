"""The command that is the relay itself."""

from __future__ import annotations

import asyncio
from functools import partial

import click

from relayd.cli import Options


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
    from relayd import app, journal
    from relayd.web import control

    journal.set_up(log_level.upper())
    asyncio.run(app.run(options.files, partial(control.serve, has_own_config=options.config is not None)))
