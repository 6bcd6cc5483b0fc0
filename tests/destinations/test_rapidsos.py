"""RapidSOS: the contract of every adapter, then what is its own, against the strict stand-in."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from pydantic import ValidationError

from relayd import clock
from relayd.destinations.rapidsos import RapidSOS, RapidSOSConfig
from relayd.destinations.rapidsos_types import media_type
from relayd.errors import DeliveryError, LoginRefused, Rejected, Rewind, TryAgain, Unavailable
from relayd.model import Receipt
from relayd.sandbox import Sandbox
from tests.destinations.contract import CONTENT, DestinationContract
from tests.destinations.driver import Line, PowerCut, deliver_file, line


def make(url: str, **options: Any) -> RapidSOS:
    os.environ["RELAYD_TEST_SECRET"] = "sandbox-secret"
    section: dict[str, Any] = {
        "type": "rapidsos",
        "url": url,
        "client_id": "sandbox",
        "client_secret": {"env": "RELAYD_TEST_SECRET"},
        "connect_timeout": "2s",
        "answer_timeout": "400ms",
        "stall_timeout": "400ms",
    }
    return RapidSOS("rapidsos", RapidSOSConfig.model_validate({**section, **options}))


def only(sandbox: Sandbox) -> Any:
    """The only object there is, never altered."""
    (stored,) = sandbox.objects.values()
    assert not stored.is_altered
    return stored


class TestRapidSOSKeepsTheContract(DestinationContract):
    login = "token"
    operations = ("slot", "store", "resolve")
    steps = ("slot", "store", "resolve")
    authorized = "slot"
    documented: ClassVar = {401: LoginRefused, 429: Unavailable, 500: TryAgain, 503: Unavailable}

    def make(self, sandbox: Sandbox) -> RapidSOS:
        return make(sandbox.url)

    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        stored = only(sandbox)
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        uri = str(receipt.fields["uri"])
        assert uri.removeprefix("ref://") in stored.key
        assert str(receipt.fields["resolved_url"]).endswith(stored.key)
        assert receipt.fields["expires_at"] is None
        assert "MD5" in receipt.proof


@asynccontextmanager
async def played(tmp_path: Path, options: dict[str, Any] | None = None, **switches: Any) -> AsyncIterator[Any]:
    """A sandbox with these switches and a line to it."""
    async with (
        Sandbox(**switches) as sandbox,
        line(lambda: make(sandbox.url, **(options or {})), tmp_path / "spool") as made,
    ):
        yield sandbox, made


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Sandbox, Line]]:
    async with played(tmp_path) as both:
        yield both


# --- the variants that the documents leave open


@pytest.mark.parametrize(
    "switches",
    [
        {"token_body": "form", "token_shape": "numbers"},
        {"token_body": "json", "token_refusal": 415},
        {"token_body": "json", "token_refusal": 400},
        {"signature": "v2", "content_type_field": False},
        {"success_action_status": "200"},
        {"success_action_status": "201"},
        {"success_action_redirect": "https://done.example/stored"},
        {"etag": "kms"},
        {"etag": "opaque"},
        {"etag": "none"},
        {"resolve_shape": "url"},
        {"resolve_shape": "string"},
        {"resolve_shape": "text"},
        {"resolve_form": "reference", "resolve_refusal": 404},
        {"resolve_form": "reference", "resolve_refusal": 400},
        {"session_seconds": None},
    ],
    ids=lambda switches: "-".join(f"{name}={value}" for name, value in switches.items()),
)
async def test_every_documented_variant_is_understood(tmp_path: Path, switches: dict[str, Any]) -> None:
    async with played(tmp_path, **switches) as (sandbox, made):
        await made.put(CONTENT)
        receipt = await made.deliver(tries=1)
        stored = only(sandbox)
        assert stored.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert str(receipt.fields["resolved_url"]).endswith(stored.key)
        assert ("without an MD5" in receipt.proof) == (switches.get("etag") in ("kms", "opaque", "none"))


async def test_the_token_body_that_worked_is_remembered(tmp_path: Path) -> None:
    async with played(tmp_path, token_body="json") as (sandbox, made):
        await made.put(CONTENT)
        await made.deliver(tries=1)
        sandbox.revoke_tokens()
        await made.put(CONTENT)
        await made.deliver(tries=1)
        assert sandbox.count("token") == 3


async def test_a_temporary_url_is_asked_for_with_a_whole_number_of_seconds_and_needs_no_resolving(
    tmp_path: Path,
) -> None:
    async with played(tmp_path, {"mode": "temporary_url", "expire": "90m"}) as (sandbox, made):
        await made.put(CONTENT)
        receipt = await made.deliver(tries=1)
        assert "X-Amz-Expires=5400" in str(receipt.fields["uri"])
        assert receipt.fields["resolved_url"] == receipt.fields["uri"]
        assert str(receipt.fields["expires_at"]).endswith("Z")
        assert sandbox.count("resolve") == 0


async def test_resolving_can_be_switched_off(tmp_path: Path) -> None:
    async with played(tmp_path, {"resolve": False}) as (sandbox, made):
        await made.put(CONTENT)
        assert (await made.deliver(tries=1)).fields["resolved_url"] is None
        assert sandbox.count("resolve") == 0


async def test_a_token_is_renewed_before_it_ends(pair: tuple[Sandbox, Line], monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, made = pair
    passed = 0.0
    real = clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: real() + passed)
    for passed, logins in ((0.0, 1), (3200.0, 1), (3299.5, 2)):
        await made.put(CONTENT + str(passed).encode())
        await made.deliver(tries=1)
        assert sandbox.count("token") == logins


# --- what goes out


@pytest.mark.parametrize(
    ("name", "content_type", "ends", "stored_type"),
    [
        ("clip 0001.MP4", "Video/MP4; codecs=avc1", ".MP4", "video/mp4"),
        ("a\r\nX-Injected: 1.jpg", "image/jpg", ".jpg", "image/jpeg"),
        ('"; filename="x.jpg', "image/jpeg", ".jpg", "image/jpeg"),
        ("{{ 7*7 }}/../../etc/passwd", "application/x-sh", "", "application/octet-stream"),
        ("\u202egpj.exe", "text/csv", ".exe", "text/plain"),
        ("ü" * 255, "application/pdf", "", "application/pdf"),
        ("$(id);-rf", "", "", "application/octet-stream"),
    ],
)
async def test_a_hostile_name_or_type_goes_out_safe(
    pair: tuple[Sandbox, Line], name: str, content_type: str, ends: str, stored_type: str
) -> None:
    sandbox, made = pair
    await made.put(CONTENT, name=name, content_type=content_type)
    await made.deliver(tries=1)
    stored = only(sandbox)
    assert stored.name.endswith(ends)
    assert stored.content_type == stored_type


async def test_the_rule_may_name_the_file_and_its_type(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    await made.put(CONTENT, file_name="front camera.png", mime_type="image/png")
    await made.deliver(tries=1)
    stored = only(sandbox)
    assert (stored.name.endswith(".png"), " " in stored.name, stored.content_type) == (True, False, "image/png")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/JPEG ; q=1", "image/jpeg"),
        ("audio/x-wav", "audio/x-wav"),
        ("application/msword", "application/msword"),
        ("application/mp4", "video/mp4"),
        ("text/x-markdown", "text/markdown"),
        ("text/html", "application/octet-stream"),
        ("application/json", "application/octet-stream"),
        ("image/", "application/octet-stream"),
        ("image/svg+xml", "image/svg+xml"),
        ("video/mp4\r\nX: y", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_only_types_on_the_closed_list_are_declared(given: str, sent: str) -> None:
    assert media_type(given) == sent


async def test_storage_never_sees_the_token_and_gets_a_length(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    await made.put(os.urandom(3_000_000))
    await made.deliver(tries=1)
    (store,) = [entry for entry in sandbox.log if entry.operation == "store"]
    assert "Authorization" not in store.headers
    assert "Transfer-Encoding" not in store.headers
    assert int(store.headers["Content-Length"]) == store.received_bytes > 3_000_000


async def test_a_file_from_disk_arrives_by_the_driver(tmp_path: Path) -> None:
    path = tmp_path / "note.md"
    path.write_bytes(b"# hello\n")
    async with Sandbox() as sandbox:
        receipt = await deliver_file(make(sandbox.url), path, content_type="text/markdown")
        assert str(receipt.fields["resolved_url"]).endswith("/note.md")
        assert only(sandbox).size_bytes == 8


# --- what is known before sending


@pytest.mark.parametrize("limits", [{"max_bytes": 1000}, {"min_bytes": 100_000}])
async def test_a_file_outside_the_policy_is_dead_and_not_sent(tmp_path: Path, limits: dict[str, Any]) -> None:
    async with played(tmp_path, **limits) as (sandbox, made):
        await made.put(CONTENT)
        assert isinstance(await made.attempt(), Rejected)
        assert await made.attempt() is None
        assert sandbox.count("store") == 0


async def test_an_empty_file_is_never_uploaded(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    await made.put(b"")
    assert isinstance(await made.attempt(), Rejected)
    assert sandbox.count("slot") == 0


async def test_a_slot_that_is_already_over_is_not_used(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    sandbox.script("slot#1 expired -5")
    await made.put(CONTENT)
    assert isinstance(await made.attempt(), TryAgain)
    assert sandbox.count("store") == 0
    await made.deliver(tries=1)


async def test_a_slot_kept_through_an_outage_is_replaced_when_it_has_ended(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    sandbox.script("store#1 status 503")
    await made.put(CONTENT)
    assert isinstance(await made.attempt(), Unavailable)
    await made.restart()
    sandbox.advance(4000)
    await made.put(b"another, by which the server's clock is learned")
    outcomes = [await made.attempt() for _ in range(2)]
    kinds = {type(outcome) for outcome in outcomes}
    assert kinds == {Receipt, Rewind} or kinds == {Rewind, Receipt}
    await made.deliver(tries=1)
    assert sandbox.count("slot") == 3
    assert len(sandbox.objects) == 2


async def test_our_clock_may_be_wrong_as_long_as_the_servers_is_known(pair: tuple[Sandbox, Line]) -> None:
    """The slot lives for an hour by the server's clock, which is ten years ahead of ours, or behind."""
    sandbox, made = pair
    for skew in (3e8, -6e8):
        sandbox.advance(skew)
        sandbox.revoke_tokens()
        await made.put(CONTENT + str(skew).encode())
        await made.deliver(tries=1)


async def test_a_slot_is_used_again_for_as_long_as_it_lasts(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    sandbox.script("store#1-3 status 500")
    await made.put(CONTENT)
    await made.deliver(tries=4)
    assert sandbox.count("slot") == 1
    assert only(sandbox).stored == 1


# --- what storage says


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("status 403 code=AccessDenied message=Invalid_according_to_Policy:_Policy_expired.", Rewind),
        ("status 400 code=ExpiredToken", Rewind),
        ("expired", Rewind),
    ],
)
async def test_a_slot_that_storage_calls_expired_is_replaced(
    pair: tuple[Sandbox, Line], fault: str, kind: type[DeliveryError]
) -> None:
    sandbox, made = pair
    sandbox.script(f"store#1 {fault}")
    await made.put(CONTENT)
    assert isinstance(await made.attempt(), kind)
    receipt = await made.deliver(tries=1)
    assert sandbox.count("slot") == 2
    assert str(receipt.fields["uri"]).removeprefix("ref://") in only(sandbox).key


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidAccessKeyId", "NoSuchBucket", "PreconditionFailed"])
async def test_a_slot_that_is_refused_is_replaced_once_and_then_the_item_is_dead(
    pair: tuple[Sandbox, Line], code: str
) -> None:
    sandbox, made = pair
    sandbox.script(f"store status 403 code={code}")
    await made.put(CONTENT)
    assert isinstance(await made.attempt(), TryAgain)
    await made.restart()
    outcome = await made.attempt()
    assert isinstance(outcome, Rejected)
    assert code in str(outcome)
    assert await made.attempt() is None
    assert sandbox.count("slot") == 2


async def test_a_refused_slot_that_is_replaced_delivers(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    sandbox.script("store#1 status 403 code=SignatureDoesNotMatch")
    await made.put(CONTENT)
    assert isinstance(await made.attempt(), TryAgain)
    with pytest.raises(PowerCut):
        await made.attempt(dies_at="slot-2")
    await made.restart()
    await made.deliver(tries=1)
    assert sandbox.count("slot") == 2


@pytest.mark.parametrize(
    "fault",
    [
        "status 400 code=EntityTooLarge",
        "status 400 code=MalformedPOSTRequest",
        "status 411 code=MissingContentLength",
        "status 403 code=AccessDenied message=Invalid_according_to_Policy:_Extra_input_fields:_x",
    ],
)
async def test_what_storage_will_never_take_is_dead(pair: tuple[Sandbox, Line], fault: str) -> None:
    sandbox, made = pair
    sandbox.script(f"store {fault}")
    await made.put(CONTENT)
    assert isinstance(await made.attempt(), Rejected)


async def test_storage_may_move_the_upload_once(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    sandbox.script("store redirect 307")
    await made.put(CONTENT)
    await made.deliver(tries=1)
    assert sandbox.count("store") == 2


@pytest.mark.parametrize(
    "target", ["https://169.254.169.254/latest", "file:///etc/passwd", "http://10.0.0.1/", "https://user@h.example/"]
)
async def test_storage_may_not_move_the_upload_into_a_private_network(pair: tuple[Sandbox, Line], target: str) -> None:
    sandbox, made = pair
    sandbox.script(f"store#1 redirect 307 to={target}")
    await made.put(CONTENT)
    outcome = await made.attempt()
    assert isinstance(outcome, Unavailable)
    assert "refused" in str(outcome)
    await made.deliver(tries=1)


async def test_damage_on_the_way_is_noticed_and_the_same_slot_used_again(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    sandbox.script("store#1-2 corrupt")
    await made.put(CONTENT)
    for _ in range(2):
        outcome = await made.attempt()
        assert isinstance(outcome, TryAgain)
        assert "other bytes" in str(outcome)
        await made.restart()
    await made.deliver(tries=1)
    assert sandbox.count("slot") == 1
    (stored,) = sandbox.objects.values()
    assert (stored.md5, stored.stored) == (hashlib.md5(CONTENT).hexdigest(), 3)


async def test_damage_that_never_ends_is_given_up_after_five_uploads(pair: tuple[Sandbox, Line]) -> None:
    sandbox, made = pair
    sandbox.script("store corrupt")
    await made.put(CONTENT)
    with pytest.raises(Rejected, match="given up"):
        await made.deliver()
    assert sandbox.count("store") == 5


async def test_a_spooled_file_that_has_rotted_is_named_instead_of_storage(
    pair: tuple[Sandbox, Line], tmp_path: Path
) -> None:
    sandbox, made = pair
    item = await made.put(CONTENT)
    (path,) = (tmp_path / "spool" / "media").rglob(item.id)
    path.chmod(0o600)
    with path.open("r+b") as stream:
        stream.write(b"rot")
    outcome = await made.attempt()
    assert isinstance(outcome, Rejected)
    assert "spool check" in str(outcome)
    assert sandbox.count("store") == 1


# --- resolving is only information


@pytest.mark.parametrize("fault", ["status 404", "status 400", "status 410"])
async def test_a_stored_file_counts_as_delivered_without_its_address(pair: tuple[Sandbox, Line], fault: str) -> None:
    sandbox, made = pair
    sandbox.script(f"resolve {fault}")
    await made.put(CONTENT)
    receipt = await made.deliver(tries=1)
    assert receipt.fields["resolved_url"] is None
    assert "address is unknown" in receipt.proof
    only(sandbox)


@pytest.mark.parametrize("fault", ["status 500", "status 503", "schema", "status 401"])
async def test_an_address_that_never_comes_does_not_hold_a_stored_file_for_ever(
    pair: tuple[Sandbox, Line], fault: str
) -> None:
    sandbox, made = pair
    sandbox.script(f"resolve {fault}")
    await made.put(CONTENT)
    for _ in range(2):
        assert isinstance(await made.attempt(), DeliveryError)
        await made.restart()
    receipt = await made.deliver(tries=1)
    assert receipt.fields["resolved_url"] is None
    assert sandbox.count("store") == 1


# --- refusals of the API


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Rejected), (413, Rejected), (403, LoginRefused), (404, LoginRefused)]
)
async def test_a_refused_slot_request_blames_the_item_or_the_account(
    pair: tuple[Sandbox, Line], status: int, kind: type[DeliveryError]
) -> None:
    sandbox, made = pair
    sandbox.script(f"slot status {status}")
    await made.put(CONTENT)
    assert type(await made.attempt()) is kind


async def test_a_secret_that_cannot_be_read_is_a_fault_of_the_destination(
    pair: tuple[Sandbox, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = pair
    monkeypatch.delenv("RELAYD_TEST_SECRET")
    await made.put(CONTENT)
    outcome = await made.attempt()
    assert isinstance(outcome, LoginRefused)
    assert "RELAYD_TEST_SECRET is not set" in str(outcome)


# --- secrets


async def test_no_secret_is_in_any_error_or_log_line_at_debug(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults = ("status 500", "lose", "garbage", "portal", "status 401", "status 403", "truncate", "redirect 302")
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    said: list[str] = []
    async with played(tmp_path) as (sandbox, made):
        for operation in ("token", "slot", "store", "resolve"):
            for fault in faults:
                sandbox.script(f"{operation} {fault}")
                await made.put(CONTENT)
                said += [repr(await made.attempt()) for _ in range(2)]
        secrets = {"sandbox-secret", sandbox.settings.secret_key, sandbox.settings.access_key}
        secrets |= set(sandbox._manager._tokens)
        asyncio.get_running_loop().set_debug(False)
    text = "\n".join([*said, caplog.text])
    assert [secret for secret in secrets if secret in text] == []
    for marker in ("Bearer", "X-Amz-Signature=", "x-amz-security-token", "?X-Amz"):
        assert marker not in text


# --- configuration and check


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": "plain"},
        {"mode": "forever"},
        {"expire": "0s"},
        {"expire": 600},
        {"upload_hosts": ["https://amazonaws.com"]},
        {"unknown": 1},
        {"url": "http://api.rapidsos.com"},
        {"client_id": ""},
    ],
)
def test_a_wrong_section_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(wrong.get("url", "https://api.rapidsos.com"), **{k: v for k, v in wrong.items() if k != "url"})


async def finding(destination: RapidSOS) -> tuple[str, str, str]:
    """The last thing that check says: what, how it went, the remedy."""
    try:
        last = (await destination.check())[-1]
    finally:
        await destination.close()
    assert not last.is_good
    return last.subject, last.text, last.remedy


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    import ssl

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    def start(host: str = "localhost", **options: Any) -> Sandbox:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host, **options).configure_cert(context)
        return Sandbox(tls=context)

    return start


async def test_the_whole_way_works_over_tls(serve: Callable[..., Any], tmp_path: Path) -> None:
    async with serve() as sandbox:
        url = f"https://localhost:{sandbox.url.rpartition(':')[2]}"
        async with line(lambda: make(url, ca_file=tmp_path / "ca.pem"), tmp_path / "spool") as made:
            await made.put(os.urandom(2_000_000))
            receipt = await made.deliver(tries=1)
            findings = await made.destination.check()
        assert receipt.fields["resolved_url"] is not None
        assert [found.subject for found in findings if not found.is_good] == []
        assert any("TLSv1.3" in found.text for found in findings)


async def test_check_tells_certificates_apart_in_words(serve: Callable[..., Any], tmp_path: Path) -> None:
    import datetime

    long_ago, far_off = (
        datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC),
        datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC),
    )
    trusted = {"ca_file": tmp_path / "ca.pem"}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({}, {}, "unknown authority"),
        ({"host": "elsewhere.example"}, trusted, "another host"),
        ({"not_after": long_ago}, trusted, "expired"),
        ({"not_before": far_off, "not_after": far_off + datetime.timedelta(days=1)}, trusted, "not valid yet"),
    ]
    for served, options, words in cases:
        async with serve(**served) as sandbox:
            url = f"https://localhost:{sandbox.url.rpartition(':')[2]}"
            subject, text, remedy = await finding(make(url, **options))
        assert subject == "rapidsos: TLS"
        assert words in text
        assert remedy


async def test_check_names_a_host_without_an_address(tmp_path: Path) -> None:
    subject, text, remedy = await finding(make("https://no-such-host.invalid"))
    assert subject == "rapidsos: name"
    assert "no-such-host.invalid" in text
    assert remedy


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (7200, r"(2:00:0\d|1:59:5\d) behind"),
        (-86400, r"(1 day, 0:00:0\d|23:59:5\d) ahead of"),
    ],
)
async def test_check_compares_the_clocks(pair: tuple[Sandbox, Line], skew: float, words: str) -> None:
    sandbox, made = pair
    sandbox.advance(skew)
    last = (await made.destination.check())[-1]
    assert (last.subject, last.is_good) == ("rapidsos: clock", False)
    assert re.search(words, last.text), last.text
    assert last.remedy
