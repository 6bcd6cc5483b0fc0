"""The command that looks at the whole fleet: `relayd fleet`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from relayd import clock, config
from relayd.broker import BrokerConfig
from relayd.cli import Options, fleet_page, tables
from relayd.cli.fleet_screen import show_live
from relayd.cli.fleet_view import Wish
from relayd.config.merge import read_leniently
from relayd.fields import parse_duration
from relayd.fleet import Fleet
from relayd.fleet_choice import SORTS, WrongFilter
from relayd.fleet_watch import Watch, watching
from relayd.reporter import FleetConfig

PASSWORD = "RELAYD_FLEET_PASSWORD"  # noqa: S105 - the name of a variable
"""Environment variable with the password for --broker."""


@dataclass(frozen=True, slots=True)
class _Duration(click.ParamType[float]):
    """`30s`, `5m`; a bare number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(value) if str(value).replace(".", "", 1).isdigit() else parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.option("--broker", "url", metavar="URL", help="Look at this broker, mqtts://HOST[:PORT], instead of [fleet].")
@click.option("--username", metavar="NAME", help=f"For --broker; the password is asked for, or in ${PASSWORD}.")
@click.option("--password-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Holds it alone.")
@click.option("--ca-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="For --broker.")
@click.option("--plain-login", is_flag=True, help="Send the password to --broker unencrypted. Closed networks only.")
@click.option("--topic", metavar="TOPIC", help="Everything is below TOPIC/DEVICE-ID/.  [default: relayd/v1]")
@click.option("--filter", "filters", multiple=True, metavar="KEY=PATTERN", help="state=lost, site=od*, name=…, faults.")
@click.option("--sort", type=click.Choice(list(SORTS)), default="attention", show_default=True, help="What is first.")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many relays.")
@click.option("--stale", type=_Duration(), metavar="SPAN", help="Silence for so long is too long.  [default: learned]")
@click.option("--for", "seconds", type=_Duration(), metavar="SPAN", help="Listen for so long, then show or end.")
@click.option("--watch/--once", "is_live", default=None, help="Live, or once; live is usual on a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def fleet(options: Options, /, **given: Any) -> None:
    """Show every relay on the fleet's broker, live.

    Lost and stale relays come first. Filters of one KEY add up, filters of several narrow down: state, health, name,
    site, version, reason, or faults for everything that stands out. Live: space and b turn the page, s sorts, q ends.
    """
    wish = Wish(given["filters"], given["sort"], given["reverse"], given["limit"])
    try:
        wish.choose([])
    except WrongFilter as error:
        raise click.UsageError(str(error)) from None
    broker = _broker(options, given)
    logging.getLogger("relayd").addHandler(logging.NullHandler())  # what matters is on the page
    seen = Fleet(given["topic"] or _topic(options), stale_seconds=given["stale"])
    is_live = given["is_live"] if given["is_live"] is not None else tables.is_for_people()
    try:
        asyncio.run(_look(seen, broker, wish, given["seconds"], is_live=is_live, as_json=given["as_json"]))
    except KeyboardInterrupt:
        return


async def _look(
    seen: Fleet, broker: BrokerConfig, wish: Wish, seconds: float | None, *, is_live: bool, as_json: bool
) -> None:
    async with watching(seen, broker) as watch:
        if is_live and not as_json:
            await show_live(watch, wish, seconds)
            return
        is_complete = await watch.everything(seconds)
        _show(watch, wish, broker, is_complete=is_complete, as_json=as_json)


def _show(watch: Watch, wish: Wish, broker: BrokerConfig, *, is_complete: bool, as_json: bool) -> None:
    everything = watch.fleet.relays(now=clock.now(), monotonic=clock.monotonic())
    chosen = wish.choose(everything)
    shown = chosen[: wish.limit]
    if as_json:
        about = {"at": clock.rfc3339(clock.now()), "broker": broker.url, "complete": is_complete}
        tables.show_json(fleet_page.document(shown, everything, **about, not_kept=watch.fleet.not_shown))
        return
    width = tables.terminal_width() if sys.stdout.isatty() else None
    note = "" if len(shown) == len(chosen) else f"{len(chosen) - len(shown)} more, see --limit"
    tables.show(fleet_page.blocks(shown, everything, width=width, note=note))


# --- which broker


def _broker(options: Options, given: dict[str, Any]) -> BrokerConfig:
    """The one of --broker, else that of [fleet]. Raises ConfigError, UsageError."""
    if given["url"] is None:
        for option in ("username", "password_file", "ca_file"):
            if given[option] is not None:
                raise click.UsageError(f"--{option.replace('_', '-')} goes with --broker")
        loaded = config.load(options.files).config
        if loaded.fleet is None:
            raise click.UsageError("there is no [fleet] in the configuration: name its broker with --broker URL")
        return loaded.broker[loaded.fleet.broker]
    section = {"url": given["url"], "username": given["username"], "ca_file": given["ca_file"]}
    section |= {"password": _password(given), "allow_plain_login": given["plain_login"]}
    try:
        return BrokerConfig.model_validate({key: value for key, value in section.items() if value is not None})
    except ValidationError as error:
        words = "; ".join(str(one["msg"]).removeprefix("Value error, ") for one in error.errors())
        words = words.replace("set allow_plain_login = true", "add --plain-login")
        raise click.UsageError(f"--broker: {words}") from None


def _password(given: dict[str, Any]) -> dict[str, object] | None:
    """Where the password is; asked for on a terminal if it is nowhere. Never an argument, which all can read."""
    if given["username"] is None:
        return None
    if given["password_file"] is not None:
        return {"file": given["password_file"]}
    if not os.environ.get(PASSWORD):
        if not sys.stdin.isatty():
            raise click.UsageError(f"no password for {given['username']}: use --password-file or ${PASSWORD}")
        os.environ[PASSWORD] = click.prompt(f"Password of {given['username']}", hide_input=True, err=True)
    return {"env": PASSWORD}


def _topic(options: Options) -> str:
    """As the configuration says, however little of it can be read."""
    section = read_leniently(options.files).get("fleet")
    topic = section.get("topic") if isinstance(section, dict) else None
    return topic if isinstance(topic, str) and topic else str(FleetConfig.model_fields["topic"].default)
