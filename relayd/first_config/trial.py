"""Each answer is tried at once, by the code of `check --online`; what does not work yet may be kept.

Promises: one line for what works, one for each thing that does not, with its remedy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from relayd.config.online import surroundings_of, try_broker, try_destination, try_source, words_at
from relayd.config.sections import Config
from relayd.errors import ConfigError
from relayd.files import printable
from relayd.first_config.console import Console
from relayd.first_config.draft import Draft
from relayd.first_config.vault import Vault
from relayd.model import Finding

Outcome = Literal["change", "keep", "drop"]
CHOICES: Sequence[tuple[Outcome | Literal["again"], str]] = (
    ("change", "the answers"),
    ("again", "try once more"),
    ("keep", "it as it is"),
    ("drop", "it: leave it out"),
)
TRIED_AS = Path("relayd.toml")


def try_out(console: Console, vault: Vault, draft: Draft, kind: str, name: str) -> Outcome:
    """Try the section until it works, or the technician keeps it as it is, or wants to change it or leave it out."""
    while True:
        if _works(console, vault, draft, kind, name):
            return "keep"
        answer = console.choose("What now", CHOICES, default="change")
        if answer != "again":
            return answer


def _works(console: Console, vault: Vault, draft: Draft, kind: str, name: str) -> bool:
    console.say(f"  trying {name} ...")
    try:
        config = draft.alone(kind, name).load(TRIED_AS).config
    except ConfigError as error:
        for problem in error.problems:
            console.say(f"! {problem.key}: {problem.text}", indent=2)
        return False
    with vault.open():
        found = asyncio.run(_findings(config, kind, name))
    bad = [one for one in found if not one.is_good]
    for one in bad:
        remedy = f" -> {one.remedy}" if one.remedy else ""
        console.say(printable(f"FAILED {one.subject}: {one.text}") + printable(remedy), indent=2)
    if not bad:
        console.say(f"ok {printable('; '.join(one.text for one in found)) or name}", indent=2)
    return not bad


def words_of(vault: Vault, draft: Draft, name: str) -> Mapping[str, Sequence[str]]:
    """What the destination lets one choose from, by argument; nothing where it does not work yet."""
    try:
        config = draft.alone("destination", name).load(TRIED_AS).config
    except ConfigError:
        return {}
    with vault.open():
        return asyncio.run(words_at(config, name, surroundings_of(config)))


async def _findings(config: Config, kind: str, name: str) -> list[Finding]:
    around = surroundings_of(config)
    trial: Coroutine[Any, Any, list[Finding]]
    if kind == "broker":
        trial = try_broker(config, name, around)
    elif kind == "source":
        trial = try_source(config, name, around)
    else:
        trial = try_destination(config, name, around)
    return await trial
