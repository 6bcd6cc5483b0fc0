"""What preparing a machine consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what it is, in words, and what makes it. `do` raises OSError or RelaydError."""

    text: str
    do: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Left:
    """Something that a person has to do, and the command or the words for it."""

    text: str
    command: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Good to know; nothing is wrong."""

    text: str
