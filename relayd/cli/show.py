"""Commands that look at the running relay: status, items, why."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from relayd import clock
from relayd.cli import Options, item_pages, status_page, tables
from relayd.cli.client import Document, Relay, escaped, in_path, item_or_path
from relayd.errors import NoRelay, RelaydError

REDRAW_SECONDS = 1.0
LONGEST_PAGE = 1000
STATES = ("pending", "delivered", "dead", "evicted", "expired", "unclaimed", "dropped", "quarantined")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the snapshot as one JSON document.")
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@click.pass_obj
def status(options: Options, as_json: bool, watch: bool) -> None:
    """Show how the running relay is doing.

    Its state with the reasons, the spool, every source and every destination, on one screen.
    """
    relay = Relay(options)
    if watch:
        _watch(relay, as_json)
        return
    snapshot = relay.get("/api/v1/status")
    if as_json:
        tables.show_json(snapshot)
    else:
        tables.show(status_page.blocks(snapshot, now=clock.now()))


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice(STATES), help="Only items in this state.")
@click.option("--source", metavar="NAME", help="Only items from this source.")
@click.option("--destination", metavar="NAME", help="Only items that have a delivery to this destination.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most this many.")
@click.option("--before", metavar="ID", help="Only items older than this one: the next page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def items(ctx: click.Context, /, as_json: bool, **wanted: Any) -> None:
    """List the queue, or show one item with every attempt.

    Newest first. `items --state quarantined` lists files that stay in their drop folder, and why.
    """
    if ctx.invoked_subcommand is not None:
        return
    page = _items(Relay(ctx.obj), wanted)
    if as_json:
        tables.show_json(page)
    else:
        tables.show(item_pages.listed(page, state=wanted["state"], of=wanted, now=clock.now()))


@items.command("show")
@click.argument("item_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def items_show(options: Options, item_id: str, as_json: bool) -> None:
    """Show one item with every delivery and every attempt."""
    document = Relay(options).get(f"/api/v1/items/{in_path(item_id)}")
    if as_json:
        tables.show_json(document)
    else:
        tables.show(item_pages.one(document, now=clock.now()))


@click.command()
@click.argument("about", metavar="ID|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def why(options: Options, about: str, as_json: bool) -> None:
    """Say in one paragraph why an item or a file is where it is.

    Matched rules, what it waits for, the next try, the last answer.
    """
    document = Relay(options).get("/api/v1/why", {"about": item_or_path(about)})
    if as_json:
        tables.show_json(document)
    else:
        tables.show([tables.Line(escaped(document["text"]))])


def _items(relay: Relay, wanted: dict[str, Any]) -> Document:
    """As many pages as it takes."""
    limit, before = wanted["limit"], wanted["before"]
    found: list[Any] = []
    while True:
        query = {**wanted, "before": before, "limit": min(limit - len(found), LONGEST_PAGE)}
        page = relay.get("/api/v1/items", query)
        found += page["items"]
        before = page["next"]
        if before is None or len(found) >= limit:
            return {"items": found, "next": before}


def _watch(relay: Relay, as_json: bool) -> None:
    """Until Ctrl-C; a relay that stops answering is said so, and looked for again."""
    first = relay.get("/api/v1/status")
    try:
        if as_json:
            for snapshot in _snapshots(relay, first):
                tables.show_json(snapshot, is_compact=True)
                sys.stdout.flush()
        elif tables.is_for_people():
            _watch_live(relay, first)
        else:
            for snapshot in _snapshots(relay, first):
                tables.show([*status_page.blocks(snapshot, now=clock.now()), tables.Line("")])
                sys.stdout.flush()
    except KeyboardInterrupt:
        return


def _watch_live(relay: Relay, first: Document) -> None:
    from rich.live import Live

    with Live(console=tables.console(), screen=True, auto_refresh=False) as live:
        for snapshot in _snapshots(relay, first):
            live.update(tables.rendered(status_page.blocks(snapshot, now=clock.now())), refresh=True)


def _snapshots(relay: Relay, first: Document) -> Iterator[Document]:
    """For ever. Without an answer: the last snapshot, with the trouble in `no_answer`."""
    last = first
    while True:
        yield last
        time.sleep(REDRAW_SECONDS)
        try:
            last = relay.get("/api/v1/status")
        except NoRelay as error:
            last = {**last, "no_answer": str(error)}
        except RelaydError as error:
            last = {**last, "no_answer": escaped(str(error))}
