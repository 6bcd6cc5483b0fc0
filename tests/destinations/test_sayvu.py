"""SayVU: the contract of every adapter with a report, then what is its own, against the strict stand-in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from relayd import clock
from relayd.destinations.sayvu import SayVU
from relayd.destinations.sayvu_models import SayVUConfig
from relayd.errors import DeliveryError, LoginRefused, Rejected, TryAgain, Unavailable
from relayd.location import Whereabouts
from relayd.model import Kind, Location, Receipt
from relayd.sandbox import Sandbox
from relayd.surroundings import Surroundings
from tests.destinations.contract import DeliveryContract, Uptime
from tests.destinations.driver import Line, PowerCut, line
from tests.unit.wire import reply, speaking

PLACE: Any = {"x": 34.7818, "y": 32.0853}
FIRST = 48213


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TEST_KEY", "ak_sandbox")


def make(url: str, **options: Any) -> SayVU:
    section: dict[str, Any] = {
        "type": "sayvu",
        "url": url,
        "api_key": {"env": "RELAYD_TEST_KEY"},
        "mode": "training",
        "connect_timeout": "2s",
        "answer_timeout": "400ms",
        "stall_timeout": "400ms",
        "most_unknown": 100,
        "unknown_wait": "0s",
    }
    return SayVU("sayvu", SayVUConfig.model_validate({**section, **options}))


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
    """A line to a server that always says this."""
    async with speaking(answer) as wire, line(lambda: make(wire.url, **options), tmp_path / "spool") as made:
        yield made


async def press(relay: Line, **arguments: Any) -> None:
    """Owe a report of a pressed button."""
    await relay.put(
        b'{"pressed": true}', "panic", "application/json", "report", Kind.MESSAGE, **{**REPORT, **arguments}
    )


async def tried(relay: Line, **arguments: Any) -> Receipt | DeliveryError | None:
    await press(relay, **arguments)
    return await relay.attempt()


BUDGET: dict[str, Any] = {"most_unknown": 2, "unknown_wait": "5m"}
REPORT: dict[str, Any] = {"category": "3", "location": PLACE, "description": "Panic button"}


class TestSayVUKeepsTheContract(DeliveryContract):
    """A report whose answer was lost is made again: the one thing that is not once here."""

    operations = ("report",)
    look = "categories"
    slow = "report"
    steps = ("report",)
    documented: ClassVar = {
        400: Rejected,
        401: LoginRefused,
        404: LoginRefused,
        413: Rejected,
        429: Unavailable,
        500: TryAgain,
        503: Unavailable,
    }

    def make(self, sandbox: Sandbox) -> SayVU:
        return make(sandbox.url)

    @pytest.fixture
    async def line(self, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Line]:
        async with line(lambda: self.make(sandbox), tmp_path / "spool") as made:
            put = made.put

            async def put_report(content: bytes, **arguments: Any) -> Any:
                return await put(content, **{**REPORT, **arguments})

            made.put = put_report  # type: ignore[method-assign, assignment]
            yield made

    def check_delivered(self, sandbox: Sandbox, receipt: Receipt, content: bytes) -> None:
        made = sandbox.count("report", effect=True)
        assert len(sandbox.reports) == made
        assert sandbox.report_duplicates == made - 1
        assert made <= 2
        number = receipt.fields["report_id"]
        assert number == FIRST + made - 1
        assert receipt.fields["public_url"] == f"https://example.com/r/{number}"


# --- report


async def test_a_report_says_where_what_and_for_whom(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        await press(
            relay,
            category="security",
            subcategory=" Panic  BUTTON",
            reporter={"name": "Driver 12", "phone": "00972 50-123 4567"},
        )
        await relay.deliver(tries=1)
    assert sandbox.reports[FIRST].body == {
        "location": PLACE,
        "category": {"category_id": 3, "subcategory_id": 31},
        "mode": "training",
        "description": "Panic button",
        "reporter": {"name": "Driver 12", "phone": "+972501234567"},
    }


async def test_the_name_of_a_subcategory_alone_stands_for_both(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        assert isinstance(await tried(relay, category="panic button"), Receipt)
    assert sandbox.reports[FIRST].body["category"] == {"category_id": 3, "subcategory_id": 31}


async def test_a_phone_that_is_not_international_costs_the_phone_and_not_the_report(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        receipt = await tried(relay, reporter={"name": "Driver 12", "phone": "12 34"})
    assert isinstance(receipt, Receipt)
    assert "phone was left out" in receipt.proof
    assert sandbox.reports[FIRST].body["reporter"] == {"name": "Driver 12"}


async def test_the_place_of_an_item_without_a_fix_is_the_newest_known(tmp_path: Path) -> None:
    here = Location(latitude=55.4, longitude=10.4)
    async with played(tmp_path) as (sandbox, relay):
        known = Whereabouts()
        known._fixes.append((0.0, True, here))
        relay.destination = SayVU("sayvu", make(sandbox.url)._config, Surroundings(whereabouts=known))
        await press(relay, location=None)
        await relay.deliver(tries=1)
    assert sandbox.reports[FIRST].body["location"] == {"x": 10.4, "y": 55.4}


async def test_a_report_without_any_location_is_refused_in_words(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        outcome = await tried(relay, location=None)
    assert isinstance(outcome, Rejected)
    assert "needs a location" in str(outcome)
    assert not sandbox.log


async def test_categories_are_asked_for_once_and_again_for_a_name_that_is_not_there(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        for _ in range(3):
            assert isinstance(await tried(relay, category="Vehicle"), Receipt)
        assert sandbox.count("categories") == 1
        outcome = await tried(relay, category="Vehicel")
        assert sandbox.count("categories") == 2
        missing = await tried(relay, category="Security", subcategory="Panik")
    assert isinstance(outcome, Rejected)
    assert str(outcome) == 'the control center has no category "Vehicel": did you mean "Vehicle"?'
    assert "no subcategory of Security" in str(missing)
    assert len(sandbox.reports) == 3


async def test_each_word_that_it_lets_one_choose_from_makes_a_report(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        offered = (await relay.destination.words())["category"]
        assert len(offered) > 2
        for word in offered:
            assert isinstance(await tried(relay, category=word), Receipt), word
    assert len({json.dumps(report.body["category"]) for report in sandbox.reports.values()}) == len(offered)


# --- a report in doubt


@pytest.mark.parametrize("fault", ["lose", "mute", "truncate"])
async def test_a_lost_answer_is_followed_by_a_second_report_and_the_receipt_says_so(tmp_path: Path, fault: str) -> None:
    async with played(tmp_path) as (sandbox, relay):
        sandbox.script(f"report#1 {fault}")
        await press(relay)
        receipt = await relay.deliver()
    assert sandbox.report_duplicates == 1
    assert "may have this report twice" in receipt.proof


async def test_a_report_of_which_nobody_can_tell_is_sent_twice_more_with_minutes_between_and_then_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, BUDGET) as (sandbox, relay):
        sandbox.script("report lose")
        await press(relay)
        for _ in range(6):
            await relay.attempt()
        assert sandbox.count("report") == 2
        uptime.seconds += 300
        await relay.attempt()
        assert sandbox.count("report") == 3
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "look in the control center" in str(outcome)
        sandbox.script()
        assert await relay.spool.retry(None, None, now=clock.now()) == 1
        assert "may have this report twice" in (await relay.deliver(tries=1)).proof


@pytest.mark.parametrize("fault", ["lose", "mute", "truncate"])
async def test_with_ask_a_lost_answer_ends_in_a_question_and_a_retry_by_hand_sends_it(
    tmp_path: Path, fault: str
) -> None:
    async with played(tmp_path, {"on_unknown": "ask"}) as (sandbox, relay):
        sandbox.script(f"report#1 {fault}")
        assert isinstance(await tried(relay), TryAgain)
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "look in the control center" in str(outcome)
        assert sandbox.count("report") == 1
        assert await relay.attempt() is None
        assert await relay.spool.retry(None, None, now=clock.now()) == 1
        receipt = await relay.deliver(tries=1)
        assert sandbox.count("report") == 2
        assert "may have this report twice" in receipt.proof


async def test_with_ask_a_crash_while_sending_ends_in_a_question(tmp_path: Path) -> None:
    async with played(tmp_path, {"on_unknown": "ask"}) as (sandbox, relay):
        await press(relay)
        with pytest.raises(PowerCut):
            await relay.attempt(dies_at="report", is_stored=False)
        await relay.restart()
        assert isinstance(await relay.attempt(), Rejected)
        assert len(sandbox.reports) == 1


@pytest.mark.parametrize("fault", ["status 429", "status 503", "portal redirect=yes"])
async def test_with_ask_nothing_is_asked_where_it_is_certain_that_nothing_happened(tmp_path: Path, fault: str) -> None:
    async with played(tmp_path, {"on_unknown": "ask"}) as (sandbox, relay):
        sandbox.script(f"report#1-3 {fault}")
        await press(relay)
        receipt = await relay.deliver(tries=4)
    assert len(sandbox.reports) == 1
    assert "twice" not in receipt.proof


async def test_what_may_be_partly_processed_is_never_repeated_by_machine(tmp_path: Path) -> None:
    async with played(tmp_path, sayvu_reporter=False) as (sandbox, relay):
        assert isinstance(await tried(relay), Rejected)
        assert await relay.attempt() is None
        assert sandbox.count("report") == 1


async def test_with_ask_a_server_that_cannot_be_reached_leaves_no_doubt(tmp_path: Path) -> None:
    async with played(tmp_path, {"on_unknown": "ask"}) as (sandbox, relay):
        await press(relay)
        await sandbox.close()
        for _ in range(3):
            assert isinstance(await relay.attempt(), Unavailable)


async def test_a_category_that_is_not_listed_becomes_the_fallback_and_the_receipt_says_so(tmp_path: Path) -> None:
    async with played(tmp_path, {"fallback_category": "security"}) as (sandbox, relay):
        receipt = await tried(relay, category="Vehicel")
    assert isinstance(receipt, Receipt)
    assert 'as security, since the control center has no category "Vehicel"' in receipt.proof
    assert sandbox.reports[FIRST].body["category"] == {"category_id": 3}


# --- messages and images


async def reported(relay: Line) -> str:
    await press(relay)
    return str((await relay.deliver(tries=1)).fields["report_id"])


async def test_a_message_and_an_image_come_to_their_report(tmp_path: Path) -> None:
    async with played(tmp_path, sayvu_links="link") as (sandbox, relay):
        number = await reported(relay)
        await relay.put(b"{}", action="message", kind=Kind.MESSAGE, text="48.1 km/h", label="speed", report_id=number)
        said = await relay.deliver(tries=1)
        await relay.put(b"\xff\xd8 image", "front camera 1.JPG", "Image/JPEG; q=1", "image", report_id=number)
        shown = await relay.deliver(tries=1)
    report = sandbox.reports[FIRST]
    assert report.lines == ["speed: 48.1 km/h"]
    (image,) = report.images
    assert (image.content_type, image.content) == ("image/jpeg", b"\xff\xd8 image")
    assert image.name.startswith("front-camera-1-")
    assert said.fields == {"report_id": FIRST, "public_url": None}
    assert shown.fields == {"report_id": FIRST, "public_url": f"https://example.com/r/{FIRST}"}


async def say(relay: Line, text: str, number: str) -> None:
    await relay.put(b"{}", action="message", kind=Kind.MESSAGE, text=text, report_id=number)


async def test_lines_for_the_same_report_go_in_one_call_in_their_order(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        first, second = await reported(relay), await reported(relay)
        for number in range(5):
            await say(relay, f"line {number}", first)
        await say(relay, "elsewhere", second)
        for _ in range(6):
            assert isinstance(await relay.attempt(), Receipt)
    assert sandbox.reports[FIRST].lines == [f"line {number}" for number in range(5)]
    assert sandbox.reports[FIRST + 1].lines == ["elsewhere"]
    assert sandbox.count("message") == 2


async def test_a_line_that_is_refused_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    async with played(tmp_path) as (sandbox, relay):
        number = await reported(relay)
        sandbox.script("message#1 status 400")
        for text in ("one", "two", "three"):
            await say(relay, text, number)
        for _ in range(3):
            assert isinstance(await relay.attempt(), Receipt)
    assert sandbox.reports[FIRST].lines == ["one", "two", "three"]


@pytest.mark.parametrize("is_stored", [False, True])
async def test_a_power_cut_among_lines_loses_none_of_them(tmp_path: Path, is_stored: bool) -> None:
    async with played(tmp_path) as (sandbox, relay):
        number = await reported(relay)
        for text in ("one", "two", "three"):
            await say(relay, text, number)
        with pytest.raises(PowerCut):
            await relay.attempt(dies_at="message", is_stored=is_stored)
        await relay.restart()
        for _ in range(3):
            assert isinstance(await relay.attempt(), Receipt)
    assert set(sandbox.reports[FIRST].lines) == {"one", "two", "three"}


async def test_lines_in_doubt_go_again_together_within_one_budget_and_newer_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, BUDGET) as (sandbox, relay):
        number = await reported(relay)
        sandbox.script("message lose")
        for text in ("one", "two", "three"):
            await say(relay, text, number)
        for _ in range(9):
            await relay.attempt()
        assert sandbox.count("message") == 2
        await relay.restart()
        uptime.seconds += 300
        for _ in range(9):
            await relay.attempt()
        assert sandbox.count("message") == 3
        assert sandbox.reports[FIRST].lines == ["one", "two", "three"] * 3
        assert relay.spool.counters.dead == 3
        sandbox.script()
        await say(relay, "four", number)
        assert isinstance(await relay.attempt(), Receipt)
        assert sandbox.reports[FIRST].lines[9:] == ["four"]


@pytest.mark.parametrize("action", ["report", "message", "image"])
async def test_an_outage_spends_no_budget_and_what_was_in_doubt_is_sent_once_more_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, BUDGET) as (sandbox, relay):
        number = await reported(relay)
        sandbox.script("any status 502")
        if action == "report":
            await press(relay)
        elif action == "message":
            await say(relay, "one", number)
        else:
            await relay.put(b"image", action="image", report_id=number)
        before = sandbox.count(action)
        for _ in range(60):
            assert isinstance(await relay.attempt(), Unavailable)
            uptime.seconds += 60
        assert sandbox.count(action) - before == 1
        sandbox.script()
        assert "earlier answer(s) were lost" in (await relay.deliver(tries=1)).proof
        assert sandbox.count(action) - before == 2


async def test_an_image_of_which_nobody_can_tell_is_sent_twice_more_and_then_left_to_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime = Uptime(monkeypatch)
    async with played(tmp_path, BUDGET) as (sandbox, relay):
        number = await reported(relay)
        sandbox.script("image lose")
        await relay.put(b"image", action="image", report_id=number)
        for _ in range(4):
            await relay.attempt()
        assert sandbox.count("image") == 2
        uptime.seconds += 300
        await relay.attempt()
        outcome = await relay.attempt()
        assert isinstance(outcome, Rejected)
        assert "look in the control center" in str(outcome)
        assert len(sandbox.reports[FIRST].images) == 3


@pytest.mark.parametrize("wanted", ["inner", "rooted"])
async def test_data_of_an_image_is_sent_bare_and_once_more_below_a_root(tmp_path: Path, wanted: str) -> None:
    data = json.dumps({"chat": {"messages": [{"text": "front camera"}]}})
    async with played(tmp_path, sayvu_data=wanted) as (sandbox, relay):
        number = await reported(relay)
        await relay.put(b"image" * 400_000, action="image", report_id=number, data=data)
        await relay.deliver(tries=1)
    assert sandbox.reports[FIRST].lines == ["front camera"]
    assert sandbox.reports[FIRST].images[0].content == b"image" * 400_000
    assert sandbox.count("image") == (1 if wanted == "inner" else 2)


@pytest.mark.parametrize("fault", ["status 500", "refuse", "portal", "schema", "garbage", "status 503"])
@pytest.mark.parametrize("action", ["message", "image"])
async def test_a_broken_answer_costs_a_try_of_a_follow_up_and_never_the_item(
    tmp_path: Path, action: str, fault: str
) -> None:
    text = {"text": "x"} if action == "message" else {}
    async with played(tmp_path) as (sandbox, relay):
        number = await reported(relay)
        sandbox.script(f"{action}#1-2 {fault}")
        await relay.put(b"image", action=action, report_id=number, **text)
        outcome = await relay.attempt()
        assert isinstance(outcome, DeliveryError)
        assert not isinstance(outcome, Rejected | LoginRefused)
        sandbox.script()
        await relay.deliver(tries=2)
    report = sandbox.reports[FIRST]
    assert len(report.lines) + len(report.images) == 1


async def test_a_follow_up_without_a_report_is_refused(tmp_path: Path) -> None:
    async with played(tmp_path) as (_, relay):
        await relay.put(b"image", action="image")
        assert isinstance(await relay.attempt(), Rejected)
        await relay.put(b"image", action="image", report_id="none")
        assert "is no number" in str(await relay.attempt())
        await relay.put(b"image", action="image", report_id="1", data="[]")
        assert "no JSON object" in str(await relay.attempt())
        await relay.put(b"image", action="image", report_id="1")
        outcome = await relay.attempt()
    assert isinstance(outcome, Rejected)
    assert "REPORT_NOT_FOUND" in str(outcome)


async def test_an_image_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with played(tmp_path, sayvu_image_bytes=1000) as (_, relay):
        number = await reported(relay)
        await relay.put(b"x" * 2000, action="image", report_id=number)
        outcome = await relay.attempt()
    assert isinstance(outcome, Rejected)
    assert "too large" in str(outcome)


# --- codes


@pytest.mark.parametrize(
    ("status", "code", "error", "nothing_happened"),
    [
        (400, "INPUT_SCHEMA_VIOLATION", Rejected, True),
        (400, "NO_FILES_UPLOADED", Rejected, True),
        (404, "REPORT_NOT_FOUND", Rejected, True),
        (400, "MISSING_INPUT_DATA", Rejected, False),
        (401, "MISSING_REPORTER", Rejected, False),
        (400, "NEW_IN_VERSION_2", Rejected, False),
        (413, "PAYLOAD_TOO_LARGE", Rejected, True),
        (401, "UNAUTHORIZED", LoginRefused, True),
        (403, "FORBIDDEN", LoginRefused, True),
        (404, "NO_SUCH_PATH", LoginRefused, True),
        (500, "UNEXPECTED_ERROR", TryAgain, True),
        (500, "SOMETHING_ELSE", TryAgain, False),
        (200, "SOMETHING_ELSE", TryAgain, False),
        (429, "TOO_MANY_REQUESTS", Unavailable, True),
        (503, "UNAVAILABLE", Unavailable, True),
        (502, "BAD_GATEWAY", Unavailable, False),
    ],
)
async def test_every_error_code_means_one_thing(
    tmp_path: Path, status: int, code: str, error: type[DeliveryError], nothing_happened: bool
) -> None:
    body = json.dumps({"errors": [{"code": code, "message": "in words"}]}).encode()
    async with answered(tmp_path, reply(f"{status} X", body, Content_Type="application/json")) as relay:
        outcome = await tried(relay)
    assert type(outcome) is error
    assert outcome.nothing_happened is nothing_happened
    if code in ("MISSING_INPUT_DATA", "MISSING_REPORTER"):
        assert "partly processed: look in the control center before you retry" in str(outcome)


@pytest.mark.parametrize(
    ("body", "report_id", "public_url"),
    [
        (b'{"data": {"report_id": "7"}, "new": 1}', 7, None),
        (b'{"data": {"report_id": 7.0}, "link": {"public": "https://x.example/7"}}', 7, "https://x.example/7"),
        (b'{"data": {"report_id": 7}, "links": {"public": "javascript:alert(1)"}}', 7, None),
    ],
)
async def test_answers_are_read_with_tolerance(
    tmp_path: Path, body: bytes, report_id: int, public_url: str | None
) -> None:
    async with answered(tmp_path, reply("201 Created", body)) as relay:
        receipt = await tried(relay)
    assert isinstance(receipt, Receipt)
    assert receipt.fields == {"report_id": report_id, "public_url": public_url}


@pytest.mark.parametrize("body", [b'{"data": {}}', b'{"data": {"report_id": true}}', b"[]", b"", b'{"data": [1]}'])
async def test_a_success_without_a_report_id_is_none(tmp_path: Path, body: bytes) -> None:
    async with answered(tmp_path, reply("200 OK", body)) as relay:
        assert isinstance(await tried(relay), TryAgain)


async def test_a_key_that_is_none_is_never_sent_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELAYD_TEST_KEY", "sk_something")
    async with played(tmp_path) as (sandbox, relay):
        outcome = await tried(relay)
    assert isinstance(outcome, LoginRefused)
    assert "sk_something" not in str(outcome)
    assert not sandbox.log


def test_the_path_of_messages_names_the_report() -> None:
    with pytest.raises(ValidationError, match="messages_path"):
        make("https://api.example.org", messages_path="/chat/messages")
