"""Commands that look at the configuration, running relay or not: check, schema, explain."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from relayd import clock, config, last_good
from relayd.cli import FAILED, WRONG, Options, tables
from relayd.cli.client import escaped
from relayd.config import Loaded
from relayd.config.online import try_everything
from relayd.errors import ConfigError
from relayd.last_good import LastGood
from relayd.model import Finding

MOST_KEYS = 10
SCHEMAS: Mapping[str, str] = {
    "config": "relayd.config.schema:config_schema",
    "status": "relayd.status:json_schema",
    "state": "relayd.reports:state_schema",
    "event": "relayd.reports:event_schema",
    "command": "relayd.reports:command_schema",
    "response": "relayd.reports:response_schema",
}
"""What `relayd schema` prints → the function that makes it, imported when it is asked for."""


@click.command()
@click.option("--online", is_flag=True, help="Also try each login, folder, the disk and the clock; sends nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def check(options: Options, online: bool, as_json: bool) -> None:
    """Check the configuration and report every error at once.

    Each as FILE:LINE: KEY: what is wrong, what to write instead. Exit code 2 if there is one; with --online 1 if
    something that was tried does not work.
    """
    try:
        loaded = config.load(options.files)
    except ConfigError as error:
        if not as_json:
            last = last_good.last(options.files)
            if last is not None:
                since = clock.rfc3339(last.at)
                click.echo(f"The relay goes on with the last good configuration, of {since}.", err=True)
            raise
        tables.show_json({"ok": False, "problems": [asdict(problem) for problem in error.problems]})
        raise click.exceptions.Exit(WRONG) from None
    if not as_json:
        tables.show(_summary(loaded, last_good.last(options.files)))
    findings = asyncio.run(_online(loaded, is_shown=not as_json)) if online else []
    is_good = all(finding.is_good for finding in findings)
    if as_json:
        tables.show_json(_document(loaded, findings, is_good=is_good, is_online=online))
    if not is_good:
        raise click.exceptions.Exit(FAILED)


@click.command()
@click.argument("what", type=click.Choice(list(SCHEMAS)))
def schema(what: str) -> None:
    """Print a JSON Schema for editors and consumers.

    `relayd schema config > relayd.schema.json`, and the line `#:schema relayd.schema.json` on top of relayd.toml
    makes taplo and VS Code complete and check while you type.
    """
    module, _, function = SCHEMAS[what].partition(":")
    tables.show_json(getattr(importlib.import_module(module), function)())


def _differences(loaded: Loaded, last: LastGood | None) -> list[str]:
    """What of the files is not in force yet, as far as the last good configuration tells."""
    if last is None or last.loaded.sha256 == loaded.sha256:
        return []
    keys = loaded.differences(last.loaded)
    more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
    named = ", ".join(keys[:MOST_KEYS]) or "comments only"
    since = clock.rfc3339(last.at)
    return [f"differs from what ran last, since {since}: {named}{more}; `systemctl reload relayd` puts it to work"]


def _summary(loaded: Loaded, last: LastGood | None) -> list[tables.Block]:
    settings = loaded.config
    files = ", ".join(escaped(str(path)) for path in loaded.files)
    blocks: list[tables.Block] = [
        tables.Line(f"{files}: good", state="ok"),
        tables.Line(f"sources: {_listed({name: one.type for name, one in settings.source.items()})}"),
        tables.Line(f"destinations: {_listed({name: one.type for name, one in settings.destination.items()})}"),
        tables.Line(f"rules: {', '.join(escaped(rule.name) for rule in settings.rule) or 'none'}"),
    ]
    blocks += [tables.Line(escaped(line), state="waiting") for line in _differences(loaded, last)]
    return [*blocks, *(tables.Line(notice, state="waiting") for notice in loaded.notices)]


def _listed(named: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in named.items()) or "none"


async def _online(loaded: Loaded, *, is_shown: bool) -> list[Finding]:
    findings = []
    async for finding in try_everything(loaded.config):
        findings.append(finding)
        if is_shown:
            tables.show([_finding_line(finding)])
    return findings


def _finding_line(finding: Finding) -> tables.Line:
    word = "ok" if finding.is_good else "FAILED"
    remedy = f" → {finding.remedy}" if finding.remedy and not finding.is_good else ""
    text = escaped(f"{word:<7} {finding.subject}: {finding.text}{remedy}")
    return tables.Line(text, state="ok" if finding.is_good else "fault")


def _document(loaded: Loaded, findings: Sequence[Finding], *, is_good: bool, is_online: bool) -> dict[str, Any]:
    settings = loaded.config
    return {
        "ok": is_good,
        "problems": [],
        "files": [str(path) for path in loaded.files],
        "sha256": loaded.sha256,
        "notices": list(loaded.notices),
        "sources": {name: {"type": one.type} for name, one in settings.source.items()},
        "destinations": {name: {"type": one.type} for name, one in settings.destination.items()},
        "rules": [rule.name for rule in settings.rule],
        "online": [
            {"subject": finding.subject, "ok": finding.is_good, "text": finding.text, "remedy": finding.remedy}
            for finding in findings
        ]
        if is_online
        else None,
    }
