"""Webhook: the contract of every adapter, then what is its own, against the strict stand-in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from relayd import clock
from relayd.destinations.webhook import LARGEST_RECEIPT_BYTES, Webhook, WebhookConfig, signing_key
from relayd.errors import DeliveryError, LoginRefused, Rejected, TryAgain, Unavailable
from relayd.model import Kind, Receipt
from relayd.sandbox import Sandbox
from tests.destinations.contract import BROKEN, DeliveryContract, Uptime
from tests.destinations.driver import Line, PowerCut, line
from tests.unit.wire import reply, speaking

TOKEN, SECRET = "hook-token-hook-token-hook", "a key that signs"


def make(url: str, **options: Any) -> Webhook:
    os.environ["RELAYD_TEST_TOKEN"] = TOKEN
    os.environ["RELAYD_TEST_SECRET"] = SECRET
    section: dict[str, Any] = {
        "type": "webhook",
        "url": url if url.count("/") > 2 else url + "/webhook",
        "connect_timeout": "2s",
        "answer_timeout": "400ms",
        "most_unknown": 100,
        "unknown_wait": "0s",
        "stall_timeout": "400ms",
    }
    return Webhook("webhook", WebhookConfig.model_validate({**section, **options}))


BUDGET: dict[str, Any] = {"most_unknown": 2, "unknown_wait": "5m"}
SIGNED = {"token": {"env": "RELAYD_TEST_TOKEN"}, "secret": {"env": "RELAYD_TEST_SECRET"}}


class TestWebhookKeepsTheContract(DeliveryContract):
    operations = ("webhook",)
    look = "look"
    slow = "webhook"
    steps = ()
    broken = tuple(fault for fault in BROKEN if fault != "schema")  # any JSON is an answer here
    documented: ClassVar = {
        400: Rejected,
        401: LoginRefused,
        404: LoginRefused,
        422: Rejected,
        429: Unavailable,
        500: TryAgain,
    }

    def make(self, sandbox: Sandbox) -> Webhook:
        return make(sandbox.url, **SIGNED)

    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        ((key, taken),) = sandbox.webhook_taken.items()
        item = taken.document["item"]
        assert isinstance(item, dict)
        assert item["sha256"] == hashlib.sha256(content).hexdigest()
        assert receipt.fields == {"received": 1, "key": key}


@asynccontextmanager
async def played(tmp_path: Path, options: dict[str, Any] | None = None, **switches: Any) -> AsyncIterator[Any]:
    """A sandbox with these switches and a line to it."""
    async with (
        Sandbox(**switches) as sandbox,
        line(lambda: make(sandbox.url, **(options or {})), tmp_path / "spool") as made,
    ):
        yield sandbox, made


@asynccontextmanager
async def answered(tmp_path: Path, answer: bytes, **options: Any) -> AsyncIterator[Line]:
    """A line to a server that always says this, with a message that is owed to it."""
    async with speaking(answer) as wire, line(lambda: make(wire.url, **options), tmp_path / "spool") as made:
        await message(made, b"{}")
        yield made


async def message(made: Line, payload: bytes) -> None:
    await made.put(payload, name="panic", content_type="application/json", kind=Kind.MESSAGE, topic="vehicle/panic")


def only(sandbox: Sandbox) -> dict[str, Any]:
    (taken,) = sandbox.webhook_taken.values()
    return dict(taken.document)


# --- what is sent


async def test_the_body_says_what_rules_see_of_the_item(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, made):
        await message(made, b'{"pressed": true, "by": "\\u00e6"}')
        await made.deliver(tries=1)
        body = only(sandbox)
        assert set(body) == {"item", "payload", "device", "incident", "location"}
        assert set(body["item"]) == {
            *("id", "name", "source", "kind", "size", "content_type", "sha256", "captured_at", "topic", "damage")
        }
        assert body["item"]["topic"] == "vehicle/panic"
        assert body["payload"] == {"pressed": True, "by": "æ"}
        assert body["device"] == {"id": "test", "name": "Test", "site": None, "location": None}
        assert body["incident"] is None


@pytest.mark.parametrize(
    ("payload", "said", "as_bytes"),
    [
        (b"open", "open", None),
        (b"null", None, None),
        (b"[NaN]", "[NaN]", None),
        (b"[1e999]", "[1e999]", None),
        (b"[" * 100_000, "[" * 100_000, None),
        (b'"\\ud800"', "\ud800", None),
        (b"\xff\xd8\xff", None, "/9j/"),
        (b"", "", None),
    ],
    ids=["text", "null", "nan", "infinity", "deep", "half a character", "bytes", "empty"],
)
async def test_a_payload_that_is_no_json_is_sent_as_text_and_what_is_no_text_as_base64(
    tmp_path: Path, payload: bytes, said: Any, as_bytes: str | None
) -> None:
    async with played(tmp_path) as (sandbox, made):
        await message(made, payload)
        await made.deliver(tries=1)
        body = only(sandbox)
        assert body["payload"] == said
        assert body.get("payload_base64") == as_bytes


async def test_the_content_of_media_stays_here(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, made):
        await made.put(b"secret pixels" * 100)
        await made.deliver(tries=1)
        ((_, taken),) = sandbox.webhook_taken.items()
        assert taken.document["payload"] is None
        assert "payload_base64" not in taken.document
        assert len(taken.body) < 1000


async def test_every_try_of_a_delivery_has_the_same_key_and_body_and_other_deliveries_have_others(
    tmp_path: Path,
) -> None:
    async with played(tmp_path) as (sandbox, made):
        sandbox.script("webhook#1 lose; webhook#2 mute; webhook#3 status 500")
        await message(made, b"1")
        await made.attempt()
        await made.restart()
        await made.deliver()
        await message(made, b"2")
        await made.deliver(tries=1)
        keys = [entry.headers["Idempotency-Key"] for entry in sandbox.log]
        assert len(keys) == 5
        assert len(set(keys[:4])) == 1
        assert set(keys) == set(sandbox.webhook_taken)
        assert len(sandbox.webhook_taken) == 2


async def test_a_crash_between_the_post_and_its_record_posts_again_under_the_same_key(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, made):
        await message(made, b"1")
        with pytest.raises(PowerCut):
            await made.attempt(dies_at="post", is_stored=False)
        await made.restart()
        await made.deliver(tries=1)
        assert sandbox.count("webhook") == 2
        assert len(sandbox.webhook_taken) == 1


@pytest.mark.parametrize("fault", ["lose", "status 500", "portal"])
async def test_an_answer_that_is_lost_is_followed_by_two_more_posts_with_minutes_between_and_then_by_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, BUDGET) as (sandbox, made):
        sandbox.script(f"webhook {fault}")
        await message(made, b"1")
        for _ in range(6):
            await made.attempt()
        assert sandbox.count("webhook") == 2
        await made.restart()
        uptime.seconds += 300
        await made.attempt()
        outcome = await made.attempt()
        assert isinstance(outcome, Rejected)
        assert "look in the receiver" in str(outcome)
        assert sandbox.count("webhook") == 3
        sandbox.script()
        assert await made.spool.retry(None, None, now=clock.now()) == 1
        assert "may have got it twice" in (await made.deliver(tries=1)).proof


@pytest.mark.parametrize("said", [{"keeps_keys": True}, {"already": [409]}])
async def test_a_server_that_keeps_the_keys_is_asked_until_it_answers(tmp_path: Path, said: dict[str, Any]) -> None:
    async with played(tmp_path, {**BUDGET, **said}) as (sandbox, made):
        sandbox.script("webhook#1-9 lose")
        await message(made, b"1")
        await made.deliver(tries=10)
        assert sandbox.count("webhook") == 10
        assert len(sandbox.webhook_taken) == 1


@pytest.mark.parametrize("status", [429, 503, 301, 409])
async def test_a_receiver_that_says_that_it_did_not_begin_is_asked_until_it_does(tmp_path: Path, status: int) -> None:
    async with played(tmp_path, BUDGET) as (sandbox, made):
        sandbox.script(f"webhook#1-9 status {status}")
        await message(made, b"1")
        await made.deliver(tries=10)
        assert sandbox.count("webhook") == 10


async def test_the_address_is_asked_exactly_as_it_is_written(tmp_path: Path) -> None:
    async with speaking(reply("204 No Content")) as wire:
        for path in ("/hook/", "/hook", "/"):
            destination = make(wire.url + path)
            async with line(lambda made=destination: made, tmp_path / f"{len(path)}") as made:  # type: ignore[misc]
                await message(made, b"1")
                await made.deliver(tries=1)
        assert [head.split()[1] for head in wire.heads] == ["/hook/", "/hook", "/"]


# --- signature, login, headers


async def test_the_signature_is_the_one_of_standard_webhooks(tmp_path: Path) -> None:
    async with played(tmp_path, SIGNED, webhook_token=TOKEN, webhook_secret=SECRET) as (sandbox, made):
        await message(made, b'{"pressed": true}')
        await made.deliver(tries=1)
        headers = sandbox.log[0].headers
        ((key, taken),) = sandbox.webhook_taken.items()
        signed = f"{key}.{headers['webhook-timestamp']}.".encode() + taken.body
        mac = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
        assert headers["webhook-id"] == key == headers["Idempotency-Key"]
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"


@pytest.mark.parametrize(
    ("text", "key"), [("plain", b"plain"), ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None)], ids=["text", "whsec"]
)
def test_a_secret_that_begins_with_whsec_is_base64(text: str, key: bytes | None) -> None:
    assert signing_key(text) == (key or base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))


def test_the_example_of_the_standard_comes_out_as_written_there() -> None:
    signed = b'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}'
    mac = hmac.new(signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), signed, hashlib.sha256).digest()
    assert base64.b64encode(mac) == b"g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("wrong", ["webhook_token", "webhook_secret"])
async def test_a_wrong_secret_is_a_fault_of_the_configuration_and_keeps_the_item(tmp_path: Path, wrong: str) -> None:
    async with played(tmp_path, SIGNED, **{wrong: "another"}) as (_, made):
        await message(made, b"1")
        outcome = await made.attempt()
        assert isinstance(outcome, LoginRefused)
        assert "check token, secret and headers" in str(outcome)


@pytest.mark.parametrize("value", ["", "with\nnewline", "\u00fc", "whsec_!!!"])
@pytest.mark.parametrize("key", ["token", "secret", "headers"])
async def test_a_secret_that_cannot_be_used_pauses_and_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv("RELAYD_TEST_BAD", value)
    place: Any = {"env": "RELAYD_TEST_BAD"}
    if value == "whsec_!!!" and key != "secret":
        return
    async with played(tmp_path, {key: {"X-Api-Key": place} if key == "headers" else place}) as (sandbox, made):
        await message(made, b"1")
        outcome = await made.attempt()
        assert isinstance(outcome, LoginRefused)
        assert key in str(outcome)
        assert sandbox.log == type(sandbox.log)()
        assert not (await made.destination.check())[-1].is_good


async def test_ones_own_headers_are_sent_and_secrets_in_them_are_read(tmp_path: Path) -> None:
    headers = {"X-Site": "odense", "X-Api-Key": {"env": "RELAYD_TEST_TOKEN"}}
    async with played(tmp_path, {"headers": headers}) as (sandbox, made):
        await message(made, b"1")
        await made.deliver(tries=1)
        assert sandbox.log[0].headers["X-Site"] == "odense"
        assert sandbox.log[0].headers["X-Api-Key"] == TOKEN


async def test_a_secret_that_the_server_repeats_is_in_no_reason(tmp_path: Path) -> None:
    said = json.dumps({"message": f"no such token {TOKEN[:10]} {TOKEN}"}).encode()
    async with answered(tmp_path, reply("401 No", said), **SIGNED) as made:
        outcome = await made.attempt()
        assert isinstance(outcome, LoginRefused)
        assert TOKEN not in str(outcome)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"X-Api-Key": "plain"}, "is a secret"),
        ({"authorization": "Basic x"}, "is a secret"),
        ({"Content-Type": "text/plain"}, "by relayd itself"),
        ({"Idempotency-Key": "1"}, "by relayd itself"),
        ({"Webhook-Id": "1"}, "by relayd itself"),
        ({"X Y": "1"}, "name of a header"),
        ({"X-Y": "a\r\nHost: evil"}, "printable ASCII"),
        ({"Authorization": {"env": "X"}}, "both set Authorization"),
    ],
)
def test_headers_that_would_do_harm_are_refused_with_the_configuration(headers: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make("http://127.0.0.1:1", headers=headers, token={"env": "X"})


# --- what an answer proves


@pytest.mark.parametrize(
    ("answer", "fields", "proof"),
    [
        (reply("200 OK", b'{"id": 7}', Content_Type="application/json"), {"id": 7}, "200 with JSON"),
        (reply("201 Created", b'{"id": 7}', Content_Type="text/html"), {"id": 7}, "201 with JSON"),
        (reply("202 Accepted", b" \n"), {}, "202 with an empty answer"),
        (reply("204 No Content"), {}, "204 with an empty answer"),
        (reply("200 OK", b"[1, 2]"), {}, "200 with JSON"),
        (reply("200 OK", b"null"), {}, "200"),
        (reply("200 OK", json.dumps({"x": "y" * LARGEST_RECEIPT_BYTES}).encode()), {}, "200 with JSON"),
    ],
    ids=["object", "object called html", "blank", "nothing", "list", "null", "endless"],
)
async def test_a_2xx_with_json_or_nothing_is_the_proof(
    tmp_path: Path, answer: bytes, fields: dict[str, Any], proof: str
) -> None:
    async with answered(tmp_path, answer) as made:
        receipt = await made.deliver(tries=1)
        assert receipt.fields == fields
        assert proof in receipt.proof


@pytest.mark.parametrize("proof", ["json", "status"])
async def test_a_web_page_is_no_proof_whatever_is_configured(tmp_path: Path, proof: str) -> None:
    page = reply("200 OK", b"<!DOCTYPE html><html>Welcome</html>", Content_Type="text/html")
    async with answered(tmp_path, page, proof=proof) as made:
        outcome = await made.attempt()
        assert isinstance(outcome, Unavailable)
        assert "captive portal" in str(outcome)


async def test_plain_text_is_a_proof_only_where_it_is_said_to_be(tmp_path: Path) -> None:
    text = reply("200 OK", b"ok", Content_Type="text/plain")
    async with answered(tmp_path / "strict", text) as made:
        outcome = await made.attempt()
        assert isinstance(outcome, TryAgain)
        assert 'set proof = "status"' in str(outcome)
    async with answered(tmp_path / "lenient", text, proof="status") as made:
        assert (await made.deliver(tries=1)).fields == {}


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        *((status, Rejected) for status in (400, 413, 422, 451)),
        *((status, LoginRefused) for status in (401, 403, 404, 405, 410)),
        *((status, Unavailable) for status in (302, 307, 429, 503)),
        *((status, TryAgain) for status in (409, 500, 501)),
    ],
)
async def test_a_refusal_is_sorted_by_its_status(tmp_path: Path, status: int, meaning: type[DeliveryError]) -> None:
    async with answered(tmp_path, reply(f"{status} No", b'{"error": "not this one"}', Location="/elsewhere")) as made:
        outcome = await made.attempt()
        assert type(outcome) is meaning
        assert str(status) in str(outcome)


async def test_a_status_that_means_already_taken_is_delivered(tmp_path: Path) -> None:
    async with answered(tmp_path, reply("409 Conflict", b"{}"), already=[409]) as made:
        receipt = await made.deliver(tries=1)
        assert "has this Idempotency-Key already" in receipt.proof


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "405 Method Not Allowed", "204 No Content"])
async def test_check_takes_any_answer_to_a_head_for_a_server(tmp_path: Path, status: str) -> None:
    async with speaking(reply(status)) as wire, line(lambda: make(wire.url), tmp_path / "spool") as made:
        findings = await made.destination.check()
        assert all(finding.is_good for finding in findings), findings
        assert [head.split()[0] for head in wire.heads if head] == ["HEAD"]


@pytest.mark.parametrize("status", ["302 Found", "403 Forbidden", "503 Unavailable"])
async def test_check_says_what_is_wrong_with_any_other(tmp_path: Path, status: str) -> None:
    async with speaking(reply(status)) as wire, line(lambda: make(wire.url), tmp_path / "spool") as made:
        last = (await made.destination.check())[-1]
        assert not last.is_good
        assert last.remedy
