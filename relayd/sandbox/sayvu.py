"""The SayVU stand-in: a control center that takes reports, chat lines and images, and lists its categories.

Promises: strict about the contract: the key, the shape of each body (nothing unknown in it), category and report ids,
the parts of a form; codes are the documented ones. A report sent twice is two reports, as at the real one.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, Field, StringConstraints

from relayd.sandbox import multipart, shape
from relayd.sandbox.exchange import Exchange
from relayd.sandbox.refusal import ApiRefusal
from relayd.sandbox.settings import Settings
from relayd.sandbox.shape import Strict

CATEGORIES = (
    {"id": 3, "text": "Security", "children": [{"id": 31, "text": "Panic button"}, {"id": 32, "text": "Intrusion"}]},
    {"id": 4, "text": "Vehicle", "children": []},
    {"id": 5, "text": "Violence", "children": []},
)
_CHILDREN = {3: {31, 32}, 4: set[int](), 5: set[int]()}
_BODY_LIMIT = 1024 * 1024
_FIRST_ID = 48213
_Model = TypeVar("_Model", bound=BaseModel)
_Text = Annotated[str, StringConstraints(min_length=1)]


class _Location(Strict):
    x: float = Field(ge=-180, le=180)
    y: float = Field(ge=-90, le=90)


class _Category(Strict):
    category_id: int
    subcategory_id: int | None = None


class _Reporter(Strict):
    name: str | None = None
    phone: str | None = Field(default=None, pattern=r"^\+[1-9][0-9]{4,14}$")


class _NewReport(Strict):
    description: str | None = None
    location: _Location
    category: _Category
    mode: Literal["live", "training"] = "live"
    reporter: _Reporter | None = None


class _Line(Strict):
    text: _Text
    type: Literal["text"] = "text"
    label: str | None = None


class _Chat(Strict):
    messages: list[_Line] = Field(min_length=1)


class _ImageData(Strict):
    chat: _Chat


class _ReportBody(Strict):
    data: _NewReport


class _ChatBody(Strict):
    data: list[_Line] = Field(min_length=1)


class _RootedImageData(Strict):
    data: _ImageData


@dataclass(frozen=True, slots=True)
class Image:
    """One file of a report."""

    name: str
    content_type: str
    content: bytes


@dataclass(slots=True)
class Report:
    """One report: `body` as it was sent, below `data`; `lines` are its chat, "label: text" where there is a label."""

    body: Mapping[str, object]
    at: float = 0.0
    lines: list[str] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)


class ControlCenter:
    """One control center, and every report that it has taken, by id."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.reports: dict[int, Report] = {}

    @property
    def duplicates(self) -> int:
        """How many reports say the same as one before them."""
        seen = Counter(json.dumps(report.body, sort_keys=True) for report in self.reports.values())
        return sum(seen.values()) - len(seen)

    async def take(self, exchange: Exchange, report: str) -> web.StreamResponse:
        """One request, by its operation."""
        if not hmac.compare_digest(
            exchange.request.headers.get("Authorization", "").encode(), f"Bearer {self._settings.sayvu_key}".encode()
        ):
            raise _refusal(401, "UNAUTHORIZED", "no such key")
        match exchange.entry.operation:
            case "categories":
                return web.json_response({"data": CATEGORIES})
            case "report":
                return await self._open(exchange)
            case "message":
                return await self._say(exchange, self._report(report))
            case _:
                return await self._attach(exchange, self._report(report), report)

    async def _open(self, exchange: Exchange) -> web.StreamResponse:
        body = _checked(_ReportBody, await _json_body(exchange)).data
        category = body.category
        below = _CHILDREN.get(category.category_id)
        if below is None or category.subcategory_id not in (None, *below):
            raise _refusal(400, "INPUT_SCHEMA_VIOLATION", "no such category")
        if body.reporter is None and not self._settings.sayvu_reporter:
            raise _refusal(401, "MISSING_REPORTER", "No reporter is linked to this key")
        number = _FIRST_ID + len(self.reports)
        self.reports[number] = Report(body.model_dump(exclude_unset=True), exchange.now)
        exchange.entry.has_effect = True
        exchange.entry.key = str(number)
        return self._reference(str(number))

    async def _say(self, exchange: Exchange, report: Report) -> web.StreamResponse:
        report.lines += _spoken(_checked(_ChatBody, await _json_body(exchange)).data)
        exchange.entry.has_effect = True
        return web.json_response({"data": {}})

    async def _attach(self, exchange: Exchange, report: Report, number: str) -> web.StreamResponse:
        content_type = exchange.request.headers.get("Content-Type", "")
        images, data = _parts(content_type, await _body(exchange, self._settings.sayvu_image_bytes))
        if not images:
            raise _refusal(400, "NO_FILES_UPLOADED", "")
        if data is not None:
            report.lines += _spoken(self._image_data(data).chat.messages)
        report.images += images
        exchange.entry.has_effect = True
        return self._reference(number)

    def _image_data(self, data: bytes) -> _ImageData:
        if self._settings.sayvu_data == "rooted":
            return _checked(_RootedImageData, data).data
        return _checked(_ImageData, data)

    def _report(self, number: str) -> Report:
        found = self.reports.get(int(number)) if number.isascii() and number.isdigit() else None
        if found is None:
            raise _refusal(404, "REPORT_NOT_FOUND", "")
        return found

    def _reference(self, number: str) -> web.Response:
        links = {"public": f"https://example.com/r/{number}"}
        return web.json_response({"data": {"report_id": int(number)}, self._settings.sayvu_links: links})


def _spoken(lines: list[_Line]) -> list[str]:
    return [f"{line.label}: {line.text}" if line.label else line.text for line in lines]


def _parts(content_type: str, body: bytes) -> tuple[list[Image], bytes | None]:
    """Every file, and the part `data`."""
    try:
        found = multipart.parts(content_type, body)
    except multipart.MalformedForm as error:
        raise _refusal(400, "INPUT_SCHEMA_VIOLATION", str(error)) from None
    images, data = [], None
    for part in found:
        if (
            part.name not in ("files", "data")
            or part.content_type is None
            or (part.name == "files") != (part.file_name is not None)
        ):
            raise _refusal(400, "INPUT_SCHEMA_VIOLATION", "a part is neither files nor data, or has no Content-Type")
        if part.file_name is not None:
            images.append(Image(part.file_name, part.content_type, part.content))
        else:
            data = part.content
    return images, data


async def _json_body(exchange: Exchange) -> bytes:
    if exchange.request.content_type != "application/json":
        raise _refusal(400, "INPUT_SCHEMA_VIOLATION", "Content-Type is not application/json")
    return await _body(exchange, _BODY_LIMIT)


async def _body(exchange: Exchange, limit: int) -> bytes:
    try:
        return await exchange.read(limit)
    except ApiRefusal:
        raise _refusal(413, "PAYLOAD_TOO_LARGE", "") from None


def _checked(model: type[_Model], body: bytes) -> _Model:
    try:
        return shape.read(model, body)
    except shape.WrongShape as error:
        raise _refusal(400, "INPUT_SCHEMA_VIOLATION", str(error)) from None


def _refusal(status: int, code: str, message: str) -> ApiRefusal:
    return ApiRefusal(status, {"errors": [{"code": code, "message": message} if message else {"code": code}]})
