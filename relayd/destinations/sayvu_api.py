"""What the SayVU API says and wants to hear: its answers read and judged, its names looked up, its form written.

Promises: no I/O. Every error code means one thing, decided here; what is unknown is judged by its status.
"""

from __future__ import annotations

import difflib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from relayd.errors import DeliveryError, LoginRefused, Rejected, TryAgain
from relayd.httpanswer import Answer, scrubbed
from relayd.model import JSON

PARTIAL = frozenset({"MISSING_REPORTER", "MISSING_INPUT_DATA"})
"""Codes after which something may have been processed all the same."""
REFUSED = frozenset({"REPORT_NOT_FOUND", "NO_FILES_UPLOADED", "INPUT_SCHEMA_VIOLATION"})
"""Codes that say that nothing was processed, and never will be."""
_UNPROCESSED = frozenset({425, 429})
_PHONE = re.compile(r"\+[1-9][0-9]{4,14}")
_ADDRESS = re.compile(r"""https?://[^\s"'<>\\]{1,4096}""")
_ID = re.compile(r"\s*[0-9]{1,18}\s*")


class Reference(TypedDict):
    """What names a report."""

    report_id: int
    public_url: str | None


@dataclass(frozen=True, slots=True)
class Category:
    """One entry of the list, with those below it."""

    id: int
    text: str
    children: tuple[Category, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """An upload of one image: an optional part `data`, then the part `files` with the name and type of the file."""

    name: str
    content_type: str
    data: Mapping[str, JSON] | None
    boundary: str = field(default_factory=lambda: f"relayd-{secrets.token_hex(16)}")

    @property
    def header(self) -> str:
        """The request's own Content-Type."""
        return f"multipart/form-data; boundary={self.boundary}"

    def head(self) -> bytes:
        """Everything before the content of the file."""
        part = ""
        if self.data is not None:
            part = (
                f'--{self.boundary}\r\nContent-Disposition: form-data; name="data"\r\n'
                f"Content-Type: application/json\r\n\r\n{json.dumps(self.data)}\r\n"
            )
        return (
            f'{part}--{self.boundary}\r\nContent-Disposition: form-data; name="files"; filename="{self.name}"\r\n'
            f"Content-Type: {self.content_type}\r\n\r\n"
        ).encode()

    def tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode()


def judge(answer: Answer, setting: str, *, believes_gateways: bool = True) -> None:
    """Return if it may be a success, else raise what it means. `setting` names the path that was asked. Without
    `believes_gateways` a 503 proves that nothing happened only where it is the API's own."""
    found = codes(answer)
    if found and answer.status != 429:
        _judge_code(answer, found)
    try:
        answer.raise_for_outage()
    except DeliveryError as error:
        is_refused = answer.is_own_503 or (answer.status == 503 and believes_gateways)
        if is_refused or answer.status in _UNPROCESSED or 300 <= answer.status < 400:
            raise error.harmless() from None
        raise
    if answer.status == 413:
        raise Rejected(f"{answer.refusal()}: the file is too large for this control center").harmless()
    if answer.status in (401, 403):
        raise LoginRefused(f"{answer.refusal()}; check api_key").harmless()
    if answer.status in (404, 405, 410):
        raise LoginRefused(f"{answer.refusal()}; check url and {setting}").harmless()
    if answer.status >= 400:
        raise Rejected(answer.refusal())


def proof(answer: Answer, doubts: int) -> str:
    """In words, that a line or an image was taken."""
    said = f"{answer.where} answered {answer.status}"
    return f"{said}; {doubts} earlier answer(s) were lost, so it may be there twice" if doubts else said


def _judge_code(answer: Answer, found: Sequence[str]) -> None:
    said = f"{answer.where} refuses with {answer.status}: {_in_words(answer)}"
    for code in found:
        if code in PARTIAL:
            raise Rejected(f"{said}; it may be partly processed: look in the control center before you retry")
        if code in REFUSED:
            raise Rejected(said).harmless()
        if code == "UNAUTHORIZED":
            raise LoginRefused(f"{said}; check api_key").harmless()
        if code == "UNEXPECTED_ERROR":
            raise TryAgain(said).harmless()
    if answer.status < 300:
        raise TryAgain(f"{said}: an error that this version does not know")


def codes(answer: Answer) -> list[str]:
    """The error codes of an answer, empty for one without."""
    return [str(error["code"])[:64] for error in _errors(answer) if isinstance(error.get("code"), str)]


def envelope(answer: Answer) -> dict[str, JSON]:
    """The object that every answer is. Raises Unavailable for a captive portal, TryAgain for another shape."""
    found = answer.json()
    if not isinstance(found, dict) or not isinstance(found.get("data", {}), dict):
        raise TryAgain(f"{answer.where} answered {answer.status} with something that is no answer of SayVU")
    return found


def reference(answer: Answer) -> Reference:
    """The report that a success names; `links` and `link` are the same. Raises like `envelope`."""
    found = envelope(answer)
    data = found.get("data")
    report = report_id(data.get("report_id")) if isinstance(data, dict) else None
    if report is None:
        raise TryAgain(f"{answer.where} answered {answer.status} without a report_id")
    links = found.get("links") or found.get("link")
    public = links.get("public") if isinstance(links, dict) else links
    is_address = isinstance(public, str) and _ADDRESS.fullmatch(public) is not None
    return {"report_id": report, "public_url": str(public) if is_address else None}


def report_id(found: JSON) -> int | None:
    """A report's number, also where it comes as text or with a point; None for anything else."""
    if isinstance(found, str) and is_id(found):
        return int(found)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found != int(found) or found < 0:
        return None
    return int(found)


def categories(answer: Answer) -> list[Category]:
    """The list. Raises like `envelope`."""
    found = answer.json()
    data = found.get("data") if isinstance(found, dict) else None
    if not isinstance(data, list) or (data and not _categories(data)):
        raise TryAgain(f"{answer.where} answered {answer.status} with something that is no list of categories")
    return _categories(data)


def is_id(text: int | str) -> bool:
    """Whether this is an id and no name."""
    return isinstance(text, int) or _ID.fullmatch(text) is not None


def ids(category: int, subcategory: int | None) -> dict[str, JSON]:
    """A category as a report has it."""
    return (
        {"category_id": category} if subcategory is None else {"category_id": category, "subcategory_id": subcategory}
    )


def names(known: Sequence[Category]) -> list[str]:
    """Every name that `look_up` understands by itself: categories, then subcategories that are called like no other."""
    below = [one.text for above in known for one in above.children]
    listed = [one.text for one in known]
    taken = {_folded(text) for text in listed}
    folded = [_folded(text) for text in below]
    return [*listed, *(text for text in below if folded.count(_folded(text)) == 1 and _folded(text) not in taken)]


def look_up(known: Sequence[Category], category: int | str, subcategory: int | str | None) -> dict[str, JSON]:
    """The ids of names, without regard to case; the name of one subcategory stands for the category above it too.
    Raises Rejected with the nearest names."""
    if subcategory is None and not is_id(category):
        below = [
            (above, one) for above in known for one in above.children if _folded(one.text) == _folded(str(category))
        ]
        if len(below) == 1 and _folded(str(category)) not in {_folded(one.text) for one in known}:
            return ids(below[0][0].id, below[0][1].id)
    found = _find(known, category, "category")
    if subcategory is None:
        return ids(found.id, None)
    return ids(found.id, _find(found.children, subcategory, f"subcategory of {found.text}").id)


def reporter(name: str | None, phone: str | None) -> tuple[dict[str, JSON], str]:
    """The reporter as a report has it, and a note if the phone could not be made international."""
    found: dict[str, JSON] = {"name": name} if name else {}
    if not phone:
        return found, ""
    bare = re.sub(r"[\s()./-]", "", phone)
    bare = f"+{bare[2:]}" if bare.startswith("00") else bare
    if _PHONE.fullmatch(bare) is None:
        return found, "the reporter's phone was left out: write it like +4512345678"
    return {**found, "phone": bare}, ""


def json_object(text: str) -> dict[str, JSON]:
    """The argument `data`. Raises Rejected."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Rejected('data is no JSON object, write for example {"chat": {"messages": [{"text": "front camera"}]}}')
    return found


def _find(known: Sequence[Category], wanted: int | str, what: str) -> Category:
    if is_id(wanted):
        found = next((one for one in known if one.id == int(wanted)), None)
    else:
        found = next((one for one in known if _folded(one.text) == _folded(str(wanted))), None)
    if found is not None:
        return found
    names = {_folded(one.text): one.text for one in known}
    near = difflib.get_close_matches(_folded(str(wanted)), list(names), n=1)
    hint = f'did you mean "{names[near[0]]}"?' if near else f"there are {', '.join(names.values()) or 'none'}"
    raise Rejected(f'the control center has no {what} "{scrubbed(str(wanted), 60)}": {hint}')


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _categories(found: Sequence[JSON]) -> list[Category]:
    made = []
    for one in found:
        number = report_id(one.get("id")) if isinstance(one, dict) else None
        text = one.get("text") if isinstance(one, dict) else None
        if isinstance(one, dict) and number is not None and isinstance(text, str):
            below = one.get("children")
            made.append(Category(number, text, tuple(_categories(below)) if isinstance(below, list) else ()))
    return made


def _errors(answer: Answer) -> list[dict[str, JSON]]:
    try:
        found = json.loads(answer.body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []
    errors = found.get("errors") if isinstance(found, dict) else None
    return [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []


def _in_words(answer: Answer) -> str:
    first = _errors(answer)[0] if _errors(answer) else {}
    code, message = scrubbed(str(first.get("code") or ""), 64), scrubbed(str(first.get("message") or ""))
    return f"{code} ({message})" if message else code
