"""The IncidentShare stand-in's idea of right bodies and queries, and its error answers: nothing unknown passes.

Promises: a body is checked whole before anything is done with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, TypeVar
from urllib.parse import parse_qs

from pydantic import BaseModel, StringConstraints

from relayd.sandbox import shape
from relayd.sandbox.exchange import Exchange
from relayd.sandbox.refusal import ApiRefusal
from relayd.sandbox.shape import Strict

BODY_LIMIT = 64 * 1024
_QUERIES: Mapping[str, frozenset[str]] = {
    "links": frozenset({"include_media_files", "saved_date_after", "page"}),
    "files": frozenset({"saved_date_after", "include_older_group_files", "page"}),
    "channels": frozenset({"viewer_ip"}),
}
Model = TypeVar("Model", bound=BaseModel)
_Text = Annotated[str, StringConstraints(min_length=1)]


class LinkBody(Strict):
    """What both kinds of link take."""

    sms_template: str | None = None
    user_email: str | None = None
    user_login_name: str | None = None
    reference_no: str | None = None
    notes: str | None = None


class SmsBody(LinkBody):
    """`POST /sms`"""

    phone_number: _Text
    country_code: int | None = None
    incident_id: _Text | None = None


class EmailBody(LinkBody):
    """`POST /email`"""

    email: Annotated[str, StringConstraints(min_length=3)]


def query_of(exchange: Exchange) -> dict[str, str]:
    """The query, each name once and known, but for `_`: by that, browsers keep caches from answering."""
    found = parse_qs(
        exchange.request.query_string, keep_blank_values=True, strict_parsing=bool(exchange.request.query_string)
    )
    found.pop("_", None)
    unknown = set(found) - _QUERIES.get(exchange.entry.operation, frozenset())
    if unknown or any(len(values) > 1 for values in found.values()):
        raise refusal(400, "rest_invalid_param", f"Invalid parameter(s): {', '.join(sorted(found))}")
    return {name: values[0] for name, values in found.items()}


async def json_body(exchange: Exchange) -> bytes:
    """The body, if it says that it is JSON."""
    if exchange.request.content_type != "application/json":
        raise refusal(400, "rest_invalid_json", "Content-Type is not application/json")
    return await exchange.read(BODY_LIMIT)


def form_of(body: bytes) -> dict[str, object]:
    """The fields of a form that are there once."""
    found = parse_qs(body.decode("ascii", "replace"), keep_blank_values=True)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def object_of(body: bytes) -> dict[str, object]:
    """A JSON object, as the login wants it."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiRefusal(400, {"error": "invalid_request", "error_description": "the body is no JSON object"})
    return found


def checked(model: type[Model], body: bytes) -> Model:
    """The body of a request, or 400 with what is wrong in it."""
    try:
        return shape.read(model, body)
    except shape.WrongShape as error:
        raise refusal(400, "rest_invalid_param", f"Invalid parameter(s): {error}") from None


def refusal(status: int, code: str, message: str) -> ApiRefusal:
    """As WordPress says no."""
    return ApiRefusal(status, {"code": code, "message": message, "data": {"status": status}})


def unauthorized(why: str) -> ApiRefusal:
    """As its OAuth plug-in says no."""
    return ApiRefusal(401, {"error": "invalid_token", "error_description": why})
