"""Commands that change something at the running relay: send, retry, resend, drop, pause, resume."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from relayd import clock
from relayd.cli import FAILED, Options, tables
from relayd.cli.client import Document, Relay, escaped, in_path, item_or_path
from relayd.cli.moments import MOMENT
from relayd.cli.phrases import relative
from relayd.errors import Refused
from relayd.files import printable, text_of

LOOK_SECONDS = 0.5
PRIORITIES = ("emergency", "high", "normal", "bulk")


def _argument(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    for one in given:
        if "=" not in one:
            raise click.BadParameter(f"{one!r} is not KEY=VALUE")
    return dict(one.split("=", 1) for one in given)


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", "destination", metavar="NAME", required=True, help="The destination.")
@click.option("--action", metavar="A", help="What to do there; may be left out where there is only one.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="How urgently.")
@click.option("--set", "arguments", metavar="KEY=VALUE", multiple=True, callback=_argument, help="An argument of it.")
@click.option("--as-it-is", is_flag=True, help="Although it is cut off, or not what its name says; it is marked.")
@click.option("--wait", is_flag=True, help="Wait until all have ended; exit 0 only if all were delivered.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def send(options: Options, /, files: Sequence[Path], wait: bool, as_json: bool, **how: Any) -> None:
    """Hand files over by hand.

    Each is safely in the spool when its line appears; the original is left alone.
    """
    relay = Relay(options)
    results = [_send_one(relay, file, how, as_json) for file in files]
    taken = [result for result in results if "id" in result]
    if wait:
        _wait(relay, taken, as_json)
    if as_json:
        tables.show_json({"sent": results})
    is_all = len(taken) == len(results) and all(result.get("state", "delivered") == "delivered" for result in taken)
    if not is_all:
        raise click.exceptions.Exit(FAILED)


def _send_one(relay: Relay, file: Path, how: dict[str, Any], as_json: bool) -> Document:
    """Hand one file over. A file that cannot be taken does not keep the others."""
    name = printable(os.fsencode(file))
    query = {
        "name": text_of(os.fsencode(file.name)),
        "to": how["destination"],
        "action": how["action"],
        "priority": how["priority"],
        "arguments": json.dumps(how["arguments"]),
        "as_it_is": how["as_it_is"],
    }
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as opened:
            result = relay.send(opened, query)
    except OSError as error:
        return _not_taken(name, error.strerror or str(error))
    except Refused as error:
        return _not_taken(name, str(error))
    if not as_json:
        click.echo(f"{escaped(result['id'])} {name}")
    return {"file": name, "id": result["id"]}


def _not_taken(name: str, reason: str) -> Document:
    click.echo(f"relayd: {name}: {reason}", err=True)
    return {"file": name, "error": reason}


def _wait(relay: Relay, taken: list[Document], as_json: bool) -> None:
    """Until every item has ended; each result gets its `state`."""
    waiting = list(taken)
    progress = _Progress(is_shown=tables.is_for_people() and not as_json)
    with progress:
        while waiting:
            for result in list(waiting):
                item = relay.get(f"/api/v1/items/{in_path(result['id'])}")
                if item["state"] == "pending":
                    progress.tell(len(waiting), item)
                    continue
                result["state"] = item["state"]
                waiting.remove(result)
                if not as_json:
                    progress.line(f"{result['id']} {item['state']}{_last_word(item)}")
            if waiting:
                time.sleep(LOOK_SECONDS)


def _last_word(item: Document) -> str:
    reasons = [delivery["reason"] for delivery in item["deliveries"] if delivery["state"] != "delivered"]
    return f": {escaped(reasons[-1])}" if reasons and reasons[-1] else ""


class _Progress:
    """One moving line on a terminal, nothing elsewhere."""

    def __init__(self, *, is_shown: bool) -> None:
        self._status: Any = None
        self._console: Any = None
        if is_shown:
            self._console = tables.console()
            self._status = self._console.status("waiting")

    def __enter__(self) -> None:
        if self._status is not None:
            self._status.start()

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, left: int, item: Document) -> None:
        """What is being waited for."""
        if self._status is None:
            return
        due = [delivery for delivery in item["deliveries"] if delivery["state"] == "pending"]
        next_try = f", next try {relative(due[0]['due_at'], clock.now())}" if due else ""
        self._status.update(f"{left} under way; {escaped(item['name'])}{next_try}")

    def line(self, text: str) -> None:
        if self._console is None:
            click.echo(text)
        else:
            self._console.print(text)


@click.command()
@click.argument("item_ids", metavar="ID...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="Every dead or expired delivery.")
@click.option("--destination", metavar="NAME", help="Only deliveries to this destination.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def retry(options: Options, item_ids: Sequence[str], is_all: bool, destination: str | None, as_json: bool) -> None:
    """Try dead deliveries again.

    What was already done for them (a stored upload, say) is not done again.
    """
    if is_all == bool(item_ids):
        raise click.UsageError("Name the items, or write --all.")
    wanted = {"items": None if is_all else list(item_ids), "destination": destination}
    result = Relay(options).post("/api/v1/retry", wanted)
    _tell(result, as_json, f"{_deliveries(result['retried'])} tried again")
    for left in () if as_json else result.get("left", ()):
        click.echo(
            escaped(
                f"{left['item']}: the {left['action']} to {left['destination']} stays {left['state']}: {left['why']}"
            )
        )
    if not is_all and not result["retried"]:
        raise Refused("none of these has a delivery that could be tried again; `relayd why ID` says where it stands")


@click.command()
@click.argument("which", metavar="ID...|[TEXT]", nargs=-1)
@click.option("--since", type=MOMENT, help="Every item taken since then: 14:00, 2026-01-31T14:00Z, or 12h ago as 12h.")
@click.option("--until", type=MOMENT, help="Only items taken before then.")
@click.option("--source", metavar="NAME", help="Only items from this source.")
@click.option("--to", "destination", metavar="NAME", required=True, help="The destination that was delivered them.")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True, help="How urgently.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def resend(
    options: Options,
    /,
    which: Sequence[str],
    since: str | None,
    until: str | None,
    source: str | None,
    destination: str,
    priority: str,
    as_json: bool,
) -> None:
    """Deliver again what was delivered, while its content is kept.

    Name the items, or say since when; TEXT is any part of their names. What followed a delivery then is not done again.
    """
    if since is None and (not which or until or source):
        raise click.UsageError("Name the items, or say --since when.")
    if since is not None and len(which) > 1:
        raise click.UsageError("With --since, at most one TEXT.")
    wanted = {"text": "".join(which), "since": since, "until": until, "source": source} if since else {}
    ids = {} if since else {"items": list(which)}
    result = Relay(options).post("/api/v1/resend", {**wanted, **ids, "to": destination, "priority": priority})
    if as_json:
        tables.show_json(result)
    else:
        _tell_resent(result, destination)
    if not result["resent"]:
        raise Refused("nothing was sent again" if result["left"] else "nothing was sent again: no item is like that")


def _tell_resent(result: Document, destination: str) -> None:
    for one in result["resent"]:
        alarms = f", which people are told of at once: {', '.join(one['alarms'])}" if one["alarms"] else ""
        actions = ", ".join(one["actions"])
        click.echo(escaped(f"{one['item']} {one['name']}: sent again to {destination} ({actions}){alarms}"))
    for one in result["left"]:
        click.echo(escaped(f"{one['item']} {one['name'] or ''}".rstrip() + f": not sent again, {one['why']}"))
    if result["more"]:
        click.echo("More items are like that: say again, with a later --since.")


@click.command()
@click.argument("item_ids", metavar="ID|FILE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def drop(options: Options, item_ids: Sequence[str], as_json: bool) -> None:
    """Give items up for good, or remove files that are in quarantine.

    Their media is removed from the spool; that they were there, and that a person dropped them, stays on record. A
    FILE is one that `relayd items --state quarantined` lists: it is removed from its folder.
    """
    result = Relay(options).post("/api/v1/drop", {"items": [item_or_path(one) for one in item_ids]})
    _tell(result, as_json, f"{result['dropped']} dropped")
    if not result["dropped"]:
        raise Refused("nothing was dropped: none of these waits or is dead; `relayd why ID` says where it stands")


def _names_part(command: Callable[..., None]) -> Callable[..., None]:
    """`[NAME]`, and which kind of part it is where two are called so."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        click.option("--destination", "kind", flag_value="destination", help="NAME is a destination."),
        click.option("--source", "kind", flag_value="source", help="NAME is a source; without NAME: all sources."),
        click.argument("name", required=False),
    ):
        command = option(command)
    return command


@click.command()
@_names_part
@click.pass_obj
def pause(options: Options, name: str | None, kind: str | None, as_json: bool) -> None:
    """Stop delivering to one destination, or to all, or taking from one source.

    Until `relayd resume`, also after a restart. What is under way is finished. A paused destination loses nothing:
    files are still taken and kept. A paused folder is let go of, so that it can be unmounted, and files stay in it.
    Topics are unsubscribed: what is published meanwhile never comes.
    """
    result = Relay(options).post("/api/v1/pause", {"name": name, "kind": kind})
    means = f": {result['text']}" if "text" in result else ""
    _tell(result, as_json, f"paused: {_names(result['paused'])}{escaped(means)}")


@click.command()
@_names_part
@click.pass_obj
def resume(options: Options, name: str | None, kind: str | None, as_json: bool) -> None:
    """Deliver again to one destination, or to all, or take from one source again."""
    result = Relay(options).post("/api/v1/resume", {"name": name, "kind": kind})
    _tell(result, as_json, f"resumed: {_names(result['resumed'])}")


def _names(names: Sequence[str]) -> str:
    return escaped(", ".join(names)) or "nothing"


def _tell(result: Document, as_json: bool, sentence: str) -> None:
    if as_json:
        tables.show_json(result)
    else:
        click.echo(sentence)


def _deliveries(number: int) -> str:
    return "1 delivery is" if number == 1 else f"{number} deliveries are"
