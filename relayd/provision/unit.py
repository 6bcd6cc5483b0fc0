"""The unit's drop-ins: true to the configuration, and none that is not needed any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from relayd import credentials, dropins
from relayd.config.named import NamedSecret
from relayd.dropins import CannotQuote
from relayd.errors import RelaydError
from relayd.provision.places import Place, sandbox_lines
from relayd.provision.step import Left, Remark, Step

FOLDERS = "50-folders"


def unit_steps(places: Sequence[Place], secrets: Sequence[NamedSecret], root: Path) -> Iterator[Step | Left | Remark]:
    """Folders, then credentials, then systemd is told."""
    before = _state(root)
    yield from _folders(places, root)
    yield from _credentials(secrets, root)
    if _state(root) != before and dropins.has_systemd(root):
        yield Step("systemd reads its units again", partial(_reload, root))
        if dropins.is_running():
            yield Remark("the running relay goes on as before until: systemctl restart relayd")


def _folders(places: Sequence[Place], root: Path) -> Iterator[Step | Left]:
    good = []
    for place in places:
        try:
            sandbox_lines([place])
            good.append(place)
        except CannotQuote as error:
            yield Left(f"{place.owner}: {error}", "rename it, and correct the configuration")
    lines = sandbox_lines(good)
    if not lines:
        if dropins.names(FOLDERS, root):
            yield Step("the sandbox of the service needs no folder opened any more", partial(_removed, FOLDERS, root))
    elif not dropins.is_so(FOLDERS, lines, root):
        yield Step(f"the sandbox of the service: {', '.join(lines)}", partial(dropins.put, FOLDERS, lines, root))


def _credentials(secrets: Sequence[NamedSecret], root: Path) -> Iterator[Step | Left]:
    named: dict[str, list[str]] = {}
    for secret in secrets:
        if secret.kind == "credential":
            named.setdefault(secret.name, []).append(secret.key)
    stored = credentials.listed(named, root)
    there = {credentials.DROP_IN + one.name for one in stored if one.place is not None}
    for name in dropins.names(credentials.DROP_IN, root):
        if name not in there:
            text = f"credential {name.removeprefix(credentials.DROP_IN)} is stored no more: the unit does not load it"
            yield Step(text, partial(_removed, name, root))
    for one in stored:
        if one.place is None:
            keys = ", ".join(one.keys)
            yield Left(f"credential {one.name} is missing, {keys} needs it", f"relayd credential add {one.name}")
        elif not one.is_loaded:
            yield Step(f"the unit loads credential {one.name}", partial(_loaded, one, root))


def _loaded(one: credentials.Stored, root: Path) -> None:
    lines = credentials.lines_of(one.name, is_encrypted=one.is_encrypted)
    dropins.put(credentials.DROP_IN + one.name, lines, root)


def _removed(name: str, root: Path) -> None:
    dropins.remove(name, root)


def _reload(root: Path) -> None:
    failure = dropins.reload(root)
    if failure is not None:
        raise RelaydError(f"systemctl daemon-reload: {failure}")


def _state(root: Path) -> dict[str, bytes]:
    """All our drop-ins, as they are now."""
    return {name: dropins.place(name, root).read_bytes() for name in dropins.names("", root)}
