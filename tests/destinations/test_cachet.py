"""Cachet: the contract of every adapter, then what is its own: one incident for each fault; at the strict stand-in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from relayd import clock
from relayd.destinations import cachet_events as events
from relayd.destinations.cachet import Cachet
from relayd.destinations.cachet_models import CachetConfig, IncidentArguments
from relayd.errors import DeliveryError, LoginRefused, NotAllowed, NotReady, Rejected, TryAgain, Unavailable
from relayd.memory import Unkept
from relayd.model import Capture, Kind, Outcome, Receipt
from relayd.sandbox import Sandbox
from relayd.sandbox.cachet import PREFIX
from relayd.sandbox.cachet_bodies import NewIncident
from relayd.sandbox.cachet_records import Incident, Update
from relayd.sandbox.cachet_versions import VERSIONS as SERVERS
from relayd.surroundings import Surroundings
from tests.destinations.contract import UndoingContract, Uptime
from tests.destinations.driver import Line, PowerCut, line
from tests.unit.wire import reply, speaking

FIRST = 42
AT = ("2026-01-01T08:00:00Z", "2026-01-01T08:07:00Z", "2026-01-01T09:00:00Z", "2026-01-01T09:30:00Z")
VERSIONS = ("2025-12-02", "2026-06-25", "2026-08-22")
EVERY = ("incidents.manage", "incident-updates.manage", "components.manage")


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_TOKEN", "1|sandbox")


def make(url: str, **options: Any) -> Cachet:
    section: dict[str, Any] = {
        "type": "cachet",
        "url": url,
        "token": {"env": "RELAYD_TEST_TOKEN"},
        "connect_timeout": "2s",
        "answer_timeout": "400ms",
        "stall_timeout": "400ms",
        "doubt_wait": "0s",
        "most_unknown": 100,
        "unknown_wait": "0s",
    }
    return Cachet("status-page", CachetConfig.model_validate({**section, **options}))


@asynccontextmanager
async def played(tmp_path: Path, options: dict[str, Any] | None = None, **switches: Any) -> AsyncIterator[Any]:
    """A sandbox with these switches and a line to it."""
    async with (
        Sandbox(**switches) as sandbox,
        line(lambda: make(sandbox.url + PREFIX, **(options or {})), tmp_path / "spool") as made,
    ):
        yield sandbox, made


@asynccontextmanager
async def answered(tmp_path: Path, answer: bytes, **options: Any) -> AsyncIterator[Line]:
    """A line to a server that always says this."""
    async with speaking(answer) as wire, line(lambda: make(wire.url, **options), tmp_path / "spool") as made:
        yield made


async def tell(relay: Line, payload: Mapping[str, Any], action: str = "incident", **arguments: Any) -> str:
    """Owe the page a message; its item's id."""
    capture = Capture(
        source="relayd",
        name="event",
        kind=Kind.MESSAGE,
        content_type="application/json",
        captured_at=clock.now(),
        payload=json.dumps(payload).encode(),
        topic="relayd/event",
    )
    return (await relay.spool.put(capture, [relay._order(action, arguments)], now=clock.now())).id


async def fault(relay: Line, *, over: bool = False, at: str = AT[0], part: str = "source front", **more: Any) -> str:
    """Owe the page a fault of the relay's own, or its end."""
    kind = "fault_cleared" if over else "fault_raised"
    reason = "" if over else "no file for 10 min"
    return await tell(relay, {"schema": 1, "type": kind, "part": part, "reason": reason, "at": at}, **more)


def shown_incident(number: int, *, updates: int = 0, version: str = VERSIONS[-1]) -> Incident:
    """Somebody else's, for signed-in users."""
    body = NewIncident(name="Not ours", status=1, message="It stands.")
    said = [Update(each + 1, 2, f"Update {each + 1}.", clock.now()) for each in range(updates)]
    return Incident(number, body, "It stands.", clock.now(), SERVERS[version], updates=said)


async def drain(relay: Line, tries: int = 50) -> list[Receipt]:
    """Try until nothing is owed; the receipts in the order in which they came."""
    found: list[Receipt] = []
    for _ in range(tries):
        outcome = await relay.attempt()
        if outcome is None:
            return found
        if isinstance(outcome, Receipt):
            found.append(outcome)
        elif isinstance(outcome, Rejected | LoginRefused):
            raise outcome
    raise AssertionError("it does not end")


class TestCachetKeepsTheContract(UndoingContract):
    """Every message is a fault of its own here."""

    logins = ("incidents",)
    operations = ("incident",)
    look = "incidents"
    slow = "incident"
    steps = ("done",)
    findable = ("done",)
    documented: ClassVar[Mapping[int, type[DeliveryError]]] = {
        400: Rejected,
        401: LoginRefused,
        403: NotAllowed,
        404: LoginRefused,
        422: Rejected,
        429: Unavailable,
        500: TryAgain,
        503: Unavailable,
    }

    def make(self, sandbox: Sandbox) -> Cachet:
        return make(sandbox.url + PREFIX)

    def make_patient(self, sandbox: Sandbox) -> Cachet:
        return make(sandbox.url + PREFIX, doubt_wait="20s")

    def check_once(self, sandbox: Sandbox) -> None:
        states = [each.status for each in sandbox.cachet.incidents.values()]
        assert sorted(states) in ([1], [1, 4])

    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        (made,) = sandbox.cachet.incidents.values()
        assert sandbox.cachet.duplicates == 0
        assert receipt.fields == {"incident_id": made.id}
        assert made.status == 1


# --- one fault, one incident


async def test_a_fault_of_the_relay_opens_an_incident_and_its_end_resolves_it(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        opened = await relay.deliver(tries=1)
        incident = sandbox.cachet.incidents[FIRST]
        assert incident.name.startswith("Test: nothing comes from front [rk-")
        body = incident.body.model_dump(exclude_unset=True)
        assert {key: body[key] for key in body if key != "name"} == {
            "status": 1,
            "visible": False,
            "stickied": False,
            "notifications": False,
            "occurred_at": "2026-01-01 08:00:00",
            "message": "2026-01-01 08:00 UTC: Nothing comes from front. no file for 10 min",
        }
        await fault(relay, over=True, at=AT[1])
        resolved = await relay.deliver(tries=1)
        assert opened.fields == resolved.fields == {"incident_id": FIRST}
        assert "which resolves incident 42" in resolved.proof
        assert incident.status == 4
        assert [update.message for update in incident.updates] == ["2026-01-01 08:07 UTC: It is over."]
        assert sandbox.count("edit") == 0
        await fault(relay, at=AT[2])
        assert (await relay.deliver(tries=1)).fields == {"incident_id": FIRST + 1}
        assert [each.status for each in sandbox.cachet.incidents.values()] == [4, 1]


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_version_of_the_server_takes_a_fault_and_its_end(tmp_path: Path, version: str) -> None:
    async with played(tmp_path, cachet_version=version) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        await fault(relay, over=True)
        await relay.deliver(tries=1)
        (incident,) = sandbox.cachet.incidents.values()
        assert incident.status == 4
        findings = await relay.destination.check()
        assert all(finding.is_good for finding in findings if not finding.subject.endswith("guests")), findings


async def test_a_fault_is_said_to_begin_when_it_began_and_to_end_when_its_end_was_told(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        about = {"part": "configuration", "since": AT[0], "at": AT[1], "reason": "spool.max_size is no size"}
        await tell(relay, {**about, "type": "fault_raised"})
        await tell(relay, {**about, "type": "fault_cleared", "at": AT[2]})
        await drain(relay)
        incident = sandbox.cachet.incidents[FIRST]
        assert incident.body.occurred_at == "2026-01-01 08:00:00"
        assert incident.message.splitlines() == [
            "2026-01-01 08:00 UTC: The new configuration of the relay is not accepted. spool.max\\_size is no size",
            "",
            "2026-01-01 09:00 UTC: It is over.",
        ]


async def test_faults_of_different_parts_are_different_incidents(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        for part in ("source front", "source rear", "clock", "destination {rapidsos}", "something [new](http://x)"):
            await fault(relay, part=part)
        await fault(relay, over=True, part="source rear")
        await drain(relay)
        made = list(sandbox.cachet.incidents.values())
        assert [each.name.partition(" [rk-")[0] for each in made] == [
            "Test: nothing comes from front",
            "Test: nothing comes from rear",
            "Test: the clock of the relay is wrong",
            "Test: deliveries to {rapidsos} are interrupted",
            "Test: fault: something [new](http://x)",
        ]
        assert [each.status for each in made] == [1, 4, 1, 1, 1]
        assert "Fault: something \\[new\\](http\\://x)" in made[-1].message


async def test_any_message_can_open_update_and_resolve(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        said: Any = {"key": "pump 3", "name": "Pump 3", "component_id": 1, "component_status": 3, "visible": True}
        for status, text in (("investigating", "It stands."), ("2", "A fuse."), (2, "A fuse."), ("fixed", "It runs.")):
            await tell(relay, {"pump": 3}, status=status, message=text, **said)
            await relay.deliver(tries=1)
        (incident,) = sandbox.cachet.incidents.values()
        assert (incident.body.component_id, incident.body.component_status, incident.body.visible) == (1, 3, True)
        assert incident.message == "It stands."
        assert [(each.status, each.message) for each in incident.updates] == [(2, "A fuse."), (4, "It runs.")]
        assert sandbox.cachet.duplicates == 0


async def test_every_documented_field_of_an_incident_arrives(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "name": "Pump\n3",
        "status": 3,
        "template": "gateway-fault",
        "template_vars": {"gateway": "GW-12", "reason": "no link"},
        "visible": True,
        "stickied": True,
        "notifications": True,
        "occurred_at": "2026-01-01T09:00:00+02:00",
        "published_at": "2026-01-02T00:00:00",
        "components": [{"id": 1, "status": 3}, {"id": 2, "status": 4}],
        "meta": {"cluster": "eu"},
    }
    async with played(tmp_path, {"marker": "meta", "time_zone": "Europe/Copenhagen"}) as (sandbox, relay):
        await tell(relay, {}, **given)
        await relay.deliver(tries=1)
        (incident,) = sandbox.cachet.incidents.values()
        body = incident.body.model_dump(exclude_unset=True)
        assert set(body["meta"]) == {"cluster", "relay_key", "relay_episode"}
        assert body == given | {
            "meta": body["meta"],
            "name": "Pump 3",
            "occurred_at": "2026-01-01 08:00:00",
            "published_at": "2026-01-02 01:00:00",
        }
        assert incident.message == "Gateway GW-12 reports: no link"


async def test_a_name_that_is_too_long_is_cut_and_one_of_blanks_is_none(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await tell(relay, {"part": "clock"}, name="{{ 'x' * 300 }}")
        await tell(relay, {"part": "link wwan0"}, name=" \u200b\t ")
        await drain(relay)
        long, blank = sandbox.cachet.incidents.values()
        assert (len(long.name), long.name[-1]) == (255, "]")
        assert long.name.startswith("x" * 200)
        assert blank.name.startswith("Test: the link wwan0 is interrupted [rk-")


async def test_nothing_in_a_plain_text_becomes_a_link(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        reason = "see https://evil.example/x, www.evil.example or a@evil.example &lt;b&gt;"
        await tell(relay, {"type": "fault_raised", "part": "clock", "reason": reason, "at": AT[0]})
        await relay.deliver(tries=1)
        message = sandbox.cachet.incidents[FIRST].message
        assert message.endswith("see https\\://evil.example/x, www\\.evil.example or a\\@evil.example \\&lt;b\\&gt;")


@pytest.mark.parametrize("around", [" \u200b", "\ufeff", "\u2060 \t", "\u3000"])
async def test_what_the_server_trims_makes_no_difference(tmp_path: Path, around: str) -> None:
    async with played(tmp_path) as (sandbox, relay):
        for text in ("It stands.", "A fuse.", "A fuse."):
            await tell(relay, {}, key="k", message=around + text + around)
            await relay.deliver(tries=1)
        sandbox.script("update#1 lose")
        await tell(relay, {}, key="k", status=4, message=around + "It runs." + around)
        assert "though an answer was lost" in (await relay.deliver(tries=2)).proof
        incident = sandbox.cachet.incidents[FIRST]
        assert [update.message for update in incident.updates] == ["A fuse.", "It runs."]


def test_of_many_changes_the_middle_is_left_out_and_counted_in_words() -> None:
    def event(number: int) -> events.Event:
        given = IncidentArguments(key="k", message=f"change {number}")
        return events.Event(
            delivery_id=number, key="k", at=0.0, status=1, name="k", text="t", line=f"{number}", arguments=given
        )

    for changes, words in ((13, "(1 more change)"), (14, "(2 more changes)")):
        assert words in events.told([event(number) for number in range(changes + 1)]).split("\n\n")


async def test_visible_is_as_the_destination_says_unless_the_rule_says_otherwise(tmp_path: Path) -> None:
    async with played(tmp_path, {"visible": True}) as (sandbox, relay):
        await tell(relay, {}, key="a")
        await tell(relay, {}, key="b", visible=False)
        await drain(relay)
        assert [each.body.visible for each in sandbox.cachet.incidents.values()] == [True, False]


@pytest.mark.parametrize("marker", ["name", "meta"])
async def test_a_marker_is_found_again_in_the_name_or_out_of_sight(tmp_path: Path, marker: str) -> None:
    async with played(tmp_path, {"marker": marker}) as (sandbox, relay):
        sandbox.script("incident#1 lose; update#1 lose")
        await fault(relay, name="x" * 200)
        await drain(relay)
        await fault(relay, over=True)
        await drain(relay)
        (incident,) = sandbox.cachet.incidents.values()
        assert ("[rk-" in incident.name) == (marker == "name")
        assert (len(incident.updates), incident.status) == (1, 4)


async def test_a_server_that_cannot_look_for_metadata_is_a_fault_that_says_what_to_set(tmp_path: Path) -> None:
    async with played(tmp_path, {"marker": "meta"}, cachet_version=VERSIONS[1]) as (sandbox, relay):
        await fault(relay)
        outcome = await relay.attempt()
        assert isinstance(outcome, LoginRefused)
        assert outcome.remedy == 'set marker = "name"'
        assert sandbox.cachet.incidents == {}


# --- a fault that is over before the link is back


async def test_a_fault_that_came_and_went_is_told_as_one_finished_incident(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        await fault(relay, over=True, at=AT[1])
        first, second = await drain(relay)
        (incident,) = sandbox.cachet.incidents.values()
        assert (incident.status, incident.updates) == (4, [])
        assert incident.body.occurred_at == "2026-01-01 08:00:00"
        assert incident.message.splitlines() == [
            "2026-01-01 08:00 UTC: Nothing comes from front. no file for 10 min",
            "",
            "2026-01-01 08:07 UTC: It is over.",
        ]
        assert first.fields == second.fields == {"incident_id": FIRST}
        assert "fixed already, which tells 2 messages at once" in first.proof
        assert second.proof.startswith("told together with an earlier message: ")
        assert [entry.operation for entry in sandbox.log] == ["incidents", "incident"]


@pytest.mark.parametrize("is_over", [True, False])
async def test_any_number_of_flaps_while_offline_is_one_incident_and_two_calls(tmp_path: Path, is_over: bool) -> None:
    async with played(tmp_path) as (sandbox, relay):
        for number in range(121 - is_over):
            await fault(relay, over=number % 2 == 1, at=f"2026-01-01T10:{number % 60:02}:00Z")
        receipts = await drain(relay, 200)
        assert len(receipts) == 121 - is_over
        (incident,) = sandbox.cachet.incidents.values()
        assert incident.status == (4 if is_over else 1)
        assert "more changes)" in incident.message
        assert len(sandbox.log) == 2


async def test_what_was_open_before_the_outage_is_resolved_by_itself_and_the_flaps_after_it_are_one(
    tmp_path: Path,
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        for over in (True, False, True, False, True):
            await fault(relay, over=over, at=AT[2])
        await drain(relay)
        before, after = sandbox.cachet.incidents.values()
        assert [(each.status, len(each.updates)) for each in (before, after)] == [(4, 1), (4, 0)]


async def test_a_component_is_told_of_a_finished_incident_too(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        said: Any = {"component_id": 2, "component_status": 4}
        await fault(relay, **said)
        await fault(relay, over=True, **said)
        await drain(relay)
        body = sandbox.cachet.incidents[FIRST].body
        assert (body.status, body.component_id, body.component_status) == (4, 2, 4)


# --- order


async def test_an_end_waits_for_its_beginning_and_is_not_lost_with_it(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script("incident#1 status 500")
        await fault(relay)
        assert isinstance(await relay.attempt(), TryAgain)
        beginning = await relay._begin()
        assert beginning is not None  # out, for a long while
        await relay.spool.record_deferred(
            beginning.delivery.id, Outcome.NOT_READY, "500", due_at=clock.now() + 3600, now=clock.now()
        )
        await fault(relay, over=True, at=AT[1])
        outcome = await relay.attempt()
        assert isinstance(outcome, NotReady)
        assert beginning.item.id in str(outcome)
        assert sandbox.count("update") == 0
        await relay.spool.tell([beginning.delivery.id], "told", None)  # its time has come
        await drain(relay)
        (incident,) = sandbox.cachet.incidents.values()
        assert (incident.status, len(incident.updates)) == (4, 1)


async def test_an_end_whose_beginning_was_refused_finds_nothing_to_resolve_and_says_so(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay, component_id=9, component_status=3)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "component_id: The selected component id is invalid." in str(outcome)
        await fault(relay, over=True)
        receipt = await relay.deliver(tries=1)
        assert receipt.fields == {"incident_id": None}
        assert receipt.proof == "nothing of this fault is open on the page: it has no incident of this fault"
        assert sandbox.cachet.incidents == {}


async def test_an_end_that_somebody_resolved_by_hand_adds_nothing(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        sandbox.cachet.incidents[FIRST].body.status = 4
        await fault(relay, over=True)
        receipt = await relay.deliver(tries=1)
        assert receipt.fields == {"incident_id": FIRST}
        assert "incident, 42, is fixed" in receipt.proof
        assert sandbox.count("update") == 0


async def test_nothing_open_is_not_believed_to_a_token_that_sees_only_what_everybody_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        monkeypatch.setenv("RELAYD_TEST_TOKEN", "1|revoked")
        await fault(relay, over=True)
        assert isinstance(await relay.attempt(), LoginRefused)
        monkeypatch.setenv("RELAYD_TEST_TOKEN", "1|sandbox")
        await relay.deliver(tries=1)
        assert sandbox.cachet.incidents[FIRST].status == 4


# --- lost answers


@pytest.mark.parametrize("loss", ["lose", "mute", "truncate", "garbage", "oversized", "status 500", "status 502"])
async def test_no_lost_answer_makes_an_incident_or_an_update_twice(tmp_path: Path, loss: str) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script(f"incident#1 {loss}; update#1-2 {loss}")
        await fault(relay)
        await drain(relay)
        await tell(relay, {"part": "source front"}, status="identified", message="The cable.")
        await fault(relay, over=True, at=AT[1])
        await drain(relay)
        (incident,) = sandbox.cachet.incidents.values()
        assert sandbox.cachet.duplicates == 0
        assert incident.status == 4
        assert " ".join(update.message for update in incident.updates).count("The cable.") == 1


async def test_an_update_that_is_in_doubt_is_found_behind_what_a_person_wrote_meanwhile(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        for text in ("It stands.", "Try it.", "A fuse."):
            await tell(relay, {}, key="k", message=text)
            await relay.deliver(tries=1)
        incident = sandbox.cachet.incidents[FIRST]
        sandbox.script("update#1 lose")
        await tell(relay, {}, key="k", message="Try it.")  # said before, and meant again
        assert isinstance(await relay.attempt(), TryAgain)
        incident.updates.append(replace(incident.updates[-1], id=99, message="We are on it."))
        receipt = await relay.deliver(tries=1)
        said = [update.message for update in incident.updates]
        assert said == ["Try it.", "A fuse.", "Try it.", "We are on it."]
        assert "though an answer was lost" in receipt.proof


async def test_what_is_in_doubt_is_not_told_of_what_came_after_it(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script("incident#1 lose")
        await fault(relay)
        assert isinstance(await relay.attempt(), TryAgain)
        await fault(relay, over=True, at=AT[1])
        await drain(relay)
        (incident,) = sandbox.cachet.incidents.values()
        assert [(update.status, update.message) for update in incident.updates] == [
            (4, "2026-01-01 08:07 UTC: It is over.")
        ]


async def test_what_never_left_is_told_with_all_that_came_meanwhile(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script("incident#1 status 503")
        await fault(relay)
        assert isinstance(await relay.attempt(), Unavailable)
        await fault(relay, over=True, at=AT[1])
        await drain(relay)
        (incident,) = sandbox.cachet.incidents.values()
        assert (incident.status, incident.updates) == (4, [])


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("step", ["sending", "done", "told"])
async def test_a_power_cut_at_any_step_leaves_one_finished_incident(tmp_path: Path, step: str, is_stored: bool) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        await fault(relay, over=True)
        with pytest.raises(PowerCut):
            await relay.attempt(dies_at=step, is_stored=is_stored)
        await relay.restart()
        assert len(await drain(relay)) == 2
        (incident,) = sandbox.cachet.incidents.values()
        assert (incident.status, incident.updates) == (4, [])


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("step", ["sending", "done"])
async def test_a_power_cut_while_resolving_resolves_once(tmp_path: Path, step: str, is_stored: bool) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        await fault(relay, over=True)
        with pytest.raises(PowerCut):
            await relay.attempt(dies_at=step, is_stored=is_stored)
        await relay.restart()
        await relay.deliver(tries=1)
        assert [update.status for update in sandbox.cachet.incidents[FIRST].updates] == [4]


# --- a request that goes on while we look


async def test_an_incident_that_is_opened_after_we_looked_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = Uptime(monkeypatch)
    async with played(tmp_path, {"doubt_wait": "20s"}) as (sandbox, relay):
        sandbox.script("incident#1 outlast 3600")
        await fault(relay)
        assert isinstance(await relay.attempt(), Unavailable)
        await fault(relay, over=True)
        for _ in range(3):
            assert isinstance(await relay.attempt(), NotReady)
            up.seconds += 2
        await sandbox.finish()
        await drain(relay)
        (incident,) = sandbox.cachet.incidents.values()
        assert (incident.status, len(incident.updates)) == (4, 1)


async def test_an_incident_that_was_opened_twice_all_the_same_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = Uptime(monkeypatch)
    async with played(tmp_path, {"doubt_wait": "20s"}) as (sandbox, relay):
        sandbox.script("incident#1 outlast 3600")
        await fault(relay)
        assert isinstance(await relay.attempt(), Unavailable)
        up.seconds += 20
        outcome = await relay.attempt()
        assert isinstance(outcome, NotReady)
        assert 19 < outcome.retry_after_seconds <= 20
        await sandbox.finish()
        up.seconds += 20
        receipt = await relay.deliver(tries=1)
        first, second = sandbox.cachet.incidents.values()
        assert receipt.fields == {"incident_id": first.id}
        assert (first.status, second.status) == (1, 4)
        assert "resolved incident 43, which came twice" in receipt.proof
        assert second.updates[0].message == "Opened twice by mistake, see incident 42."


async def test_an_update_that_comes_late_never_opens_again_what_is_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = Uptime(monkeypatch)
    async with played(tmp_path, {"doubt_wait": "20s"}) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        sandbox.script("update#1 outlast 3600")
        await tell(relay, {"part": "source front"}, status="identified", message="The cable.")
        assert isinstance(await relay.attempt(), Unavailable)
        await fault(relay, over=True, at=AT[1])
        up.seconds += 20
        await relay.attempt()
        await relay.attempt()
        assert [update.status for update in sandbox.cachet.incidents[FIRST].updates] == [2]
        await sandbox.finish()
        up.seconds += 20
        receipts = await drain(relay)
        assert "update 2 came twice" in receipts[0].proof
        assert sandbox.cachet.incidents[FIRST].status == 4


async def test_an_end_that_comes_late_too_leaves_it_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Uptime(monkeypatch)
    async with played(tmp_path, {"doubt_wait": "20s"}) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        sandbox.script("update#1 outlast 3600 status=0")
        await fault(relay, over=True)
        assert isinstance(await relay.attempt(), TryAgain)
        assert isinstance(await relay.attempt(), NotReady)
        await relay.restart()
        await sandbox.finish()
        receipt = await relay.deliver(tries=1)
        assert "though an answer was lost" in receipt.proof
        assert [update.status for update in sandbox.cachet.incidents[FIRST].updates] == [4]


@pytest.mark.parametrize("marker", ["name", "meta"])
async def test_an_end_resolves_every_open_incident_of_the_fault_and_no_other(tmp_path: Path, marker: str) -> None:
    async with played(tmp_path, {"marker": marker}) as (sandbox, relay):
        await fault(relay, part="clock")
        await fault(relay)
        await drain(relay)
        mine = sandbox.cachet.incidents[FIRST + 1]
        sandbox.cachet.incidents[99] = replace(mine, id=99, updates=[])
        await fault(relay, over=True)
        await drain(relay)
        assert {number: each.status for number, each in sandbox.cachet.incidents.items()} == {42: 1, 43: 4, 99: 4}
        await fault(relay)
        assert (await relay.deliver(tries=1)).fields["incident_id"] not in (43, 99), "the next one is not swallowed"


async def test_a_gateways_503_is_no_proof_that_nothing_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Uptime(monkeypatch)
    async with played(tmp_path, {"doubt_wait": "20s"}) as (sandbox, relay):
        sandbox.script("incident#1 outlast 3600 status=503")
        await fault(relay)
        assert isinstance(await relay.attempt(), Unavailable)
        assert isinstance(await relay.attempt(), NotReady)


async def test_an_end_in_the_same_second_as_an_update_is_said_again_where_the_server_shows_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with played(tmp_path, cachet_version=VERSIONS[0]) as (sandbox, relay):
        monkeypatch.setattr(sandbox, "now", lambda: 1_800_000_000.25)
        await fault(relay)
        await relay.deliver(tries=1)
        await tell(relay, {"part": "source front"}, status="identified", message="The cable.")
        await relay.deliver(tries=1)
        await fault(relay, over=True)
        assert isinstance(await relay.attempt(), NotReady)
        assert sandbox.cachet.incidents[FIRST].status == 2
        monkeypatch.setattr(sandbox, "now", lambda: 1_800_000_002.0)
        await relay.deliver(tries=1)
        assert sandbox.cachet.incidents[FIRST].status == 4


# --- what a person does to an incident


@asynccontextmanager
async def remembering(tmp_path: Path, **switches: Any) -> AsyncIterator[tuple[Sandbox, Line]]:
    """A sandbox and a line to it whose destination remembers across restarts."""
    kept = Unkept()
    surroundings = Surroundings(memory=lambda _: kept)
    async with Sandbox(**switches) as sandbox:
        config = make(sandbox.url + PREFIX)._config
        async with line(lambda: Cachet("status-page", config, surroundings), tmp_path / "spool") as relay:
            yield sandbox, relay
            assert len(kept.facts) <= 1


@pytest.mark.parametrize("over", [True, False])
async def test_an_incident_that_somebody_hid_is_found_by_its_number_told_of_and_no_second_one_is_opened(
    tmp_path: Path, over: bool
) -> None:
    async with remembering(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        incident = sandbox.cachet.incidents[FIRST]
        incident.visible = 2
        await relay.restart()
        await tell(relay, {"part": "source front"}, status=4 if over else 2, message="A word.")
        receipt = await relay.deliver(tries=1)
        assert receipt.fields == {"incident_id": FIRST}
        assert "incident 42, which somebody has hidden from everybody" in receipt.proof
        assert [(update.status, update.message) for update in incident.updates] == [(4 if over else 2, "A word.")]
        assert len(sandbox.cachet.incidents) == 1


async def test_a_lost_answer_about_a_hidden_incident_is_found_by_its_status(tmp_path: Path) -> None:
    async with remembering(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        sandbox.cachet.incidents[FIRST].visible = 2
        sandbox.script("update#1 lose")
        await fault(relay, over=True)
        await drain(relay)
        assert [update.status for update in sandbox.cachet.incidents[FIRST].updates] == [4]


async def test_an_incident_whose_marker_somebody_removed_is_found_by_its_number(tmp_path: Path) -> None:
    async with remembering(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        incident = sandbox.cachet.incidents[FIRST]
        incident.body.name = "The front camera"
        await fault(relay, over=True)
        assert (await relay.deliver(tries=1)).fields == {"incident_id": FIRST}
        assert incident.status == 4


async def test_an_incident_that_somebody_deleted_is_opened_anew_by_the_next_message(tmp_path: Path) -> None:
    async with remembering(tmp_path) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        del sandbox.cachet.incidents[FIRST]
        await fault(relay)
        await relay.deliver(tries=1)
        assert len(sandbox.cachet.incidents) == 1
        await fault(relay, over=True)
        await relay.deliver(tries=1)
        assert [each.status for each in sandbox.cachet.incidents.values()] == [4]


# --- components


async def test_the_status_of_a_component_is_set_and_proven_by_the_answer(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await tell(relay, {}, "component", component_id="1", status="4")
        receipt = await relay.deliver(tries=1)
        assert receipt.proof.endswith("/api/components/1 answered 200: component 1 has status 4")
        assert sandbox.cachet.components == {1: 4, 2: 1}


async def test_of_several_the_newest_status_is_set_once_and_of_each_component(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        for number, status in ((1, 3), (2, 3), (1, 4), (1, 2)):
            await tell(relay, {}, "component", component_id=number, status=status)
        sandbox.script("component#1 lose")
        assert len(await drain(relay)) == 4
        assert sandbox.cachet.components == {1: 2, 2: 3}
        assert sandbox.count("component", effect=True) == 3


async def test_a_component_that_is_not_there_is_told_from_an_api_that_is_off(tmp_path: Path) -> None:
    async with played(tmp_path) as (_, relay):
        await tell(relay, {}, "component", component_id=9, status=4)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "there is no component 9" in str(outcome)
    async with played(tmp_path / "off", cachet_enabled=False) as (_, relay):
        await tell(relay, {}, "component", component_id=9, status=4)
        outcome = await relay.attempt()
        assert isinstance(outcome, LoginRefused)
        assert "the API is switched off in Cachet's settings" in str(outcome)


async def test_an_answer_with_another_status_is_no_proof(tmp_path: Path) -> None:
    body = json.dumps({"data": {"id": "1", "type": "components", "attributes": {"status": {"value": 1}}}}).encode()
    async with answered(tmp_path, reply("200 OK", body)) as relay:
        await tell(relay, {}, "component", component_id=1, status=4)
        assert "has status 1, not 4" in str(await relay.attempt())


# --- rights and limits


@pytest.mark.parametrize(
    ("operation", "ability"),
    [("incident", EVERY[0]), ("update", EVERY[1]), ("component", EVERY[2])],
)
async def test_a_missing_right_is_named_and_keeps_the_item(tmp_path: Path, operation: str, ability: str) -> None:
    async with played(tmp_path, cachet_abilities=" ".join(set(EVERY) - {ability})) as (sandbox, relay):
        if operation == "component":
            await tell(relay, {}, "component", component_id=1, status=3)
        else:
            await fault(relay)
        if operation == "update":
            await relay.deliver(tries=1)
            await fault(relay, over=True)
        outcome = await relay.attempt()
        assert isinstance(outcome, NotAllowed)
        assert f"lacks the ability {ability}" in str(outcome)
        assert sandbox.count(operation, effect=True) == 0
        assert relay.spool.counters.pending == 1


async def test_the_rate_limit_is_kept_before_it_is_broken(tmp_path: Path) -> None:
    async with played(tmp_path, cachet_rate_limit=3) as (sandbox, relay):
        await fault(relay)
        await relay.deliver(tries=1)
        await fault(relay, over=True)
        outcome = await relay.attempt()
        assert isinstance(outcome, Unavailable)
        assert outcome.retry_after_seconds is not None
        assert 55 <= outcome.retry_after_seconds <= 60
        assert "rate limit" in str(outcome)
        assert not [entry for entry in sandbox.log if entry.status == 429]


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry_After": "30"}, 30),
        ({"X_RateLimit_Reset": "1767254460"}, 25),
        ({}, 60),
        ({"X_RateLimit_Reset": "x"}, 60),
    ],
)
async def test_a_429_says_in_one_way_or_another_how_long_to_wait(
    tmp_path: Path, headers: dict[str, str], wait: float
) -> None:
    date = "Thu, 01 Jan 2026 08:00:35 GMT"
    async with answered(tmp_path, reply("429 X", b'{"message": "Too Many Attempts."}', Date=date, **headers)) as relay:
        await fault(relay)
        outcome = await relay.attempt()
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_seconds == wait


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"data": {}}',
        b'{"data": [1]}',
        b'{"data": [{"id": "x", "type": "incidents"}]}',
        b'{"data": [{"id": "1", "type": "components"}]}',
    ],
)
async def test_a_success_of_another_shape_is_none(tmp_path: Path, body: bytes) -> None:
    async with answered(tmp_path, reply("200 OK", body)) as relay:
        await fault(relay)
        assert isinstance(await relay.attempt(), TryAgain)


async def test_a_token_with_blanks_is_never_sent_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAYD_TEST_TOKEN", "1|secret value")
    async with played(tmp_path) as (sandbox, relay):
        await fault(relay)
        outcome = await relay.attempt()
    assert isinstance(outcome, LoginRefused)
    assert "secret value" not in str(outcome)
    assert not sandbox.log


# --- for people


@pytest.mark.parametrize(
    ("switches", "token", "path", "subject", "text", "remedy"),
    [
        ({}, "1|wrong", PREFIX, "login", "the token is wrong, expired or revoked", "make a new API key"),
        ({"cachet_enabled": False}, "1|sandbox", PREFIX, "login", "the API is switched off", "switch the API on"),
        ({}, "1|sandbox", "/none", "login", "or url is not that of the API", "check url: it ends in /api"),
        (
            {"cachet_abilities": "incidents.manage"},
            "1|sandbox",
            PREFIX,
            "rights",
            "the token lacks incident-updates.manage, components.manage",
            "grant incident-updates.manage, components.manage",
        ),
    ],
)
async def test_check_says_what_is_wrong_and_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    switches: dict[str, Any],
    token: str,
    path: str,
    subject: str,
    text: str,
    remedy: str,
) -> None:
    monkeypatch.setenv("RELAYD_TEST_TOKEN", token)
    async with Sandbox(**switches) as sandbox:
        page = make(sandbox.url + path)
        sandbox.cachet.incidents[7] = shown_incident(7, updates=1)
        findings = await page.check()
        await page.close()
        (bad,) = [finding for finding in findings if not finding.is_good]
        assert bad.subject == f"status-page: {subject}"
        assert text in bad.text
        assert remedy in bad.remedy
        assert not any(entry.has_effect for entry in sandbox.log)


@pytest.mark.parametrize("ability", EVERY)
async def test_check_shows_every_missing_right_by_changing_nothing_in_what_is_there(ability: str) -> None:
    async with Sandbox(cachet_abilities=" ".join(set(EVERY) - {ability})) as sandbox:
        sandbox.cachet.incidents[7] = shown_incident(7, updates=1)
        page = make(sandbox.url + PREFIX)
        bad = [finding for finding in await page.check() if not finding.is_good]
        assert [finding.text for finding in bad] == [f"the token lacks {ability}"]
        assert not any(entry.has_effect for entry in sandbox.log)
        sandbox.cachet.incidents.clear()
        good = [finding.text for finding in await page.check() if finding.subject.endswith("rights")]
        await page.close()
    if ability != EVERY[2]:
        assert good == [
            "nothing is refused; incidents.manage, incident-updates.manage could not be tried: the page has nothing yet"
        ]


@pytest.mark.parametrize(("version", "is_good"), [(VERSIONS[0], False), (VERSIONS[1], False), (VERSIONS[2], True)])
async def test_check_looks_as_a_guest_and_says_that_older_servers_hide_nothing(version: str, is_good: bool) -> None:
    async with Sandbox(cachet_version=version) as sandbox:
        sandbox.cachet.incidents[7] = shown_incident(7, version=version)
        page = make(sandbox.url + PREFIX)
        last = (await page.check())[-1]
        await page.close()
        assert (last.subject, last.is_good) == ("status-page: guests", is_good)
        assert ("GHSA-6ghm-wf22-pvx5" in last.remedy) == (not is_good)


async def test_check_tries_the_very_search_of_a_delivery() -> None:
    async with Sandbox(cachet_version=VERSIONS[1]) as sandbox:
        page = make(sandbox.url + PREFIX, marker="meta")
        last = (await page.check())[-1]
        await page.close()
        assert (last.subject, last.is_good, last.remedy) == ("status-page: login", False, 'set marker = "name"')


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"component_id": 1}, "component_id and component_status go together"),
        ({"component_status": 1}, "component_id and component_status go together"),
        ({"status": "solved"}, "not a state of an incident"),
        ({"status": 5}, "not a state of an incident"),
        ({"status": True}, "not a state of an incident"),
    ],
)
def test_arguments_that_cannot_be_are_refused_in_words(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        IncidentArguments.model_validate(arguments)


@pytest.mark.parametrize(("written", "status"), [("Fixed ", 4), ("4", 4), (0, 0), ("", None), ("reported", 0)])
def test_a_state_is_written_by_name_or_number(written: Any, status: int | None) -> None:
    assert IncidentArguments.model_validate({"status": written}).status == status


def test_a_time_zone_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="no time zone of this machine"):
        make("https://x.example.org/api", time_zone="Europe/Atlantis")
