"""The RapidSOS stand-in takes exactly what the contract writes, and nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relayd.sandbox import Sandbox
from tests.sandbox import peers
from tests.sandbox.peers import Answer, form_of, get, multipart, post, slot, token

FORM = "application/x-www-form-urlencoded"
RIGHT = {"client_id": "sandbox", "client_secret": "sandbox-secret", "grant_type": "client_credentials"}
WISH = {"file_name": "still.jpg", "mime_type": "image/jpeg", "mode": "persistent_reference"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


async def asked_token(sandbox: Sandbox, given: dict[str, Any] | bytes, kind: str, *more: str) -> Answer:
    pairs = "&".join(f"{name}={value}" for name, value in given.items()).encode() if isinstance(given, dict) else given
    body = json.dumps(given).encode() if isinstance(given, dict) and kind == "application/json" else pairs
    return await post(f"{sandbox.url}/oauth/token", body, kind, *more)


async def asked_slot(sandbox: Sandbox, wish: object, *, authorization: str | None = None) -> Answer:
    body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
    line = authorization or await token(sandbox.url)
    return await post(f"{sandbox.url}/v1/resources", body, "application/json", line)


async def stored_slot(sandbox: Sandbox) -> dict[str, Any]:
    given = await slot(sandbox.url)
    answer = await post(given["signed_request"]["url"], form_of(given, b"content"), multipart())
    assert answer.status == 204
    return given


async def resolved(sandbox: Sandbox, reference: str) -> Answer:
    return await get(f"{sandbox.url}/v1/resources/{reference}/resolve", await token(sandbox.url))


# --- token


@pytest.mark.parametrize("kind", [FORM, "application/json"])
async def test_a_token_is_issued_to_a_form_and_to_json(sandbox: Sandbox, kind: str) -> None:
    answer = await asked_token(sandbox, RIGHT, kind)
    assert answer.status == 200
    assert (answer.json["token_type"], answer.json["expires_in"]) == ("BearerToken", "3599")


async def test_a_token_can_come_with_numbers() -> None:
    async with Sandbox(token_shape="numbers", token_claim=60) as sandbox:
        assert (await asked_token(sandbox, RIGHT, FORM)).json["expires_in"] == 60


@pytest.mark.parametrize(("wanted", "other"), [("form", "application/json"), ("json", FORM)])
@pytest.mark.parametrize("refusal", [400, 415])
async def test_only_one_encoding_may_be_understood(wanted: str, other: str, refusal: int) -> None:
    async with Sandbox(token_body=wanted, token_refusal=refusal) as sandbox:
        assert (await asked_token(sandbox, RIGHT, other)).status == refusal
        right = FORM if other == "application/json" else "application/json"
        assert (await asked_token(sandbox, RIGHT, right)).status == 200


async def test_wrong_credentials_are_401(sandbox: Sandbox) -> None:
    answer = await asked_token(sandbox, {**RIGHT, "client_secret": "wrong"}, FORM)
    assert (answer.status, answer.json["ErrorCode"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({**RIGHT, "grant_type": "password"}, FORM),
        ({**RIGHT, "scope": "all"}, FORM),
        ({**RIGHT, "token_type": "BearerToken"}, "application/json"),
        ({**RIGHT, "client_id": 7}, "application/json"),
        (b"client_id=sandbox&client_id=sandbox&client_secret=sandbox-secret&grant_type=client_credentials", FORM),
        (b"not a form", FORM),
        (b"[1, 2]", "application/json"),
        (b"{", "application/json"),
    ],
)
async def test_a_sloppy_token_request_is_400(sandbox: Sandbox, given: Any, kind: str) -> None:
    assert (await asked_token(sandbox, given, kind)).status == 400
    assert sandbox.count("token", effect=True) == 0


async def test_a_token_request_with_an_authorization_header_is_400(sandbox: Sandbox) -> None:
    assert (await asked_token(sandbox, RIGHT, FORM, "Authorization: Basic c2FuZGJveDo=")).status == 400


# --- slot


async def test_a_slot_of_a_persistent_reference_has_a_signed_form(sandbox: Sandbox) -> None:
    answer = await asked_slot(sandbox, WISH)
    assert answer.status == 200
    assert answer.json["uri"].startswith("ref://")
    fields = answer.json["signed_request"]["fields"]
    assert fields["key"].endswith("/still.jpg")
    policy = json.loads(base64.b64decode(fields["policy"]))
    assert ["content-length-range", 0, 5_000_000_000] in policy["conditions"]


async def test_a_temporary_address_is_https(sandbox: Sandbox) -> None:
    answer = await asked_slot(sandbox, {**WISH, "mode": "temporary_url", "expire": 60})
    assert answer.json["uri"].startswith("https://")
    assert "X-Amz-Expires=60" in answer.json["uri"]


@pytest.mark.parametrize(
    "change",
    [
        {"file_name": "with space.jpg"},
        {"file_name": "tab\t.jpg"},
        {"file_name": "no\u00a0break.jpg"},
        {"file_name": "bell\x07.jpg"},
        {"file_name": ""},
        {"file_name": 7},
        {"mime_type": "IMAGE/JPEG"},
        {"mime_type": "image/jpeg; charset=utf-8"},
        {"mime_type": "application/zip"},
        {"mime_type": "text/html"},
        {"mode": "permanent"},
        {"mode": None},
        {"expire": 60},
        {"expire": None},
        {"surplus": "1"},
        {"mode": "temporary_url", "expire": "60"},
        {"mode": "temporary_url", "expire": 0},
        {"mode": "temporary_url", "expire": True},
        {"mode": "temporary_url", "expire": 60.5},
    ],
)
async def test_a_wish_outside_the_contract_is_400(sandbox: Sandbox, change: dict[str, Any]) -> None:
    assert (await asked_slot(sandbox, {**WISH, **change})).status == 400
    assert sandbox.count("slot", effect=True) == 0


@pytest.mark.parametrize("missing", list(WISH))
async def test_a_wish_without_a_property_is_400(sandbox: Sandbox, missing: str) -> None:
    assert (await asked_slot(sandbox, {name: value for name, value in WISH.items() if name != missing})).status == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"mode": "x", "mode": "y"}', 400), (b"\xff", 400), (b'{"expire": NaN}', 400), (b" " * 70_000, 413)],
)
async def test_a_body_that_is_no_plain_object_is_refused(sandbox: Sandbox, body: bytes, status: int) -> None:
    assert (await asked_slot(sandbox, body)).status == status


async def test_a_form_instead_of_json_is_400(sandbox: Sandbox) -> None:
    answer = await post(f"{sandbox.url}/v1/resources", b"{}", FORM, await token(sandbox.url))
    assert answer.status == 400


@pytest.mark.parametrize(
    "line",
    ["X-None: 1", "Authorization: Bearer unknown", "Authorization: Basic abc", "Authorization: BearerToken TOKEN",
     "Authorization: bearer TOKEN", "Authorization: Bearer  TOKEN", "Authorization: TOKEN"],
)  # fmt: skip
async def test_a_wrong_authorization_is_401(sandbox: Sandbox, line: str) -> None:
    good = (await token(sandbox.url)).split()[-1]
    answer = await asked_slot(sandbox, WISH, authorization=line.replace("TOKEN", good))
    assert answer.status == 401
    assert answer.json["fault"]["faultstring"] == "Invalid Access Token"


async def test_a_token_ends_and_can_be_revoked() -> None:
    async with Sandbox(token_seconds=30) as sandbox:
        line = await token(sandbox.url)
        assert (await asked_slot(sandbox, WISH, authorization=line)).status == 200
        sandbox.advance(31)
        assert (await asked_slot(sandbox, WISH, authorization=line)).status == 401
        line = await token(sandbox.url)
        sandbox.revoke_tokens()
        assert (await asked_slot(sandbox, WISH, authorization=line)).status == 401


# --- resolve


async def test_a_reference_resolves_only_after_the_file_was_stored(sandbox: Sandbox) -> None:
    given = await slot(sandbox.url)
    reference = given["uri"].removeprefix("ref://")
    assert (await resolved(sandbox, reference)).status == 404
    await post(given["signed_request"]["url"], form_of(given, b"content"), multipart())
    answer = await resolved(sandbox, reference)
    assert answer.status == 200
    assert answer.json["uri"].startswith("https://127.0.0.1")
    assert answer.json["uri"].endswith(given["signed_request"]["fields"]["key"])


async def test_the_whole_reference_is_refused_by_default(sandbox: Sandbox) -> None:
    reference = (await stored_slot(sandbox))["uri"].removeprefix("ref://")
    assert (await resolved(sandbox, f"ref%3A%2F%2F{reference}")).status == 404
    assert (await resolved(sandbox, f"ref://{reference}")).status == 404
    assert (await resolved(sandbox, reference)).status == 200


@pytest.mark.parametrize("refusal", [400, 404])
async def test_the_whole_reference_may_be_the_only_form(refusal: int) -> None:
    async with Sandbox(resolve_form="reference", resolve_refusal=refusal) as sandbox:
        reference = (await stored_slot(sandbox))["uri"].removeprefix("ref://")
        assert (await resolved(sandbox, reference)).status == refusal
        assert (await resolved(sandbox, f"ref://{reference}")).status == 404
        assert (await resolved(sandbox, f"ref%3A%2F%2F{reference}")).status == 200


@pytest.mark.parametrize("shape", ["uri", "url", "string", "text"])
async def test_the_answer_has_the_shape_of_the_switch(shape: str) -> None:
    async with Sandbox(resolve_shape=shape) as sandbox:
        reference = (await stored_slot(sandbox))["uri"].removeprefix("ref://")
        answer = await resolved(sandbox, reference)
        found: Any = answer.body.decode().strip() if shape == "text" else answer.json
        address = found[shape] if shape in ("uri", "url") else found
        assert address.startswith("https://")


async def test_resolving_needs_a_token(sandbox: Sandbox) -> None:
    reference = (await stored_slot(sandbox))["uri"].removeprefix("ref://")
    assert (await get(f"{sandbox.url}/v1/resources/{reference}/resolve")).status == 401


async def test_curl_plays_the_whole_flow(sandbox: Sandbox) -> None:
    data = "&".join(f"{name}={value}" for name, value in RIGHT.items())
    _, output = await peers.curl("-d", data, f"{sandbox.url}/oauth/token")
    line = f"Authorization: Bearer {json.loads(output)['access_token']}"
    wish = ["-H", line, "-H", "Content-Type: application/json", "-d", json.dumps(WISH)]
    _, output = await peers.curl(*wish, f"{sandbox.url}/v1/resources")
    assert json.loads(output)["uri"].startswith("ref://")
