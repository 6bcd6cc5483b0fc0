"""IncidentShare: the contract of every adapter, with a file and with a link, then what is its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from relayd import clock
from relayd.destinations import incidentshare_api as api
from relayd.destinations.incidentshare import IncidentShare
from relayd.destinations.incidentshare_models import IncidentShareConfig
from relayd.errors import DeliveryError, LoginRefused, NotReady, Rejected, TryAgain, Unavailable
from relayd.model import Incident, Kind, Receipt
from relayd.sandbox import Sandbox
from tests.destinations.contract import CONTENT, DestinationContract, LookingContract, Uptime
from tests.destinations.driver import Line, PowerCut, line
from tests.unit.wire import read_request, reply, speaking

STREAM = "vehicle-12"
DOCUMENTED: dict[int, type[DeliveryError]] = {
    400: Rejected,
    401: LoginRefused,
    403: LoginRefused,
    413: Rejected,
    429: Unavailable,
    500: TryAgain,
    503: Unavailable,
}


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_SECRET", "sandbox-secret")


def make(url: str, **options: Any) -> IncidentShare:
    section: dict[str, Any] = {
        "type": "incidentshare",
        "url": url,
        "client_id": "sandbox",
        "client_secret": {"env": "RELAYD_TEST_SECRET"},
        "look_for": "0s",
        "most_unknown": 100,
        "unknown_wait": "0s",
        "connect_timeout": "2s",
        "answer_timeout": "400ms",
        "stall_timeout": "400ms",
    }
    return IncidentShare("incidentshare", IncidentShareConfig.model_validate({**section, **options}))


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
    """A line to a server that always says this, and that is not logged in to first."""
    async with (
        speaking(answer) as wire,
        line(lambda: make(wire.url, auth="basic", **options), tmp_path / "spool") as made,
    ):
        yield made


async def shoot(relay: Line, content: bytes = CONTENT, stream_id: str = STREAM, **arguments: Any) -> None:
    """Owe a file to a stream."""
    await relay.put(content, stream_id=stream_id, **arguments)


async def call(relay: Line, phone_number: str = "+4512345678", **arguments: Any) -> None:
    """Owe a link by SMS."""
    await relay.put(b"{}", "panic", action="sms", kind=Kind.MESSAGE, phone_number=phone_number, **arguments)


async def write(relay: Line, **arguments: Any) -> None:
    """Owe a link by mail."""
    await relay.put(b"{}", "panic", action="email", kind=Kind.MESSAGE, email="reporter@example.com", **arguments)


class ShareContract(LookingContract, DestinationContract):
    """What a file and a link have in common."""

    operations = ("media",)
    login = "sharetoken"
    arguments: ClassVar[dict[str, str]]

    def make(self, sandbox: Sandbox) -> IncidentShare:
        return make(sandbox.url)

    def make_patient(self, sandbox: Sandbox) -> IncidentShare:
        return make(sandbox.url, look_for="20s")

    @pytest.fixture
    async def line(self, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Line]:
        async with line(lambda: self.make(sandbox), tmp_path / "spool") as made:
            yield self._with_arguments(made)

    @pytest.fixture
    async def patient(self, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Line]:
        async with line(lambda: self.make_patient(sandbox), tmp_path / "patient") as made:
            yield self._with_arguments(made)

    def _with_arguments(self, made: Line) -> Line:
        put = made.put

        async def put_with_arguments(content: bytes, **arguments: Any) -> Any:
            return await put(content, **{**self.arguments, **arguments})

        made.put = put_with_arguments  # type: ignore[method-assign, assignment]
        return made


class TestAFileKeepsTheContract(ShareContract):
    """Never twice: a lost answer is followed by a look."""

    operations = ("media",)
    authorized = "media"
    steps = ("media",)
    findable = ("media",)
    documented: ClassVar = {**DOCUMENTED, 404: Rejected}
    arguments: ClassVar = {"stream_id": STREAM}

    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        sent = hashlib.sha256(content).hexdigest()
        assert [each.sha256 for each in sandbox.share.archive.media].count(sent) == 1
        assert sandbox.share.archive.media_duplicates == 0
        assert receipt.fields == {"stream_id": STREAM, "id": None}


class TestALinkKeepsTheContract(ShareContract):
    """Never twice either, where the site lists links without files."""

    operations = ("sms",)
    authorized = "sms"
    steps = ("sms",)
    findable = ("sms",)
    documented: ClassVar = {**DOCUMENTED, 404: LoginRefused}
    arguments: ClassVar = {"action": "sms", "phone_number": "+4512345678"}

    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        assert sandbox.share.archive.link_duplicates == 0
        link = next(link for link in sandbox.share.archive.links if link.stream_id == receipt.fields["stream_id"])
        assert receipt.fields["id"] in (None, link.number)


# --- media


async def test_a_file_comes_to_its_stream_under_a_safe_name_with_its_own_type(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        item = await relay.put(b"\xff\xd8" * 1_000_000, "front camera 1.JPG", "Image/JPEG; q=1", stream_id=STREAM)
        await relay.deliver(tries=1)
        (stored,) = sandbox.share.archive.media
        (sent,) = [entry for entry in sandbox.log if entry.operation == "media"]
    assert stored.name == f"front-camera-1-{item.id}-1.JPG"
    assert (stored.content_type, stored.size_bytes) == ("image/jpeg", 2_000_000)
    assert 2_000_000 < int(sent.headers["Content-Length"]) < 2_001_000
    assert sent.received_bytes == int(sent.headers["Content-Length"])


@pytest.mark.parametrize(
    ("argument", "remote", "own", "stream"),
    [
        ("vehicle-1", "vehicle-2", "vehicle-3", "vehicle-1"),
        ("", "vehicle-2", "vehicle-3", "vehicle-2"),
        (None, "vehicle-2", None, "vehicle-2"),
        (None, None, "vehicle-3", "vehicle-3"),
    ],
)
async def test_the_stream_is_that_of_the_action_else_of_the_incident_else_of_the_device(
    tmp_path: Path, argument: str | None, remote: str | None, own: str | None, stream: str
) -> None:
    options = {} if own is None else {"stream_id": own}
    channels = "vehicle-1,vehicle-2,vehicle-3"
    async with played(tmp_path, options, share_channels=channels) as (sandbox, relay):
        belongs(relay, {} if remote is None else {"incidentshare": {"stream_id": remote}})
        await relay.put(CONTENT, **({} if argument is None else {"stream_id": argument}))
        receipt = await relay.deliver(tries=1)
        assert sandbox.share.archive.media[0].stream_id == stream
    assert receipt.fields["stream_id"] == stream


def belongs(relay: Line, remote: dict[str, Any]) -> None:
    """From now on every delivery belongs to an incident that knows these remote ids."""
    incident = Incident(
        id="0inc", key="k", rule="r", collect=(), opened_at=0.0, starts_at=0.0, ends_at=1.0, remote=remote
    )
    made = relay._attempt

    def attempt(*arguments: Any, **options: Any) -> Any:
        found = made(*arguments, **options)
        found.incident = incident
        return found

    relay._attempt = attempt  # type: ignore[method-assign]


async def test_media_without_any_stream_is_refused_in_words(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await relay.put(CONTENT)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "no stream_id is given" in str(outcome)
        assert not sandbox.log


@pytest.mark.parametrize("stream", ["..", "a\nb", "x" * 201, "."])
async def test_a_stream_that_cannot_be_part_of_an_address_is_refused_and_not_asked_for(
    tmp_path: Path, stream: str
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await shoot(relay, stream_id=stream)
        assert isinstance(await relay.attempt(), Rejected)
        assert not sandbox.log


async def test_a_stream_with_strange_letters_is_one_part_of_the_address(tmp_path: Path) -> None:
    stream = "gate 3/north?x=1&é"
    async with played(tmp_path, share_channels=stream) as (sandbox, relay):
        await shoot(relay, stream_id=stream)
        await relay.deliver(tries=1)
        assert sandbox.share.archive.media[0].stream_id == stream


async def test_a_stream_that_is_not_there_refuses_the_item_and_a_wrong_prefix_is_a_fault_of_the_destination(
    tmp_path: Path,
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await shoot(relay, stream_id="nobody")
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "the site has no stream 'nobody'" in str(outcome)
        assert sandbox.count("latest") == 1
    async with played(tmp_path / "other", {"path_prefix": "/wp-json"}) as (sandbox, relay):
        await shoot(relay)
        outcome = await relay.attempt()
        assert isinstance(outcome, LoginRefused)
        assert "check url and path_prefix" in str(outcome)


async def test_an_empty_file_is_refused_and_a_large_one_too(tmp_path: Path) -> None:
    async with played(tmp_path, share_file_bytes=1000) as (sandbox, relay):
        await shoot(relay, b"")
        assert isinstance(await relay.attempt(), Rejected)
        assert not sandbox.log
        await shoot(relay, b"x" * 2000)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "too large for this site" in str(outcome)


# --- a file whose answer was lost


@pytest.mark.parametrize("fault", ["lose", "mute", "truncate"])
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"share_names": "wordpress"},
        {"share_page": 1},
        {"share_dates": "text"},
        {"share_files_prefix": "/incidentshare/rest"},
    ],
    ids=lambda switches: next(iter(switches), "plain"),
)
async def test_a_file_that_is_listed_is_never_sent_again(tmp_path: Path, fault: str, switches: dict[str, Any]) -> None:
    options = {"media_files_prefix": switches.get("share_files_prefix", "")}
    async with played(tmp_path, options, share_channels="a,b,c", **switches) as (sandbox, relay):
        for stream in "abc":
            await shoot(relay, stream_id=stream)
            await relay.deliver(tries=1)
        sandbox.script(f"media#1 {fault}")
        await shoot(relay, stream_id="c")
        receipt = await relay.deliver(tries=2)
        assert sandbox.count("media", effect=True) == 4
        assert len(sandbox.share.archive.media) == 4
    assert "lists the file, though an answer was lost" in receipt.proof


async def test_what_is_listed_late_is_waited_for_and_not_sent_again(tmp_path: Path) -> None:
    async with played(tmp_path, {"look_for": "20s"}, share_lag_seconds=10) as (sandbox, relay):
        sandbox.script("media#1 lose")
        await shoot(relay)
        assert isinstance(await relay.attempt(), TryAgain)
        for _ in range(3):
            outcome = await relay.attempt()
            assert isinstance(outcome, NotReady)
            assert 0 < outcome.retry_after_seconds <= 5
        sandbox.advance(11)
        assert isinstance(await relay.attempt(), Receipt)
        assert len(sandbox.share.archive.media) == 1


async def test_a_file_that_is_not_listed_for_look_for_is_sent_again_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, {"look_for": "20s", "on_unknown": "ask"}) as (sandbox, relay):
        sandbox.script("media#1 refuse")
        await shoot(relay)
        assert isinstance(await relay.attempt(), TryAgain)
        assert isinstance(await relay.attempt(), NotReady)
        uptime.seconds += 21
        assert isinstance(await relay.attempt(), NotReady), "it is looked for once more"
        uptime.seconds += 21
        receipt = await relay.attempt()
        assert isinstance(receipt, Receipt)
        assert "twice" not in receipt.proof
        assert len(sandbox.share.archive.media) == 1


async def test_a_clock_that_was_put_back_does_not_make_the_looking_endless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime, passed = Uptime(monkeypatch), 0.0
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + passed)
    async with played(tmp_path, {"look_for": "20s"}) as (sandbox, relay):
        sandbox.script("media#1 refuse")
        await shoot(relay)
        assert isinstance(await relay.attempt(), TryAgain)
        assert isinstance(await relay.attempt(), NotReady)
        passed = -1e6
        assert isinstance(await relay.attempt(), NotReady)
        uptime.seconds += 21
        assert isinstance(await relay.attempt(), NotReady)
        assert sandbox.count("media") == 2
        uptime.seconds += 21
        assert isinstance(await relay.attempt(), Receipt)


async def test_an_sms_of_which_nobody_can_tell_is_sent_twice_more_with_minutes_between_and_then_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, {"most_unknown": 2, "unknown_wait": "5m"}, share_lists_empty=False) as (sandbox, relay):
        sandbox.script("sms lose")
        await call(relay)
        for _ in range(6):
            await relay.attempt()
        assert sandbox.count("sms") == 2
        uptime.seconds += 300
        await relay.attempt()
        assert sandbox.count("sms") == 3
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "the answers to 3 tries got lost" in str(outcome)
        assert sandbox.count("sms") == 3


@pytest.mark.parametrize("skew_seconds", [-7200, 7200, 86400 * 30, -86400 * 30])
@pytest.mark.parametrize("auth", ["oauth", "basic"])
async def test_a_clock_that_differs_from_the_servers_hides_nothing(
    tmp_path: Path, skew_seconds: float, auth: str
) -> None:
    async with played(tmp_path, {"auth": auth}, share_basic=True) as (sandbox, relay):
        sandbox.advance(skew_seconds)
        sandbox.script("media#1 lose")
        await shoot(relay)
        assert isinstance(await relay.attempt(), TryAgain)
        await relay.restart()
        assert isinstance(await relay.attempt(), Receipt)
        assert len(sandbox.share.archive.media) == 1


async def test_a_list_is_asked_only_for_what_is_new(tmp_path: Path) -> None:
    async with played(tmp_path, {"look_for": "20s"}) as (sandbox, relay):
        sandbox.script("media#1 lose")
        await shoot(relay)
        await relay.deliver(tries=2)
        (asked,) = [entry.path for entry in sandbox.log if entry.operation == "files"]
    after = int(asked.partition("saved_date_after=")[2].partition("&")[0])
    assert clock.now() - 700 < after < clock.now() - 500


@pytest.mark.parametrize("fault", ["files status 404", "files schema", "files status 500", "files oversized"])
async def test_where_the_site_does_not_let_one_look_it_is_sent_again_and_the_receipt_says_so(
    tmp_path: Path, fault: str
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script(f"media#1 lose; {fault}")
        await shoot(relay)
        receipt = await relay.deliver(tries=8)
        assert len(sandbox.share.archive.media) == 2
    assert "may be there twice" in receipt.proof


async def test_where_the_site_does_not_let_one_look_a_person_is_asked_if_so_wished(tmp_path: Path) -> None:
    async with played(tmp_path, {"on_unknown": "ask"}) as (sandbox, relay):
        sandbox.script("media#1 lose; files status 404")
        await shoot(relay)
        assert isinstance(await relay.attempt(), TryAgain)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "relayd retry" in str(outcome)
        assert await relay.spool.retry(None, None, now=clock.now()) == 1
        assert "may be there twice" in (await relay.deliver(tries=1)).proof


@pytest.mark.parametrize("form", ["seconds", "text", "off"])
async def test_no_two_looks_have_the_same_address_so_that_no_cache_answers_them(tmp_path: Path, form: str) -> None:
    switches = {"share_dates": form} if form == "text" else {}
    async with played(tmp_path, {"saved_date_after": form, "look_for": "20s"}, **switches) as (sandbox, relay):
        sandbox.script("media lose; files status 500")
        await shoot(relay)
        for _ in range(5):
            await relay.attempt()
        asked = [entry.path for entry in sandbox.log if entry.operation == "files"]
    assert len(asked) == 4
    assert len(set(asked)) > 1
    assert form != "off" or len(set(asked)) == 4


@pytest.mark.parametrize("action", [shoot, call, write])
async def test_an_answer_behind_a_warning_that_the_site_prints_is_read(
    tmp_path: Path, action: Callable[..., Awaitable[None]]
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script("any spoil as=warning")
        await action(relay)
        receipt = await relay.deliver(tries=8)
        assert len(sandbox.share.archive.media) + len(sandbox.share.archive.links) == 1
        assert receipt.fields["stream_id"] or action is write


@pytest.mark.parametrize("action", [shoot, call])
async def test_a_list_behind_a_warning_that_the_site_prints_shows_what_is_there(
    tmp_path: Path, action: Callable[..., Awaitable[None]]
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script("media lose; sms lose; files spoil as=warning; links spoil as=warning")
        await action(relay)
        receipt = await relay.deliver(tries=2)
        assert "though an answer was lost" in receipt.proof
        assert len(sandbox.share.archive.media) + len(sandbox.share.archive.links) == 1


@pytest.mark.parametrize(
    "words",
    [
        "Sorry, you are not allowed to upload this file type.",
        "The uploaded file exceeds the upload_max_filesize directive in php.ini.",
    ],
)
@pytest.mark.parametrize("is_page", [False, True])
async def test_a_file_that_wordpress_does_not_take_is_refused_in_its_words_although_it_says_500(
    tmp_path: Path, words: str, is_page: bool
) -> None:
    body = f"<html><body><p>{words}</p></body></html>" if is_page else json.dumps({"code": "x", "message": words})
    kind = "text/html" if is_page else "application/json"
    async with answered(tmp_path, reply("500 Internal Server Error", body.encode(), Content_Type=kind)) as relay:
        await shoot(relay)
        outcome = await relay.attempt()
    assert isinstance(outcome, Rejected)
    assert words[:40] in str(outcome)
    assert outcome.nothing_happened


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("400 Bad Request", {"code": "rest_missing_callback_param", "message": "Missing parameter(s): media_file"}),
        ("200 OK", {"success": False, "message": "No file was uploaded."}),
    ],
)
@pytest.mark.parametrize("size_bytes", [1000, 3_000_000])
async def test_a_large_file_that_php_drops_without_a_word_is_too_large_and_a_small_one_is_refused_as_it_says(
    tmp_path: Path, status: str, body: dict[str, Any], size_bytes: int
) -> None:
    async with answered(tmp_path, reply(status, json.dumps(body).encode())) as relay:
        await shoot(relay, b"x" * size_bytes)
        outcome = await relay.attempt()
    assert isinstance(outcome, Rejected)
    assert outcome.nothing_happened
    assert body["message"] in str(outcome)
    assert ("the file is too large, 3 MB; PHP drops what exceeds post_max_size" in str(outcome)) == (size_bytes > 1e6)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply("403 Forbidden", b"<html>Request blocked</html>", Content_Type="text/html"), "a firewall"),
        (
            reply("301 Moved Permanently", Location="https://www.example.org/incidentshare"),
            "redirects to https://www.example.org (301)",
        ),
    ],
)
async def test_who_stands_in_the_way_is_named(tmp_path: Path, answer: bytes, said: str) -> None:
    async with answered(tmp_path, answer) as relay:
        await call(relay)
        outcome = await relay.attempt()
    assert isinstance(outcome, Unavailable)
    assert said in str(outcome)
    assert "credentials" not in str(outcome)


async def test_a_site_with_plain_permalinks_is_asked_by_rest_route(tmp_path: Path) -> None:
    heads: list[str] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_request(reader)
            heads.append(" ".join(head.split()[:2]))
            is_sent = head.startswith("POST") and len(heads) == 1
            body = b"<html>lost</html>" if is_sent else b"[]" if head.startswith("GET") else b'{"success": true}'
            writer.write(reply("200 OK", body, Content_Type="application/json"))
            await writer.drain()

    options = {"path_prefix": "/?rest_route=", "auth": "basic"}
    async with speaking(speak) as wire, line(lambda: make(wire.url, **options), tmp_path / "spool") as relay:
        await shoot(relay)
        await relay.deliver(tries=3)
    assert heads[0].startswith("POST /?rest_route=/incidentshare/rest/v1/")
    assert heads[1].startswith("GET /?rest_route=/v1/media-files&include_older_group_files=false&_=")


async def test_a_list_that_does_not_take_the_date_is_asked_for_whole(tmp_path: Path) -> None:
    async with played(tmp_path, {"saved_date_after": "text"}) as (sandbox, relay):
        sandbox.script("media#1 lose")
        await shoot(relay)
        await relay.deliver(tries=2)
        assert sandbox.count("files") == 2
        assert len(sandbox.share.archive.media) == 1


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_lost_on_the_way_every_file_and_every_link_is_there_once(tmp_path: Path, seed: int) -> None:
    faults = (
        "media%25 lose; media%15 truncate; media%15 status 503; media%10 refuse; sms%40 lose; sms%10 status 500;"
        "files%20 status 503; files%10 refuse; links%20 status 429; sharetoken%30 lose; any%5 portal"
    )
    async with played(tmp_path, seed=seed, share_names="wordpress", share_page=2) as (sandbox, relay):
        sandbox.script(faults)
        for number in range(8):
            await (shoot(relay, CONTENT + bytes([number])) if number % 2 else call(relay, f"+451234567{number}"))
            await relay.deliver(tries=200)
            sandbox.revoke_tokens()
        archive = sandbox.share.archive
        assert (len(archive.media), len(archive.links)) == (4, 4)
        assert (archive.media_duplicates, archive.link_duplicates) == (0, 0)


@pytest.mark.parametrize("fault", ["status 429", "status 503", "portal redirect=yes"])
async def test_nothing_is_looked_for_where_it_is_certain_that_nothing_happened(tmp_path: Path, fault: str) -> None:
    async with played(tmp_path, {"look_for": "1d"}) as (sandbox, relay):
        sandbox.script(f"media#1-3 {fault}")
        await shoot(relay)
        await relay.deliver(tries=4)
        assert sandbox.count("files") == 0


async def test_a_login_that_fails_leaves_no_doubt(tmp_path: Path) -> None:
    async with played(tmp_path, {"look_for": "1d"}) as (sandbox, relay):
        sandbox.script("sharetoken#1 status 500; sharetoken#2-3 refuse")
        await shoot(relay)
        assert isinstance(await relay.attempt(), Unavailable)
        assert isinstance(await relay.attempt(), Unavailable)
        await relay.deliver(tries=1)
        assert sandbox.count("files") == 0


@pytest.mark.parametrize("lists", ["status 500", "status 403", "oversized"])
async def test_a_file_that_was_sent_again_to_a_site_that_shows_no_lists_is_delivered_and_the_receipt_says_so(
    tmp_path: Path, lists: str
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script(f"media#1 lose; files {lists}")
        await shoot(relay)
        receipt = await relay.deliver()
        assert "whether it came twice cannot be known" in receipt.proof


# --- links


async def test_an_sms_says_everything_that_is_documented(tmp_path: Path) -> None:
    arguments = {
        "country_code": "45",
        "incident_id": "rk-0001",
        "sms_template": "Please open {link}",
        "user_email": "chief@example.com",
        "user_login_name": "chief",
        "reference_no": "R-7",
        "notes": "GW-12 panic button",
    }
    async with played(tmp_path, {"mark_notes": False}) as (sandbox, relay):
        await call(relay, "20123456", **arguments)
        receipt = await relay.deliver(tries=1)
        (link,) = sandbox.share.archive.links
    assert link.body == {"phone_number": "20123456", **arguments, "country_code": 45}
    assert receipt.fields == {"stream_id": "rk-0001", "id": link.number}


async def test_an_email_says_everything_that_is_documented(tmp_path: Path) -> None:
    arguments = {"sms_template": "t", "user_email": "a@b.c", "user_login_name": "c", "reference_no": "R", "notes": "n"}
    async with played(tmp_path, {"mark_notes": False}) as (sandbox, relay):
        await write(relay, **arguments)
        receipt = await relay.deliver(tries=1)
        (link,) = sandbox.share.archive.links
    assert link.body == {"email": "reporter@example.com", **arguments}
    assert receipt.fields == {"stream_id": None, "id": None}


async def test_the_stream_of_an_sms_is_that_of_the_incident_else_of_the_item(tmp_path: Path) -> None:
    async with played(tmp_path) as (_, relay):
        item = await relay.put(b"{}", action="sms", kind=Kind.MESSAGE, phone_number="1")
        assert (await relay.deliver(tries=1)).fields["stream_id"] == f"relayd-{item.id}"
        belongs(relay, {})
        for _ in range(2):
            await call(relay)
            assert (await relay.deliver(tries=1)).fields["stream_id"] == "relayd-0inc"


async def test_the_notes_end_with_a_mark_and_stay_the_same_for_every_try(tmp_path: Path) -> None:
    async with played(tmp_path, share_lists_empty=False) as (sandbox, relay):
        sandbox.script("sms#1 lose")
        await call(relay, notes="GW-12")
        receipt = await relay.deliver(tries=2)
        first, second = sandbox.share.archive.links
    assert first.body == second.body
    assert str(first.body["notes"]).startswith("GW-12 [relayd ")
    assert first.stream_id == second.stream_id == receipt.fields["stream_id"]
    assert "the person may have got it twice" in receipt.proof


@pytest.mark.parametrize("mark_notes", [True, False])
@pytest.mark.parametrize("fault", ["lose", "mute", "truncate"])
async def test_an_sms_that_is_listed_is_never_sent_again(tmp_path: Path, fault: str, mark_notes: bool) -> None:
    async with played(tmp_path, {"mark_notes": mark_notes}) as (sandbox, relay):
        sandbox.script(f"sms#1 {fault}")
        await call(relay)
        receipt = await relay.deliver(tries=2)
        assert sandbox.count("sms") == 1
    assert "lists the link" in receipt.proof


async def test_a_link_to_somebody_else_for_the_same_stream_is_not_taken_for_it(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        belongs(relay, {})
        await call(relay, "+4511111111")
        await relay.deliver(tries=1)
        sandbox.script("sms#1 refuse")
        await call(relay, "+4522222222")
        await relay.deliver(tries=2)
        assert [link.body["phone_number"] for link in sandbox.share.archive.links] == ["+4511111111", "+4522222222"]


async def test_an_email_that_is_listed_is_never_sent_again_and_its_stream_is_known(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script("email#1 lose")
        await write(relay)
        receipt = await relay.deliver(tries=2)
        assert sandbox.count("email") == 1
        assert receipt.fields["stream_id"] == sandbox.share.archive.links[0].stream_id


@pytest.mark.parametrize("lists", ["email", "sms"])
async def test_with_ask_a_link_that_is_not_listed_ends_in_a_question(tmp_path: Path, lists: str) -> None:
    options = {"on_unknown": "ask", "mark_notes": lists == "sms"}
    async with played(tmp_path, options, share_lists_empty=False) as (sandbox, relay):
        sandbox.script(f"{lists}#1 lose")
        await (write(relay) if lists == "email" else call(relay))
        assert isinstance(await relay.attempt(), TryAgain)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "nobody can tell what came of it" in str(outcome)
        assert "look in the site" in str(outcome)
        assert await relay.attempt() is None
        assert len(sandbox.share.archive.links) == 1


async def test_a_crash_while_an_email_is_sent_is_followed_by_a_look(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await write(relay)
        with pytest.raises(PowerCut):
            await relay.attempt(dies_at="email", is_stored=False)
        await relay.restart()
        await relay.deliver(tries=1)
        assert len(sandbox.share.archive.links) == 1


async def test_the_stream_that_an_email_opened_for_an_incident_is_waited_for(tmp_path: Path) -> None:
    async with played(tmp_path, share_lag_seconds=10) as (sandbox, relay):
        belongs(relay, {})
        await write(relay)
        outcome = await relay.attempt()
        assert isinstance(outcome, NotReady)
        assert "the mail is sent" in str(outcome)
        sandbox.advance(11)
        receipt = await relay.deliver(tries=1)
        assert receipt.fields["stream_id"] == sandbox.share.archive.links[0].stream_id
        assert sandbox.count("email") == 1


@pytest.mark.parametrize(
    ("options", "switches", "said"),
    [
        ({"mark_notes": False}, {}, "mark_notes is off"),
        ({}, {"share_lists_empty": False}, "the site does not list the stream that it opened"),
    ],
)
async def test_an_email_whose_stream_cannot_be_known_is_delivered_all_the_same(
    tmp_path: Path, options: dict[str, Any], switches: dict[str, Any], said: str
) -> None:
    async with played(tmp_path, options, **switches) as (sandbox, relay):
        belongs(relay, {})
        await write(relay)
        receipt = await relay.deliver(tries=5)
        assert sandbox.count("email") == 1
    assert receipt.fields["stream_id"] is None
    assert said in receipt.proof


async def test_an_answer_to_an_email_that_names_the_stream_is_believed(tmp_path: Path) -> None:
    async with played(tmp_path, share_email_stream=True) as (sandbox, relay):
        belongs(relay, {})
        await write(relay)
        receipt = await relay.deliver(tries=1)
        assert receipt.fields["stream_id"] == sandbox.share.archive.links[0].stream_id
        assert sandbox.count("links") == 0


# --- answers


@pytest.mark.parametrize(
    ("body", "error", "nothing_happened"),
    [
        ({"success": False, "message": "The phone number is not allowed"}, Rejected, True),
        ({"success": "false"}, Rejected, True),
        ({"success": False, "error": "invalid_token"}, LoginRefused, True),
        ({"success": False, "message": "You do not have permission to do this"}, LoginRefused, True),
        ({"success": "perhaps"}, TryAgain, False),
        ({"stream_id": "x"}, TryAgain, False),
        ([], TryAgain, False),
        ("ok", TryAgain, False),
    ],
)
async def test_success_is_what_the_body_says_and_not_the_status(
    tmp_path: Path, body: Any, error: type[DeliveryError], nothing_happened: bool
) -> None:
    async with answered(tmp_path, reply("200 OK", json.dumps(body).encode())) as relay:
        await call(relay)
        outcome = await relay.attempt()
    assert type(outcome) is error
    assert outcome.nothing_happened is nothing_happened


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"success": true, "stream_id": "s-1", "id": "1207", "new": {}}', {"stream_id": "s-1", "id": 1207}),
        (b'{"success": "true", "stream_id": 77, "id": null}', {"stream_id": "77", "id": None}),
        (b'{"success": 1, "stream_id": "..", "id": true}', {"stream_id": "mine", "id": None}),
    ],
)
async def test_answers_are_read_with_tolerance(tmp_path: Path, body: bytes, fields: dict[str, Any]) -> None:
    async with answered(tmp_path, reply("201 Created", body)) as relay:
        await call(relay, incident_id="mine")
        receipt = await relay.attempt()
    assert isinstance(receipt, Receipt)
    assert receipt.fields == fields


@pytest.mark.parametrize("name", ["media", "sms", "email"])
async def test_success_false_refuses_every_action_in_the_sites_own_words(tmp_path: Path, name: str) -> None:
    async with played(tmp_path, share_refuses="Out of credit") as (sandbox, relay):
        owe: dict[str, Callable[[Line], Awaitable[None]]] = {"media": shoot, "sms": call, "email": write}
        await owe[name](relay)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "Out of credit" in str(outcome)
        assert sandbox.count(name) == 1


async def test_a_token_that_is_refused_inside_an_answer_is_not_used_again(tmp_path: Path) -> None:
    async with played(tmp_path, share_refuses="The access token provided has expired") as (sandbox, relay):
        await call(relay)
        for _ in range(2):
            assert isinstance(await relay.attempt(), LoginRefused)
        assert sandbox.count("sharetoken") == 2


# --- login


@pytest.mark.parametrize("refusal", [400, 415])
async def test_the_token_is_asked_for_in_json_then_in_a_form_and_that_is_remembered(
    tmp_path: Path, refusal: int
) -> None:
    async with played(tmp_path, share_token_body="form", token_refusal=refusal) as (sandbox, relay):
        for number in range(2):
            await shoot(relay, CONTENT + bytes([number]))
            await relay.deliver(tries=1)
            sandbox.revoke_tokens()
        types = [entry.headers["Content-Type"] for entry in sandbox.log if entry.operation == "sharetoken"]
    form = "application/x-www-form-urlencoded"
    assert types == ["application/json", form, form]


async def test_a_second_401_names_a_missing_permission_and_keeps_the_item(tmp_path: Path) -> None:
    async with played(tmp_path, share_rights=False) as (sandbox, relay):
        await shoot(relay)
        outcome = await relay.attempt()
        assert isinstance(outcome, LoginRefused)
        assert "permission" in str(outcome)
        assert sandbox.count("sharetoken") == 2
        assert isinstance(await relay.attempt(), LoginRefused)


async def test_basic_sends_name_and_password_and_asks_for_no_token(tmp_path: Path) -> None:
    async with played(tmp_path, {"auth": "basic"}, share_basic=True) as (sandbox, relay):
        await shoot(relay)
        await relay.deliver(tries=1)
        assert sandbox.count("sharetoken") == 0


async def test_basic_that_is_refused_is_a_fault_of_the_destination(tmp_path: Path) -> None:
    async with played(tmp_path, {"auth": "basic"}) as (_, relay):
        await shoot(relay)
        outcome = await relay.attempt()
        assert isinstance(outcome, LoginRefused)
        assert "wrong credentials, or client_id lacks the permission" in str(outcome)
        assert "sandbox-secret" not in str(outcome)


async def test_a_secret_that_is_not_there_is_a_fault_of_the_destination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RELAYD_TEST_SECRET")
    for auth in ("oauth", "basic"):
        async with played(tmp_path / auth, {"auth": auth}) as (sandbox, relay):
            await shoot(relay)
            assert isinstance(await relay.attempt(), LoginRefused)
            assert not sandbox.log


async def test_prefixes_stand_before_every_path_but_that_of_the_token(tmp_path: Path) -> None:
    options = {"path_prefix": "/wp-json", "media_files_prefix": "/wp-json/incidentshare/rest"}
    switches = {"share_prefix": "/wp-json", "share_files_prefix": "/wp-json/incidentshare/rest"}
    async with played(tmp_path, options, **switches) as (sandbox, relay):
        sandbox.script("media#1 lose; sms#1 lose")
        await shoot(relay)
        await relay.deliver(tries=2)
        await call(relay)
        await relay.deliver(tries=2)
        assert all(finding.is_good for finding in await relay.destination.check())
        assert {entry.path for entry in sandbox.log if not entry.path.startswith("/wp-json/")} == {"/?oauth=token"}


# --- check


async def checked(
    tmp_path: Path, options: dict[str, Any] | None = None, **switches: Any
) -> dict[str, tuple[bool, str]]:
    """What `check` says: subject → whether it is good, and text and remedy."""
    async with played(tmp_path, options, **switches) as (_, relay):
        found = await relay.destination.check()
    return {each.subject.partition(": ")[2]: (each.is_good, f"{each.text} -> {each.remedy}") for each in found}


async def test_check_tells_channels_and_what_was_added_last(tmp_path: Path) -> None:
    found = await checked(tmp_path, {"stream_id": "vehicle-12"}, share_channels="vehicle-12,gate")
    assert list(found) == ["name", "connection", "TLS", "login", "clock", "channels", "links", "media files"]
    assert all(is_good for is_good, _ in found.values())
    assert found["channels"][1] == "2 channels, 2 live -> "
    assert found["links"][1] == "no file has been added yet -> "
    async with played(tmp_path / "used") as (_, relay):
        await shoot(relay)
        await relay.deliver(tries=1)
        texts = [each.text for each in await relay.destination.check()]
    moment = datetime.fromtimestamp(int(texts[-1].removeprefix("the newest file is of ")), tz=UTC)
    assert texts[-2] == f"the newest file is of {moment:%Y-%m-%d %H:%M:%S}"


async def test_check_says_that_the_stream_of_the_device_is_no_channel(tmp_path: Path) -> None:
    found = await checked(tmp_path, {"stream_id": "vehicle-13"})
    assert "stream_id 'vehicle-13' is none of them" in found["channels"][1]


async def test_check_with_a_wrong_secret_stops_at_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_SECRET", "wrong-secret")
    found = await checked(tmp_path)
    assert list(found)[-1] == "login"
    is_good, said = found["login"]
    assert not is_good
    assert "The client credentials are invalid" in said
    assert "compare client_id and client_secret" in said
    assert "wrong-secret" not in said


async def test_check_without_the_permission_says_whom_to_ask(tmp_path: Path) -> None:
    found = await checked(tmp_path, share_rights=False)
    assert found["login"][0]
    for subject in ("channels", "links", "media files"):
        is_good, said = found[subject]
        assert not is_good
        assert "give this client the permission" in said


async def test_check_finds_the_prefix_that_is_right(tmp_path: Path) -> None:
    found = await checked(tmp_path, share_prefix="/wp-json", share_files_prefix="/wp-json/incidentshare/rest")
    assert 'set path_prefix = "/wp-json"' in found["channels"][1]
    assert 'set path_prefix = "/wp-json"' in found["links"][1]
    assert 'set media_files_prefix = "/wp-json/incidentshare/rest"' in found["media files"][1]
    found = await checked(tmp_path / "other", share_prefix="/elsewhere")
    assert "ask the site's administrator for the address" in found["channels"][1]


async def test_check_of_another_site_says_that_url_may_be_wrong(tmp_path: Path) -> None:
    page = reply("200 OK", b"<!DOCTYPE html><html>Welcome</html>", Content_Type="text/html")
    async with speaking(page) as wire:
        destination = make(wire.url)
        found = await destination.check()
        await destination.close()
    assert not found[-1].is_good
    assert "url is wrong" in found[-1].text


async def test_check_of_a_certificate_that_is_not_trusted_says_so(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    certificate = tmp_path / "ca.pem"
    other.cert_pem.write_to_path(str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with Sandbox(tls=context) as sandbox:
        destination = make(sandbox.url, ca_file=str(certificate))
        found = await destination.check()
        await destination.close()
    assert found[-1].subject.endswith("TLS")
    assert "ca_file" in found[-1].remedy


async def test_check_with_a_clock_that_is_wrong_says_by_how_much_and_goes_on(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.advance(7200)
        found = {each.subject.partition(": ")[2]: each for each in await relay.destination.check()}
    assert "2:00:00 behind the server" in found["clock"].text
    assert found["media files"].is_good


async def test_check_with_basic_tries_the_password(tmp_path: Path) -> None:
    assert all(good for good, _ in (await checked(tmp_path, {"auth": "basic"}, share_basic=True)).values())
    found = await checked(tmp_path / "other", {"auth": "basic"})
    assert list(found)[-1] == "login"
    assert not found["login"][0]


# --- names


@given(st.text(min_size=1, max_size=300), st.integers(min_value=1, max_value=2**40))
def test_every_name_becomes_a_safe_one_with_its_mark(name: str, delivery_id: int) -> None:
    item_id = "01hq0000000000abcd"
    made = api.upload_name(name, item_id, delivery_id)
    assert len(made) <= 120
    assert made.isascii()
    assert made.replace("-", "").replace(".", "").replace("_", "").isalnum()
    assert f"{item_id}-{delivery_id}" in made


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("+4520123456", "20123456", True),
        ("020123456", "+45 20 12 34 56", True),
        ("20123456", "20123457", False),
        ("", "", False),
        ("112", "112", False),
    ],
)
def test_phones_are_the_same_by_their_national_part(one: str, other: str, is_same: bool) -> None:
    assert api.is_link({"stream_id": "s", "phone_number": other}, "s", "", one) is is_same
