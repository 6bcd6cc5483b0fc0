"""What IncidentShare says and wants to hear: its answers judged, its lists read, its bodies written.

Promises: no I/O. `success` false inside a 200 is a refusal; whether the fault is the item's or the configuration's is
decided here, once. An error that is certain to have had no effect says so (`nothing_happened`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from relayd.errors import DeliveryError, LoginRefused, Rejected, TryAgain
from relayd.files import safe_name
from relayd.httpanswer import Answer, scrubbed
from relayd.model import JSON

_UNPROCESSED = frozenset({425, 429})
_TAG = re.compile(r"<[^<>]{0,200}>")
_STREAM = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_ABOUT_LOGIN = re.compile(
    r"\b(?:access[ _]token|invalid_token|expired_token|insufficient_scope|invalid_client|unauthori[sz]ed|"
    r"permissions?|credentials?|not logged in|rest_forbidden|access_denied)\b",
    re.IGNORECASE,
)
_ABOUT_FILE = re.compile(
    r"not allowed to upload this file type|upload_max_filesize|MAX_FILE_SIZE|post_max_size|exceeds the maximum upload"
    r"|file type is not permitted",
    re.IGNORECASE,
)
"""WordPress' own words, which come with a 500: the same file will meet them again."""
_LACKS_FILE = re.compile(r"media_file|no file|file is missing|file missing", re.IGNORECASE)
SMALLEST_POST_LIMIT_BYTES = 1024 * 1024
"""No site's post_max_size is smaller: a file that it does not see was not dropped for its size."""
_SHORTEST_PHONE = 6
_LONGEST_ENDING = 11


def judge(answer: Answer, setting: str, *, can_look: bool = True) -> None:
    """Return if it may be a success, else raise what it means. `setting` names what to look at if the path is wrong;
    where nobody `can_look` what came of it, every 503 is believed."""
    if answer.status >= 400 and _ABOUT_FILE.search(_words(answer)):
        raise Rejected(
            f"{answer.where} answered {answer.status}: it does not take this file: {_said(answer)}"
        ).harmless()
    try:
        answer.raise_for_outage()
    except DeliveryError as error:
        is_refused = answer.is_own_503 or (answer.status == 503 and not can_look)
        if is_refused or answer.status in _UNPROCESSED or 300 <= answer.status < 400:
            raise error.harmless() from None
        raise
    if answer.status == 413:
        raise Rejected(f"{answer.refusal()}: the file is too large for this site").harmless()
    if answer.status == 403 and answer.is_html:
        raise LoginRefused(
            f"{answer.where} refuses with 403 and a web page: a firewall or a security plugin in front of the site;"
            " have the address of this relay and this path allowed"
        ).harmless()
    if answer.status in (401, 403):
        raise LoginRefused(f"{answer.refusal()}: wrong credentials, or client_id lacks the permission").harmless()
    if answer.status in (404, 405):
        raise LoginRefused(f"{answer.refusal()}; check url and {setting}").harmless()
    if answer.status >= 400:
        raise Rejected(answer.refusal()).harmless()


def judge_success(answer: Answer) -> dict[str, JSON]:
    """The object that says `success`. Raises Rejected, or LoginRefused about the credentials, where it says false;
    TryAgain for another shape, Unavailable for a captive portal."""
    found = answer.json(may_follow_text=True)
    if not isinstance(found, dict) or "success" not in found:
        raise TryAgain(f"{answer.where} answered {answer.status} with something that is no answer of IncidentShare")
    _judge_word(answer, found)
    return found


def groups(answer: Answer) -> list[dict[str, JSON]]:
    """The groups of a list, bare or below some name. Raises like `judge_success`."""
    found = answer.json(may_follow_text=True)
    if isinstance(found, dict):
        _judge_word(answer, found)
        found = next((value for value in found.values() if isinstance(value, list)), None)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise TryAgain(f"{answer.where} answered {answer.status} with something that is no list")
    return [each for each in found if isinstance(each, dict)]


def pages(answer: Answer) -> int:
    """How many pages a list has; 1 where nothing is said of pages."""
    said = answer.headers.get("X-WP-TotalPages", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 9 else 1


def stream_id(found: JSON) -> str | None:
    """A stream id that can be part of an address, or None."""
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        return None
    text = str(found).strip()
    return text if _STREAM.fullmatch(text) and text not in (".", "..") else None


def number(found: JSON) -> int | None:
    """`1207`, also where it comes as text; None for anything else."""
    if isinstance(found, str) and re.fullmatch(r"[0-9]{1,18}", found):
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def link_body(arguments: Mapping[str, JSON], mark: str) -> dict[str, JSON]:
    """The body of sms or email: what is given, and the mark at the end of the notes ("" for none)."""
    body: dict[str, JSON] = {name: value for name, value in arguments.items() if value not in (None, "")}
    if mark:
        body["notes"] = f"{body.get('notes', '')} {mark}".strip()
    return body


def is_link(group: Mapping[str, JSON], stream: str | None, mark: str, phone: str) -> bool:
    """Whether this group is of the link that was asked for: to this stream (None: any), with the mark in its notes;
    where it has no mark or no notes are shown, to this phone."""
    if stream is not None and stream_id(group.get("stream_id")) != stream:
        return False
    notes = group.get("notes")
    if mark and isinstance(notes, str) and notes:
        return mark in notes
    return _is_same_phone(phone, group.get("phone_number"))


def upload_name(name: str, item_id: str, delivery_id: int) -> str:
    """A safe name with a mark in it that no other upload has: `front-camera-ITEM-DELIVERY.jpg`."""
    safe = PurePosixPath(safe_name(name, item_id))
    ending = safe.suffix if len(safe.suffix) <= _LONGEST_ENDING else ""
    tail = f"{upload_mark(item_id, delivery_id)}{ending}"
    stem = safe.stem.removesuffix(item_id).rstrip("-")[: 118 - len(tail)].rstrip("._-")
    return f"{stem}-{tail}" if stem else tail


def upload_mark(item_id: str, delivery_id: int) -> str:
    return f"{item_id}-{delivery_id}"


def has_upload(answer: Answer, mark: str) -> bool:
    """Whether a list names a file with this mark, whatever else the site made of the name."""
    return any(_pattern(mark).search(text) for text in answer.texts())


def uploads(answer: Answer, mark: str) -> int:
    """How many files with this mark one list of an answer names; the same file may be in several lists."""
    return _most_named(answer.json(), _pattern(mark))


def _most_named(found: JSON, pattern: re.Pattern[str]) -> int:
    parts = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
    here = sum(_is_named(part, pattern) for part in parts) if isinstance(found, list) else 0
    return max([here, *(_most_named(part, pattern) for part in parts)])


def _is_named(entry: JSON, pattern: re.Pattern[str]) -> bool:
    """Whether an entry of a list says it itself, and none of the lists below it."""
    texts = list(entry.values()) if isinstance(entry, dict) else [entry]
    return any(isinstance(text, str) and pattern.search(text) for text in texts)


def _pattern(mark: str) -> re.Pattern[str]:
    return re.compile(re.escape(mark) + r"(?![0-9])", re.IGNORECASE)


def _words(answer: Answer) -> str:
    return answer.body[:16384].decode("utf-8", "replace")


def _said(answer: Answer) -> str:
    """The sentence about the file, in whatever it is wrapped."""
    text = _TAG.sub(" ", _words(answer))
    found = _ABOUT_FILE.search(text)
    return scrubbed(text[max(0, found.start() - 60) : found.end() + 60]) if found else ""


def _judge_word(answer: Answer, found: Mapping[str, JSON]) -> None:
    word = found.get("success", True)
    if word in (True, "true", "1"):
        return
    if word not in (False, "false", "0", "", None):
        raise TryAgain(f"{answer.where} answered {answer.status} with a success that is neither true nor false")
    text = " ".join(str(found[key]) for key in ("code", "error", "message", "error_description") if found.get(key))
    said = f"{answer.where} answered {answer.status}, but without success: {scrubbed(text) or 'no reason is given'}"
    if _ABOUT_LOGIN.search(text):
        raise LoginRefused(f"{said}; compare client_id and client_secret, and ask for the permission").harmless()
    raise Rejected(said).harmless()


def _is_same_phone(asked: str, listed: JSON) -> bool:
    """The national part is enough: one may have the dialling code, the other not."""
    one, other = (re.sub(r"[^0-9]", "", text) for text in (asked, str(listed or "")))
    short, long = sorted((one.lstrip("0"), other.lstrip("0")), key=len)
    return len(short) >= _SHORTEST_PHONE and long.endswith(short)


def lacks_file(answer: Answer) -> bool:
    """Whether the site says that no file came with the request."""
    return _LACKS_FILE.search(_words(answer)) is not None


def json_body(body: Mapping[str, JSON]) -> bytes:
    return json.dumps(body).encode()
