"""`relayd setup`: prepares the machine for the configuration in force.

`places` says which folders the relay works in and what the sandbox of its unit needs to hear of them, `folders` gives
its user the rights there, `readable` does so for files and secrets; `unit` keeps the drop-ins true.

Promises: a second run finds nothing to do; each change is said before it is made; whoever owns a folder keeps it; what
only a person can judge is said as a command and not done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd.config import Loaded
from relayd.config.named import NamedSecret
from relayd.provision.account import Account
from relayd.provision.folders import folder_steps
from relayd.provision.places import places_of
from relayd.provision.readable import readable_steps
from relayd.provision.step import Left, Remark, Step
from relayd.provision.unit import unit_steps

__all__ = ["Account", "Left", "Remark", "Request", "Step", "steps"]

SYSTEM = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to prepare for. `account` None: the rights are left alone, in the tree of an image for example."""

    loaded: Loaded
    secrets: Sequence[NamedSecret]
    account: Account | None
    root: Path = SYSTEM
    may_create: bool = False


def steps(request: Request) -> Iterator[Step | Left | Remark]:
    """One after another; each is worked out after the one before was done, or let be."""
    places = places_of(request.loaded.config)
    for place in places:
        yield from folder_steps(place, request.account, request.root, may_create=request.may_create)
    yield from readable_steps(request.loaded, request.secrets, request.account, request.root)
    yield from unit_steps(places, request.secrets, request.root)
