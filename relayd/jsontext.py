"""JSON as it comes from outside: parsed once, also where several ask for the same text.

Promises: whatever the bytes, an answer and no error; NaN and Infinity are no JSON; nesting too deep to read is none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from relayd.model import JSON


@dataclass(frozen=True, slots=True)
class Parsed:
    """`value` is the JSON value; else the text, if the bytes are UTF-8; else None."""

    value: JSON
    is_json: bool
    is_text: bool

    @property
    def content_type(self) -> str:
        if self.is_json:
            return "application/json"
        return "text/plain" if self.is_text else "application/octet-stream"


@lru_cache(maxsize=4)
def parsed(payload: bytes) -> Parsed:
    """The last few are remembered, since a message is asked about by its source, the rules and its deliveries in turn.
    Do not change what is in `value`."""
    try:
        return Parsed(json.loads(payload, parse_constant=_refuse), is_json=True, is_text=True)
    except (ValueError, RecursionError):
        pass
    try:
        return Parsed(payload.decode("utf-8"), is_json=False, is_text=True)
    except UnicodeDecodeError:
        return Parsed(None, is_json=False, is_text=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
