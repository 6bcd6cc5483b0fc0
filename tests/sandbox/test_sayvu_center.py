"""The stand-in of SayVU is as strict as the contract: what a client gets wrong is refused with the documented code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import ClientSession

from relayd.sandbox import Sandbox

KEY = {"Authorization": "Bearer ak_sandbox"}
GOOD: dict[str, Any] = {"location": {"x": 34.7, "y": 32.0}, "category": {"category_id": 3, "subcategory_id": 31}}
FILE = 'Content-Disposition: form-data; name="files"; filename="a.jpg"\r\n'


async def post(
    sandbox: Sandbox, path: str, body: Any, headers: dict[str, str], content_type: str = "application/json"
) -> tuple[int, str]:
    """The status, and the code or nothing."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        ClientSession() as session,
        session.post(sandbox.url + path, data=data, headers={**headers, "Content-Type": content_type}) as answer,
    ):
        found = await answer.json()
        return answer.status, found.get("errors", [{"code": ""}])[0]["code"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"location": None},
        {"location": {"x": 181, "y": 0}},
        {"location": {"x": 1, "y": 2, "z": 3}},
        {"category": {"category_id": 9}},
        {"category": {"category_id": 4, "subcategory_id": 31}},
        {"category": {"category_id": "3"}},
        {"mode": "drill"},
        {"reporter": {"phone": "050 123"}},
        {"unknown": 1},
    ],
)
async def test_a_report_that_breaks_the_contract_is_refused_and_not_kept(wrong: dict[str, Any]) -> None:
    async with Sandbox() as sandbox:
        assert await post(sandbox, "/reports", {"data": {**GOOD, **wrong}}, KEY) == (400, "INPUT_SCHEMA_VIOLATION")
        assert sandbox.reports == {}


async def test_a_body_without_its_root_or_its_type_is_refused() -> None:
    async with Sandbox() as sandbox:
        assert await post(sandbox, "/reports", GOOD, KEY) == (400, "INPUT_SCHEMA_VIOLATION")
        assert await post(sandbox, "/reports", {"data": GOOD}, KEY, "text/plain") == (400, "INPUT_SCHEMA_VIOLATION")


@pytest.mark.parametrize("key", ["", "Bearer ak_other", "ak_sandbox", "Basic ak_sandbox"])
async def test_another_key_is_refused(key: str) -> None:
    async with Sandbox() as sandbox:
        assert await post(sandbox, "/reports", {"data": GOOD}, {"Authorization": key}) == (401, "UNAUTHORIZED")


async def test_a_report_sent_twice_is_two_and_counted() -> None:
    async with Sandbox() as sandbox:
        for _ in range(3):
            assert await post(sandbox, "/reports", {"data": GOOD}, KEY) == (200, "")
        assert (len(sandbox.reports), sandbox.report_duplicates) == (3, 2)


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (f"--b\r\n{FILE}Content-Type: image/jpeg\r\n\r\nx\r\n--b--\r\n", ""),
        (f"--b\r\n{FILE}\r\nx\r\n--b--\r\n", "INPUT_SCHEMA_VIOLATION"),
        (f"--b\r\n{FILE}Content-Type: image/jpeg\r\n\r\nx\r\n", "INPUT_SCHEMA_VIOLATION"),
        ("--b--\r\n", "NO_FILES_UPLOADED"),
    ],
)
async def test_an_image_comes_in_a_whole_form_with_its_type(parts: str, code: str) -> None:
    async with Sandbox() as sandbox:
        await post(sandbox, "/reports", {"data": GOOD}, KEY)
        _, found = await post(sandbox, "/reports/48213/images", parts.encode(), KEY, "multipart/form-data; boundary=b")
        assert found == code
        assert len(sandbox.reports[48213].images) == (not code)


async def test_what_belongs_to_no_report_is_refused() -> None:
    async with Sandbox() as sandbox:
        body = {"data": [{"text": "x"}]}
        assert await post(sandbox, "/reports/1/chat/messages", body, KEY) == (404, "REPORT_NOT_FOUND")
