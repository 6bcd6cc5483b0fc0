"""What conditions and texts see of an item, and texts filled in with it. Pure: values in, values out.

Promises: payloads, names and receipts are data; nothing in them is ever read as a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from relayd import incidents, jsontext
from relayd.clock import rfc3339
from relayd.model import JSON, Device, Fields, Incident, Item, Kind, Location
from relayd.template_budget import TemplateError
from relayd.templates import fill_in


def context(
    item: Item,
    device: Device,
    location: Location | None = None,
    incident: Incident | None = None,
    receipt: Fields | None = None,
) -> dict[str, Any]:
    """What conditions and texts see. `location` is where the item was captured, else the newest fix given, else where
    the device stands; `receipt` is there only in follow-ups."""
    found = item.location or location or device.location
    seen: dict[str, Any] = {
        "item": {
            **item.attributes,
            "id": item.id,
            "name": item.name,
            "source": item.source,
            "kind": item.kind.value,
            "size": item.size_bytes,
            "content_type": item.content_type,
            "sha256": item.sha256,
            "captured_at": rfc3339(item.captured_at),
            "topic": item.topic,
            "damage": item.damage or None,
        },
        "payload": _payload(item),
        "device": {"id": device.id, "name": device.name, "site": device.site, "location": _place(device.location)},
        "location": _place(found),
        "incident": None if incident is None else incidents.seen(incident),
    }
    return seen if receipt is None else seen | {"receipt": dict(receipt)}


def render(arguments: Fields, context: Mapping[str, Any]) -> Fields:
    """The arguments with every text filled in. Raises TemplateError, which names the argument."""
    filled: dict[str, JSON] = {}
    for name, value in arguments.items():
        try:
            filled[name] = _rendered(value, context)
        except TemplateError as error:
            raise TemplateError(f"{name}: {error}") from None
    return filled


def _rendered(value: JSON, context: Mapping[str, Any]) -> JSON:
    if isinstance(value, str):
        return fill_in(value, context)
    if isinstance(value, list):
        return [_rendered(one, context) for one in value]
    if isinstance(value, dict):
        return {key: _rendered(one, context) for key, one in value.items()}
    return value


def _place(location: Location | None) -> dict[str, Any] | None:
    return None if location is None else asdict(location)


def _payload(item: Item) -> JSON:
    """A message as parsed JSON, or as text if it is none; None for media and for bytes that are no text."""
    if item.kind is not Kind.MESSAGE or item.payload is None:
        return None
    return jsontext.parsed(item.payload).value
