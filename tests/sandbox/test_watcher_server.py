"""The stand-in of Watcher is as strict as the contract: what a client gets wrong is refused as documented."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from relayd.sandbox import Sandbox
from relayd.sandbox.watcher import PREFIX
from tests.sandbox.peers import until

BASIC = "Basic " + base64.b64encode(b"gateway:sandbox-password").decode()
TOKEN = "/agent_activation_token"
GOOD: dict[str, Any] = {"title": "Gate 3", "organization_id": 9, "preset_id": 2, "folder_id": 4}


class Client:
    """A user of the API who has logged in; knows nothing of relayd."""

    def __init__(self, sandbox: Sandbox, session: ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.access = self.refresh = ""

    async def log_in(self, authorization: str = BASIC) -> int:
        status, found = await self.ask("POST", "/login", authorization=authorization)
        if status == 200:
            self.access, self.refresh = found["access_token"], found.get("refresh_token", "")
        return status

    async def ask(
        self, method: str, path: str, body: Any = None, *, authorization: str | None = None, url: str | None = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.access}" if authorization is None else authorization}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        address = (self.sandbox.url + PREFIX if url is None else url) + path
        async with self.session.request(method, address, data=data, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None


@asynccontextmanager
async def served(**switches: Any) -> AsyncIterator[Client]:
    async with Sandbox(**switches) as sandbox, ClientSession() as session:
        client = Client(sandbox, session)
        assert await client.log_in() == 200
        yield client


async def test_only_the_right_login_gets_a_token() -> None:
    async with served() as client:
        for wrong in ("", "Basic Z2F0ZXdheTp4", f"Bearer {client.access}", "Bearer x", BASIC.removeprefix("Basic ")):
            assert await client.log_in(wrong) == 401
        status, found = await client.ask("GET", "/organizations", authorization=BASIC)
    assert (status, found["errors"][0]["code"]) == (401, "unauthorized")


async def test_a_refresh_token_is_good_once_and_only_for_the_login() -> None:
    async with served() as client:
        first = client.refresh
        assert await client.log_in(f"Bearer {first}") == 200
        assert await client.log_in(f"Bearer {first}") == 401
        assert (await client.ask("GET", "/profile", authorization=f"Bearer {client.refresh}"))[0] == 401


async def test_an_access_token_ends() -> None:
    async with served(watcher_token_seconds=60) as client:
        client.sandbox.advance(59)
        assert (await client.ask("GET", "/profile"))[0] == 200
        client.sandbox.advance(2)
        assert (await client.ask("GET", "/profile"))[0] == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": ""},
        {"title": None},
        {"organization_id": None},
        {"organization_id": 99},
        {"organization_id": "9"},
        {"preset_id": 77},
        {"folder_id": 41},
        {"dvr_depth": -1},
        {"coordinates": {"latitude": 91, "longitude": 0}},
        {"unknown": 1},
    ],
)
async def test_a_token_that_breaks_the_contract_is_not_made(wrong: dict[str, Any]) -> None:
    body = {key: value for key, value in {**GOOD, **wrong}.items() if value is not None}
    async with served() as client:
        status, found = await client.ask("POST", TOKEN, body)
        assert (status, found["errors"][0]["status"]) == (400, "400")
        assert client.sandbox.watcher.activations == {}


async def test_a_stream_is_there_only_after_a_camera_saw_the_token() -> None:
    async with served() as client:
        _, made = await client.ask("POST", TOKEN, {**GOOD, "dvr_depth": 7})
        path = f"{TOKEN}/{made['token']}"
        assert await client.ask("GET", path) == (200, {"token": made["token"]})
        control = f"{client.sandbox.url}/_sandbox/watcher"
        status, scanned = await client.ask("POST", "/scan", {"token": made["token"]}, url=control)
        assert status == 200
        assert (await client.ask("GET", path))[1]["stream_name"] == scanned["stream_name"]
        _, stream = await client.ask("GET", f"/streams/{scanned['stream_name']}")
        assert stream["title"] == "Gate 3"
        assert stream["dvr"]["expiration"] == 7 * 86400
        assert stream["stats"]["alive"] is True
        assert (await client.ask("GET", f"{TOKEN}/unknown"))[0] == 404
        assert (await client.ask("GET", "/streams/unknown"))[0] == 404


async def test_a_token_made_twice_is_two_and_counted() -> None:
    async with served() as client:
        for _ in range(3):
            await client.ask("POST", TOKEN, GOOD)
        assert (len(client.sandbox.watcher.activations), client.sandbox.watcher.spare_tokens) == (3, 2)


async def test_lists_come_in_pages_that_next_continues() -> None:
    async with served(watcher_page=2) as client:
        _, first = await client.ask("GET", "/presets")
        _, second = await client.ask("GET", f"/presets?cursor={first['next']}")
        assert [each["id"] for each in (*first["presets"], *second["presets"])] == [1, 2, 3]
        assert second["next"] is None
        assert (await client.ask("GET", "/presets?cursor=2"))[0] == 400
        assert (await client.ask("GET", "/presets?page=2"))[0] == 400
        assert (await client.ask("GET", "/organizations/99/folders"))[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/ptz", {"command": "move_continuous", "up": 50}, 204),
        ("/ptz", {"command": "move_continuous", "up": 101}, 400),
        ("/ptz", {"command": "goto"}, 400),
        ("/ptz", {"up": 1}, 400),
        ("/reboot", None, 204),
        ("/reboot", {}, 400),
    ],
)
async def test_a_command_is_done_only_as_the_contract_has_it(path: str, body: Any, status: int) -> None:
    async with served() as client:
        await client.ask("POST", TOKEN, GOOD)
        name = client.sandbox.watcher.scan()
        assert (await client.ask("POST", f"/streams/{name}{path}", body))[0] == status
        assert len(client.sandbox.watcher.streams[name].commands) == (status == 204)


async def test_what_the_user_may_not_do_is_forbidden() -> None:
    async with served(watcher_rights="can_use_ptz") as client:
        assert (await client.ask("POST", TOKEN, GOOD))[0] == 403
        assert (await client.ask("POST", "/messages", {"body": "x", "user_id": 12}))[0] == 403


async def test_a_message_needs_a_text_and_a_user_that_is_there() -> None:
    async with served() as client:
        for wrong, status in (({"user_id": 12}, 400), ({"body": "x", "user_id": 1}, 404), ({"body": "x"}, 400)):
            assert (await client.ask("POST", "/messages", wrong))[0] == status
        for _ in range(2):
            assert (await client.ask("POST", "/messages", {"body": "x", "user_id": 12}))[0] == 200
        assert len(client.sandbox.watcher.messages) == 2


async def test_a_partial_save_changes_what_it_names_and_a_fixed_preset_keeps_its_recording() -> None:
    async with served() as client:
        await client.ask("POST", TOKEN, {**GOOD, "comment": "old", "preset_id": 3, "dvr_depth": 3})
        path = f"/streams/{client.sandbox.watcher.scan()}"
        status, _ = await client.ask("PUT", path, {"title": "New", "dvr": {"expiration": 1}})
        _, stream = await client.ask("GET", path)
        assert status == 200
        assert (stream["title"], stream["comment"], stream["dvr"]["expiration"]) == ("New", "old", 3 * 86400)
        assert (await client.ask("PUT", path, {"name": "x"}))[0] == 400


async def test_episodes_are_held_until_there_is_one_and_end_with_an_empty_page() -> None:
    async with served() as client:
        since = f"/episodes?updated_at_gt={10**12}"
        asked = asyncio.create_task(client.ask("GET", f"{since}&poll_timeout=30"))
        await until(lambda: client.sandbox.count("episodes") == 1)
        await client.sandbox.watcher.add_episode(
            episode_id=2**62 + 1, media="cam-1", opened_at=10**12 + 1, updated_at=10**12 + 2
        )
        _, found = await asyncio.wait_for(asked, 20)
        assert [each["episode_id"] for each in found["episodes"]] == [2**62 + 1]
        _, none = await client.ask("GET", f"/episodes?updated_at_gt={10**12 + 2}&poll_timeout=1")
        assert none["episodes"] == []
        assert (await client.ask("GET", "/episodes?updated_at_gt=5"))[0] == 400
