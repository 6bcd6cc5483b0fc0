"""What a message says about a fault, in the words of a status page: which fault, which state, since when, and why.

Promises: pure. Every event has a text in plain language without being given one; what comes from a message is shown as
text, never as Markdown of its own; several events of one fault are told as one, and only the middle of many left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from relayd import jsontext
from relayd.destinations.cachet_models import FIXED, INVESTIGATING, IncidentArguments
from relayd.files import printable
from relayd.model import JSON, Delivery, Device, Fields, Item

LONGEST_NAME = 255
LONGEST_LINE = 2000
MOST_LINES = 12
RAISED, CLEARED = "fault_raised", "fault_cleared"
_WORDS = {
    "destination": "deliveries to {} are interrupted",
    "source": "nothing comes from {}",
    "broker": "the connection to {} is interrupted",
    "link": "the link {} is interrupted",
    "spool": "the storage of the relay needs attention",
    "clock": "the clock of the relay is wrong",
    "configuration": "the new configuration of the relay is not accepted",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~!&@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What Markdown would read as its own, a bare address as a link."""
_UNSEEN = "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
"""Letters that nobody sees; servers trim them from the ends of a text like blanks."""
_INSIDE = re.compile(f"[{_UNSEEN}]+")
_EDGES = re.compile(f"^[\\s{_UNSEEN}]+|[\\s{_UNSEEN}]+$")
_MOMENT = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d UTC: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message about a fault. `text` is what the page shows; `line` the same where it is one of several."""

    delivery_id: int
    key: str
    at: float
    status: int
    name: str
    text: str
    line: str
    arguments: IncidentArguments

    @property
    def is_end(self) -> bool:
        """Whether the fault is over."""
        return self.status == FIXED


def event_of(item: Item, delivery: Delivery, arguments: Fields, device: Device) -> Event:
    """What this delivery tells the page."""
    given = IncidentArguments.model_validate(dict(arguments))
    payload = _payload(item)
    began = payload.get("since") if payload.get("type") == RAISED else None
    at = moment(given.occurred_at) or moment(began) or moment(payload.get("at")) or item.captured_at
    cleared = payload.get("type") == CLEARED
    status = given.status if given.status is not None else FIXED if cleared else INVESTIGATING
    what = _what(item, payload)
    said = _sentence(what, payload) if status != FIXED else "It is over."
    own = trimmed(given.message or "")
    return Event(
        delivery_id=delivery.id,
        key=key_of(item, delivery, arguments, device),
        at=at,
        status=status,
        name=trimmed(given.name or "") or f"{device.name}: {what}",
        text=own or f"{when(at)}: {said}",
        line=f"{when(at)}: {own or said}"[:LONGEST_LINE],
        arguments=given,
    )


def key_of(item: Item, delivery: Delivery, arguments: Fields, device: Device) -> str:
    """Which fault this delivery is about."""
    given = arguments.get("key")
    return given if isinstance(given, str) and given else _key(item, delivery, _payload(item), device)


def told(events: Sequence[Event]) -> str:
    """The text of several events of one fault, in their order; of one, its own."""
    first, rest = events[0], events[1:]
    lines = [event.line for event in rest]
    if len(lines) > MOST_LINES:
        left_out = len(lines) - MOST_LINES
        more = f"({left_out} more change{'s' if left_out > 1 else ''})"
        lines = [*lines[: MOST_LINES // 2], more, *lines[-(MOST_LINES // 2) :]]
    return "\n\n".join([first.text, *lines])


def trimmed(text: str) -> str:
    """A text without what cannot be seen at its ends, as the server keeps it."""
    return _EDGES.sub("", text)


def gist(text: str) -> str:
    """A text without what makes no difference: the moment in front, and how it is spaced."""
    return _spaced(_MOMENT.sub("", trimmed(text)))


def digest(text: str) -> str:
    """What a text is known by again: spacing makes no difference."""
    return hashlib.sha256(_spaced(text).encode("utf-8", "replace")).hexdigest()[:16]


def mark(key: str) -> str:
    """What every incident of one fault has in common."""
    return f"rk-{hashlib.sha256(key.encode()).hexdigest()[:10]}"


def title(name: str, tag: str) -> str:
    """A name within what the API takes, with the marker at its end if there is one."""
    end = f" [{tag}]" if tag else ""
    return _plain(name)[: LONGEST_NAME - len(end)].rstrip() + end


def moment(found: JSON) -> float | None:
    """Unix seconds of a time as text; UTC unless it says otherwise. None if it is none."""
    if not isinstance(found, str):
        return None
    try:
        parsed = datetime.fromisoformat(found.strip())
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def when(at: float) -> str:
    """A moment for readers."""
    bounded = min(max(at, 0.0), 253_402_300_799.0)
    return datetime.fromtimestamp(bounded, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def _payload(item: Item) -> Mapping[str, JSON]:
    found = None if item.payload is None else jsontext.parsed(item.payload).value
    return found if isinstance(found, dict) else {}


def _key(item: Item, delivery: Delivery, payload: Mapping[str, JSON], device: Device) -> str:
    part = payload.get("part")
    if isinstance(part, str) and part:
        return f"{device.id} {part}"
    if delivery.incident:
        return f"{device.id} incident {delivery.incident}"
    return f"{device.id} topic {item.topic}" if item.topic else f"{device.id} item {item.id}"


def _what(item: Item, payload: Mapping[str, JSON]) -> str:
    part = payload.get("part")
    if not isinstance(part, str) or not part.strip():
        return _plain(item.topic or item.name)
    kind, _, name = part.strip().partition(" ")
    return _WORDS[kind].format(_plain(name)) if kind in _WORDS else f"fault: {_plain(part)}"


def _sentence(what: str, payload: Mapping[str, JSON]) -> str:
    said = next((payload[word] for word in ("reason", "message", "text") if isinstance(payload.get(word), str)), "")
    reason = _escaped(_plain(str(said)))
    sentence = f"{_escaped(what[:1].upper() + what[1:])}."
    return f"{sentence} {reason}" if reason else sentence


def _spaced(text: str) -> str:
    return " ".join(_INSIDE.sub("", text).split())


def _plain(text: str) -> str:
    """A stranger's words on one line."""
    return printable(" ".join(text[:LONGEST_LINE].split()))


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)
