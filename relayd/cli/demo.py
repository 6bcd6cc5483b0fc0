"""`relayd demo`: the relay shown at work, on this machine alone."""

from __future__ import annotations

import signal
from types import FrameType

import click

from relayd.cli import FAILED, tables


@click.command()
@click.option("--keep", is_flag=True, help="Leave the temporary folder with everything in it, and say where it is.")
@click.option("--plant", default="", hidden=True, help="Faults all the way: proves that a loss is seen.")
@click.pass_context
def demo(ctx: click.Context, keep: bool, plant: str) -> None:
    """Show a drive through a dead zone, live, with the real relay on this machine.

    A sandbox, the relay and a camera in a temporary folder: files come while the link is away, the relay is killed in
    the middle of an upload, the link returns. Exit code 0 only if everything arrived byte for byte.
    No network, no root.
    """
    from relayd.sandbox.demo import Drive
    from relayd.sandbox.stage import Stage
    from relayd.sandbox.telling import LiveTelling, Telling

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    stage = Stage()
    try:
        with LiveTelling() if tables.is_for_people() else Telling() as telling:
            is_good = Drive(stage, telling).run(plant)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stage.close(keep=keep)
        if keep:
            click.echo(f"Everything is in {stage.folder}")
    ctx.exit(0 if is_good else FAILED)


command = demo


def _interrupt(number: int, frame: FrameType | None) -> None:
    """However the demo is asked to stop, it cleans up first."""
    raise KeyboardInterrupt
