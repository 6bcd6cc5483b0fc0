"""`relayd setup`: prepares the machine for the configuration in force, and says each thing it does."""

from __future__ import annotations

import os
from pathlib import Path

import click

from relayd import config, provision
from relayd.cli import FAILED, Options, tables
from relayd.cli.client import escaped
from relayd.cli.rights import needs_root
from relayd.config.merge import files_below
from relayd.config.named import secrets_named
from relayd.errors import RelaydError
from relayd.provision import Account, Left, Remark, Request, Step

SYSTEM = Path("/")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--create", is_flag=True, help="Also make drop folders that are missing.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    default="/",
    metavar="DIR",
    help="The tree of an image instead of this system: folders and drop-ins only, rights are set on the machine.",
)
@click.pass_obj
def setup(options: Options, dry_run: bool, create: bool, root: Path) -> None:
    """Prepare this machine for the configuration: folders, rights, the unit.

    Opens the sandbox of the service for the folders that the configuration names, lets user relayd read and remove
    what cameras put there, has the unit load the credentials; run again, it does what is left. Exit code 1: something
    failed, or is left to you.
    """
    words = ["setup", *(["--create"] if create else [])]
    if root == SYSTEM and os.geteuid() != 0:
        raise needs_root(options, words + (["--dry-run"] if dry_run else []), "looking at rights and changing them")
    files = options.files if options.files is not None else files_below(root)
    loaded = config.load(files)
    account = Account.of_service() if root == SYSTEM else None
    if root == SYSTEM and account is None:
        raise RelaydError("there is no user relayd on this machine: install the package, or run systemd-sysusers")
    request = Request(loaded=loaded, secrets=secrets_named(files), account=account, root=root, may_create=create)
    if root != SYSTEM:
        _say("rights of folders are left to the machine itself: run `relayd setup` there, too", "waiting")
    elif options.config is not None:
        _say("the service reads /etc/relayd/relayd.toml and conf.d, not the file that is named here", "waiting")
    if not _done(request, is_dry=dry_run):
        raise click.exceptions.Exit(FAILED)


def _done(request: Request, *, is_dry: bool) -> bool:
    """Whether all is well afterwards."""
    is_good, count = True, 0
    for one in provision.steps(request):
        if isinstance(one, Step):
            count += 1
            is_good &= _step(one, is_dry=is_dry)
        elif isinstance(one, Left):
            count += 1
            is_good = False
            _say(f"left to you: {one.text} → {one.command}", "fault")
        elif isinstance(one, Remark):
            _say(one.text, "waiting")
    if not count:
        _say("this machine is ready, there is nothing to do", "ok")
    return is_good


def _step(one: Step, *, is_dry: bool) -> bool:
    if is_dry:
        _say(f"would do: {one.text}", "waiting")
        return True
    try:
        one.do()
    except (OSError, RelaydError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        _say(f"FAILED: {one.text}: {reason}", "fault")
        return False
    _say(f"done: {one.text}", "ok")
    return True


def _say(text: str, state: str) -> None:
    tables.show([tables.Line(escaped(text), state=state)])
