"""The dry run: what would become of a file or a message, by this configuration. Sends and stores nothing.

Promises: rules and texts are worked out by the very code that the running relay uses. What is only known later (the
item's id, what a receipt will say) is shown as `<…>`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from relayd import clock, destinations, incidents, mediatype, rendering, rules
from relayd.arguments import with_defaults
from relayd.broker_filters import matches
from relayd.config.sections import Config, wires_of
from relayd.config.words import plain, words_of
from relayd.errors import RelaydError
from relayd.faults import title
from relayd.model import JSON, Device, Fields, Incident, Item, Kind, Opening, Order, TimeFrom
from relayd.reports import FaultMessage
from relayd.rule_config import OWN_HEALTH
from relayd.sources.folder_config import FolderConfig, zone_of
from relayd.sources.name_pattern import NamePattern
from relayd.sources.name_times import capture_time
from relayd.sources.topic_config import TopicConfig
from relayd.template_budget import TemplateError
from relayd.templates import did_you_mean

ID_LATER = "<id>"
FAULT_EXAMPLE = json.dumps(
    {
        "schema": 1,
        "type": "fault_raised",
        "part": "destination rapidsos",
        "kind": "destination",
        "destination": "rapidsos",
        "reason": "login refused: 401",
        "since": "2026-01-31T12:00:00.000Z",
        "at": "2026-01-31T12:00:02.000Z",
    }
)
"""A health event of the relay itself, as a rule would see it."""
BLOCK_BYTES = 1024 * 1024


class CannotPreview(RelaydError):
    """There is nothing to work out: no such file, no such source. Says what to write instead."""


def item_of_file(config: Config, path: Path, source: str | None) -> tuple[Item, TimeFrom]:
    """The item that the file would become, and what says when it was captured. Raises CannotPreview."""
    try:
        with path.open("rb") as stream:
            found = path.stat()
            digests = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
            verdict = mediatype.judge(stream.fileno(), path.name)
            while block := stream.read(BLOCK_BYTES):
                for digest in digests:
                    digest.update(block)
    except OSError as error:
        raise CannotPreview(f"cannot read {path}: {error.strerror}") from None
    name = _source_of_file(config, path, source)
    settings = config.source.get(name)
    folder = settings if isinstance(settings, FolderConfig) else None
    shown = path.name if folder is None else _path_within(folder, path)
    pattern = None if folder is None or folder.name_pattern is None else NamePattern(folder.name_pattern)
    attributes = (pattern.match(shown) if pattern else None) or {}
    zone = zone_of(folder.time_zone) if folder else None
    captured_at, time_from = capture_time(shown, attributes, zone, found.st_mtime)
    item = Item(
        id=ID_LATER,
        source=name,
        name=path.name,
        kind=Kind.MEDIA,
        content_type=verdict.content_type,
        size_bytes=found.st_size,
        sha256=digests[0].hexdigest(),
        md5=digests[1].hexdigest(),
        captured_at=captured_at,
        accepted_at=clock.now(),
        attributes=attributes,
        damage=verdict.damage,
    )
    return item, time_from


def item_of_message(config: Config, source: str | None, topic: str | None, payload: str) -> Item:
    """The item that the message would become. Raises CannotPreview."""
    content = payload.encode("utf-8", "surrogateescape")
    now = clock.now()
    name = _source_of_message(config, source, topic)
    return Item(
        id=ID_LATER,
        source=name,
        name=(topic or "message") if name != OWN_HEALTH else _title(content),
        kind=Kind.MESSAGE,
        content_type="application/json",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        captured_at=now,
        accepted_at=now,
        payload=content,
        topic=topic,
    )


def _title(content: bytes) -> str:
    """What the relay would call its own message. Raises CannotPreview for what it would never say."""
    try:
        message = FaultMessage.model_validate_json(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise CannotPreview(
            f"that is no health event of relayd ({'.'.join(map(str, first['loc'])) or 'the payload'}: {first['msg']}); "
            f"write for example {FAULT_EXAMPLE}"
        ) from None
    return title(message.type, message.part)


def preview(
    config: Config, item: Item, time_from: TimeFrom = TimeFrom.ARRIVAL, *, in_incident: bool = False
) -> dict[str, Any]:
    """`{"item": {…}, "captured_from": "pattern"|"name"|"mtime"|"arrival",
    "rules": [{name, matched, reason}], "incidents": [{key, rule, collect, closes}], "held": [{…}],
    "deliveries": [{destination, type, action, priority, rule, arguments, error, waits_for, then: […]}]}`.

    With `in_incident`, as if it belonged to an incident that another item has opened."""
    device = config.device.as_device()
    book = rules.compile_rules(config.rule, wires_of(config))
    seen = rendering.context(item, device)
    openings, _ = book.openings(item, device)
    belongs_to = [_as_opened(config, opening) for opening in openings if not opening.closes]
    if in_incident and not belongs_to:
        belongs_to = [_as_opened(config, Opening(rule="", key="<key>", collect=(), before_seconds=0, after_seconds=0))]
    incident = belongs_to[0] if belongs_to else None
    verdicts = book.explain(item, device, incident=incident)
    decision = book.decide(item, device, belongs_to=belongs_to)
    return {
        "item": seen["item"],
        "captured_from": time_from.value,
        "payload": seen["payload"],
        "incidents": [
            {"key": one.key, "rule": one.rule, "collect": list(one.collect), "closes": one.closes} for one in openings
        ],
        "held": [{"destination": o.destination, "action": o.action, "needs": list(o.needs)} for o in decision.held],
        "rules": [
            {"name": verdict.rule, "matched": verdict.is_match, "reason": verdict.reason, "trouble": verdict.is_trouble}
            for verdict in verdicts
        ],
        "deliveries": [_delivery(config, order, item, device, incident, None) for order in decision.orders],
    }


def _as_opened(config: Config, opening: Opening) -> Incident:
    """The incident as it will be, every remote id standing for itself."""
    remote: dict[str, Fields] = {
        name: {field: f"<incident.{field}>" for fields in wires.opens.values() for field in fields}
        for name, wires in wires_of(config).items()
    }
    return replace(incidents.opened(opening, incident_id="<incident.id>", now=clock.now()), remote=remote)


def _delivery(
    config: Config,
    order: Order,
    item: Item,
    device: Device,
    incident: Incident | None,
    receipt: Mapping[str, JSON] | None,
) -> dict[str, JSON]:
    kind = config.destination[order.destination].type
    models = destinations.models(kind)
    seen = rendering.context(item, device, incident=incident, receipt=receipt)
    arguments, error = _filled(order, models.actions[order.action], seen)
    following = _Later({field: f"<receipt.{field}>" for field in models.receipt or ()})
    return {
        "destination": order.destination,
        "type": kind,
        "action": order.action,
        "priority": order.priority.word,
        "rule": order.rule,
        "arguments": arguments,
        "error": error,
        "waits_for": [
            incidents.bare(need) for need in order.needs if order.incident or not incidents.is_dispensable(need)
        ],
        "then": [_delivery(config, follower, item, device, incident, following) for follower in order.then],
    }


class _Later(dict[str, JSON]):
    """A receipt that is not there yet: every field stands for itself."""

    def __missing__(self, key: str) -> JSON:
        return f"<receipt.{key}>"


def _filled(
    order: Order, model: type[pydantic.BaseModel], seen: Mapping[str, Any]
) -> tuple[dict[str, JSON], str | None]:
    """The arguments as they would be sent, or as they are written and why they cannot be filled in."""
    try:
        filled = dict(rendering.render(with_defaults(model, order.arguments), seen))
    except TemplateError as error:
        return dict(order.arguments), str(error)
    try:
        checked = model.model_validate(filled)
    except pydantic.ValidationError as error:
        faults = words_of(model, plain(filled), (), error)
        return filled, "; ".join(f"{'.'.join(map(str, path))}: {text}" for path, text in faults)
    return checked.model_dump(mode="json", by_alias=True, exclude_unset=True), None


# --- which source it would come from


def _source_of_file(config: Config, path: Path, wanted: str | None) -> str:
    folders = [name for name, source in config.source.items() if isinstance(source, FolderConfig)]
    if wanted is not None:
        return _named(config, wanted)
    place = path.resolve()
    within = [name for name in folders if place.is_relative_to(_folder(config, name))]
    if len(within) == 1 or (not within and len(folders) == 1):
        return (within or folders)[0]
    known = ", ".join(folders) or "none is configured"
    raise CannotPreview(f"{path} is in no drop folder: say with --source which one it would come from ({known})")


def _source_of_message(config: Config, wanted: str | None, topic: str | None) -> str:
    if wanted is not None:
        return _named(config, wanted)
    fitting = [
        name
        for name, source in config.source.items()
        if isinstance(source, TopicConfig) and any(matches(topic or "", one) for one in source.topics)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CannotPreview(f"several sources take topic {topic}: say with --source which one ({', '.join(fitting)})")
    raise CannotPreview(f"no source takes topic {topic}: add it to the topics of one, or name one with --source")


def _named(config: Config, name: str) -> str:
    if name not in (*config.source, OWN_HEALTH):
        raise CannotPreview(f'there is no source "{name}"{did_you_mean(name, config.source)}')
    return name


def _path_within(source: FolderConfig, path: Path) -> str:
    """What the source's pattern reads: the path below its folder, or the name of a file that lies elsewhere."""
    folder, place = source.path.resolve(), path.resolve()
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else path.name


def _folder(config: Config, name: str) -> Path:
    return Path(str(getattr(config.source[name], "path", ""))).resolve()
