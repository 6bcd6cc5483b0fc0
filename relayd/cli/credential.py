"""`relayd credential add|list|remove`: secrets for the service, on this machine or in the tree of an image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from relayd import credentials, dropins
from relayd.cli import Options, tables
from relayd.cli.client import escaped
from relayd.cli.rights import needs_root
from relayd.config.named import credentials_named
from relayd.credentials import BadCredential
from relayd.errors import RelaydError

_root = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    default="/",
    metavar="DIR",
    help="The tree of an image instead of this system. Not encrypted: only the machine itself can do that.",
)


@click.group()
def credential() -> None:
    """Store, list or remove secrets that the service may read and nobody else."""


@credential.command()
@click.argument("name")
@click.option(
    "--file",
    "source",
    type=click.File("rb"),
    metavar="FILE",
    help="Read it from FILE, `-` for standard input; without this it is asked for, or read from a pipe.",
)
@_root
@click.pass_obj
def add(options: Options, name: str, source: BinaryIO | None, root: Path) -> None:
    """Store a secret under NAME, in place of an older one. It is never an argument, which everybody could read."""
    name = _checked(name)
    _need_root(options, root, "add", name)
    if source is not None:
        raw = source.read(credentials.LARGEST_BYTES + 1)
    elif sys.stdin.isatty():
        raw = _asked(name).encode("utf-8", "surrogateescape")
    else:
        raw = sys.stdin.buffer.read(credentials.LARGEST_BYTES + 1)
    try:
        added = credentials.add(name, raw, root)
    except OSError as error:
        raise _trouble(error) from None
    tables.show(_told(options, name, added, root))


@credential.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_root
@click.pass_obj
def list_(options: Options, as_json: bool, root: Path) -> None:
    """List the names of what is stored, and which keys of the configuration use them. Never shows a value."""
    _need_root(options, root, "list")
    try:
        found = credentials.listed(credentials_named(options.files), root)
    except OSError as error:
        raise _trouble(error) from None
    if as_json:
        tables.show_json(
            [
                {
                    "name": one.name,
                    "stored": one.place is not None,
                    "encrypted": one.is_encrypted,
                    "loaded_by_unit": one.is_loaded,
                    "place": None if one.place is None else str(one.place),
                    "keys": list(one.keys),
                }
                for one in found
            ]
        )
        return
    columns = [tables.Column("name"), tables.Column("stored"), tables.Column("used by", gives_way=True)]
    rows = [(escaped(one.name), _state(one), ", ".join(map(escaped, one.keys)) or "nothing") for one in found]
    blocks: list[tables.Block] = [tables.Table(columns, rows) if rows else tables.Line("There are none.")]
    for one in found:
        if one.place is None:
            blocks.append(
                tables.Line(f"{escaped(one.name)} is missing: relayd credential add {escaped(one.name)}", state="fault")
            )
        elif not one.is_loaded:
            blocks.append(tables.Line(f"the unit does not load {one.name} yet: relayd setup", state="fault"))
    tables.show(blocks)


@credential.command()
@click.argument("name")
@_root
@click.pass_obj
def remove(options: Options, name: str, root: Path) -> None:
    """Remove what is stored under NAME."""
    name = _checked(name)
    _need_root(options, root, "remove", name)
    try:
        was_there = credentials.remove(name, root)
    except OSError as error:
        raise _trouble(error) from None
    if not was_there:
        raise RelaydError(f"there is no credential {name}: `relayd credential list` shows those there are")
    keys = credentials_named(options.files).get(name, [])
    blocks: list[tables.Block] = [tables.Line(f"credential {name} is removed", state="ok")]
    if keys:
        blocks.append(tables.Line(f"the configuration still names it: {', '.join(keys)}", state="waiting"))
    tables.show(blocks)


def _checked(name: str) -> str:
    try:
        return credentials.checked_name(name)
    except BadCredential as error:
        raise click.UsageError(str(error)) from None


def _need_root(options: Options, root: Path, *words: str) -> None:
    if not credentials.can_store(root):
        raise needs_root(options, ["credential", *words], "that")


def _asked(name: str) -> str:
    """Twice, unseen."""
    while True:
        first = click.prompt(f"Secret {name} (is not shown)", hide_input=True, err=True)
        if click.prompt("Once more", hide_input=True, err=True) == first:
            return str(first)
        click.echo("The two are not the same, try again.", err=True)


def _trouble(error: OSError) -> RelaydError:
    return RelaydError(f"{error.filename or 'the credential'}: {error.strerror or error}")


def _told(options: Options, name: str, added: credentials.Added, root: Path) -> list[tables.Block]:
    how = "encrypted for this machine" if added.is_encrypted else "readable by root only"
    verb = "replaced" if added.was_there else "stored"
    blocks: list[tables.Block] = [tables.Line(f"credential {name} is {verb}: {added.place}, {how}", state="ok")]
    blocks += [tables.Line(escaped(remark), state="waiting") for remark in added.remarks]
    keys = credentials_named(options.files).get(name, [])
    if keys:
        blocks.append(tables.Line(f"used by {', '.join(map(escaped, keys))}"))
    else:
        blocks.append(tables.Line(f'no key of the configuration uses it yet: write {{ credential = "{name}" }}'))
    if root == credentials.SYSTEM:
        is_running = dropins.is_running()
        now = "the running relay takes it with its next start" if is_running else "the relay takes it when it starts"
        blocks.append(tables.Line(f"{now}: systemctl restart relayd"))
    return blocks


def _state(one: credentials.Stored) -> str:
    if one.place is None:
        return "missing"
    return "encrypted" if one.is_encrypted else "yes"
