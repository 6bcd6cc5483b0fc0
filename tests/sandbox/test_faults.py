"""Scripted faults: what the language reads, and what each fault does to a client and to what is stored."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relayd.sandbox import FaultError, Sandbox
from relayd.sandbox.faults import Script, parse
from tests.sandbox import peers
from tests.sandbox.peers import Answer, form_of, get, multipart, post, slot, token, until

CONTENT = bytes(range(256)) * 200


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=7) as sandbox:
        yield sandbox


async def stored(sandbox: Sandbox) -> Answer:
    """Post one good form; the slot is asked for without faults, those of the upload are then in force."""
    script = "; ".join(fault.text for fault in sandbox.faults)
    sandbox.script()
    given = await slot(sandbox.url)
    sandbox.script(script)
    return await post(given["signed_request"]["url"], form_of(given, CONTENT), multipart())


async def no_answer(sandbox: Sandbox, script: str) -> None:
    sandbox.script(script)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await stored(sandbox)
    await sandbox.wait_for(lambda: sandbox.log[-1].ended_at is not None)


# --- the language


@pytest.mark.parametrize(
    ("script", "operation", "struck"),
    [
        ("store lose", "store", [1, 2, 3, 4, 5]),
        ("store#2 lose", "store", [2]),
        ("store#2-4 lose", "store", [2, 3, 4]),
        ("store#4+ lose", "store", [4, 5]),
        ("any#3 lose", "slot", [3]),
        ("token lose; slot lose", "store", []),
        ("store%0 lose\nstore%100 lose", "store", [1, 2, 3, 4, 5]),
    ],
)
def test_a_rule_strikes_the_calls_it_names(script: str, operation: str, struck: list[int]) -> None:
    ready = Script(script)
    assert [number for number in range(1, 6) if ready.next(operation) is not None] == struck


def test_any_counts_every_operation() -> None:
    script = Script("any#2 lose")
    assert [script.next(each) is not None for each in ("token", "slot", "store")] == [False, True, False]


def test_the_first_rule_that_fits_decides() -> None:
    script = Script("store#1 lose; store status 500 retry_after=3 -- a comment; slot lose")
    faults = [script.next("store") for _ in range(2)]
    assert [fault.action for fault in faults if fault] == ["lose", "status"]
    assert faults[1] is not None
    assert (faults[1].amount, dict(faults[1].options)) == (500, {"retry_after": "3"})


def test_chance_follows_the_seed_and_not_the_order_of_operations() -> None:
    def draw(seed: int, operations: list[str]) -> list[bool]:
        script = Script("any%30 lose", seed)
        return [script.next(each) is not None for each in operations if each != "token"]

    stores = ["store"] * 200
    assert draw(1, stores) == draw(1, stores)
    assert draw(1, stores) != draw(2, stores)
    assert 30 < sum(draw(1, stores)) < 90
    mixed = Script("any%30 lose", 1)
    found = [mixed.next(each) is not None for each in ("token", "store") * 200]
    assert found[1::2] == draw(1, stores)


@pytest.mark.parametrize(
    "text",
    ["store", "shop lose", "store explode", "store#x lose", "store status", "store lose 3", "store cut many",
     "store status 500 color=red", "store status 500 501", "store#2#3 lose"],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_says_what_to_write(text: str) -> None:
    with pytest.raises(FaultError, match=r"write|needs|takes|known|not a number"):
        parse(text)


# --- what they do


async def test_a_lost_answer_has_its_effect(sandbox: Sandbox) -> None:
    await no_answer(sandbox, "store lose")
    assert len(sandbox.objects) == 1
    assert (sandbox.log[-1].outcome, sandbox.log[-1].has_effect, sandbox.log[-1].status) == ("lost", True, 204)


async def test_a_truncated_answer_has_its_effect(sandbox: Sandbox) -> None:
    await no_answer(sandbox, "store truncate")
    assert (sandbox.log[-1].outcome, sandbox.log[-1].has_effect) == ("truncated", True)
    given = await token(sandbox.url)
    sandbox.script("slot truncate")
    wish = json.dumps({"file_name": "a", "mime_type": "image/png", "mode": "persistent_reference"}).encode()
    with pytest.raises(asyncio.IncompleteReadError):
        await post(f"{sandbox.url}/v1/resources", wish, "application/json", given)


async def test_a_mute_server_has_the_effect_and_never_answers(sandbox: Sandbox) -> None:
    sandbox.script("store mute")
    posting = asyncio.ensure_future(stored(sandbox))
    await until(lambda: bool(sandbox.objects))
    assert not posting.done()
    posting.cancel()
    await sandbox.wait_for(lambda: sandbox.log[-1].outcome == "mute")


@pytest.mark.parametrize(("script", "outcome"), [("store cut 5000", "cut"), ("store refuse", "refused")])
async def test_a_cut_or_refused_request_has_no_effect(sandbox: Sandbox, script: str, outcome: str) -> None:
    await no_answer(sandbox, script)
    assert not sandbox.objects
    assert (sandbox.log[-1].outcome, sandbox.log[-1].has_effect) == (outcome, False)
    assert sandbox.log[-1].received_bytes <= 5000


async def test_a_hanging_request_is_dropped_in_the_end(sandbox: Sandbox) -> None:
    await no_answer(sandbox, "store hang 0.2")
    assert (sandbox.log[-1].outcome, sandbox.log[-1].received_bytes) == ("hung", 0)


async def test_a_status_comes_with_retry_after_and_the_body_of_its_api(sandbox: Sandbox) -> None:
    sandbox.script("store status 503 retry_after=7; slot status 429 retry_after=2; token status 500")
    answer = await stored(sandbox)
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "SlowDown", "7")
    assert not sandbox.objects
    answer = await post(f"{sandbox.url}/v1/resources", b"{}", "application/json")
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")
    assert "fault" in answer.json
    answer = await post(f"{sandbox.url}/oauth/token", b"{}", "application/json")
    assert (answer.status, answer.json) == (500, {"message": "scripted"})


async def test_a_status_can_carry_any_code_of_storage(sandbox: Sandbox) -> None:
    sandbox.script("store status 400 code=RequestTimeout message=too_slow")
    answer = await stored(sandbox)
    assert (answer.status, answer.code, answer.message) == (400, "RequestTimeout", "too slow")


async def test_a_slow_exchange_takes_its_time(sandbox: Sandbox) -> None:
    sandbox.script("store slow 200000")
    start = asyncio.get_running_loop().time()
    assert (await stored(sandbox)).status == 204
    assert asyncio.get_running_loop().time() - start > 0.2
    sandbox.script("token slow 1000")
    start = asyncio.get_running_loop().time()
    await token(sandbox.url)
    assert asyncio.get_running_loop().time() - start > 0.1


async def test_a_captive_portal_answers_everything_with_its_page(sandbox: Sandbox) -> None:
    sandbox.script("any portal")
    for answer in (await get(f"{sandbox.url}/anything"), await post(f"{sandbox.url}/oauth/token", b"", "a/b")):
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (await stored(sandbox)).status == 200
    assert not sandbox.objects


async def test_a_captive_portal_may_redirect_to_its_page(sandbox: Sandbox) -> None:
    sandbox.script("any portal redirect=yes")
    answer = await post(f"{sandbox.url}/oauth/token", b"", "a/b")
    assert answer.status == 302
    sandbox.script()
    assert b"Free WiFi" in (await get(answer.headers["location"])).body


async def test_storage_moves_with_307_and_stores_at_the_new_address(sandbox: Sandbox, tmp_path: Path) -> None:
    given = await slot(sandbox.url)
    sandbox.script("store redirect")
    answer = await post(given["signed_request"]["url"], form_of(given, CONTENT), multipart())
    assert answer.status == 307
    assert not sandbox.objects
    assert (await post(answer.headers["location"], form_of(given, CONTENT), multipart())).status == 204
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    assert (await peers.curl("-L", "-w", "%{http_code}", *peers.curl_form(given, file)))[1] == "204"


async def test_a_redirect_can_go_anywhere(sandbox: Sandbox) -> None:
    sandbox.script("store redirect 303 to=http://169.254.169.254/latest")
    answer = await stored(sandbox)
    assert (answer.status, answer.headers["location"]) == (303, "http://169.254.169.254/latest")


async def test_a_slot_can_be_issued_already_expired(sandbox: Sandbox) -> None:
    sandbox.script("slot#1 expired -60")
    given = await slot(sandbox.url)
    answer = await post(given["signed_request"]["url"], form_of(given, CONTENT), multipart())
    assert answer.message == "Invalid according to Policy: Policy expired."
    given = await slot(sandbox.url)
    assert (await post(given["signed_request"]["url"], form_of(given, CONTENT), multipart())).status == 204


async def test_a_token_can_be_issued_already_expired(sandbox: Sandbox) -> None:
    sandbox.script("token expired")
    line = await token(sandbox.url)
    assert (await post(f"{sandbox.url}/v1/resources", b"{}", "application/json", line)).status == 401


async def test_a_good_policy_can_be_judged_expired(sandbox: Sandbox) -> None:
    sandbox.script("store#1 expired")
    answer = await stored(sandbox)
    assert (answer.status, answer.message) == (403, "Invalid according to Policy: Policy expired.")


async def test_an_answer_can_be_oversized(sandbox: Sandbox) -> None:
    sandbox.script("token oversized 300000")
    answer = await post(f"{sandbox.url}/oauth/token", b"", "a/b")
    assert (answer.status, len(answer.body)) == (200, 300_000)


async def test_an_answer_can_be_a_gzip_bomb(sandbox: Sandbox) -> None:
    sandbox.script("token bomb 3000000")
    answer = await post(f"{sandbox.url}/oauth/token", b"", "a/b")
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.body) < 20_000
    assert len(gzip.decompress(answer.body)) > 3_000_000


async def test_an_answer_can_drip_without_end(sandbox: Sandbox) -> None:
    sandbox.script("token drip 0.01")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await post(f"{sandbox.url}/oauth/token", b"", "a/b")
    await sandbox.wait_for(lambda: sandbox.log[-1].outcome == "client left")


async def test_an_answer_can_have_the_wrong_shape_or_be_no_http(sandbox: Sandbox) -> None:
    sandbox.script("token schema; slot garbage")
    answer = await post(f"{sandbox.url}/oauth/token", b"", "a/b")
    assert (answer.status, "access_token" in answer.json) == (200, False)
    with pytest.raises(asyncio.IncompleteReadError) as cut:
        await post(f"{sandbox.url}/v1/resources", b"", "a/b")
    assert cut.value.partial.startswith(b"\x15\x03\x01")


@pytest.mark.parametrize(("script", "is_denied"), [("store corrupt", False), ("store corrupt silent=yes", True)])
async def test_a_corrupt_store_shows_in_the_etag_unless_it_is_silent(
    sandbox: Sandbox, script: str, is_denied: bool
) -> None:
    right = (await stored(sandbox)).headers["etag"]
    sandbox.script(script)
    answer = await stored(sandbox)
    assert (answer.headers["etag"] == right) == is_denied
    found = list(sandbox.objects.values())[-1]
    content = Path(found.file).read_bytes()
    assert content[1:] == CONTENT[1:]
    assert content[0] != CONTENT[0]
