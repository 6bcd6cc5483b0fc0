"""Stores secrets where the service may read them and nobody else: what `relayd credential` does.

With systemd-creds a secret is encrypted with a key of this machine; else it is a file that only root can read. Either
way a drop-in of the unit has systemd hand it to the service, under its name and to no other process.

Promises: a value is never in an argument, a variable or a message; the old one stays until the new one is on the disk;
a secret that gets lost does not keep the relay from starting.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd import credstore, dropins, smallfiles
from relayd.errors import RelaydError

SYSTEM = Path("/")
LARGEST_BYTES = 64 * 1024
DROP_IN = "50-credential-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class BadCredential(RelaydError):
    """This cannot be a credential: its name or its value. Says what to do instead, and never the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One credential. `place` None: named in the configuration, stored nowhere. `keys` are those that name it."""

    name: str
    place: Path | None
    is_encrypted: bool = False
    is_loaded: bool = True
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What adding came to. `remarks` are sentences for people."""

    place: Path
    is_encrypted: bool
    was_there: bool
    remarks: tuple[str, ...]


def checked_name(name: str) -> str:
    """The name, if it is one. Raises BadCredential."""
    if _NAME.fullmatch(name) is None:
        raise BadCredential(
            "the name of a credential has 1 to 128 letters, digits, `.`, `_` and `-`, and begins with none of . and -"
        )
    return name


def checked_value(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The secret without the white space around it, and what there is to remark. Raises BadCredential."""
    if len(raw) > LARGEST_BYTES:
        raise BadCredential(f"that is more than {LARGEST_BYTES // 1024} KiB: this is no secret")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCredential("that is no text in UTF-8: encode it, for example as base64") from None
    value = text.strip()
    if not value:
        raise BadCredential("the secret is empty: nothing was stored")
    if "\0" in value:
        raise BadCredential("there is a NUL in it: this is no secret")
    remarks = []
    if text.strip("\r\n") != value:
        remarks.append("white space around it was left out: it is never part of a secret")
    elif text != value:
        remarks.append("the line break at its end was left out")
    if "\n" in value:
        remarks.append(f"it has {value.count(chr(10)) + 1} lines, and all of them are the secret")
    return value, tuple(remarks)


def add(name: str, raw: bytes, root: Path = SYSTEM) -> Added:
    """Store it in place of an older one of that name. Raises BadCredential, RelaydError, OSError."""
    value, remarks = checked_value(raw)
    checked_name(name)
    content, trouble = _encrypted(name, value.encode()) if root == SYSTEM else (None, None)
    plain, encrypted = credstore.plain_place(name, root), credstore.encrypted_place(name)
    place, other = (plain, encrypted) if content is None else (encrypted, plain)
    was_there = place.exists() or (root == SYSTEM and other.exists())
    smallfiles.make_folder(place.parent, mode=0o700)
    smallfiles.put(place, value.encode() if content is None else content, mode=0o600, group=_group())
    failure = ensure_loaded(name, root, is_encrypted=content is not None)
    if root == SYSTEM:
        smallfiles.remove(other)
    told = [*remarks, *(one for one in (trouble, failure) if one)]
    return Added(place=place, is_encrypted=content is not None, was_there=was_there, remarks=tuple(told))


def remove(name: str, root: Path = SYSTEM) -> bool:
    """Forget it; False if there was none. Raises RelaydError, OSError."""
    checked_name(name)
    was_loaded = dropins.remove(DROP_IN + name, root)
    was_stored = smallfiles.remove(credstore.plain_place(name, root))
    if root == SYSTEM:
        was_stored |= smallfiles.remove(credstore.encrypted_place(name))
    if was_loaded:
        dropins.reload(root)
    return was_loaded or was_stored


def listed(named: Mapping[str, Sequence[str]], root: Path = SYSTEM) -> list[Stored]:
    """Every credential that is stored, or in `named`: name → the keys of the configuration that name it."""
    places = {path.name: path for path in _files(credstore.plain_place("x", root).parent)}
    if root == SYSTEM:
        beginning = credstore.ENCRYPTED_BEGINNING
        found = [path for path in _files(credstore.ENCRYPTED_FOLDER) if path.name.startswith(beginning)]
        places |= {path.name.removeprefix(beginning): path for path in found}
        # Handed over by a line of the unit that somebody else wrote; by one of ours it may be the empty one.
        others = [path for path in _files(credstore.RUNNING_FOLDER) if path.name in named]
        running = {path.name: path for path in others if not dropins.place(DROP_IN + path.name).exists()}
        places = running | places
    return [
        Stored(
            name=name,
            place=places.get(name),
            is_encrypted=name in places and places[name].parent == credstore.ENCRYPTED_FOLDER,
            is_loaded=name in places and _is_loaded(name, places[name], root),
            keys=tuple(named.get(name, ())),
        )
        for name in sorted({*places, *named})
    ]


def ensure_loaded(name: str, root: Path = SYSTEM, *, is_encrypted: bool) -> str | None:
    """Have the unit load it; what is left to do if systemd could not be told, else None."""
    lines = lines_of(name, is_encrypted=is_encrypted)
    if dropins.is_so(DROP_IN + name, lines, root):
        return None
    dropins.put(DROP_IN + name, lines, root)
    failure = dropins.reload(root)
    return (
        None if failure is None else f"systemd did not read its units again ({failure}): run `systemctl daemon-reload`"
    )


def lines_of(name: str, *, is_encrypted: bool) -> list[str]:
    """What the unit says about a credential of ours."""
    if is_encrypted:
        load = f"LoadCredentialEncrypted={name}:{credstore.encrypted_place(name)}"
    else:
        load = f"LoadCredential={name}:{credstore.plain_place(name)}"
    # An empty line in its place when the file is lost: the relay starts, and says what is missing.
    return [load, rf"SetCredential={name}:\n"]


def can_store(root: Path = SYSTEM) -> bool:
    """Whether this user may: only root may on the system itself."""
    return os.geteuid() == 0 or root != SYSTEM


def _encrypted(name: str, value: bytes) -> tuple[bytes | None, str | None]:
    """Encrypted for this machine and read back; or None and why it is not."""
    try:
        # No PCRs: an update of the firmware must not take a relay's secrets away.
        made = credstore.systemd_creds("encrypt", name, value, "--with-key=auto", "--tpm2-pcrs=")
        if credstore.systemd_creds("decrypt", name, made) != value:
            return None, "it is not encrypted: systemd-creds gave something else back"
    except FileNotFoundError:
        return None, "it is not encrypted: there is no systemd-creds on this machine"
    except OSError as error:
        return None, f"it is not encrypted: systemd-creds does not work here ({error})"
    return made, None


def _is_loaded(name: str, place: Path, root: Path) -> bool:
    if root == SYSTEM and place.parent == credstore.RUNNING_FOLDER:
        return True
    is_encrypted = root == SYSTEM and place.parent == credstore.ENCRYPTED_FOLDER
    return dropins.is_so(DROP_IN + name, lines_of(name, is_encrypted=is_encrypted), root)


def _files(folder: Path) -> list[Path]:
    """Nothing where there is no such folder; raises OSError where it may not be listed."""
    try:
        return [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]
    except FileNotFoundError:
        return []


def _group() -> int | None:
    return 0 if os.geteuid() == 0 else None
