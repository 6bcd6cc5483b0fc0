"""`relayd cameras`: the cameras that destinations activate, and the QR code that one of them has to be shown.

Promises: a QR code is that of a token which waits, never of one that is used up.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from relayd import clock
from relayd.cli import Options, qrcode, tables
from relayd.cli.client import Relay, escaped
from relayd.cli.phrases import relative
from relayd.cli.tables import Block, Column, Line, Table
from relayd.errors import RelaydError, UnknownName, WrongRequest

_COLUMNS = (
    Column("camera", gives_way=True),
    Column("destination"),
    Column("state"),
    Column("stream"),
    Column("token"),
    Column("last frame"),
)


@click.command()
@click.option("--qr", "name", metavar="NAME", help="Show the QR code with which this camera is activated.")
@click.option(
    "--png",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the QR code to this file instead; without --qr that of the only camera that waits.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def cameras(options: Options, name: str | None, file: Path | None, as_json: bool) -> None:
    """Show the cameras of Watcher, and the QR code that activates one.

    The state of each camera: the token that it waits for, or its stream and whether it is alive.
    """
    if as_json and (name or file):
        raise click.UsageError("--json lists all cameras with what their QR codes say: leave --qr and --png away")
    found = Relay(options).get("/api/v1/cameras")
    if as_json:
        tables.show_json(found)
    elif name is None and file is None:
        tables.show(_listed(found["cameras"], now=clock.now()))
    else:
        _show_code(_wanted(found["cameras"], name), file)


def _listed(found: list[dict[str, Any]], *, now: float) -> list[Block]:
    if not found:
        return [Line("no cameras: write [[destination.NAME.camera]] in the section of a Watcher")]
    rows = [
        (
            escaped(camera["name"]),
            escaped(camera["destination"]),
            camera["state"],
            escaped(camera["stream_name"] or "-"),
            escaped(camera["token"] or "-"),
            relative(camera["last_frame_at"], now, never="-"),
        )
        for camera in found
    ]
    reasons = [
        Line(f"{escaped(camera['name'])}: {escaped(camera['reason'])}", state=camera["state"], indent=2)
        for camera in found
        if camera["reason"]
    ]
    return [Table(_COLUMNS, rows), *reasons]


def _wanted(found: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """The camera called NAME (or DESTINATION/NAME), or the only one that waits."""
    if name is None:
        waiting = [camera for camera in found if camera["token"]]
        if len(waiting) != 1:
            names = ", ".join(escaped(camera["name"]) for camera in waiting) or "none"
            raise WrongRequest(f"whose QR code? Write --qr NAME; with a token that waits: {names}")
        return waiting[0]
    named = [camera for camera in found if name in (camera["name"], f"{camera['destination']}/{camera['name']}")]
    if not named:
        known = ", ".join(escaped(camera["name"]) for camera in found) or "none"
        raise UnknownName(f"no camera {escaped(name)}; there are: {known}")
    if len(named) > 1:
        ways = " or ".join(escaped(f"{camera['destination']}/{camera['name']}") for camera in named)
        raise WrongRequest(f"there are {len(named)} cameras called {escaped(name)}: write {ways}")
    if not named[0]["token"]:
        reason = named[0]["reason"] or f"it is activated already, as stream {named[0]['stream_name']}"
        raise RelaydError(f"camera {escaped(name)} has no token to show: {escaped(reason)}")
    return named[0]


def _show_code(camera: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        try:
            qrcode.write_png(camera["qr"], file)
        except OSError as error:
            raise RelaydError(f"cannot write {file}: {error.strerror}") from None
        click.echo(f"the QR code of camera {escaped(camera['name'])} is in {file}")
        return
    if not (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf"):
        raise RelaydError("this terminal cannot draw a QR code (it is not UTF-8): write --png FILE and show that")
    click.echo(qrcode.drawn(camera["qr"], is_coloured=tables.is_for_people()))
    click.echo(f"Show this to camera {escaped(camera['name'])} ({escaped(camera['title'])}).")
    click.echo(f"token: {escaped(camera['token'])}")
    click.echo("`relayd cameras` tells when it is activated.")
