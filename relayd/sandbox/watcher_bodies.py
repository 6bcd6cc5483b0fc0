"""The Watcher stand-in's idea of right bodies and parameters, and its error answers: nothing unknown passes.

Promises: a body is checked whole before anything is done with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from relayd.sandbox.exchange import Exchange
from relayd.sandbox.refusal import ApiRefusal

BODY_LIMIT = 1024 * 1024
CODES: Mapping[int, tuple[str, str]] = {
    400: ("bad_request", "Bad request"),
    401: ("unauthorized", "Unauthorized"),
    403: ("forbidden", "Forbidden"),
    404: ("not_found", "Not found"),
}
Model = TypeVar("Model", bound=BaseModel)
_Text = Annotated[str, StringConstraints(min_length=1)]
_Speed = Annotated[int, Field(ge=0, le=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Coordinates(_Strict):
    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)


class NewToken(_Strict):
    """`POST /agent_activation_token`"""

    title: _Text
    organization_id: int | None = None
    preset_id: int | None = None
    folder_id: int | None = None
    enabled: bool | None = None
    static: bool | None = None
    dvr_depth: int | None = Field(default=None, ge=0)
    dvr_space: int | None = Field(default=None, ge=0)
    comment: str | None = None
    coordinates: Coordinates | None = None
    postal_address: str | None = None


class Dvr(_Strict):
    expiration: float | None = None
    storage_limit: float | None = None


class StreamChange(_Strict):
    """`PUT /streams/{name}`: only what is named changes."""

    title: str | None = None
    comment: str | None = None
    static: bool | None = None
    disabled: bool | None = None
    organization_id: int | None = None
    preset_id: int | None = None
    folder_id: int | None = None
    coordinates: Coordinates | None = None
    postal_address: str | None = None
    dvr: Dvr | None = None


class NewMessage(_Strict):
    """`POST /messages`"""

    body: _Text
    user_id: int
    title: str | None = None
    type: Literal["info", "warning", "danger"] = "info"
    is_push: bool = False
    is_dashboard: bool = False


class Ptz(_Strict):
    """`POST /streams/{name}/ptz`"""

    command: Literal["move_continuous"]
    up: _Speed = 0
    down: _Speed = 0
    left: _Speed = 0
    right: _Speed = 0
    in_: Annotated[_Speed, Field(alias="in")] = 0
    out: _Speed = 0


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PageQuery(_Query):
    """Of every list."""

    limit: int = Field(default=100, ge=1)
    cursor: str | None = None


class PresetQuery(PageQuery):
    organization_id: int | None = None


class EpisodeQuery(PageQuery):
    """`GET /episodes`"""

    media: str | None = None
    episode_type: str | None = None
    group_view: bool = False
    updated_at_gt: int | None = Field(default=None, ge=10**12, le=10**13)
    poll_timeout: int = Field(default=0, ge=0)


class NoQuery(_Query):
    pass


async def body_of(exchange: Exchange, model: type[Model]) -> Model:
    """The JSON body, or 400 with the place of the first fault."""
    if exchange.request.content_type != "application/json":
        raise refusal(400, "Content-Type is not application/json")
    try:
        return model.model_validate_json(await exchange.read(BODY_LIMIT))
    except ValidationError as error:
        raise _about(error) from None


async def no_body(exchange: Exchange) -> None:
    """400 for a request that should have none."""
    if await exchange.read(BODY_LIMIT):
        raise refusal(400, "this request has no body")


def query_of(exchange: Exchange, model: type[Model]) -> Model:
    """The parameters of the address, each at most once."""
    pairs = parse_qsl(exchange.request.raw_path.partition("?")[2], keep_blank_values=True)
    if len({name for name, _ in pairs}) < len(pairs):
        raise refusal(400, "a parameter twice")
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        raise _about(error) from None


def refusal(status: int, title: str = "", pointer: str = "") -> ApiRefusal:
    """`{"errors": […]}`, as the API says no."""
    code, usual = CODES[status]
    found: dict[str, Any] = {"status": str(status), "code": code, "title": title or usual}
    if pointer:
        found["source"] = {"pointer": pointer}
    return ApiRefusal(status, {"errors": [found]})


def _about(error: ValidationError) -> ApiRefusal:
    first = error.errors()[0]
    return refusal(400, first["msg"], "/" + "/".join(str(part) for part in first["loc"]))
