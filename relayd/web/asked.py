"""What may be asked of the control API: one model per request, checked before anything happens.

Promises: an unknown field, a wrong type or something over a limit is a WrongRequest that names the field.
"""

from __future__ import annotations

import json
import urllib.parse
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    ValidationError,
    model_validator,
)

from relayd.errors import WrongRequest
from relayd.model import Priority
from relayd.spool import Wanted

LONGEST_NAME = 4096
MOST_ITEMS = 10_000
LONGEST_PAGE = 1000

Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


def _file_name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME or "\0" in value:
        raise ValueError(f"a file name has 1 to {LONGEST_NAME} characters, none of them NUL")
    return value


FileName = Annotated[str, PlainValidator(_file_name)]
"""Unlike Name, it may hold bytes that are no UTF-8, as surrogate escapes."""


PriorityWord = Literal["emergency", "high", "normal", "bulk"]
ItemState = Literal["pending", "delivered", "dead", "evicted", "expired", "unclaimed", "dropped", "quarantined"]


class Asked(BaseModel):
    """Base of every request."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ItemsAsked(Asked):
    """`GET /api/v1/items?…`"""

    state: ItemState | None = None
    source: Name | None = None
    destination: Name | None = None
    before: Name | None = None
    limit: int = Field(default=100, ge=1, le=LONGEST_PAGE)


class IncidentsAsked(Asked):
    """`GET /api/v1/incidents?…`"""

    state: Literal["open", "closed"] | None = None
    before: Name | None = None
    limit: int = Field(default=100, ge=1, le=LONGEST_PAGE)


class WhyAsked(Asked):
    """`GET /api/v1/why?about=…`: an item id, or the absolute path of a file."""

    about: FileName


class RetryAsked(Asked):
    """`POST /api/v1/retry`: these items, or all of them if `items` is null."""

    items: list[Name] | None = Field(max_length=MOST_ITEMS)
    destination: Name | None = None


class RetryOneAsked(Asked):
    """`POST /api/v1/items/{id}/retry`"""

    destination: Name | None = None


class DropAsked(Asked):
    """`POST /api/v1/drop`: items, and absolute paths of files in quarantine."""

    items: list[FileName] = Field(min_length=1, max_length=MOST_ITEMS)


class ResendOneAsked(Asked):
    """`POST /api/v1/items/{id}/resend`"""

    to: Name
    priority: PriorityWord = "normal"

    def urgency(self) -> Priority:
        return Priority[self.priority.upper()]


class ResendAsked(ResendOneAsked):
    """`POST /api/v1/resend`: these items, or if `items` is null those that were taken from `since` until before
    `until`, by one source, with `text` in the name."""

    items: list[Name] | None = Field(default=None, min_length=1, max_length=MOST_ITEMS)
    text: str = Field(default="", max_length=LONGEST_NAME)
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    source: Name | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ResendAsked:
        if (self.items is None) == (self.since is None):
            raise ValueError("name the items, or since when")
        if self.items is not None and (self.text or self.until is not None or self.source is not None):
            raise ValueError("text, until and source go with since, not with items")
        return self

    def wanted(self) -> list[str] | Wanted:
        if self.items is not None or self.since is None:
            return list(dict.fromkeys(self.items or ()))
        until = None if self.until is None else self.until.timestamp()
        return Wanted(text=self.text, since=self.since.timestamp(), until=until, source=self.source)


class NothingAsked(Asked):
    """The address says it all."""


class PauseAsked(Asked):
    """`POST /api/v1/pause`, `resume`: this one, or every destination. `kind` says which where both are called so."""

    name: Name | None = None
    kind: Literal["destination", "source"] | None = None


class SendAsked(Asked):
    """`POST /api/v1/send?…`: the file itself is the body. `arguments` is a JSON object of the action's arguments."""

    name: FileName
    to: Name
    action: Name | None = None
    priority: PriorityWord = "normal"
    arguments: str = "{}"
    as_it_is: bool = False
    modified_ns: int | None = Field(default=None, ge=0, lt=2**63)

    def urgency(self) -> Priority:
        return Priority[self.priority.upper()]

    def fields(self) -> dict[str, JsonValue]:
        """The action's arguments. Raises WrongRequest."""
        return parsed(self.arguments.encode("utf-8", "surrogateescape"))


Kind = TypeVar("Kind", bound=Asked)


def by_query(model: type[Kind], raw_query: str) -> Kind:
    """From the query string; bytes of a file name that are no UTF-8 survive as surrogate escapes."""
    pairs = urllib.parse.parse_qsl(raw_query, keep_blank_values=True, errors="surrogateescape", max_num_fields=100)
    twice = {key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1}
    if twice:
        raise WrongRequest(f"{min(twice)}: given more than once")
    return checked(model, dict(pairs))


def by_body(model: type[Kind], body: bytes) -> Kind:
    """From a JSON body; an empty one is `{}`."""
    return checked(model, parsed(body or b"{}"))


def parsed(body: bytes) -> dict[str, JsonValue]:
    """One JSON object. Raises WrongRequest."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise WrongRequest("not a JSON document") from None
    if not isinstance(value, dict):
        raise WrongRequest("not a JSON object, write for example {}")
    return value


def checked(model: type[Kind], values: dict[str, Any]) -> Kind:
    """The request. Raises WrongRequest with every field that is wrong."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        raise WrongRequest("; ".join(faults)) from None
