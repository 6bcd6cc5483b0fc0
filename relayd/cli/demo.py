"""`relayd demo`: the relay shown at work, on this machine alone."""

from __future__ import annotations

import signal
from types import FrameType

import click

from relayd.cli import FAILED, tables


@click.command()
@click.option("--keep", is_flag=True, help="Leave the temporary folder with everything in it, and say where it is.")
@click.option("--plant", default="", hidden=True, help="Faults all the way: proves that a loss is seen.")
@click.option("--pace", default=1.0, hidden=True, help="How long people get to read; 0: not at all.")
@click.pass_context
def demo(ctx: click.Context, keep: bool, plant: str, pace: float) -> None:
    """Show a drive through a dead zone, live, with the real relay on this machine.

    In a temporary folder: a sandbox that plays every service and the vehicle's broker, the relay, and three cameras.
    A new camera is activated by its QR code; another one falls silent and is on the status page; in a dead zone
    somebody presses the panic button, and the power fails. When there is a link again the report goes first, then
    pictures, links and the clip. The relay is killed twice, once in the middle of an upload.

    At the end each promise is compared with what the servers have on record. Exit code 0 only if all were kept.
    No network, no root, about a minute. With --keep the folder has the configuration, the logs and evidence.json.
    """
    from relayd.sandbox.demo import Drive
    from relayd.sandbox.stage import Stage
    from relayd.sandbox.telling import LiveTelling, Telling

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    stage = Stage()
    try:
        with LiveTelling(pace) if tables.is_for_people() else Telling(pace) as telling:
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
