"""Types of configuration values, and the base of every section model.

Promises: what the technician writes (`"500MB"`, `"10m"`, `{ credential = "name" }`) is checked here and nowhere else;
inside, sizes are int bytes, durations float seconds, and a secret is an object that prints `***`.
"""

from __future__ import annotations

import os
import re
from errno import EACCES
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from relayd import credstore, secrecy
from relayd.errors import SecretMissing

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)")
_SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "KiB": 2**10,
    "MB": 10**6,
    "MiB": 2**20,
    "GB": 10**9,
    "GiB": 2**30,
    "TB": 10**12,
    "TiB": 2**40,
}
_DURATION_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d|w)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern}\s*)+")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_size(value: object) -> int:
    """`"500MB"` → 500_000_000 bytes, `"2GiB"` → 2_147_483_648. Raises ValueError with the remedy."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('not a size, write for example "500MB" or "2GiB"')
    return round(float(match[1]) * _SIZE_UNITS[match[2]])


def parse_duration(value: object) -> float:
    """`"250ms"` → 0.25 seconds, `"1h30m"` → 5400.0. Raises ValueError with the remedy."""
    if not isinstance(value, str) or _DURATION.fullmatch(value.strip()) is None:
        raise ValueError('not a duration, write for example "250ms", "30s", "10m" or "7d"')
    return sum(float(amount) * _DURATION_UNITS[unit] for amount, unit in _DURATION_PART.findall(value))


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"type": "string", "pattern": rf"^{_SIZE.pattern}$", "examples": ["500MB", "2GiB"]}),
]
"""Bytes; written as a string with a unit. Defaults are written as strings too (`validate_default` is on)."""

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": rf"^{_DURATION.pattern}$", "examples": ["250ms", "30s", "10m", "7d"]}),
]
"""Seconds; written as a string with a unit."""


def written(default: str, **constraints: Any) -> Any:
    """The default of a Size or Duration as one would write it in the file; constraints as for `pydantic.Field`."""
    return Field(default=default, **constraints)


class Section(BaseModel):
    """Base of every configuration section: frozen, unknown keys are errors, defaults are validated like input."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class Secret(Section):
    """Where a secret is: exactly one of the three. The value is read when needed and never kept, printed or logged."""

    credential: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,255}$")] | None = None
    """Name of a systemd credential (`LoadCredential=`, or `relayd credential add NAME`)."""
    file: Path | None = None
    """Absolute path of a file that holds nothing but the secret; trailing white space is ignored."""
    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Name of an environment variable; for development."""

    @model_validator(mode="before")
    @classmethod
    def _never_plain(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                'a secret is never written in the configuration itself, write { credential = "name" }, '
                '{ file = "/path" } or { env = "NAME" }'
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Secret:
        if sum(place is not None for place in (self.credential, self.file, self.env)) != 1:
            raise ValueError('name exactly one place: { credential = "name" }, { file = "/path" } or { env = "NAME" }')
        return self

    @property
    def place(self) -> str:
        """Where it is, in words; safe to show."""
        if self.credential is not None:
            return f"credential {self.credential}"
        return f"file {self.file}" if self.file is not None else f"environment variable {self.env}"

    def reveal(self) -> str:
        """The value, read now (so that a renewed secret is seen), and from now on hidden wherever a text is shown.
        Raises SecretMissing with the remedy."""
        if self.env is not None:
            if not os.environ.get(self.env):
                raise SecretMissing(f"environment variable {self.env} is not set")
            return secrecy.remember(os.environ[self.env])
        kind, name = ("file", str(self.file)) if self.file is not None else ("credential", self.credential or "")
        typed = credstore.held(kind, name)
        value = self._read(name) if typed is None else typed
        if not value:
            raise SecretMissing(f"the secret in {self.place} is empty")
        return secrecy.remember(value)

    def _read(self, name: str) -> str:
        try:
            raw = credstore.read_credential(name) if self.file is None else self.file.read_bytes()
            return raw.decode("utf-8").strip()
        except OSError as error:
            remedy = ": `relayd setup` mends that, or says how" if error.errno == EACCES else ""
            raise SecretMissing(f"cannot read the secret in {self.place} ({error.strerror}){remedy}") from None
        except UnicodeDecodeError:
            raise SecretMissing(f"the secret in {self.place} is no text in UTF-8") from None

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__
