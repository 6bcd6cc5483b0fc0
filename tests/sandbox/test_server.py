"""The sandbox as a process: loopback only, steered while it runs, small however big the file, over TLS."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from relayd.sandbox import Sandbox, read_objects
from tests.sandbox import peers
from tests.sandbox.peers import form_of, get, multipart, post, slot, token, until

BIG = 200 * 2**20


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`relayd sandbox` for itself, and its address."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relayd", "sandbox", "--listen", "127.0.0.1:0", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert started.stdout is not None
        line = (await asyncio.wait_for(started.stdout.readline(), 20)).decode()
        yield started, line.split()[-1]
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def steer(url: str, path: str, wish: dict[str, Any]) -> Any:
    answer = await post(f"{url}/_sandbox/{path}", json.dumps(wish).encode(), "application/json")
    return answer.json


# --- addresses


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.168.1.1:80", "[::]:0", "example.org:80", "127.0.0.1", ":8000"])
def test_only_loopback_addresses_are_taken(listen: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loopback|address"):
        Sandbox(listen=listen, state=tmp_path)


async def test_localhost_and_ipv6_loopback_are_taken() -> None:
    async with Sandbox(listen="localhost:0") as sandbox:
        assert sandbox.url.startswith("http://127.0.0.1:")
    async with Sandbox(listen="[::1]:0") as sandbox:
        assert (await get(f"{sandbox.url}/_sandbox/")).status == 200


async def test_a_sandbox_leaves_no_folder_of_its_own_behind() -> None:
    async with Sandbox() as sandbox:
        assert sandbox.folder.exists()
    assert not sandbox.folder.exists()


async def test_a_sandbox_that_cannot_listen_leaves_no_folder_behind() -> None:
    async with Sandbox() as sandbox:
        second = Sandbox(listen=sandbox.url.removeprefix("http://"))
        with pytest.raises(OSError, match="address already in use"):
            await second.__aenter__()
        assert not second.folder.exists()


# --- steering


async def test_the_link_goes_down_for_everything_but_the_controls() -> None:
    async with Sandbox() as sandbox:
        given = await slot(sandbox.url)
        assert await steer(sandbox.url, "link", {"up": False}) == {"up": False}
        for _ in range(2):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await post(given["signed_request"]["url"], form_of(given, b"x"), multipart())
        assert sandbox.log[-1].outcome == "link down"
        await steer(sandbox.url, "link", {"up": True})
        assert (await post(given["signed_request"]["url"], form_of(given, b"x"), multipart())).status == 204


async def test_a_link_that_goes_down_cuts_the_upload_under_way() -> None:
    async with Sandbox() as sandbox:
        given = await slot(sandbox.url)
        sandbox.script("store slow 100000")
        body = form_of(given, bytes(2_000_000))
        posting = asyncio.ensure_future(post(given["signed_request"]["url"], body, multipart()))
        await until(lambda: sandbox.log[-1].received_bytes >= 10_000)
        sandbox.set_link(up=False)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await posting
        await sandbox.wait_for(lambda: sandbox.log[-1].ended_at is not None)
        assert not sandbox.objects


async def test_the_log_tells_what_the_client_saw_and_what_was_done() -> None:
    async with Sandbox(faults="store lose") as sandbox:
        given = await slot(sandbox.url)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await post(given["signed_request"]["url"], form_of(given, b"x"), multipart())
        log = (await get(f"{sandbox.url}/_sandbox/log")).json["log"]
        assert [(each["operation"], each["outcome"], each["has_effect"]) for each in log] == [
            ("token", "answered", True),
            ("slot", "answered", True),
            ("store", "lost", True),
        ]
        assert log[1]["headers"]["Authorization"] == "***"
        assert log[2]["key"] == given["signed_request"]["fields"]["key"]
        objects = (await get(f"{sandbox.url}/_sandbox/objects")).json["objects"]
        assert [each["sha256"] for each in objects] == [hashlib.sha256(b"x").hexdigest()]


async def test_faults_clock_and_tokens_can_be_changed_while_it_runs() -> None:
    async with Sandbox() as sandbox:
        assert await steer(sandbox.url, "faults", {"faults": "token#1 status 500"}) == {
            "faults": ["token#1 status 500"]
        }
        with pytest.raises(AssertionError):
            await token(sandbox.url)
        line = await token(sandbox.url)
        before = sandbox.now()
        assert (await steer(sandbox.url, "clock", {"advance": 7200}))["now"] >= before + 7200
        assert (await post(f"{sandbox.url}/v1/resources", b"{}", "application/json", line)).status == 401
        assert await steer(sandbox.url, "revoke", {}) == {"revoked": True}


@pytest.mark.parametrize(
    ("path", "wish"),
    [("faults", {"faults": "nonsense"}), ("faults", {}), ("link", {"up": "no"}), ("clock", {"advance": "x"})],
)
async def test_a_wrong_wish_changes_nothing_and_says_why(path: str, wish: dict[str, Any]) -> None:
    async with Sandbox(faults="store lose") as sandbox:
        answer = await post(f"{sandbox.url}/_sandbox/{path}", json.dumps(wish).encode(), "application/json")
        assert (answer.status, "error" in answer.json) == (400, True)
        assert [fault.text for fault in sandbox.faults] == ["store lose"]
        assert sandbox.is_up


async def test_the_controls_answer_to_loopback_names_only() -> None:
    async with Sandbox() as sandbox:
        _, output = await peers.curl("-w", "%{http_code}", "-H", "Host: evil.example", f"{sandbox.url}/_sandbox/log")
        assert output.endswith("421")
        assert (await get(f"{sandbox.url}/_sandbox/nothing")).status == 404


async def test_an_unknown_address_is_404() -> None:
    async with Sandbox() as sandbox:
        assert (await get(f"{sandbox.url}/v2/resources")).status == 404
        assert sandbox.log[-1].operation == "other"


# --- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext, Path]:
    """What the server shows, what the client trusts, and the CA as a file."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return server, client, path


async def test_over_tls_every_address_is_https(certificate: tuple[ssl.SSLContext, ssl.SSLContext, Path]) -> None:
    server, client, ca = certificate
    async with Sandbox(tls=server) as sandbox:
        assert sandbox.url.startswith("https://")
        data = "client_id=sandbox&client_secret=sandbox-secret&grant_type=client_credentials"
        _, output = await peers.curl("--cacert", str(ca), "-d", data, f"{sandbox.url}/oauth/token")
        line = f"Authorization: Bearer {json.loads(output)['access_token']}"
        wish = json.dumps({"file_name": "a.jpg", "mime_type": "image/jpeg", "mode": "persistent_reference"}).encode()
        head = ["POST PATH HTTP/1.1", line, "Content-Type: application/json", f"Content-Length: {len(wish)}"]
        answer = await peers.send(f"{sandbox.url}/v1/resources", head, wish, tls=client)
        assert answer.json["signed_request"]["url"].startswith("https://127.0.0.1")


# --- as a process


async def test_a_process_keeps_what_it_stored_when_it_is_killed(tmp_path: Path) -> None:
    async with process("--state", str(tmp_path), "--faults", "store#2 lose") as (started, url):
        assert (tmp_path / "url").read_text().strip() == url
        for _ in range(2):
            given = await slot(url)
            body = form_of(given, b"content")
            try:
                await post(given["signed_request"]["url"], body, multipart())
            except (ConnectionError, asyncio.IncompleteReadError):
                continue
        started.kill()
        await started.wait()
    found = read_objects(tmp_path)
    assert [Path(each.file).read_bytes() for each in found.values()] == [b"content"] * 2


async def test_a_big_file_does_not_live_in_memory(tmp_path: Path) -> None:
    async with process("--state", str(tmp_path)) as (started, url):
        await slot(url)
        before = peak_bytes(started.pid)
        file = tmp_path / "big"
        with file.open("wb") as stream:
            os.truncate(stream.fileno(), BIG)
        _, output = await peers.curl("-w", "%{http_code}", *peers.curl_form(await slot(url), file))
        assert output == "204"
        assert peak_bytes(started.pid) - before < 16 * 2**20
        (stored,) = read_objects(tmp_path).values()
        assert stored.size_bytes == BIG


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_process_ends_cleanly_by_a_signal(number: signal.Signals) -> None:
    async with process() as (started, url):
        folder = Path((await get(f"{url}/_sandbox/")).json["state"])
        started.send_signal(number)
        assert await asyncio.wait_for(started.wait(), 10) == 0
        assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--faults", "store explode"], "is no fault"),
        (["--set", "no_such=1"], "no_such"),
        (["--set", "token_seconds=soon"], "token_seconds"),
        (["--set", "novalue"], "NAME=VALUE"),
        (["--listen", "0.0.0.0:1"], "loopback"),
    ],
)
async def test_wrong_usage_is_exit_2_with_a_sentence(arguments: list[str], text: str) -> None:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relayd", "sandbox", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(started.communicate(), 20)
    assert started.returncode == 2
    assert text in said.decode()
    assert "Traceback" not in said.decode()


@pytest.mark.parametrize("argument", ["--faults", "--set"])
async def test_faults_and_switches_explain_themselves(argument: str) -> None:
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "relayd", "sandbox", argument, "help", stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(started.communicate(), 20)
    assert started.returncode == 0
    assert ("gzip" if argument == "--faults" else "token_seconds=3599") in said.decode()
