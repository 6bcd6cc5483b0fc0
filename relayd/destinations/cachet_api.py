"""What a Cachet server says: its answers read and judged, its rate limit understood.

Promises: no I/O. What a status means is decided here, once; an answer of another shape is no success, whatever its
status; numbers are read whether they come as numbers or as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from relayd import clock
from relayd.errors import DeliveryError, LoginRefused, NotAllowed, Rejected, TryAgain, Unavailable
from relayd.httpanswer import Answer, parse_date, scrubbed
from relayd.model import JSON

WINDOW_SECONDS = 60.0
"""The rate limit is one for each minute, so after so long there is room again."""
PER_PAGE = 50
_UNPROCESSED = frozenset({425, 429})
MANAGE_INCIDENTS = "incidents.manage"
MANAGE_UPDATES = "incident-updates.manage"
MANAGE_COMPONENTS = "components.manage"
ABILITIES = (MANAGE_INCIDENTS, MANAGE_UPDATES, MANAGE_COMPONENTS)
EVERYBODY, NOBODY = 1, 2
"""Who sees an incident; 0 is signed-in users."""


class Gone(TryAgain):
    """There is no such incident or component, or there is no API at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An incident as the page has it. `status` is what the page shows, None where the server does not say."""

    id: int
    status: int | None
    name: str = ""
    message: str = ""
    meta: Mapping[str, JSON] = field(default_factory=dict)
    visible: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One update of an incident."""

    id: int
    status: int | None
    message: str
    created: str


def judge(answer: Answer, *, ability: str = "", of: str = "") -> None:
    """Return if it may be a success, else raise what it means.

    `ability` is the right of the token that the call needs; `of` the incident or component that it is about, which may
    be what is not there (Gone).
    """
    try:
        answer.raise_for_outage()
    except DeliveryError as error:
        if answer.status == 429 and isinstance(error, Unavailable) and error.retry_after_seconds is None:
            error.retry_after_seconds = free_after_seconds(answer)
        if answer.status in _UNPROCESSED or 300 <= answer.status < 400 or answer.is_own_503:
            raise error.harmless() from None
        raise
    if answer.status >= 400:
        raise _refusal(answer, ability, of).harmless()


def _refusal(answer: Answer, ability: str, of: str) -> DeliveryError:
    said = answer.refusal()
    match answer.status:
        case 401:
            return LoginRefused(
                f"{said}; the token is wrong, expired or revoked",
                remedy="make a new API key in Cachet's settings, and put it where `token` says",
            )
        case 403:
            lacking = f"the ability {ability}" if ability else "an ability"
            return NotAllowed(f"{said}; the token lacks {lacking}: grant it to the API key in Cachet's settings")
        case 404 if answer.is_html:
            return LoginRefused(
                f"{said}; there is no Cachet at this address", remedy="check url: it ends in /api, and so does Cachet's"
            )
        case 404 if of:
            return Gone(f"{said}; there is no {of}")
        case 404:
            return LoginRefused(
                f"{said}; the API is switched off in Cachet's settings, or url is not that of the API",
                remedy="switch the API on in Cachet's settings (Manage Cachet), or check url: it ends in /api",
            )
        case 405 | 410:
            return LoginRefused(f"{said}; check url: it ends in /api", remedy="check url: it ends in /api")
        case 422:
            return Rejected(f"{answer.where} refuses with 422: {_fields_in_words(answer) or said}")
    return Rejected(said)


def free_after_seconds(answer: Answer) -> float:
    """When the rate limit has room again, as far as the server says."""
    wish = answer.retry_after_seconds()
    if wish is not None:
        return wish
    reset = answer.headers.get("X-RateLimit-Reset", "").strip()
    if not (reset.isascii() and reset.isdigit()):
        return WINDOW_SECONDS
    now = parse_date(answer.headers.get("Date", ""))
    return min(max(float(reset[:12]) - (clock.now() if now is None else now), 1.0), WINDOW_SECONDS)


def is_used_up(answer: Answer) -> bool:
    """Whether this was the last request that the rate limit had room for."""
    return answer.headers.get("X-RateLimit-Remaining", "").strip() == "0"


def search(marker: str, mark: str) -> str:
    """The path of the incidents that carry a mark, newest first: by id, which every version sorts by."""
    word = "filter[name]" if marker == "name" else "filter[meta][relay_key]"
    include = {} if marker == "name" else {"include": "meta"}
    query = {word: mark, **include, "per_page": PER_PAGE, "sort": "-id"}
    return "/incidents?" + urlencode(query, quote_via=quote)


def incidents(answer: Answer) -> list[Incident]:
    """A page of incidents, newest first. Raises Unavailable for a captive portal, TryAgain for another shape."""
    found = [_incident(row, answer) for row in _rows(answer)]
    return sorted(found, key=lambda incident: incident.id, reverse=True)


def incident(answer: Answer) -> Incident:
    """One incident. Raises like `incidents`."""
    return _incident(_row(answer), answer)


def updates(answer: Answer) -> list[Update]:
    """A page of updates, newest first. Raises like `incidents`."""
    found = [_update(row, answer) for row in _rows(answer)]
    return sorted(found, key=lambda update: update.id, reverse=True)


def update(answer: Answer) -> Update:
    """One update. Raises like `incidents`."""
    return _update(_row(answer), answer)


def numbers(answer: Answer) -> list[int]:
    """The ids of a page of anything. Raises like `incidents`."""
    found = [_number(row.get("id")) for row in _rows(answer)]
    return [number for number in found if number is not None]


def component_status(answer: Answer) -> int | None:
    """The stored status of a component. Raises like `incidents`."""
    row = _row(answer)
    if row.get("type") != "components":
        raise _unlike(answer, "component")
    return _status(_attributes(row))


def _incident(row: Mapping[str, JSON], answer: Answer) -> Incident:
    number = _number(row.get("id"))
    if number is None or row.get("type") != "incidents":
        raise _unlike(answer, "incident")
    about = _attributes(row)
    meta = about.get("meta")
    return Incident(
        id=number,
        status=_status(about),
        name=str(about.get("name") or ""),
        message=str(about.get("message") or ""),
        meta=meta if isinstance(meta, dict) else {},
        visible=_number(about.get("visible")),
    )


def _update(row: Mapping[str, JSON], answer: Answer) -> Update:
    number = _number(row.get("id"))
    if number is None or row.get("type") != "updates":
        raise _unlike(answer, "update")
    about = _attributes(row)
    made = about.get("created")
    created = str(made.get("string") or "") if isinstance(made, dict) else ""
    return Update(id=number, status=_status(about), message=str(about.get("message") or ""), created=created)


def _rows(answer: Answer) -> Sequence[Mapping[str, JSON]]:
    data = _data(answer)
    if not isinstance(data, list):
        raise _unlike(answer, "list")
    rows = [row for row in data if isinstance(row, dict)]
    if len(rows) != len(data):
        raise _unlike(answer, "list")
    return rows


def _row(answer: Answer) -> Mapping[str, JSON]:
    data = _data(answer)
    if not isinstance(data, dict):
        raise _unlike(answer, "document")
    return data


def _data(answer: Answer) -> JSON:
    found = answer.json()
    return found.get("data") if isinstance(found, dict) else None


def _attributes(row: Mapping[str, JSON]) -> Mapping[str, JSON]:
    found = row.get("attributes")
    return found if isinstance(found, dict) else {}


def _status(attributes: Mapping[str, JSON]) -> int | None:
    found = attributes.get("status")
    return _number(found.get("value") if isinstance(found, dict) else found)


def _number(found: JSON) -> int | None:
    if isinstance(found, str) and found.isascii() and found.isdigit():
        return int(found[:18])
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _unlike(answer: Answer, what: str) -> TryAgain:
    return TryAgain(f"{answer.where} answered {answer.status} with something that is no {what} of Cachet")


def _fields_in_words(answer: Answer) -> str:
    """Which fields are wrong, and why."""
    try:
        found = json.loads(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return ""
    errors = found.get("errors") if isinstance(found, dict) else None
    if not isinstance(errors, dict):
        return ""
    said = [f"{name}: {texts[0] if isinstance(texts, list) and texts else texts}" for name, texts in errors.items()]
    return scrubbed("; ".join(said[:8]), 400)
