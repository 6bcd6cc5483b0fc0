"""Secrets that were typed: where each is to go, kept in memory until everything is written.

Promises: no value is shown, put in the configuration, an argument or a variable; nothing is stored before `store`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from relayd import credentials, credstore, smallfiles
from relayd.errors import RelaydError
from relayd.first_config.console import Console
from relayd.provision import Account

CREDENTIAL = ("credential", "kept by systemd for the service alone (best)")
FILE = ("file", "in a file that only root and the service can read")
ENV = ("env", "in an environment variable, for development")


class Vault:
    """`folder` is where secrets go that are to be files."""

    def __init__(self, folder: Path, *, may_store: bool, account: Account | None) -> None:
        self._folder = folder
        self._may_store = may_store
        self._account = account
        self._values: dict[tuple[str, str], str] = {}
        self.later: list[str] = []
        """Commands for those that are still to be stored."""

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Within it, what was typed counts as stored."""
        with credstore.holding(self._values):
            yield

    def ask(self, console: Console, what: str, name: str, before: Mapping[str, str] | None = None) -> dict[str, str]:
        """Where the secret is, as it is written in the configuration; its value too, if it is typed now.

        `before` is what was answered the last time.
        """
        console.say(f"Where is {what} kept? It is never written in the configuration.")
        usual, place = next(iter((before or {}).items()), ("credential" if self._may_store else "file", ""))
        kind = console.choose("Place", [CREDENTIAL, FILE, ENV], default=usual)
        place = place if kind == usual else ""
        if kind == "env":
            return {"env": console.ask("Name of the variable", _variable, default=place or _as_variable(name))}
        if kind == "file":
            place = console.ask("File", _absolute, default=place or str(self._folder / name))
            self._type(console, what, (kind, place), is_there=Path(place).exists())
            return {"file": place}
        name = console.ask("Name of the credential", _credential, default=place or name)
        if not self._may_store:
            console.say("Only root can store it: that is for later.")
            self._later(f"sudo relayd credential add {name}")
        else:
            stored = {one.name for one in credentials.listed({}) if one.place is not None}
            self._type(console, what, (kind, name), is_there=name in stored)
        return {"credential": name}

    def store(self) -> Iterator[str]:
        """Store what was typed; what became of each, in words. What fails is to be done later."""
        for (kind, name), value in self._values.items():
            try:
                yield self._stored(kind, name, value)
            except (OSError, RelaydError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                yield f"! the secret for {name} could not be stored: {reason}"
                self._later(
                    f"relayd credential add {name}" if kind == "credential" else f"write the secret into {name}"
                )
        self._values.clear()

    def forget_all_but(self, used: set[tuple[str, str]]) -> None:
        """Only those that the configuration names in the end."""
        for place in [place for place in self._values if place not in used]:
            del self._values[place]

    def _stored(self, kind: str, name: str, value: str) -> str:
        if kind == "credential":
            added = credentials.add(name, value.encode())
            how = "encrypted for this machine" if added.is_encrypted else "readable by root only"
            return f"credential {name}: stored, {how}"
        path = Path(name)
        group = self._account.gid if self._account is not None and self._may_store else None
        if not path.parent.is_dir():
            smallfiles.make_folder(path.parent, mode=0o750)
            if group is not None:
                smallfiles.give_to_group(path.parent, group)
        smallfiles.put(path, value.encode() + b"\n", mode=0o600 if group is None else 0o640, group=group)
        return f"{name}: stored"

    def _type(self, console: Console, what: str, place: tuple[str, str], *, is_there: bool) -> None:
        if is_there and place not in self._values and console.confirm("It is there already. Use it?", default=True):
            return

        def checked(answer: str) -> str:
            return credentials.checked_value(answer.encode("utf-8", "surrogateescape"))[0] if answer else ""

        value = console.ask_secret(f"{what} (is not shown; Enter alone: later)", checked)
        if value:
            self._values[place] = value
        elif place[0] == "credential":
            self._later(f"relayd credential add {place[1]}")
        else:
            self._later(f"write the secret into {place[1]}")

    def _later(self, command: str) -> None:
        if command not in self.later:
            self.later.append(command)


def _as_variable(name: str) -> str:
    return "RELAYD_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _variable(answer: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", answer) is None:
        raise ValueError("letters, digits and _, for example RELAYD_SECRET")
    return answer


def _absolute(answer: str) -> str:
    if not answer.startswith("/") or not answer.isprintable():
        raise ValueError("write an absolute path, for example /etc/relayd/secrets/rapidsos")
    return answer


def _credential(answer: str) -> str:
    try:
        return credentials.checked_name(answer)
    except RelaydError as error:
        raise ValueError(str(error)) from None
