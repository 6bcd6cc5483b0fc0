"""The stand-in of Cachet is as strict as the contract: what a client gets wrong is refused as documented."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession

from relayd.sandbox import Sandbox
from relayd.sandbox.cachet import PREFIX

TOKEN = {"Authorization": "Bearer 1|sandbox"}
GOOD: dict[str, Any] = {"name": "GW-12 uplink lost [rk-0001]", "status": 1, "message": "The uplink is down."}
FIXED = {"status": 4, "message": "Back online."}


class Client:
    """A user of the API; knows nothing of relayd."""

    def __init__(self, sandbox: Sandbox, session: ClientSession) -> None:
        self.sandbox = sandbox
        self.page = sandbox.cachet
        self._session = session
        self.headers: dict[str, str] = {}

    async def ask(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", **headers: str
    ) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        sent = {**TOKEN, **headers, **({"Content-Type": content_type} if data is not None else {})}
        url = f"{self.sandbox.url}{PREFIX}{path}"
        async with self._session.request(method, url, data=data, headers=sent) as answer:
            self.headers = dict(answer.headers)
            return answer.status, await answer.json(content_type=None)


@asynccontextmanager
async def served(**switches: Any) -> AsyncIterator[Client]:
    async with Sandbox(**switches) as sandbox, ClientSession() as session:
        yield Client(sandbox, session)


async def test_an_incident_is_opened_found_updated_and_resolved() -> None:
    async with served() as client:
        status, made = await client.ask("POST", "/incidents", {**GOOD, "component_id": 1, "component_status": 3})
        assert (status, made["data"]["id"], made["data"]["attributes"]["visible"]) == (201, "42", 0)
        assert client.headers["Content-Type"].startswith("application/vnd.api+json")
        _, found = await client.ask("GET", "/incidents?filter[name]=RK-0001&per_page=1")
        assert [each["id"] for each in found["data"]] == ["42"]
        assert (await client.ask("GET", "/incidents?filter[name]=rk-0002"))[1]["data"] == []
        assert (await client.ask("POST", "/incidents/42/updates", FIXED))[0] == 201
        _, shown = await client.ask("GET", "/incidents/42")
        assert shown["data"]["attributes"]["status"] == {"human": "Fixed", "value": 4}
        _, updates = await client.ask("GET", "/incidents/42/updates?sort=-created_at")
        assert [each["attributes"]["message"] for each in updates["data"]] == ["Back online."]


async def test_a_status_that_is_put_is_hidden_by_an_update() -> None:
    async with served() as client:
        await client.ask("POST", "/incidents", GOOD)
        await client.ask("POST", "/incidents/42/updates", {"status": 2, "message": "A cable."})
        assert (await client.ask("PUT", "/incidents/42", {"status": 4}))[0] == 200
        assert client.page.incidents[42].status == 2


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": None}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"status": 5}, "status"),
        ({"status": "1"}, "status"),
        ({"message": ""}, "message"),
        ({"message": None}, "message"),
        ({"template": "none-such"}, "template"),
        ({"visible": 1}, "visible"),
        ({"occurred_at": "2026-01-01T08:00:00Z"}, "occurred_at"),
        ({"component_id": 1}, "message"),
        ({"component_id": 9, "component_status": 3}, "component_id"),
        ({"components": [{"id": 1, "status": 7}]}, "components.0.status"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_an_incident_that_breaks_the_contract_is_refused_and_not_kept(wrong: dict[str, Any], field: str) -> None:
    async with served() as client:
        status, found = await client.ask("POST", "/incidents", {**GOOD, **wrong})
        assert (status, list(found["errors"])) == (422, [field])
        assert found["message"] == found["errors"][field][0]
        assert client.page.incidents == {}


async def test_a_body_that_is_no_json_is_refused() -> None:
    async with served() as client:
        assert (await client.ask("POST", "/incidents", GOOD, content_type="text/plain"))[0] == 422


async def test_an_update_needs_both_its_fields_and_its_incident() -> None:
    async with served() as client:
        assert (await client.ask("POST", "/incidents/42/updates", FIXED))[0] == 404
        await client.ask("POST", "/incidents", GOOD)
        assert (await client.ask("POST", "/incidents/42/updates", {"status": 4}))[0] == 422
        assert (await client.ask("POST", "/incidents/42/updates", {"message": "x"}))[0] == 422
        assert client.page.incidents[42].updates == []


async def test_without_the_token_only_what_is_visible_can_be_read_and_nothing_written() -> None:
    async with served() as client:
        await client.ask("POST", "/incidents", GOOD)
        await client.ask("POST", "/incidents", {**GOOD, "visible": True})
        for wrong in ("", "Bearer 1|other", "1|sandbox", "Basic 1|sandbox"):
            _, found = await client.ask("GET", "/incidents", Authorization=wrong)
            assert [each["id"] for each in found["data"]] == ["43"]
            assert await client.ask("POST", "/incidents", GOOD, Authorization=wrong) == (
                401,
                {"message": "Unauthenticated."},
            )
        assert (await client.ask("GET", "/incidents/42", Authorization=""))[0] == 404
    async with served(cachet_protected=True) as client:
        assert (await client.ask("GET", "/incidents", Authorization=""))[0] == 401


@pytest.mark.parametrize("rights", ["last", "first"])
@pytest.mark.parametrize(
    ("method", "path", "body", "ability"),
    [
        ("POST", "/incidents", GOOD, "incidents.manage"),
        ("PUT", "/incidents/42", {}, "incidents.manage"),
        ("POST", "/incidents/42/updates", FIXED, "incident-updates.manage"),
        ("PUT", "/components/1", {"status": 3}, "components.manage"),
    ],
)
async def test_each_ability_is_asked_for(method: str, path: str, body: Any, ability: str, rights: str) -> None:
    every = {"incidents.manage", "incident-updates.manage", "components.manage"}
    async with served(cachet_abilities=" ".join(every - {ability}), cachet_rights=rights) as client:
        if ability != "incidents.manage":
            await client.ask("POST", "/incidents", GOOD)
        status, found = await client.ask(method, path, body)
        hidden_by_what_is_missing = rights == "last" and path == "/incidents/42" and ability == "incidents.manage"
        assert (status, found["message"]) == (
            (404, "Not Found") if hidden_by_what_is_missing else (403, "Invalid ability provided.")
        )
        assert client.page.components[1] == 1


async def test_an_api_that_is_switched_off_answers_404_to_everything() -> None:
    async with served(cachet_enabled=False) as client:
        for method, path in (("GET", "/ping"), ("GET", "/incidents"), ("POST", "/incidents"), ("PUT", "/components/1")):
            assert await client.ask(method, path, None if method == "GET" else GOOD) == (404, {"message": "Not Found"})


async def test_more_requests_than_allowed_in_a_minute_are_refused_until_it_is_over() -> None:
    async with served(cachet_rate_limit=2) as client:
        await client.ask("GET", "/ping")
        assert client.headers["X-RateLimit-Remaining"] == "1"
        await client.ask("POST", "/incidents", GOOD)
        assert client.headers["X-RateLimit-Remaining"] == "0"
        assert (await client.ask("POST", "/incidents", GOOD))[0] == 429
        assert 50 <= int(client.headers["Retry-After"]) <= 60
        assert int(client.headers["X-RateLimit-Reset"]) - client.sandbox.now() <= 61
        client.sandbox.advance(61)
        assert (await client.ask("POST", "/incidents", GOOD))[0] == 201
        assert len(client.page.incidents) == 2


@pytest.mark.parametrize("query", ["filter[nmae]=x", "sort=guid", "include=users", "limit=3", "per_page=many"])
async def test_a_query_that_is_not_known_is_refused(query: str) -> None:
    async with served() as client:
        assert (await client.ask("GET", f"/incidents?{query}"))[0] == 400


async def test_metadata_is_a_filter_where_the_server_is_new_enough() -> None:
    async with served() as client:
        await client.ask("POST", "/incidents", {**GOOD, "meta": {"relay_key": "a"}})
        await client.ask("POST", "/incidents", GOOD)
        _, found = await client.ask("GET", "/incidents?filter[meta][relay_key]=a&include=meta")
        assert [each["attributes"]["meta"] for each in found["data"]] == [{"relay_key": "a"}]
    async with served(cachet_meta=False) as client:
        assert (await client.ask("GET", "/incidents?filter[meta][relay_key]=a"))[0] == 400


async def test_a_template_is_filled_in() -> None:
    async with served() as client:
        wish = {"name": "x", "status": 1, "template": "gateway-fault"}
        await client.ask("POST", "/incidents", {**wish, "template_vars": {"gateway": "GW-12", "reason": "no link"}})
        assert client.page.incidents[42].message == "Gateway GW-12 reports: no link"


async def test_what_is_sent_twice_is_there_twice_and_counted() -> None:
    async with served() as client:
        for _ in range(2):
            await client.ask("POST", "/incidents", GOOD)
            await client.ask("POST", "/incidents/42/updates", FIXED)
        assert client.page.duplicates == 2
        _, shown = await client.ask("GET", "/incidents?per_page=1")
        assert shown["links"]["next"] == "?page=2"


async def test_a_component_takes_its_status_and_nothing_for_nothing() -> None:
    async with served() as client:
        assert (await client.ask("PUT", "/components/1", {"status": 4}))[1]["data"]["attributes"]["status"][
            "value"
        ] == 4
        assert (await client.ask("PUT", "/components/9", {"status": 4}))[0] == 404
        assert (await client.ask("PUT", "/components/1", {"status": 0}))[0] == 422
        assert (await client.ask("PUT", "/components/1", {}))[0] == 200
        assert client.page.components == {1: 4, 2: 1}
