"""The Cachet stand-in's idea of right bodies and queries, and its error answers: nothing unknown passes.

Promises: a body is checked whole before anything is done with it; errors have the shape of Laravel's.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from relayd.sandbox.exchange import Exchange
from relayd.sandbox.refusal import ApiRefusal

MEDIA_TYPE = "application/vnd.api+json"
STATUSES = ("Reported", "Investigating", "Identified", "Watching", "Fixed")
BODY_LIMIT = 1024 * 1024
Model = TypeVar("Model", bound=BaseModel)
_Text = Annotated[str, StringConstraints(min_length=1)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
_Status = Annotated[int, Field(ge=0, le=4)]
_ComponentStatus = Annotated[int, Field(ge=1, le=6)]
_WORDS = re.compile(r"per_page|page|sort|include")
_INVISIBLE = "\\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2060-\u2064\u206a-\u206f\ufeff"
_EDGES = re.compile(f"^[{_INVISIBLE}]+|[{_INVISIBLE}]+$")
"""What is trimmed from both ends of every text."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Impact(_Strict):
    """One of several components of an incident."""

    id: int
    status: _ComponentStatus


class NewIncident(_Strict):
    """`POST /incidents`"""

    name: _Name
    status: _Status
    message: _Text | None = None
    template: _Text | None = None
    visible: bool = False
    stickied: bool = False
    notifications: bool = False
    occurred_at: str | None = None
    published_at: str | None = None
    template_vars: dict[str, Any] | list[Any] = []
    component_id: int | None = None
    component_status: _ComponentStatus | None = None
    components: list[Impact] = []
    meta: dict[str, Any] | None = None

    @field_validator("occurred_at", "published_at")
    @classmethod
    def _is_safe_form(cls, value: str | None) -> str | None:
        if value is not None:
            datetime.strptime(value, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the server's own zone, as documented
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> NewIncident:
        if self.message is None and self.template is None:
            raise ValueError("The message field is required when template is not present.")
        if self.component_id is not None and self.component_status is None:
            raise ValueError("The component status field is required when component id is present.")
        return self


class NewUpdate(_Strict):
    """`POST /incidents/{incident}/updates`"""

    status: _Status
    message: _Text


class IncidentChange(_Strict):
    """`PUT /incidents/{incident}`"""

    name: _Name | None = None
    message: str | None = None
    status: _Status | None = None
    visible: bool | None = None
    stickied: bool | None = None
    notifications: bool | None = None
    occurred_at: str | None = None
    published_at: str | None = None
    meta: dict[str, Any] | None = None


class UpdateChange(_Strict):
    """`PUT /incidents/{incident}/updates/{update}`"""

    status: _Status | None = None
    message: str | None = None


class ComponentChange(_Strict):
    """`PUT /components/{component}`"""

    name: _Name | None = None
    description: str | None = None
    status: _ComponentStatus | None = None
    link: str | None = None
    order: int | None = None
    enabled: bool | None = None
    component_group_id: int | None = None
    meta: dict[str, Any] | None = None


async def checked(model: type[Model], exchange: Exchange, *, is_strict: bool) -> Model:
    """The body of a request, its texts trimmed. Raises 422 with the fields that are wrong. Not strict is as the real
    one is: what it does not know is ignored, and "1" is a number, a state and a yes."""
    if exchange.request.content_type != "application/json":
        raise invalid({"body": ["The Content-Type is not application/json."]})
    try:
        found = trimmed(json.loads(await exchange.read(BODY_LIMIT)))
    except ValueError:
        raise invalid({"body": ["The body is no JSON."]}) from None
    if not is_strict and isinstance(found, dict):
        found = {name: value for name, value in found.items() if name in model.model_fields}
    try:
        return model.model_validate(found, strict=is_strict)
    except ValidationError as error:
        fields: dict[str, list[str]] = {}
        for each in error.errors():
            where = ".".join(str(part) for part in each["loc"]) or "message"
            fields.setdefault(where, []).append(each["msg"].removeprefix("Value error, "))
        raise invalid(fields) from None


def trimmed(found: Any) -> Any:
    """Every text without what cannot be seen at its ends; an empty one is none."""
    if isinstance(found, str):
        return _EDGES.sub("", found) or None
    if isinstance(found, list):
        return [trimmed(each) for each in found]
    return {name: trimmed(each) for name, each in found.items()} if isinstance(found, dict) else found


def query(
    exchange: Exchange, filters: re.Pattern[str], sorts: Collection[str], includes: Collection[str]
) -> dict[str, str]:
    """The parameters of a list. Raises 400 for what the server does not know."""
    found = dict(parse_qsl(exchange.request.query_string, keep_blank_values=True, strict_parsing=False))
    for name in found:
        if _WORDS.fullmatch(name) is None and filters.fullmatch(name) is None:
            raise refusal(400, f"Requested filter(s) `{name}` are not allowed.")
    if found.get("sort", "").removeprefix("-") not in ("", *sorts):
        allowed = ", ".join(sorts)
        raise refusal(400, f"Requested sort(s) `{found['sort']}` is not allowed. Allowed sort(s) are `{allowed}`.")
    for include in filter(None, found.get("include", "").split(",")):
        if include not in includes:
            raise refusal(400, f"Requested include(s) `{include}` are not allowed.")
    return found


def invalid(errors: Mapping[str, list[str]]) -> ApiRefusal:
    """422."""
    return ApiRefusal(422, {"message": next(iter(errors.values()))[0], "errors": dict(errors)})


def refusal(status: int, message: str) -> ApiRefusal:
    return ApiRefusal(status, {"message": message})


def document(body: Mapping[str, Any], status: int = 200) -> web.Response:
    """A success."""
    return web.json_response(body, status=status, content_type=MEDIA_TYPE)


def page(data: Iterable[Mapping[str, Any]], asked: Mapping[str, str]) -> dict[str, Any]:
    """One page of a list."""
    size, number = asked.get("per_page", "15"), asked.get("page", "1")
    if not (size.isdigit() and number.isdigit()):
        raise ApiRefusal(400, {"message": "per_page and page are numbers"})
    length, rows = min(max(int(size), 1), 100), list(data)
    start = (max(int(number), 1) - 1) * length
    shown = rows[start : start + length]
    following = f"?page={int(number) + 1}" if len(rows) > start + length else None
    meta = {
        "current_page": int(number),
        "per_page": length,
        "from": start + 1 if shown else None,
        "to": start + len(shown),
    }
    return {"data": shown, "links": {"first": "?page=1", "last": None, "prev": None, "next": following}, "meta": meta}


def status(value: int) -> dict[str, Any]:
    return {"human": STATUSES[value], "value": value}


def moment(at: float) -> dict[str, str]:
    return {"human": "1 second ago", "string": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))}
