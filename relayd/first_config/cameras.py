"""Which folders cameras write to: candidates are listed, and each is looked at as soon as it is named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from relayd.files import printable
from relayd.first_config.console import Console
from relayd.first_config.draft import Draft, free_name
from relayd.first_config.trial import try_out
from relayd.first_config.vault import Vault

LIKELY = (Path("/srv"), Path("/srv/cameras"), Path("/srv/ftp"), Path("/var/ftp"), Path("/media"), Path("/mnt"))
MOST_SHOWN = 9
MOST_COUNTED = 1_000


def ask_cameras(console: Console, vault: Vault, draft: Draft, missing: list[Path]) -> None:
    """One source for each folder; those that are to be made are added to `missing`."""
    console.say()
    console.say(
        "Which folders do the cameras (or their FTP server) write to? Files are removed there once they are safe."
    )
    while True:
        taken = {section["path"] for section in draft.source.values()}
        candidates = [path for path in _candidates() if str(path) not in taken]
        for number, path in enumerate(candidates, 1):
            console.say(f"{number}) {printable(str(path))}  {_about(path)}", indent=2)
        chosen = console.ask(
            "Folder (a number or an absolute path; Enter alone: no more)", partial(_folder, candidates=candidates)
        )
        if chosen is None:
            return
        _add(console, vault, draft, missing, chosen)


def _add(console: Console, vault: Vault, draft: Draft, missing: list[Path], path: Path) -> None:
    name = console.ask(
        "Name of this source", lambda answer: name_checked(answer, draft.source), default=_name_of(path, draft)
    )
    draft.source[name] = {"type": "folder", "path": str(path)}
    if not path.exists():
        console.say(f"! {printable(str(path))} does not exist (not mounted?)", indent=2)
        if console.confirm("Make it at the end", default=True):
            missing.append(path)
            return
    if try_out(console, vault, draft, "source", name) != "keep":
        del draft.source[name]


def name_checked(answer: str, taken: object) -> str:
    """A name for a section that is still free. Raises ValueError."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", answer) is None:
        raise ValueError("letters, digits, - and _, no blanks, for example front-camera")
    if answer == "relayd" or (isinstance(taken, dict) and answer in taken):
        raise ValueError(f"{answer} is taken, choose another name")
    return answer


def _folder(answer: str, candidates: list[Path]) -> Path | None:
    if not answer:
        return None
    if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(candidates):
        return candidates[int(answer) - 1]
    if not answer.startswith("/"):
        raise ValueError("write an absolute path, for example /srv/cameras/front")
    try:
        answer.encode()
    except UnicodeEncodeError:
        raise ValueError("this is no UTF-8: give the folder another name") from None
    path = Path(os.path.normpath(answer))
    if path.exists() and not path.is_dir():
        raise ValueError("this is a file, name its folder")
    return path


def _candidates() -> list[Path]:
    """Folders that look as if cameras might write there."""
    found = {path for parent in LIKELY for path in _below(parent) if path not in LIKELY}
    return sorted(found)[:MOST_SHOWN]


def _below(parent: Path) -> Iterator[Path]:
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and entry.name.isprintable() and not entry.name.startswith("."):
                    yield parent / entry.name
    except OSError:
        return


def _about(path: Path) -> str:
    try:
        with os.scandir(path) as entries:
            files = sum(
                entry.is_file(follow_symlinks=False) for _, entry in zip(range(MOST_COUNTED), entries, strict=False)
            )
    except OSError as error:
        return f"({error.strerror})"
    return f"({files} file{'s' * (files != 1)})"


def _name_of(path: Path, draft: Draft) -> str:
    base = re.sub(r"[^A-Za-z0-9]+", "-", path.name).strip("-").lower()[:40] or "camera"
    return free_name(base, {**draft.source, "relayd": {}})
