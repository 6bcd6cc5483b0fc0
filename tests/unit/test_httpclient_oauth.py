"""One token, fetched once however many ask, renewed early and once on a 401; the secret never in an error."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relayd import clock
from relayd.errors import LoginRefused, Unavailable
from relayd.fields import Secret
from relayd.httpclient import HttpClient
from relayd.httpconfig import HttpConfig
from relayd.oauth import AS_JSON, FORM, ClientCredentials

SECRET = "s3cr3t&=%"


class Api:
    """A token endpoint that says `said` next, and a resource that honours the tokens in `good`."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.forms: list[str] = []
        self.refuses: dict[str, int] = {}
        self.said: Any = None
        self.good: set[str] = set()
        self.refuses_with = 401
        self.refusal: Any = {}
        self.received_bytes = 0

    async def token(self, request: web.Request) -> web.Response:
        self.calls["token"] += 1
        self.forms.append(request.content_type)
        if request.content_type in self.refuses:
            return web.json_response({"Error": f"no {SECRET}"}, status=self.refuses[request.content_type])
        raw = await request.text()
        given = json.loads(raw) if request.content_type == AS_JSON else {k: v[0] for k, v in parse_qs(raw).items()}
        assert given == {"client_id": "me", "client_secret": SECRET, "grant_type": "client_credentials"}
        await asyncio.sleep(0)
        if isinstance(self.said, bytes):
            return web.Response(body=self.said, content_type="text/html")
        if self.said is not None:
            return web.json_response(self.said)
        token = f"token-{self.calls['token']}"
        self.good.add(token)
        return web.json_response({"access_token": token, "expires_in": "3599"})

    async def resource(self, request: web.Request) -> web.Response:
        self.calls["resource"] += 1
        self.received_bytes += len(await request.read())
        is_good = request.headers["Authorization"].removeprefix("Bearer ") in self.good
        return web.json_response({} if is_good else self.refusal, status=200 if is_good else self.refuses_with)


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OAUTH_TEST_SECRET", SECRET)
    api = Api()
    app = web.Application()
    app.router.add_post("/token", api.token)
    app.router.add_route("*", "/resource", api.resource)
    async with TestServer(app) as server:
        client = HttpClient(HttpConfig(url=str(server.make_url("")).rstrip("/")))
        yield api, client, ClientCredentials(client, "/token", "me", Secret(env="OAUTH_TEST_SECRET"))
        await client.close()


async def call(client: HttpClient, login: ClientCredentials) -> int:
    return (await login.send("GET", client.url("/resource"))).status


async def test_many_calls_at_once_share_one_login(api: Any) -> None:
    served, client, login = api
    assert await asyncio.gather(*(call(client, login) for _ in range(20))) == [200] * 20
    assert served.calls["token"] == 1


async def test_many_401s_at_once_lead_to_one_renewal(api: Any) -> None:
    served, client, login = api
    await call(client, login)
    served.good.clear()
    assert await asyncio.gather(*(call(client, login) for _ in range(20))) == [200] * 20
    assert served.calls["token"] == 2


async def test_a_second_401_is_a_refused_login_after_exactly_one_renewal(api: Any) -> None:
    served, client, login = api
    await call(client, login)
    served.said = {"access_token": "never-good", "expires_in": 3600}
    served.good.clear()
    with pytest.raises(LoginRefused, match="may lack the permission") as caught:
        await call(client, login)
    assert caught.value.nothing_happened
    assert served.calls == {"token": 2, "resource": 3}
    served.said = None
    assert await call(client, login) == 200
    assert served.calls["token"] == 3


@pytest.mark.parametrize("status", [400, 415])
async def test_the_other_body_form_is_tried_once_and_remembered(api: Any, status: int) -> None:
    served, client, login = api
    served.refuses = {FORM: status}
    await call(client, login)
    served.good.clear()
    await call(client, login)
    assert served.forms == [FORM, AS_JSON, AS_JSON]
    served.refuses = {AS_JSON: status}
    served.good.clear()
    await call(client, login)
    assert served.forms[3:] == [AS_JSON, FORM]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 415])
async def test_a_refused_login_says_so_without_the_secret(api: Any, status: int) -> None:
    served, client, login = api
    served.refuses = {FORM: status, AS_JSON: status}
    with pytest.raises(LoginRefused) as caught:
        await call(client, login)
    assert SECRET not in str(caught.value)
    assert served.calls["token"] == (2 if status in (400, 415) else 1)


@pytest.mark.parametrize(
    "said",
    [
        {},
        [],
        "token",
        {"access_token": None},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": "a\r\nX-Injected: 1"},
        {"access_token": "tök"},
        {"access_token": "x" * 9000},
    ],
)
async def test_a_login_answer_without_a_usable_token_is_unavailable(api: Any, said: Any) -> None:
    served, client, login = api
    served.said = said
    with pytest.raises(Unavailable, match="usable access_token"):
        await call(client, login)


@pytest.mark.parametrize(
    ("stated", "kept_seconds"),
    [
        ("3599", 3299.0 - 60),
        (3600, 3300.0),
        ("3600.0", 3300.0),
        (60, 54.0),
        (10**9, 86100.0),
        ("1e99", 86100.0),
        (None, 270.0),
        ("soon", 270.0),
        ({}, 270.0),
        (True, 270.0),
        ("nan", 270.0),
        (-5, 0.0),
        (0, 0.0),
    ],
)
async def test_a_lifetime_in_any_shape_is_bounded_and_ends_early(
    api: Any, stated: Any, kept_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, client, login = api
    passed = 0.0
    real = clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: real() + passed)
    served.said = {"access_token": "t", "expires_in": stated}
    served.good = {"t"}
    await call(client, login)
    passed = max(kept_seconds - 30, 0.0)
    await call(client, login)
    assert served.calls["token"] == (1 if kept_seconds else 2)
    passed = kept_seconds + 61
    await call(client, login)
    assert served.calls["token"] == (2 if kept_seconds else 3)


@pytest.mark.parametrize("said", ["no token", None])
async def test_a_call_that_got_no_further_than_the_login_has_done_nothing(api: Any, said: Any) -> None:
    served, client, login = api
    served.said = said
    served.refuses = {FORM: 503} if said is None else {}
    with pytest.raises(Unavailable) as caught:
        await call(client, login)
    assert caught.value.nothing_happened
    assert served.calls["resource"] == 0


async def test_a_token_that_is_renewed_by_hand_is_fetched_at_the_next_call(api: Any) -> None:
    served, client, login = api
    await call(client, login)
    login.renew()
    assert await call(client, login) == 200
    assert served.calls["token"] == 2


async def test_a_jump_of_the_wall_clock_changes_nothing(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served, client, login = api
    for moment in (0.0, 2e9, -1e9):
        monkeypatch.setattr(clock, "now", lambda moment=moment: moment)
        await call(client, login)
    assert served.calls["token"] == 1


async def test_a_secret_that_is_gone_is_a_refused_login(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, client, login = api
    monkeypatch.delenv("OAUTH_TEST_SECRET")
    with pytest.raises(LoginRefused, match="OAUTH_TEST_SECRET is not set"):
        await call(client, login)


@pytest.mark.parametrize(
    ("said", "logins"),
    [
        ({"code": "invalid_token", "message": "The token was deleted"}, 2),
        ({"message": "The access token provided is invalid"}, 2),
        ({"code": "rest_forbidden", "message": "Sorry, you are not allowed to do that."}, 1),
    ],
)
async def test_a_403_that_is_about_the_token_renews_it_once_and_any_other_is_an_answer(
    api: Any, said: Any, logins: int
) -> None:
    served, client, login = api
    await call(client, login)
    served.good.clear()
    served.refuses_with, served.refusal = 403, said
    assert await call(client, login) == (200 if logins == 2 else 403)
    assert served.calls["token"] == logins


async def test_a_file_is_sent_once_to_find_out_that_a_login_is_refused_and_then_something_small_is_asked_first(
    api: Any,
) -> None:
    served, client, _ = api
    login = ClientCredentials(client, "/token", "me", Secret(env="OAUTH_TEST_SECRET"), probe="/resource")
    served.said, large = {"access_token": "never-good", "expires_in": 3600}, b"x" * 100_000
    for _ in range(5):
        with pytest.raises(LoginRefused, match="takes the Authorization header away") as caught:
            await login.send("POST", client.url("/resource"), body=large)
        assert caught.value.nothing_happened
    assert served.received_bytes == len(large)
    served.good.add("never-good")
    assert (await login.send("POST", client.url("/resource"), body=large)).status == 200
    assert (await login.send("POST", client.url("/resource"), body=large)).status == 200
    assert served.received_bytes == 3 * len(large)


async def test_a_client_that_is_refused_in_both_forms_is_asked_for_once_a_try_after_that(api: Any) -> None:
    served, client, login = api
    served.refuses = {FORM: 400, AS_JSON: 400}
    for _ in range(5):
        with pytest.raises(LoginRefused):
            await call(client, login)
    assert served.forms == [FORM, AS_JSON, AS_JSON, FORM, AS_JSON, FORM]
    del served.refuses[FORM]
    with pytest.raises(LoginRefused):
        await call(client, login)
    assert await call(client, login) == 200


async def test_a_token_behind_a_warning_that_the_server_prints_is_read(api: Any) -> None:
    served, client, login = api
    warning = b"<br />\n<b>Warning</b>: x in <b>/srv/a.php</b> on line <b>[7]</b><br />\n"
    served.said = warning + b'{"access_token": "t", "expires_in": 9}'
    served.good.add("t")
    assert await call(client, login) == 200
