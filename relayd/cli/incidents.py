"""`relayd incidents`: what happened, what belongs to it, and what it is called elsewhere."""

from __future__ import annotations

from typing import Any

import click

from relayd import clock
from relayd.cli import Options, incident_pages, tables
from relayd.cli.client import Relay, in_path
from relayd.errors import Refused


@click.group(invoke_without_command=True)
@click.option("--state", type=click.Choice(("open", "closed")), help="Only incidents in this state.")
@click.option(
    "--limit", type=click.IntRange(min=1, max=1000), default=100, show_default=True, help="At most this many."
)
@click.option("--before", metavar="ID", help="Only incidents older than this one: the next page.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def incidents(ctx: click.Context, /, as_json: bool, **wanted: Any) -> None:
    """List open and past incidents, show one, close one.

    Newest first, with how many items belong to each and what each destination calls it.
    """
    if ctx.invoked_subcommand is not None:
        return
    page = Relay(ctx.obj).get("/api/v1/incidents", wanted)
    if as_json:
        tables.show_json(page)
    else:
        tables.show(incident_pages.listed(page, now=clock.now()))


@incidents.command("show")
@click.argument("incident_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def incidents_show(options: Options, incident_id: str, as_json: bool) -> None:
    """Show one incident with everything that belongs to it."""
    document = Relay(options).get(f"/api/v1/incidents/{in_path(incident_id)}")
    if as_json:
        tables.show_json(document)
    else:
        tables.show(incident_pages.one(document, now=clock.now()))


@incidents.command("close")
@click.argument("incident_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def incidents_close(options: Options, incident_id: str, as_json: bool) -> None:
    """Close one: what is captured from now on does not belong to it any more.

    What is still owed in it is delivered all the same.
    """
    result = Relay(options).post(f"/api/v1/incidents/{in_path(incident_id)}/close")
    if as_json:
        tables.show_json(result)
    elif result["closed"]:
        click.echo(f"{incident_id} is closed")
    if not result["closed"]:
        raise Refused(f"{incident_id} was closed before")
