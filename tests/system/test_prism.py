"""The RapidSOS adapter against Prism, which checks every request against the API's own description."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from relayd.destinations.rapidsos import RapidSOS, RapidSOSConfig
from relayd.errors import DeliveryError, LoginRefused, Rejected, Rewind, TryAgain, Unavailable
from relayd.model import Receipt
from tests.destinations.driver import Line, line
from tests.system.prism import Proxy

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SLOT_KEY = "uploads/3f1c2a4e-0b7d-4f5e-9a61-2c0d8e7b1a90/clip-0001.mp4"
REFERENCE = "ref://3f1c2a4e-0b7d-4f5e-9a61-2c0d8e7b1a90"
CLIP = hashlib.shake_256(b"clip").digest(30_017)
RESOLVED = "https://api-sandbox.rapidsos.com/v1/resources/3f1c2a4e-0b7d-4f5e-9a61-2c0d8e7b1a90"

Fed = Callable[..., AbstractAsyncContextManager[Line]]


@pytest.fixture
def fed(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fed:
    """Opens a new spool that feeds a new adapter; options are those of its section."""
    monkeypatch.setenv("RELAYD_TEST_SECRET", "not-a-secret")
    secret = {"env": "RELAYD_TEST_SECRET"}
    section = {"type": "rapidsos", "url": proxy.url, "client_id": "relay", "client_secret": secret}

    def open_line(**options: object) -> AbstractAsyncContextManager[Line]:
        config = RapidSOSConfig.model_validate({**section, **options})
        return line(lambda: RapidSOS("rapidsos", config), tmp_path / "spool")

    return open_line


async def tried(
    relay: Line, content: bytes = CLIP, *, name: str = "clip 1.mp4", content_type: str = "video/mp4"
) -> Receipt | DeliveryError | None:
    """How the first try at a new item ended."""
    await relay.put(content, name, content_type)
    return await relay.attempt()


async def delivered(
    relay: Line, content: bytes = CLIP, *, name: str = "clip 1.mp4", content_type: str = "video/mp4"
) -> Receipt:
    """The receipt that the first try at a new item brought."""
    outcome = await tried(relay, content, name=name, content_type=content_type)
    assert isinstance(outcome, Receipt), outcome
    return outcome


@pytest.mark.parametrize("size", [1, 1_000_000, 3_000_017])
async def test_the_whole_flow_is_accepted_and_the_file_arrives(proxy: Proxy, fed: Fed, size: int) -> None:
    content = hashlib.shake_256(b"clip").digest(size)

    async with fed() as relay:
        receipt = await delivered(relay, content)

    assert receipt.fields == {"uri": REFERENCE, "resolved_url": RESOLVED, "expires_at": None}
    assert proxy.stored == {SLOT_KEY: content}
    assert [(exchange.method, exchange.path) for exchange in proxy.seen] == [
        ("POST", "/oauth/token"),
        ("POST", "/v1/resources"),
        ("POST", "/s3/example-bucket"),
        ("GET", f"/v1/resources/{REFERENCE.removeprefix('ref://')}/resolve"),
    ]
    assert proxy.violations == []


async def test_a_temporary_url_is_asked_for_with_its_life_and_not_resolved(proxy: Proxy, fed: Fed) -> None:
    proxy.force("/v1/resources", "example=temporary")

    async with fed(mode="temporary_url", expire="1h") as relay:
        receipt = await delivered(relay)

    assert str(receipt.fields["uri"]).startswith("https://example-bucket.s3.amazonaws.com/uploads/still-0001.jpg?")
    assert receipt.fields["expires_at"] is not None
    assert proxy.stored == {"uploads/still-0001.jpg": CLIP}
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("two words\tand a tab.JPG", "IMAGE/JPEG; q=1"),
        ("-rf $(id) 'quoted' \"twice\".png", "image/png"),
        ("Ærø \u202egpj.exe", "application/x-msdownload"),
        ("%2e%2e%2fnotes.md", "text/x-markdown"),
        ("a" * 251 + ".csv", "text/csv"),
    ],
)
async def test_whatever_a_camera_calls_its_files_no_request_breaks_the_description(
    proxy: Proxy, fed: Fed, name: str, content_type: str
) -> None:
    async with fed() as relay:
        await delivered(relay, name=name, content_type=content_type)

    assert proxy.stored == {SLOT_KEY: CLIP}
    assert proxy.violations == []


@pytest.mark.parametrize("example", ["strings", "numbers"])
async def test_a_token_answer_is_read_with_strings_and_with_numbers(proxy: Proxy, fed: Fed, example: str) -> None:
    proxy.force("/oauth/token", f"example={example}")

    async with fed() as relay:
        for _ in range(2):
            await delivered(relay)

    assert proxy.statuses("/oauth/token") == [200]


@pytest.mark.parametrize("example", ["object", "string"])
async def test_the_resolved_address_is_read_from_an_object_and_from_a_bare_string(
    proxy: Proxy, fed: Fed, example: str
) -> None:
    proxy.force("/resolve", f"example={example}")

    async with fed() as relay:
        receipt = await delivered(relay)

    assert receipt.fields["resolved_url"] == RESOLVED


async def test_a_token_form_that_is_refused_is_sent_again_as_json(proxy: Proxy, fed: Fed) -> None:
    proxy.force("/oauth/token", "code=400")

    async with fed() as relay:
        await delivered(relay)

    assert proxy.statuses("/oauth/token") == [400, 200]
    assert proxy.violations == []


async def test_an_expired_token_is_renewed_once_within_the_try(proxy: Proxy, fed: Fed) -> None:
    proxy.force("/v1/resources", "code=401")

    async with fed() as relay:
        await delivered(relay)

    assert proxy.statuses("/oauth/token") == [200, 200]
    assert proxy.statuses("/v1/resources") == [401, 200]
    assert proxy.violations == []


@pytest.mark.parametrize(
    ("ending", "prefers", "error"),
    [
        ("/oauth/token", ["code=401"], LoginRefused),
        ("/oauth/token", ["code=429"], Unavailable),
        ("/oauth/token", ["code=503"], Unavailable),
        ("/v1/resources", ["code=401", "code=401"], LoginRefused),
        ("/v1/resources", ["code=400"], Rejected),
        ("/v1/resources", ["code=429"], Unavailable),
        ("/v1/resources", ["code=500"], TryAgain),
        ("/v1/resources", ["code=503"], Unavailable),
        ("/s3/example-bucket", ["code=400, example=RequestTimeout"], TryAgain),
        ("/s3/example-bucket", ["code=400, example=MissingFile"], Rejected),
        ("/s3/example-bucket", ["code=400, example=EntityTooLarge"], Rejected),
        ("/s3/example-bucket", ["code=400, example=ExpiredToken"], Rewind),
        ("/s3/example-bucket", ["code=403, example=PolicyExpired"], Rewind),
        ("/s3/example-bucket", ["code=403, example=ExtraFields"], Rejected),
        ("/s3/example-bucket", ["code=403, example=SignatureDoesNotMatch"], TryAgain),
        ("/s3/example-bucket", ["code=411"], Rejected),
        ("/s3/example-bucket", ["code=500"], TryAgain),
        ("/s3/example-bucket", ["code=503"], Unavailable),
        ("/resolve", ["code=429"], Unavailable),
        ("/resolve", ["code=500"], TryAgain),
    ],
)
async def test_every_documented_refusal_is_what_it_says(
    proxy: Proxy, fed: Fed, ending: str, prefers: list[str], error: type[Exception]
) -> None:
    proxy.force(ending, *prefers)

    async with fed() as relay:
        assert type(await tried(relay)) is error

        if error is not Rejected:  # what may help, helps: the next try arrives
            receipt = await relay.attempt()
            assert isinstance(receipt, Receipt)
            assert proxy.stored == {SLOT_KEY: CLIP}


async def test_a_retry_after_is_handed_on(proxy: Proxy, fed: Fed) -> None:
    proxy.force("/v1/resources", "code=429")

    async with fed() as relay:
        outcome = await tried(relay)

    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_seconds == 5.0


async def test_a_second_try_repeats_nothing_that_was_done(proxy: Proxy, fed: Fed) -> None:
    proxy.force("/resolve", "code=500")

    async with fed() as relay:
        assert isinstance(await tried(relay), TryAgain)
        assert isinstance(await relay.attempt(), Receipt)

    assert proxy.statuses("/v1/resources") == [200]
    assert proxy.statuses("/s3/example-bucket") == [204]
    assert proxy.statuses("/resolve") == [500, 200]


async def test_a_reference_that_nobody_knows_is_tried_whole_and_then_reported_without_an_address(
    proxy: Proxy, fed: Fed
) -> None:
    proxy.force("/resolve", "code=404", "code=404")

    async with fed() as relay:
        receipt = await delivered(relay)

    assert receipt.fields == {"uri": REFERENCE, "resolved_url": None, "expires_at": None}
    assert "address is unknown" in receipt.proof
    assert proxy.statuses("/resolve") == [404, 404]


async def test_an_etag_of_other_bytes_is_no_proof(proxy: Proxy, fed: Fed) -> None:
    proxy.spoils_etag = True

    async with fed() as relay:
        outcome = await tried(relay)

    assert isinstance(outcome, TryAgain)
    assert "other bytes" in str(outcome)


async def test_the_check_of_a_configuration_logs_in_and_leaves_no_trace(proxy: Proxy, fed: Fed) -> None:
    async with fed() as relay:
        findings = await relay.destination.check()

    assert [finding for finding in findings if not finding.is_good] == []
    assert {exchange.path for exchange in proxy.seen} == {"/oauth/token"}
    assert proxy.violations == []


async def test_prism_does_refuse_what_breaks_the_description(proxy: Proxy) -> None:
    """The control: without it, an empty list of violations would prove nothing."""
    from aiohttp import ClientSession

    body = {"file_name": "two words.jpg", "mime_type": "image/jpeg", "mode": "persistent_reference", "expire": 60}
    async with (
        ClientSession() as session,
        session.post(f"{proxy.url}/v1/resources", json=body, headers={"Authorization": "Bearer x"}) as answer,
    ):
        assert answer.status == 400

    assert any("file_name" in line for line in proxy.violations)
    assert any("expire" in line for line in proxy.violations)
