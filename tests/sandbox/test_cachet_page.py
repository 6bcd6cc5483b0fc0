"""The stand-in of Cachet is as strict as the contract: what a client gets wrong is refused as documented."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession

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


@pytest.mark.parametrize(("version", "status"), [("2025-12-02", 2), ("2026-06-25", 2), ("2026-08-22", 4)])
async def test_a_status_that_is_put_is_hidden_by_an_update_at_older_servers(version: str, status: int) -> None:
    async with served(cachet_version=version) as client:
        await client.ask("POST", "/incidents", GOOD)
        await client.ask("POST", "/incidents/42/updates", {"status": 2, "message": "A cable."})
        assert (await client.ask("PUT", "/incidents/42", {"status": 4}))[0] == 200
        assert client.page.incidents[42].status == status


@pytest.mark.parametrize(
    ("version", "query", "status"),
    [
        ("2025-12-02", "sort=-created_at", 400),
        ("2026-06-25", "sort=-created_at", 200),
        ("2025-12-02", "sort=-id", 200),
        ("2026-08-22", "sort=-id", 200),
        ("2025-12-02", "filter[occurs_on]=2026-01-01", 400),
        ("2026-06-25", "filter[occurs_on]=2026-01-01", 200),
        ("2026-06-25", "filter[meta][relay_key]=a", 400),
        ("2026-08-22", "filter[meta][relay_key]=a&include=meta", 200),
        ("2026-06-25", "include=meta", 400),
    ],
)
async def test_a_query_is_known_from_a_version_on(version: str, query: str, status: int) -> None:
    async with served(cachet_version=version) as client:
        assert (await client.ask("GET", f"/incidents?{query}"))[0] == status


async def test_what_somebody_has_hidden_is_listed_and_shown_to_nobody_but_can_be_changed() -> None:
    async with served() as client:
        await client.ask("POST", "/incidents", GOOD)
        client.page.incidents[42].visible = 2
        assert (await client.ask("GET", "/incidents"))[1]["data"] == []
        for path in ("/incidents/42", "/incidents/42/updates"):
            status, found = await client.ask("GET", path)
            assert (status, found["message"]) == (404, "No query results for model [Cachet\\Models\\Incident] 42")
        assert (await client.ask("POST", "/incidents/42/updates", FIXED))[0] == 201
        status, found = await client.ask("PUT", "/incidents/42", {})
        assert (status, found["data"]["attributes"]["visible"]) == (200, 2)
        assert found["data"]["attributes"]["status"]["value"] == 4


async def test_before_july_2026_everybody_reads_what_is_not_public() -> None:
    async with served(cachet_version="2026-06-25") as client:
        await client.ask("POST", "/incidents", GOOD)
        client.page.incidents[42].visible = 2
        assert len((await client.ask("GET", "/incidents", Authorization=""))[1]["data"]) == 1
        assert (await client.ask("GET", "/incidents/42", Authorization=""))[0] == 200


async def test_what_is_published_later_is_seen_by_who_may_manage_incidents_alone() -> None:
    for abilities, count in (("incidents.manage", 1), ("incident-updates.manage", 0)):
        async with served(cachet_abilities=abilities) as client:
            client.page._settings = client.page._settings.model_copy(update={"cachet_abilities": "incidents.manage"})
            later = {**GOOD, "visible": True, "published_at": "2099-01-01 00:00:00"}
            assert (await client.ask("POST", "/incidents", later))[0] == 201
            client.page._settings = client.page._settings.model_copy(update={"cachet_abilities": abilities})
            assert len((await client.ask("GET", "/incidents"))[1]["data"]) == count


@pytest.mark.parametrize(
    ("version", "visible", "shown"), [("2025-12-02", False, 3), ("2026-08-22", False, 1), ("2026-08-22", True, 3)]
)
async def test_a_component_shows_what_open_incidents_that_are_seen_say_of_it(
    version: str, visible: bool, shown: int
) -> None:
    async with served(cachet_version=version) as client:
        await client.ask("POST", "/incidents", {**GOOD, "visible": visible, "component_id": 1, "component_status": 3})
        _, found = await client.ask("GET", "/components")
        about = found["data"][0]["attributes"]
        assert (about["status"]["value"], about["latest_status"]["value"]) == (1, shown)
        await client.ask("POST", "/incidents/42/updates", FIXED)
        _, found = await client.ask("GET", "/components")
        assert found["data"][0]["attributes"]["latest_status"]["value"] == 1


@pytest.mark.parametrize(("version", "status"), [("2025-12-02", 2), ("2026-08-22", 4)])
async def test_of_two_updates_in_one_second_an_older_server_shows_the_first(version: str, status: int) -> None:
    async with served(cachet_version=version) as client:
        await client.ask("POST", "/incidents", GOOD)
        await client.ask("POST", "/incidents/42/updates", {"status": 2, "message": "A cable."})
        await client.ask("POST", "/incidents/42/updates", FIXED)
        first, second = client.page.incidents[42].updates
        second.at = first.at
        _, found = await client.ask("GET", "/incidents/42")
        assert found["data"]["attributes"]["status"]["value"] == status


async def test_a_lenient_server_ignores_what_it_does_not_know_and_takes_texts_for_numbers_and_trims_them() -> None:
    async with served(cachet_bodies="lenient") as client:
        body = {
            **GOOD,
            "status": "1",
            "visible": "1",
            "nobody_knows": 1,
            "message": "\u200b The uplink is down.\u2028 ",
        }
        status, made = await client.ask("POST", "/incidents", body)
        about = made["data"]["attributes"]
        assert (status, about["visible"], about["message"]) == (201, 1, "The uplink is down.")
        assert (await client.ask("POST", "/incidents", {**GOOD, "name": " \u200b "}))[0] == 422


async def test_an_incident_whose_mail_cannot_be_sent_is_kept_and_answered_500() -> None:
    async with served(cachet_mail=False) as client:
        assert (await client.ask("POST", "/incidents", {**GOOD, "notifications": True}))[0] == 500
        assert len(client.page.incidents) == 1
        assert (await client.ask("POST", "/incidents", GOOD))[0] == 201


async def test_flags_are_numbers_and_empty_metadata_is_a_list() -> None:
    async with served() as client:
        await client.ask("POST", "/incidents", GOOD)
        _, found = await client.ask("GET", "/incidents?include=meta")
        about = found["data"][0]["attributes"]
        assert (about["notifications"], about["visible"], about["meta"]) == (0, 0, [])
        assert about["published"]["string"] == about["created"]["string"]


async def test_a_request_can_go_on_while_the_next_one_comes() -> None:
    async with served(faults="incident#1 outlast 3600; incident#2 outlast 3600 status=0") as client:
        url = f"{client.sandbox.url}{PREFIX}/incidents"
        async with client._session.post(url, json=GOOD, headers=TOKEN) as answer:
            assert answer.status == 504
        with pytest.raises(ClientError):
            await client.ask("POST", "/incidents", GOOD)
        assert (await client.ask("GET", "/incidents"))[1]["data"] == []
        await client.sandbox.finish()
        assert len((await client.ask("GET", "/incidents"))[1]["data"]) == 2
        assert client.sandbox.count("incident", effect=True) == 2


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
        is_hidden_by_what_is_missing = rights == "last" and path == "/incidents/42" and ability == "incidents.manage"
        missing = (404, "No query results for model [Cachet\\Models\\Incident] 42")
        assert (status, found["message"]) == (
            missing if is_hidden_by_what_is_missing else (403, "Invalid ability provided.")
        )
        assert client.page.components[1] == 1


async def test_an_api_that_is_switched_off_answers_404_to_everything() -> None:
    async with served(cachet_enabled=False) as client:
        for method, path in (("GET", "/ping"), ("GET", "/incidents"), ("POST", "/incidents"), ("PUT", "/components/1")):
            assert await client.ask(method, path, None if method == "GET" else GOOD) == (404, {"message": "Not Found"})


async def test_more_requests_than_allowed_in_a_minute_are_refused_until_it_is_over() -> None:
    async with served(cachet_rate_limit=2) as client:
        for left in ("1", "0"):
            await client.ask("POST", "/incidents", GOOD)
            assert client.headers["X-RateLimit-Remaining"] == left
        assert (await client.ask("POST", "/incidents", GOOD))[0] == 429
        assert 50 <= int(client.headers["Retry-After"]) <= 60
        assert int(client.headers["X-RateLimit-Reset"]) - client.sandbox.now() <= 61
        await client.ask("GET", "/incidents")
        assert client.headers["X-RateLimit-Remaining"] == "1", "reads are counted by themselves"
        await client.ask("POST", "/incidents", GOOD, Authorization="")
        assert "X-RateLimit-Remaining" not in client.headers
        client.sandbox.advance(61)
        assert (await client.ask("POST", "/incidents", GOOD))[0] == 201
        assert len(client.page.incidents) == 3


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
