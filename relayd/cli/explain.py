"""`relayd explain`: a dry run of the rules on a file or a message."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from relayd import config
from relayd.cli import FAILED, Options, tables
from relayd.cli.client import escaped
from relayd.config.preview import FAULT_EXAMPLE, item_of_file, item_of_message, preview
from relayd.model import TimeFrom
from relayd.rule_config import OWN_HEALTH

_CAPTURED = {
    TimeFrom.PATTERN: "as the fields of its name_pattern say",
    TimeFrom.NAME: "as its name says",
    TimeFrom.WRITTEN: "when it was last written, as nothing in its name says another time",
    TimeFrom.ARRIVAL: "when it arrives",
}


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--source", metavar="NAME", help="The source it would come from; found by folder or topic if left out.")
@click.option("--topic", metavar="TOPIC", help="A message under this topic.")
@click.option("--payload", metavar="JSON", help="What the message says.")
@click.option("--incident", "in_incident", is_flag=True, help="As if it belonged to an open incident.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def explain(
    options: Options,
    /,
    file: Path | None,
    source: str | None,
    topic: str | None,
    payload: str | None,
    in_incident: bool,
    as_json: bool,
) -> None:
    """Dry run: which rules match, and what would be sent.

    `explain FILE` for a camera file, `explain --topic TOPIC --payload JSON` for a message, `explain --source relayd`
    for a health event of the relay itself (`--payload` says which). Sends and stores nothing.
    """
    if source == OWN_HEALTH and file is None:
        payload = FAULT_EXAMPLE if payload is None else payload
    is_message = topic is not None or payload is not None
    if (file is None) != is_message:
        raise click.UsageError("Name either a FILE, or --topic and --payload of a message.")
    settings = config.load(options.files).config
    if file is not None:
        item, time_from = item_of_file(settings, file, source)
    else:
        item, time_from = item_of_message(settings, source, topic, payload or ""), TimeFrom.ARRIVAL
    document = preview(settings, item, time_from, in_incident=in_incident)
    if as_json:
        tables.show_json(document)
    else:
        tables.show(_blocks(document))
    if any(delivery["error"] for delivery in _all(document["deliveries"])):
        raise click.exceptions.Exit(FAILED)


def _blocks(document: Mapping[str, Any]) -> list[tables.Block]:
    item = document["item"]
    about = f"{item['name']} from {item['source']}: {item['kind']}, {item['content_type']}, {item['size']} bytes"
    captured = f"captured at {item['captured_at']}: {_CAPTURED[document['captured_from']]}"
    verdicts = [
        (
            escaped(rule["name"]),
            "yes" if rule["matched"] else "trouble" if rule["trouble"] else "no",
            escaped(rule["reason"]),
        )
        for rule in document["rules"]
    ]
    columns = [tables.Column("rule"), tables.Column("matches"), tables.Column("because", gives_way=True)]
    blocks: list[tables.Block] = [tables.Line(escaped(about)), tables.Line(captured), tables.Table(columns, verdicts)]
    blocks += [tables.Line(_incident_line(opening)) for opening in document["incidents"]]
    for held in document["held"]:
        needs = " and ".join(escaped(need.rpartition(".")[2]) for need in held["needs"])
        words = f"needs the {needs} of an incident, and it belongs to none (--incident shows it as if it did)"
        blocks.append(tables.Line(f"not sent: {held['action']} to {escaped(held['destination'])} {words}"))
    if not document["deliveries"]:
        return [*blocks, tables.Line("Nothing would be sent: it would be kept for keep_unclaimed, then removed.")]
    for delivery in document["deliveries"]:
        blocks += _delivery_blocks(delivery, indent=0)
    return blocks


def _incident_line(opening: Mapping[str, Any]) -> str:
    key, rule = escaped(opening["key"]), escaped(opening["rule"])
    if opening["closes"]:
        return f"rule {rule} closes the incident that is open under the key {key}"
    sources = ", ".join(map(escaped, opening["collect"])) or "nothing else"
    return f"rule {rule} opens an incident under the key {key}, or joins the open one; it collects from {sources}"


def _delivery_blocks(delivery: Mapping[str, Any], *, indent: int) -> list[tables.Block]:
    head = f"→ {delivery['destination']} ({delivery['type']}): {delivery['action']}, priority {delivery['priority']}"
    after = ", once that has arrived" if indent else ""
    blocks: list[tables.Block] = [tables.Line(f"{head}{after}", indent=indent)]
    for name, value in delivery["arguments"].items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        blocks.append(tables.Line(f"{name}: {escaped(shown)}", indent=indent + 4))
    if delivery["error"]:
        blocks.append(
            tables.Line(f"cannot be filled in: {escaped(delivery['error'])}", state="fault", indent=indent + 4)
        )
    if delivery["waits_for"]:
        needs = " and ".join(escaped(need.rpartition(".")[2]) for need in delivery["waits_for"])
        blocks.append(tables.Line(f"waits until the incident's {needs} is known", state="waiting", indent=indent + 4))
    for follower in delivery["then"]:
        blocks += _delivery_blocks(follower, indent=indent + 2)
    return blocks


def _all(deliveries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for delivery in deliveries for one in (delivery, *_all(delivery["then"]))]
