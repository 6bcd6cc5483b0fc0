"""What a camera tells in the name of a file: `"{camera}_{time}.jpg"` → attributes.

Promises: pure, and quick for any name: names are hostile, so nothing here backtracks, and what is longer than any name
can be is no name. A name that does not fit gives None, which never keeps a file from being taken.
"""

from __future__ import annotations

import re

from relayd.sources.name_times import CLOCKS, DATES, MOMENTS, spans

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MOST_FIELDS = 16
_TIMED = ("time", "date")

_LONGEST_COMPONENT = 1100
"""Characters: 255 bytes are the most that a name has, and each may be written as four characters."""


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
        if len(parts) != len(self._components) or any(len(part) > _LONGEST_COMPONENT for part in parts):
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
    for start, end in spans(text, (*MOMENTS, *CLOCKS) if tokens[timed] == "time" else DATES):
        if not text.startswith(after[0], end) or not text.endswith(before[-1], 0, start):
            continue
        left = _match_leftmost(before, text[:start])
        right = _match_timed(after, text[end:]) or _match_leftmost(after, text[end:])
        if left is not None and right is not None:
            return left | {tokens[timed]: text[start:end]} | right
    return None
