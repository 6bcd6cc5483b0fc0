"""Every way a call can fail, told apart once; no wait and no answer without a limit."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import ssl
import time
import warnings
import zlib
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError

from relayd.addressguard import AddressGuard
from relayd.errors import DeliveryError, TryAgain, Unavailable
from relayd.httpanswer import Answer
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from tests.unit.wire import Wire, read_request, reply, speaking

OK = reply("200 OK", b'{"a": 1}', Content_Type="application/json")


def client(url: str, **options: Any) -> HttpClient:
    limits = {"connect_timeout": "2s", "answer_timeout": "400ms", "stall_timeout": "400ms", "max_answer": "10kB"}
    return HttpClient(HttpConfig.model_validate({"url": url, **limits, **options}))


async def send(made: HttpClient, method: str = "GET", path: str = "/x?token=SECRETSECRET", **more: Any) -> Answer:
    try:
        return await made.send(method, made.url(path), **more)
    finally:
        await made.close()


async def failure(made: HttpClient, **more: Any) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        (await send(made, **more)).raise_for_outage()
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


class Chunks:
    """A body of so many bytes in chunks, with a pause in each."""

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes
        self.length = sum(sizes)

    def chunks(self) -> Iterator[bytes]:
        for size in self._sizes:
            yield b"x" * size


# --- configuration


@pytest.mark.parametrize(
    "url",
    [
        "api.example.org",
        "ftp://api.example.org",
        "https://",
        "https://user:pw@api.example.org",
        "https://api.example.org/?x=1",
        "https://api.example.org/#x",
        "https://api.example.org:99999",
        "https://api.exa mple.org",
        "https://äpi.example.org",
        "http://api.example.org",
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
    ],
)
def test_an_address_that_is_no_safe_base_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ValidationError):
        HttpConfig(url=url)


@pytest.mark.parametrize("url", ["https://a.example/p/", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost"])
def test_https_and_this_machine_itself_are_safe_bases(url: str) -> None:
    assert HttpConfig(url=url).url == url.rstrip("/")


def test_plain_http_elsewhere_needs_its_own_word() -> None:
    assert HttpConfig(url="http://10.0.0.1", allow_plain_http=True).url == "http://10.0.0.1"


# --- what goes out


async def test_a_request_carries_no_cookie_no_proxy_and_asks_for_no_compression(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with speaking(reply("200 OK", b"{}", Set_Cookie="a=b; Path=/")) as wire:
        made = client(wire.url)
        await made.send("GET", made.url("/1"))
        await send(made, path="/2")
    assert "Accept-Encoding: identity" in wire.heads[0]
    assert "ookie" not in wire.heads[1]


async def test_a_streamed_body_has_its_length_and_is_never_chunked() -> None:
    async with speaking(OK) as wire:
        await send(client(wire.url), method="POST", body=Chunks([1000, 70_000, 5]))
    assert "Content-Length: 71005" in wire.heads[0]
    assert "Transfer-Encoding" not in wire.heads[0]


async def test_percent_encoding_in_a_path_is_sent_as_written() -> None:
    async with speaking(OK) as wire:
        await send(client(wire.url), path="/v1/ref%3A%2F%2Fa/resolve")
    assert wire.heads[0].startswith("GET /v1/ref%3A%2F%2Fa/resolve HTTP/1.1")


# --- statuses


@pytest.mark.parametrize("status", [407, 408, 425, 429, 502, 503, 504, 507, 509, 511, 520, 522, 524, 530])
async def test_a_status_of_overload_or_outage_is_unavailable(status: int) -> None:
    async with speaking(reply(f"{status} Odd", Retry_After="7")) as wire:
        error = await failure(client(wire.url))
    assert isinstance(error, Unavailable)
    assert error.retry_after_seconds == 7


@pytest.mark.parametrize("status", [500, 501, 505, 599])
async def test_any_other_server_error_is_tried_again(status: int) -> None:
    async with speaking(reply(f"{status} Odd", b'{"message": "oh no"}')) as wire:
        error = await failure(client(wire.url))
    assert isinstance(error, TryAgain)
    assert "oh no" in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_means_a_captive_portal(status: int) -> None:
    async with speaking(reply(f"{status} Elsewhere", Location="http://127.0.0.1:9/?SECRET")) as wire:
        error = await failure(client(wire.url))
    assert isinstance(error, Unavailable)
    assert "captive portal" in str(error)
    assert len(wire.heads) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
async def test_a_refusal_is_left_to_the_adapter(status: int) -> None:
    body = {"errors": [{"code": 1, "message": "name\r\nis\x1b[31m bad"}]}
    async with speaking(reply(f"{status} No", json.dumps(body).encode())) as wire:
        answer = await send(client(wire.url))
    answer.raise_for_outage()
    assert answer.is_about_the_request
    assert answer.refusal() == f"127.0.0.1:{wire.port}/x refuses with {status}: name is\\x1b[31m bad"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("1000000000", 86400.0),
        ("9" * 5000, 86400.0),
        ("-5", None),
        ("1e9", None),
        ("٣", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 3600.0),
        ("Wed, 21 Oct 2020 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 9999 07:28:00 GMT", 86400.0),
        ("Wed, 99 Oct 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_read_and_bounded(text: str, seconds: float | None) -> None:
    headers = {"Retry-After": text, "Date": "Wed, 21 Oct 2026 06:28:00 GMT"}
    answer = Answer(status=429, headers=headers, body=b"", where="h/p", is_early=False)
    assert answer.retry_after_seconds() == seconds


# --- bodies


async def test_a_page_where_json_was_promised_is_a_captive_portal() -> None:
    async with speaking(reply("200 OK", b" <!DOCTYPE html><html>Free WiFi</html>")) as wire:
        answer = await send(client(wire.url))
    with pytest.raises(Unavailable, match="captive portal"):
        answer.json()


@pytest.mark.parametrize(
    "body", [b"", b"nope", b"\xff\xfe", b"[" * 9000, b'{"a": NaN}', b'{"a": Infinity}', b"1" * 5000, b"{'a': 1}"]
)
async def test_a_body_that_is_no_json_is_tried_again(body: bytes) -> None:
    async with speaking(reply("200 OK", body)) as wire:
        answer = await send(client(wire.url))
    with pytest.raises(TryAgain, match="no JSON"):
        answer.json()


@pytest.mark.parametrize("content_type", ["application/json", "text/html; charset=UTF-8", "text/plain"])
async def test_json_is_json_whatever_its_label(content_type: str) -> None:
    async with speaking(reply("200 OK", b'\xef\xbb\xbf{"a": 1}', Content_Type=content_type)) as wire:
        assert (await send(client(wire.url))).json() == {"a": 1}


async def test_an_answer_is_read_only_up_to_the_limit() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with speaking(endless) as wire:
        error = await failure(client(wire.url))
    assert isinstance(error, TryAgain)
    assert "more than 10000 bytes" in str(error)


async def test_an_endless_header_is_no_answer() -> None:
    async with speaking(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n") as wire:
        assert isinstance(await failure(client(wire.url)), TryAgain)


async def test_a_body_that_drips_for_ever_ends_in_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with speaking(drip) as wire:
        error = await failure(client(wire.url))
    assert isinstance(error, TryAgain)
    assert "did not end" in str(error)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_compression_nobody_asked_for_is_undone_within_the_limit(pack: Any) -> None:
    encoding = "gzip" if pack is gzip.compress else "deflate"
    async with speaking(reply("200 OK", pack(b'{"a": 1}'), Content_Encoding=encoding)) as wire:
        assert (await send(client(wire.url))).json() == {"a": 1}
    async with speaking(reply("200 OK", pack(b"x" * 5_000_000), Content_Encoding=encoding)) as wire:
        error = await failure(client(wire.url))
    assert "more than 10000 bytes" in str(error)


@pytest.mark.parametrize(("encoding", "body"), [("gzip", b"no gzip"), ("br", b"x"), ("gzip, gzip", b"x")])
async def test_broken_or_unknown_compression_is_tried_again(encoding: str, body: bytes) -> None:
    async with speaking(reply("200 OK", body, Content_Encoding=encoding)) as wire:
        assert isinstance(await failure(client(wire.url)), TryAgain)


# --- connections


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/9.9 999 OK\r\n\r\n",
    ],
)
async def test_an_answer_that_is_cut_or_no_http_is_tried_again(garbage: bytes) -> None:
    async with speaking(garbage) as wire:
        assert isinstance(await failure(client(wire.url), method="POST", body=b"{}"), TryAgain)


async def test_nobody_listening_is_unavailable_and_says_so() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        error = await failure(client(f"http://127.0.0.1:{reserved.getsockname()[1]}"))
    assert isinstance(error, Unavailable)
    assert "refuses connections" in str(error)


async def test_a_name_that_does_not_exist_is_unavailable_and_says_so() -> None:
    error = await failure(client("https://no-such-host.invalid"))
    assert isinstance(error, Unavailable)
    assert "name" in str(error)


async def test_a_host_that_never_takes_the_connection_is_unavailable_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        began = time.monotonic()
        error = await failure(client(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout="300ms"))
        for filler in fillers:
            filler.close()
    assert isinstance(error, Unavailable)
    assert "no connection" in str(error)
    assert time.monotonic() - began < 3


async def test_silence_after_the_request_is_tried_again_in_time() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await asyncio.sleep(60)

    async with speaking(mute) as wire:
        error = await failure(client(wire.url), method="POST", body=b"{}")
    assert isinstance(error, TryAgain)
    assert "no answer" in str(error)


async def test_an_upload_that_stands_still_ends_and_says_so() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(60)

    async with speaking(deaf) as wire:
        error = await failure(client(wire.url), method="POST", body=Chunks([65536] * 400))
    assert isinstance(error, TryAgain)
    assert "not one byte moved" in str(error)


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_slow_upload_lives_as_long_as_bytes_flow(is_streamed: bool) -> None:
    """It takes several times both limits, most of it after the kernel has swallowed everything."""
    size = 900_000

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 900000" in head
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        left = size
        while left:
            left -= len(await reader.read(15_000))
            await asyncio.sleep(0.02)
        writer.write(OK)
        await writer.drain()

    body: Any = Chunks([50_000] * 18) if is_streamed else b"x" * size
    began = time.monotonic()
    async with speaking(slow) as wire:
        answer = await send(client(wire.url), method="POST", body=body)
    assert answer.status == 200
    assert not answer.is_early
    assert time.monotonic() - began > 0.8


async def test_success_before_the_body_was_sent_acknowledges_nothing() -> None:
    async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply("204 No Content"))
        await writer.drain()
        await asyncio.sleep(60)

    async with speaking(hasty) as wire:
        error = await failure(client(wire.url), method="POST", body=Chunks([65536] * 400))
    assert isinstance(error, TryAgain)
    assert "before it had the whole request" in str(error)


async def test_a_refusal_before_the_body_was_sent_is_heard_at_once() -> None:
    async def strict(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply("413 Too Large", b'{"message": "too large"}'))
        await writer.drain()
        await asyncio.sleep(60)

    async with speaking(strict) as wire:
        answer = await send(client(wire.url), method="POST", body=Chunks([65536] * 400))
    assert answer.status == 413
    assert "too large" in answer.refusal()


async def test_what_the_body_raises_while_it_is_read_is_what_the_caller_gets() -> None:
    class Broken(Chunks):
        def chunks(self) -> Iterator[bytes]:
            yield b"x" * 10
            raise OSError(5, "Input/output error")

    async with speaking(OK) as wire:
        error = await failure(client(wire.url), method="POST", body=Broken([100_000]))
    assert isinstance(error, TryAgain)
    assert str(error) == "the spooled file cannot be read: Input/output error"


async def test_a_kept_connection_that_has_died_costs_nothing() -> None:
    """The server takes one request per connection and hangs up without a word on the second."""
    bodies = []

    async def one_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await read_request(reader))
        writer.write(OK)
        await writer.drain()
        await read_request(reader)

    async with speaking(one_each) as wire:
        made = client(wire.url)
        for _ in range(3):
            answer = await made.send("POST", made.url("/x"), body=Chunks([10, 10]))
            assert answer.status == 200
        await made.close()
    assert len(bodies) == 3
    assert wire.connections == 3


async def test_a_request_that_must_not_be_repeated_is_not_sent_again_when_a_kept_connection_has_died() -> None:
    bodies = []

    async def one_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await read_request(reader))
        writer.write(OK)
        await writer.drain()
        bodies.append(await read_request(reader))

    async with speaking(one_each) as wire:
        made = client(wire.url)
        await made.send("POST", made.url("/x"), body=b"1")
        with pytest.raises(TryAgain) as caught:
            await made.send("POST", made.url("/x"), body=b"2", is_repeatable=False)
        await made.close()
    assert (len(bodies), wire.connections) == (2, 1)
    assert not caught.value.nothing_happened


async def test_an_error_says_whether_the_request_ever_left() -> None:
    async with speaking(b"") as wire:
        lost = await failure(client(wire.url), method="POST", body=b"{}")
    refused = await failure(client(wire.url), method="POST", body=b"{}")
    assert isinstance(lost, TryAgain)
    assert isinstance(refused, Unavailable)
    assert (lost.nothing_happened, refused.nothing_happened) == (False, True)


async def test_a_lost_answer_is_tried_again_by_the_worker_and_not_here() -> None:
    requests = []

    async def lossy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))

    async with speaking(lossy) as wire:
        error = await failure(client(wire.url), method="POST", body=b"{}")
    assert isinstance(error, TryAgain)
    assert len(requests) == 1


async def test_hundreds_of_failures_leave_no_descriptor_and_no_task_behind() -> None:
    async with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc") as wire:
        made = client(wire.url)

        async def fail() -> None:
            with pytest.raises(TryAgain):
                await made.send("POST", made.url("/x"), body=Chunks([70_000, 70_000]))

        await fail()
        before = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for _ in range(300):
            await fail()
        await made.close()
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) <= before[0] + 1
        assert len(asyncio.all_tasks()) <= before[1] + 1


async def test_ending_the_task_ends_the_call_at_once() -> None:
    heard = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        heard.set()
        await asyncio.sleep(60)

    async with speaking(mute) as wire:
        made = client(wire.url, answer_timeout="60s")
        task = asyncio.create_task(send(made))
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def serving(authority: trustme.CA, host: str = "localhost", **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, **options).configure_cert(context)
    return context


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[Wire]:
    async with speaking(OK, tls=serving(authority)) as wire:
        yield wire


async def test_the_authority_of_the_configuration_is_trusted(secure: Wire, ca_file: str) -> None:
    assert (await send(client(f"https://localhost:{secure.port}", ca_file=ca_file))).status == 200


async def test_no_environment_variable_adds_an_authority(
    secure: Wire, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    error = await failure(client(f"https://localhost:{secure.port}"))
    assert isinstance(error, Unavailable)
    assert "unknown authority" in str(error)


async def test_a_certificate_of_another_host_is_refused(secure: Wire, ca_file: str) -> None:
    error = await failure(client(f"https://127.0.0.1:{secure.port}", ca_file=ca_file))
    assert isinstance(error, Unavailable)
    assert "another host" in str(error)


async def test_an_expired_certificate_is_refused_and_named(authority: trustme.CA, ca_file: str) -> None:
    import datetime

    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    async with speaking(OK, tls=serving(authority, not_after=past)) as wire:
        error = await failure(client(f"https://localhost:{wire.port}", ca_file=ca_file))
    assert isinstance(error, Unavailable)
    assert "expired" in str(error)


async def test_tls_older_than_1_2_is_refused(authority: trustme.CA, ca_file: str) -> None:
    old = serving(authority)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with speaking(OK, tls=old) as wire:
        error = await failure(client(f"https://localhost:{wire.port}", ca_file=ca_file))
    assert isinstance(error, Unavailable)
    assert "TLS" in str(error)


async def test_https_is_never_downgraded(ca_file: str) -> None:
    async with speaking(OK) as wire:
        error = await failure(client(f"https://localhost:{wire.port}", ca_file=ca_file, connect_timeout="300ms"))
    assert isinstance(error, Unavailable)
    assert wire.heads == []


async def test_a_missing_authority_file_is_unavailable_and_names_it(tmp_path: Path) -> None:
    error = await failure(client("https://localhost:1", ca_file=str(tmp_path / "none.pem")))
    assert isinstance(error, Unavailable)
    assert "none.pem" in str(error)


# --- the guard at the socket


async def test_a_public_name_that_leads_home_gets_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(OK) as wire:
        made = HttpClient(HttpConfig(url=f"http://localhost:{wire.port}"), guard=AddressGuard())
        error = await failure(made)
    assert isinstance(error, Unavailable)
    assert "not a public address" in str(error)
    assert wire.connections == 0


async def test_the_server_clock_is_learned_from_any_answer() -> None:
    async with speaking(reply("404 No", Date=formatdate(1_000_000, usegmt=True))) as wire:
        made = client(wire.url)
        assert made.server_now() is None
        await send(made)
    learned = made.server_now()
    assert learned is not None
    assert 1_000_000 <= learned < 1_000_060
