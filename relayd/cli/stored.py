"""Commands on the spool of a stopped relay: check, repair, export, move."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relayd.cli import FAILED, Options, rights, tables
from relayd.cli.client import escaped
from relayd.cli.phrases import count
from relayd.config import spool_path_of
from relayd.errors import SpoolError, SpoolLocked
from relayd.files import printable, size_in_words

if TYPE_CHECKING:
    from relayd.spool import Report

_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group()
def spool() -> None:
    """Inspect, salvage or copy out what is stored.

    Works on a stopped relay, and says so if it runs.
    """


@spool.command()
@_as_json
@click.pass_obj
def check(options: Options, as_json: bool) -> None:
    """Compare the database with the stored files; changes nothing. Exit code 1 if something is wrong."""
    from relayd.spool import check as check_spool

    _report(options, check_spool, as_json)


@spool.command()
@_as_json
@click.pass_obj
def repair(options: Options, as_json: bool) -> None:
    """Salvage what can be read; what was damaged is set aside, never deleted."""
    from relayd.spool import repair as repair_spool

    _report(options, repair_spool, as_json)


@spool.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@_as_json
@click.pass_obj
def export(options: Options, folder: Path, as_json: bool) -> None:
    """Copy everything that is stored to DIR: the files under their own names, and a list of them."""
    from relayd.spool import export as export_spool

    _report(options, lambda path: export_spool(path, folder.absolute()), as_json)


@spool.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@_as_json
@click.pass_obj
def move(options: Options, folder: Path, as_json: bool) -> None:
    """Move all that is stored to DIR, on whatever disk, with the rights of its owner.

    It is there whole or still here, whenever it is cut off; the same command goes on. DIR is new or empty.
    """
    from relayd import last_good
    from relayd.spool import move as move_spool

    target = folder.absolute()

    def carry_out(path: Path) -> Report:
        rights.become_owner(path)
        report = move_spool(path, target, _show_progress)
        last_good.moved(options.files, target)
        return report

    _report(options, carry_out, as_json, last_good.spool_to_move(options.files, target))
    if not as_json and spool_path_of(options.files) != target:
        click.echo(f'Now write  path = "{target}"  in the section [spool] of the configuration, and start the relay.')


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{size_in_words(done)} of {size_in_words(total)}", nl=done == total, err=True)


def _report(options: Options, work: Callable[[Path], Report], as_json: bool, place: Path | None = None) -> None:
    """Do it and tell what came of it; exit code 1 unless all is well."""
    path = place or spool_path_of(options.files)
    try:
        path.lstat()
        report = work(path)
    except FileNotFoundError:
        raise SpoolError(f"there is no spool at {_named(path)}: nothing was ever stored here") from None
    except SpoolLocked:
        raise SpoolLocked(
            f"a running relay owns the spool {_named(path)}; stop it first, `systemctl stop relayd`, "
            "or ask it: `relayd status`, `relayd items`"
        ) from None
    except OSError as error:
        raise SpoolError(f"the spool {_named(path)} cannot be used: {error.strerror or error}; try sudo") from None
    if as_json:
        tables.show_json(asdict(report))
    else:
        tables.show(_blocks(path, report))
    if not report.is_good:
        raise click.exceptions.Exit(FAILED)


def _blocks(path: Path, report: Report) -> list[tables.Block]:
    numbers = ", ".join(f"{name.replace('_', ' ')} {count(number)}" for name, number in report.numbers.items())
    verdict = "good" if report.is_good else "NOT good"
    return [
        tables.Line(f"spool {_named(path)}: {verdict}", state="ok" if report.is_good else "fault"),
        *([tables.Line(numbers, indent=2)] if numbers else []),
        *(tables.Line(escaped(line), state="fault", indent=2) for line in report.problems),
        *(tables.Line(escaped(line), indent=2) for line in report.done),
    ]


def _named(path: Path) -> str:
    return printable(os.fsencode(path))
