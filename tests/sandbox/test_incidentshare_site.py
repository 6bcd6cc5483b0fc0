"""The stand-in of IncidentShare is as strict as the contract, and keeps count of what came twice."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from relayd.sandbox import Sandbox

WISH = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}
SMS = "/incidentshare/rest/v1/sms"
EMAIL = "/incidentshare/rest/v1/email"
MEDIA = "/incidentshare/rest/v1/stream_id/vehicle-12/media_file"
LINKS = "/incidentshare/rest/v1/transmissions"
FILES = "/v1/media-files"
FORM = "multipart/form-data; boundary=b"
PART = 'Content-Disposition: form-data; name="media_file"; filename="a.jpg"\r\n'
GOOD_UPLOAD = f"--b\r\n{PART}Content-Type: image/jpeg\r\n\r\nx\r\n--b--\r\n".encode()


class Peer:
    """A client that logged in."""

    def __init__(self, sandbox: Sandbox, session: ClientSession) -> None:
        self.sandbox = sandbox
        self._session = session
        self.headers: dict[str, str] = {}

    async def ask(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {**self.headers, **({"Content-Type": content_type} if data is not None else {}), **headers}
        async with self._session.request(method, self.sandbox.url + path, data=data, headers=sent) as answer:
            return answer.status, await answer.json()

    async def log_in(self) -> None:
        self.headers = {}
        _, found = await self.ask("POST", "/?oauth=token", WISH)
        self.headers = {"Authorization": f"Bearer {found['access_token']}"}


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


@pytest.fixture
async def peer(session: ClientSession) -> AsyncIterator[Peer]:
    async with Sandbox() as sandbox:
        peer = Peer(sandbox, session)
        await peer.log_in()
        yield peer


# --- login


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"client_secret": "other"}, 400),
        ({"client_id": "other"}, 400),
        ({"grant_type": "password"}, 400),
        ({"token_type": "Bearer"}, 400),
        ({"client_secret": 7}, 400),
    ],
)
async def test_a_token_is_given_only_for_exactly_the_right_wish(peer: Peer, wish: dict[str, Any], status: int) -> None:
    peer.headers = {}
    assert (await peer.ask("POST", "/?oauth=token", {**WISH, **wish}))[0] == status
    assert (await peer.ask("POST", "/?oauth=token", b"[]"))[0] == status
    assert (await peer.ask("POST", "/", WISH))[0] == 404
    assert (await peer.ask("POST", "/?oauth=token", WISH, Authorization="Basic eDp5"))[0] == 400


@pytest.mark.parametrize("wanted", ["json", "form"])
async def test_one_encoding_may_be_the_only_one(session: ClientSession, wanted: str) -> None:
    form = b"&".join(f"{name}={value}".encode() for name, value in WISH.items())
    async with Sandbox(share_token_body=wanted, token_refusal=415) as sandbox:
        peer = Peer(sandbox, session)
        in_json = await peer.ask("POST", "/?oauth=token", WISH)
        in_form = await peer.ask("POST", "/?oauth=token", form, "application/x-www-form-urlencoded")
    assert (in_json[0], in_form[0]) == ((200, 415) if wanted == "json" else (415, 200))


@pytest.mark.parametrize("spelling", ["bearer {}", "Bearer  {}", "{}", "Basic {}", ""])
async def test_a_token_is_taken_in_one_spelling(peer: Peer, spelling: str) -> None:
    token = peer.headers["Authorization"].removeprefix("Bearer ")
    assert (await peer.ask("GET", FILES))[0] == 200
    assert (await peer.ask("GET", FILES, Authorization=spelling.format(token)))[0] == 401


async def test_a_token_ends_and_can_be_revoked(peer: Peer) -> None:
    peer.sandbox.advance(3600)
    assert (await peer.ask("GET", FILES))[0] == 401
    await peer.log_in()
    assert (await peer.ask("GET", FILES))[0] == 200
    peer.sandbox.revoke_tokens()
    assert (await peer.ask("GET", FILES))[0] == 401


async def test_basic_is_taken_only_where_it_is_switched_on_and_a_right_may_be_missing(session: ClientSession) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(b"sandbox:sandbox-secret").decode()}
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 401),
        ({"share_basic": True}, 200),
        ({"share_basic": True, "share_rights": False}, 401),
    ]
    for switches, status in cases:
        async with Sandbox(**switches) as sandbox:
            assert (await Peer(sandbox, session).ask("GET", FILES, **basic))[0] == status


# --- links


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SMS, {}),
        (SMS, {"phone_number": ""}),
        (SMS, {"phone_number": 20123456}),
        (SMS, {"phone_number": "1", "country_code": "45"}),
        (SMS, {"phone_number": "1", "incident_id": ""}),
        (SMS, {"phone_number": "1", "unknown": "x"}),
        (EMAIL, {"email": "a"}),
        (EMAIL, {"email": "a@b", "incident_id": "x"}),
        (EMAIL, {"email": "a@b", "country_code": 45}),
    ],
)
async def test_a_link_that_breaks_the_contract_is_refused_and_not_sent(peer: Peer, path: str, body: Any) -> None:
    assert (await peer.ask("POST", path, body))[0] == 400
    assert peer.sandbox.share.archive.links == []
    assert peer.sandbox.count("sms", effect=True) == peer.sandbox.count("email", effect=True) == 0


async def test_a_body_of_another_type_or_a_query_that_is_unknown_is_refused(peer: Peer) -> None:
    assert (await peer.ask("POST", SMS, {"phone_number": "1"}, "text/plain"))[0] == 400
    assert (await peer.ask("POST", SMS + "?now=1", {"phone_number": "1"}))[0] == 400


async def test_a_chosen_incident_id_is_the_stream_and_a_second_message_is_counted(peer: Peer) -> None:
    body = {"phone_number": "20123456", "incident_id": "rk-1"}
    first = await peer.ask("POST", SMS, body)
    second = await peer.ask("POST", SMS, body)
    assert first[1]["stream_id"] == second[1]["stream_id"] == "rk-1"
    assert first[1]["id"] != second[1]["id"]
    assert peer.sandbox.share.archive.link_duplicates == 1
    assert len((await peer.ask("GET", LINKS + "?include_media_files=true"))[1]) == 1


async def test_an_email_opens_a_stream_of_its_own_that_the_answer_does_not_name(peer: Peer) -> None:
    assert await peer.ask("POST", EMAIL, {"email": "a@b", "notes": "n"}) == (200, {"success": True})
    _, (group,) = await peer.ask("GET", LINKS + "?include_media_files=true")
    assert (group["notes"], group["files"]) == ("n", [])
    assert group["stream_id"] == peer.sandbox.share.archive.links[0].stream_id


# --- media


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--\r\n",
        GOOD_UPLOAD.removesuffix(b"--\r\n") + b"\r\n",
        GOOD_UPLOAD.replace(b"media_file", b"file"),
        GOOD_UPLOAD.replace(b'; filename="a.jpg"', b""),
        GOOD_UPLOAD.replace(b"Content-Type: image/jpeg\r\n", b""),
        GOOD_UPLOAD.replace(b"\r\n\r\nx\r\n", b"\r\n\r\n\r\n"),
        GOOD_UPLOAD.replace(b"--b--", b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\ny\r\n--b--'),
    ],
)
async def test_an_upload_is_one_named_typed_file_in_a_whole_form(peer: Peer, body: bytes) -> None:
    assert (await peer.ask("POST", MEDIA, body, FORM))[0] == 400
    assert peer.sandbox.share.archive.media == []


async def test_an_upload_to_a_stream_that_is_not_there_or_without_a_length_is_refused(peer: Peer) -> None:
    assert (await peer.ask("POST", MEDIA.replace("vehicle-12", "nobody"), GOOD_UPLOAD, FORM))[0] == 404

    async def chunks() -> AsyncIterator[bytes]:
        yield GOOD_UPLOAD

    async with ClientSession() as session:
        headers = {**peer.headers, "Content-Type": FORM}
        async with session.post(peer.sandbox.url + MEDIA, data=chunks(), headers=headers) as answer:
            assert answer.status == 411


async def test_a_file_that_comes_twice_is_there_twice_and_counted(peer: Peer) -> None:
    for _ in range(2):
        assert await peer.ask("POST", MEDIA, GOOD_UPLOAD, FORM) == (200, {"success": True})
    _, (group,) = await peer.ask("GET", FILES)
    assert [file["name"] for file in group["files"]] == ["a.jpg", "a.jpg"]
    assert peer.sandbox.share.archive.media_duplicates == 1


async def test_names_may_be_changed_as_wordpress_does(session: ClientSession) -> None:
    async with Sandbox(share_names="wordpress") as sandbox:
        peer = Peer(sandbox, session)
        await peer.log_in()
        for _ in range(3):
            await peer.ask("POST", MEDIA, GOOD_UPLOAD.replace(b"a.jpg", b"A.JPG"), FORM)
        assert [each.name for each in sandbox.share.archive.media] == ["a.jpg", "a-1.jpg", "a-2.jpg"]


# --- lists


async def test_lists_show_what_came_after_the_date_and_what_is_not_late(session: ClientSession) -> None:
    async with Sandbox(share_lag_seconds=10) as sandbox:
        peer = Peer(sandbox, session)
        await peer.log_in()
        await peer.ask("POST", MEDIA, GOOD_UPLOAD, FORM)
        assert await peer.ask("GET", FILES) == (200, [])
        sandbox.advance(11)
        now = int(sandbox.now())
        for query, count in (("", 1), (f"?saved_date_after={now - 60}", 1), (f"?saved_date_after={now}", 0)):
            assert len((await peer.ask("GET", FILES + query))[1]) == count
        await peer.ask("POST", MEDIA, GOOD_UPLOAD, FORM)
        sandbox.advance(11)
        for whole, count in (("true", 2), ("false", 1)):
            query = f"?saved_date_after={now - 5}&include_older_group_files={whole}"
            assert len((await peer.ask("GET", FILES + query))[1][0]["files"]) == count


@pytest.mark.parametrize(
    "path",
    [LINKS, f"{LINKS}?include_media_files=false", f"{FILES}?saved_date_after=yesterday", f"{FILES}?unknown=1"],
)
async def test_a_list_that_is_asked_for_wrongly_is_refused(peer: Peer, path: str) -> None:
    assert (await peer.ask("GET", path))[0] == 400


async def test_a_list_may_come_in_pages(session: ClientSession) -> None:
    async with Sandbox(share_page=2, share_channels="a,b,c") as sandbox:
        peer = Peer(sandbox, session)
        await peer.log_in()
        for stream in "abc":
            await peer.ask("POST", MEDIA.replace("vehicle-12", stream), GOOD_UPLOAD, FORM)
        pages = [(await peer.ask("GET", f"{FILES}?page={page}"))[1] for page in (1, 2, 3)]
    assert [[group["stream_id"] for group in page] for page in pages] == [["a", "b"], ["c"], []]


async def test_a_prefix_is_there_or_nothing_is(session: ClientSession) -> None:
    async with Sandbox(share_prefix="/wp-json", share_files_prefix="/x") as sandbox:
        peer = Peer(sandbox, session)
        await peer.log_in()
        for path, status in (
            (LINKS + "/latest", 404),
            ("/wp-json" + LINKS + "/latest", 200),
            (FILES + "/latest", 404),
            ("/x" + FILES + "/latest", 200),
            ("/incidentshare-appconfig/v2/channels", 404),
            ("/wp-json/incidentshare-appconfig/v2/channels?viewer_ip=192.0.2.1", 200),
        ):
            assert (await peer.ask("GET", path))[0] == status


async def test_latest_comes_as_text_and_as_seconds(peer: Peer) -> None:
    await peer.ask("POST", MEDIA, GOOD_UPLOAD, FORM)
    _, text = await peer.ask("GET", LINKS + "/latest")
    _, seconds = await peer.ask("GET", FILES + "/latest")
    assert len(text["latest"]) == len("2026-01-01 09:00:00")
    assert abs(int(seconds["latest"]) - peer.sandbox.now()) < 5
