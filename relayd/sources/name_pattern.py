"""What a camera tells in the name of a file: `"{camera}_{time}.jpg"` → attributes, and when it was captured.

Promises: pure, and quick for any name: names are hostile, so nothing here backtracks. A name that does not fit gives
None, which never keeps a file from being taken.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MOST_FIELDS = 16
_TIMED = ("time", "date")

_DATE = r"(?P<Y>\d{4})(?P<ds>[-._]?)(?P<m>\d{2})(?P=ds)(?P<d>\d{2})"
_CLOCK = r"(?P<H>\d{2})(?P<ts>[-._:h]?)(?P<M>\d{2})(?:(?P=ts)(?P<S>\d{2})(?:[.,](?P<f>\d{1,9})|(?P<ms>\d{3}))?)?"
_ZONE = r"(?P<z>Z|[+-]\d{2}:?\d{2})?"
_MOMENT = re.compile(rf"{_DATE}[T_\- .]?{_CLOCK}{_ZONE}", re.ASCII)
_ONLY_DATE = re.compile(_DATE, re.ASCII)
_ONLY_CLOCK = re.compile(_CLOCK + _ZONE, re.ASCII)
_EPOCH = re.compile(r"\d{10}(?:\d{3})?", re.ASCII)


class NamePattern:
    """A compiled pattern. With a `/` it is matched with the whole path below the folder, else with the file's name.

    Raises ValueError, with the remedy, for a pattern that cannot work.
    """

    def __init__(self, pattern: str) -> None:
        self.fields = tuple(_FIELD.findall(pattern))
        self._components = [_parse(component) for component in pattern.split("/")]
        if not self.fields:
            raise ValueError('name at least one field, for example "{camera}_{time}.jpg"')
        if len(self.fields) > _MOST_FIELDS:
            raise ValueError(f"has more than {_MOST_FIELDS} fields")
        for name in self.fields:
            if not _FIELD_NAME.fullmatch(name):
                raise ValueError(f"{{{name}}} is no field name: write lower-case letters, digits and _")
            if self.fields.count(name) > 1:
                raise ValueError(f"{{{name}}} is there twice: give each field its own name")
        if re.search(r"[{}]", _FIELD.sub("", pattern)):
            raise ValueError("has a { or } that belongs to no field")

    def match(self, path: str) -> dict[str, str] | None:
        """Field → text of the path, or None if it does not fit."""
        parts = path.split("/")
        if len(self._components) == 1:
            parts = parts[-1:]
        if len(parts) != len(self._components):
            return None
        found: dict[str, str] = {}
        for tokens, text in zip(self._components, parts, strict=True):
            fields = _match_timed(tokens, text)
            if fields is None:
                fields = _match_leftmost(tokens, text)
            if fields is None:
                return None
            found |= fields
        return found


def captured_at(attributes: Mapping[str, str], zone: datetime.tzinfo | None) -> float | None:
    """Unix seconds from `{time}`, or from `{date}` and `{time}` together; None if they cannot be read as a time.

    `zone` (None: the machine's own) is used where the text names none.
    """
    time_text, date_text = attributes.get("time", ""), attributes.get("date", "")
    for text in (time_text, f"{date_text}T{time_text}" if date_text and time_text else "", date_text):
        moment = _read(text, zone)
        if moment is not None:
            return moment
    return None


# --- patterns: a component is literal, field, literal, field, …, literal


def _parse(component: str) -> list[str]:
    tokens = _FIELD.split(component)
    if any(not literal for literal in tokens[2:-1:2]):
        raise ValueError("two fields must have something between them, for example a _")
    return tokens


def _match_leftmost(tokens: list[str], text: str) -> dict[str, str] | None:
    """Every field ends at the first place where the next literal is found; the last one at the end of the text."""
    if not text.startswith(tokens[0]):
        return None
    found = {}
    at = len(tokens[0])
    for index in range(1, len(tokens), 2):
        literal = tokens[index + 1]
        end = text.find(literal, at + 1)
        if index + 2 == len(tokens):
            end = len(text) - len(literal) if text.endswith(literal) else -1
        if end <= at:
            return None
        found[tokens[index]] = text[at:end]
        at = end + len(literal)
    return found if at == len(text) else None


def _match_timed(tokens: list[str], text: str) -> dict[str, str] | None:
    """The same, but the first `{time}` or `{date}` stands where something reads like one: `front_door_2026…` is split
    before the year, not at the first `_`."""
    timed = next((index for index in range(1, len(tokens), 2) if tokens[index] in _TIMED), None)
    if timed is None:
        return None
    before, after = tokens[:timed], tokens[timed + 1 :]
    for start, end in _moments(text, tokens[timed]):
        if not text.startswith(after[0], end) or not text.endswith(before[-1], 0, start):
            continue
        left = _match_leftmost(before, text[:start])
        right = _match_timed(after, text[end:]) or _match_leftmost(after, text[end:])
        if left is not None and right is not None:
            return left | {tokens[timed]: text[start:end]} | right
    return None


def _moments(text: str, field: str) -> Iterator[tuple[int, int]]:
    """Where a time (or a date) may stand, by start; the longest first. Never begins inside a run of digits."""
    shapes = (_MOMENT, _EPOCH, _ONLY_CLOCK) if field == "time" else (_ONLY_DATE,)
    for start in re.finditer(r"(?<!\d)\d", text, re.ASCII):
        for shape in shapes:
            match = shape.match(text, start.start())
            if match is not None:
                yield match.span()


# --- times


def _read(text: str, zone: datetime.tzinfo | None) -> float | None:
    if _EPOCH.fullmatch(text):
        return int(text) / (1 if len(text) == 10 else 1000)
    match = _MOMENT.fullmatch(text) or _ONLY_DATE.fullmatch(text)
    if match is None:
        return None
    part = {name: value or "" for name, value in match.groupdict().items()}
    year, month, day, hour, minute, second = (int(part.get(name) or 0) for name in "YmdHMS")
    fraction = part.get("f") or part.get("ms") or "0"
    try:
        named = _zone(part.get("z", ""))
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=named or zone)
        return moment.timestamp() + int(fraction) / float(10 ** len(fraction))
    except (ValueError, OverflowError):
        return None


def _zone(text: str) -> datetime.tzinfo | None:
    if not text:
        return None
    if text == "Z":
        return datetime.UTC
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return datetime.timezone(datetime.timedelta(minutes=minutes if text[0] == "+" else -minutes))
