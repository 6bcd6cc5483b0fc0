"""Records of the spool as JSON documents, and the paragraph that says why an item is where it is.

Promises: pure; no I/O and no clock of its own. Field names are the same on the socket, in `--json` and on the page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from typing import Any

from relayd.clock import rfc3339, span
from relayd.files import printable, text_of
from relayd.incidents import bare
from relayd.model import CameraView, Delivery, DestinationView, Item, Outcome, State
from relayd.spool import (
    AttemptRecord,
    DeliveryDetail,
    IncidentSummary,
    ItemDetail,
    ItemSummary,
    MissedIncident,
    QuarantinedFile,
    Resent,
)

ViewOf = Callable[[str], DestinationView | None]
"""How a destination is doing now; None if the running configuration does not have it."""


# --- documents


def item_row(summary: ItemSummary) -> dict[str, Any]:
    """One line of a list."""
    return {
        **_item(summary.item),
        "state": summary.state.value,
        "reason": summary.reason,
        "priority": None if summary.priority is None else summary.priority.word,
        "trouble": list(summary.trouble),
        "deliveries": [_delivery(delivery) for delivery in summary.deliveries],
    }


def camera_row(destination: str, camera: CameraView) -> dict[str, Any]:
    """One camera, with the token that it waits for."""
    times = {"last_change_at", "last_frame_at", "activated_at"}
    fields = {key: _time(value) if key in times else value for key, value in asdict(camera).items()}
    return {"destination": destination, **fields}


def quarantined_row(entry: QuarantinedFile, path: str | None) -> dict[str, Any]:
    """One file that was not taken, and where it lies; it has no id, since it is no item."""
    return {
        "id": None,
        "name": text_of(entry.path),
        "path": None if path is None else text_of(os.fsencode(path)),
        "source": entry.source,
        "size": entry.size_bytes,
        "state": "quarantined",
        "reason": entry.reason,
        "at": rfc3339(entry.at),
        "trouble": [],
        "deliveries": [],
    }


def resent_row(one: Resent, alarms: Collection[str]) -> dict[str, Any]:
    """One item that is sent again; `alarms` are its actions that reach people at once."""
    return {
        "item": one.item_id,
        "name": one.name,
        "actions": list(one.actions),
        "alarms": [action for action in one.actions if action in alarms],
    }


def left_row(one: Resent) -> dict[str, Any]:
    """One item that is not sent again, and why."""
    return {"item": one.item_id, "name": one.name or None, "why": one.why}


def item_document(detail: ItemDetail) -> dict[str, Any]:
    """Everything known of one item, except the content itself."""
    item = detail.item
    return {
        **_item(item),
        "state": detail.state.value,
        "reason": detail.reason,
        "priority": None if detail.priority is None else detail.priority.word,
        "trouble": list(detail.trouble),
        "sha256": item.sha256,
        "md5": item.md5,
        "topic": item.topic,
        "attributes": dict(item.attributes),
        "location": None if item.location is None else asdict(item.location),
        "origin_path": item.origin_path,
        "content_kept": detail.has_content,
        "ended_at": _time(detail.ended_at),
        "incidents": list(detail.incidents),
        "missed": [{"incident": one.incident.id, "why": one.why} for one in _missed(detail)],
        "deliveries": [_delivery_document(one) for one in detail.deliveries],
    }


def incident_row(summary: IncidentSummary) -> dict[str, Any]:
    """One line of a list of incidents, and all there is to say of one but its items."""
    incident = summary.incident
    return {
        "id": incident.id,
        "key": incident.key,
        "rule": incident.rule,
        "state": "open" if incident.closed_at is None else "closed",
        "opened_at": rfc3339(incident.opened_at),
        "opened_by": summary.opened_by,
        "starts_at": rfc3339(incident.starts_at),
        "ends_at": rfc3339(incident.ends_at),
        "closed_at": _time(incident.closed_at),
        "close_reason": incident.close_reason,
        "collect": list(incident.collect),
        "remote": {name: dict(fields) for name, fields in incident.remote.items()},
        "items": summary.items,
        "deliveries": dict(summary.deliveries),
    }


def _item(item: Item) -> dict[str, Any]:
    return {
        "id": item.id,
        "name": item.name,
        "source": item.source,
        "kind": item.kind.value,
        "size": item.size_bytes,
        "content_type": item.content_type,
        "damage": item.damage or None,
        "captured_at": rfc3339(item.captured_at),
        "accepted_at": rfc3339(item.accepted_at),
    }


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "destination": delivery.destination,
        "action": delivery.action,
        "rule": delivery.rule,
        "priority": delivery.priority.word,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "reason": delivery.reason,
        "due_at": rfc3339(delivery.due_at) if delivery.state is State.PENDING else None,
        "incident": delivery.incident or None,
        "waits_for": [bare(need) for need in delivery.waits_for],
    }


def _delivery_document(detail: DeliveryDetail) -> dict[str, Any]:
    return {
        **_delivery(detail.delivery),
        "id": detail.delivery.id,
        "created_at": rfc3339(detail.delivery.created_at),
        "ended_at": _time(detail.ended_at),
        "receipt": None if detail.receipt is None else dict(detail.receipt),
        "proof": detail.proof,
        "dropped": detail.delivery.state is State.DROPPED,
        "steps": {name: "done" if result is not None else "begun" for name, result in detail.steps.items()},
        "history": [_attempt(record) for record in detail.attempts],
    }


def _attempt(record: AttemptRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "started_at": rfc3339(record.started_at),
        "ended_at": _time(record.ended_at),
        "outcome": record.outcome.value,
        "reason": record.reason,
    }


def _time(moment: float | None) -> str | None:
    return None if moment is None else rfc3339(moment)


# --- why

_GONE = "it cannot be tried again, since its content is no longer kept"


def paragraph(detail: ItemDetail, view_of: ViewOf, *, now: float) -> str:
    """Why this item is where it is: what it is, and for each delivery what it waits for or how it ended."""
    return " ".join(_sentences(detail, view_of, now))


def _sentences(detail: ItemDetail, view_of: ViewOf, now: float) -> Iterator[str]:
    item = detail.item
    yield (
        f"{item.id} ({printable(item.name)}, {item.size_bytes:,} bytes) came from {item.source} "
        f"{span(now - item.accepted_at)} ago and is {detail.state.value}."
    )
    if item.damage:
        yield f"It was taken as it is: {printable(item.damage)}."
    if detail.incidents:
        yield f"It belongs to incident {' and '.join(detail.incidents)}."
    if not detail.deliveries:
        yield _unwanted(detail)
    yield from (_about_missed(detail, one) for one in _missed(detail))
    if detail.trouble:
        said = "; ".join(map(printable, detail.trouble))
        yield f"When it came, its rules could not do all that they say: {said}."
    if detail.reason and (detail.deliveries or detail.state is not State.UNCLAIMED):
        yield f"{_capital(detail.reason)}."
    for one in detail.deliveries:
        yield from _about_delivery(detail, one, view_of, now)
    if detail.deliveries and not detail.has_content and not _said_it_is_gone(detail):
        yield "Its content is no longer kept."


def _unwanted(detail: ItemDetail) -> str:
    if detail.has_content:
        return "No rule wanted it, so it is kept for a while in case an incident claims it."
    if detail.state is State.UNCLAIMED and not detail.incidents:
        return "No rule wanted it, and no incident claimed it in time, so its content is no longer kept."
    return "No rule wanted it, and its content is no longer kept."


def _missed(detail: ItemDetail) -> list[MissedIncident]:
    """Of what goes somewhere, incidents that collect from elsewhere are none of its business."""
    return [one for one in detail.missed if one.is_collected or not detail.deliveries]


def _about_missed(detail: ItemDetail, missed: MissedIncident) -> str:
    incident = missed.incident
    later = span(incident.opened_at - detail.item.accepted_at)
    when = "was open when it came" if missed.was_open else f"opened {later} after it came"
    return f"Incident {incident.id} ({printable(incident.key)}) {when}, but {printable(missed.why)}."


def _said_it_is_gone(detail: ItemDetail) -> bool:
    """Whether that was said with one of its deliveries, or goes without saying."""
    return detail.state is State.DELIVERED or any(not_retried(detail, one) == _GONE for one in detail.deliveries)


def not_retried(detail: ItemDetail, one: DeliveryDetail) -> str | None:
    """Why a delivery that has ended is not tried again by `relayd retry`, in words; None if it would be."""
    if one.delivery.state is State.DELIVERED:
        return "it was delivered"
    if one.delivery.state is State.DROPPED:
        return "a person dropped it"
    if not detail.has_content:
        return _GONE
    if one.is_replaced:
        return f"what it was to bring to incident {one.delivery.incident} was asked for again since then"
    return "it comes back by itself once it can" if one.delivery.waits_for else None


def left_by_retry(detail: ItemDetail, destination: str | None) -> Iterator[dict[str, str]]:
    """Deliveries of an item that a retry by hand has left as they are, and why."""
    for one in detail.deliveries:
        reason = not_retried(detail, one)
        if one.delivery.state in (State.PENDING, State.DELIVERED) or destination not in (
            None,
            one.delivery.destination,
        ):
            continue
        why = "; ".join(filter(None, (one.delivery.reason, reason)))
        yield {
            "item": detail.item.id,
            "destination": one.delivery.destination,
            "action": one.delivery.action,
            "state": one.delivery.state.value,
            "why": why,
        }


def _about_delivery(detail: ItemDetail, one: DeliveryDetail, view_of: ViewOf, now: float) -> Iterator[str]:
    delivery = one.delivery
    what = f"The {delivery.action} to {delivery.destination} (rule {delivery.rule!r}, {delivery.priority.word})"
    tries = f"{delivery.attempts} {'try' if delivery.attempts == 1 else 'tries'}"
    match delivery.state:
        case State.DELIVERED:
            yield f"{what} was delivered after {tries}: {one.proof or 'proof not recorded'}."
        case State.PENDING:
            waiting = _waiting(one, view_of(delivery.destination), now)
            yield f"{what} {waiting}."
            if delivery.reason and delivery.reason in waiting:
                yield f"It was tried {delivery.attempts} {'time' if delivery.attempts == 1 else 'times'}."
            elif delivery.reason:
                yield f"The last answer, after {tries}: {delivery.reason}."
        case _:
            again = not_retried(detail, one) or f"`relayd retry {delivery.item_id}` tries again"
            yield f"{what} is {delivery.state.value} after {tries}: {delivery.reason or 'no reason recorded'}; {again}."


def _waiting(one: DeliveryDetail, view: DestinationView | None, now: float) -> str:
    """The nearest obstacle first: the destination's own state, then the delivery's time, then the queue."""
    delivery = one.delivery
    if delivery.waits_for:
        return f"waits for {' and '.join(map(_remote_id, delivery.waits_for))} of incident {delivery.incident}"
    if delivery.is_held:
        return "waits until it is certain that the writer of the file is done with it"
    if view is None:
        return "waits, but the running configuration has no such destination: add it again, or drop the item"
    if view.state == "paused":
        return f"waits because {delivery.destination} is paused by hand; `relayd resume {delivery.destination}`"
    if view.state in ("waiting", "fault") and view.reason:
        when = "" if view.next_try_at is None else f", next try in {span(view.next_try_at - now)}"
        return f"waits because {delivery.destination} cannot be had: {view.reason}{when}"
    last = one.attempts[-1] if one.attempts else None
    if last is not None and last.outcome is Outcome.STARTED and last.ended_at is None and view.under_way:
        return f"is under way since {span(now - last.started_at)}"
    if delivery.due_at > now:
        return f"waits for its next try in {span(delivery.due_at - now)}"
    return "is due and waits for its turn"


def _remote_id(need: str) -> str:
    """`the report_id from control-room`"""
    destination, _, name = bare(need).rpartition(".")
    return f"the {name} from {destination}" if destination else f"the {name}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
