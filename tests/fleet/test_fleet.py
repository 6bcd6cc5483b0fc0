"""Judging a fleet by what it publishes: pure, no broker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relayd.cli import fleet_page, tables
from relayd.cli.fleet_view import Pages, Wish
from relayd.clock import rfc3339
from relayd.fleet import MOST_RELAYS, STALE_SECONDS, Fleet, Relay
from relayd.fleet_choice import SORTS, WrongFilter, chosen, ordered
from tests.fleet.simulated import GARBAGE, health, state

NOW = 1_800_000_000.0
BASE = "relayd/v1"


class Told:
    """A fleet, and who tells it what."""

    def __init__(self, **options: Any) -> None:
        self.fleet = Fleet(BASE, **options)

    def state(self, word: str, session: str, at: float, name: str = "a") -> Told:
        return self.raw("state", state(word, session, at), name)

    def health(self, session: str, at: float, *, heard_at: float | None = None, name: str = "a", **told: Any) -> Told:
        payload = json.dumps(health(name, session, at, pending=1, **told)).encode()
        self.fleet.take(
            f"{BASE}/{name}/health", payload, is_retained=heard_at is None, now=NOW, monotonic=heard_at or 0.0
        )
        return self

    def raw(self, kind: str, payload: bytes, name: str = "a") -> Told:
        self.fleet.take(f"{BASE}/{name}/{kind}", payload, is_retained=True, now=NOW, monotonic=0.0)
        return self

    def relays(self, monotonic: float = 0.0) -> list[Relay]:
        return self.fleet.relays(now=NOW, monotonic=monotonic)

    def relay(self, monotonic: float = 0.0) -> Relay:
        (one,) = self.relays(monotonic)
        return one


def fresh(word: str) -> Told:
    return Told().state(word, "s1", NOW - 60).health("s1", NOW - 5)


def silent(word: str) -> Told:
    return Told().state(word, "s1", NOW - 9000).health("s1", NOW - STALE_SECONDS - 1)


# --- the state of a relay


@pytest.mark.parametrize(
    ("told", "word"),
    [
        (fresh("online"), "online"),
        (fresh("offline"), "offline"),
        (fresh("stopped"), "stopped"),
        (silent("online"), "stale"),
        (silent("offline"), "lost"),
        (silent("stopped"), "stopped"),
        (fresh("dancing"), "unknown"),
        (Told().health("s1", NOW), "unknown"),
        (Told().state("online", "s1", NOW), "online"),
        (Told().state("online", "s1", NOW - 9000), "stale"),
        (Told().state("offline", "s1", NOW - 9000), "lost"),
    ],
)
def test_a_state_follows_from_the_last_word_and_the_silence_since(told: Told, word: str) -> None:
    assert told.relay().state == word


def test_a_late_will_of_an_old_session_is_let_go() -> None:
    relay = Told().health("s2", NOW - 5).state("offline", "s1", NOW - 600).relay()
    assert (relay.state, relay.ignored_will, relay.session) == ("online", True, "s2")


def test_a_late_will_is_let_go_before_the_new_session_has_told_its_health() -> None:
    told = Told().health("s1", NOW - 300).state("online", "s2", NOW - 5).state("offline", "s1", NOW - 900)
    assert told.relay().ignored_will


def test_the_will_of_a_session_that_broke_before_its_first_health_counts() -> None:
    relay = Told().health("s1", NOW - 60).state("offline", "s2", NOW - 5).relay()
    assert (relay.state, relay.ignored_will) == ("offline", False)


def test_a_will_whose_time_cannot_be_read_counts() -> None:
    raw = b'{"state": "offline", "session": "s1", "at": "yesterday"}'
    assert Told().health("s2", NOW - 5).raw("state", raw).relay().state == "offline"


def test_a_birth_after_the_will_makes_it_online_again() -> None:
    told = fresh("offline").state("online", "s2", NOW)
    assert told.relay().state == "online"


def test_silence_is_measured_by_the_usual_interval_of_each_relay() -> None:
    told = Told().state("online", "s1", NOW)
    for number in range(4):
        told.health("s1", NOW - 40 + 10 * number, heard_at=1000.0 + 10 * number)
    assert told.relay(1030.0 + 29).state == "online"
    assert told.relay(1030.0 + 31).state == "stale"


def test_a_given_span_is_too_long_for_everybody() -> None:
    told = Told(stale_seconds=3.0).state("online", "s1", NOW).health("s1", NOW - 4)
    assert told.relay().state == "stale"


@pytest.mark.parametrize(("off", "shown"), [(86_400.0, 86_400.0), (-86_400.0, -86_400.0), (60.0, None)])
def test_a_relay_with_a_wrong_clock_is_judged_by_ours_and_shown(off: float, shown: float | None) -> None:
    told = Told().state("online", "s1", NOW + off).health("s1", NOW + off, heard_at=500.0)
    relay = told.relay(510.0)
    assert (relay.state, relay.health_age_seconds, relay.clock_ahead_seconds) == ("online", 10.0, shown)


def test_what_is_taken_back_is_gone() -> None:
    told = fresh("online").raw("health", b"")
    assert told.relay().health == "unknown"
    assert told.raw("state", b"").relays() == []


# --- strangers


@pytest.mark.parametrize("payload", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("kind", ["state", "health"])
def test_no_payload_breaks_the_table(kind: str, payload: bytes) -> None:
    told = fresh("online").raw(kind, payload)
    relay = told.relay()
    text = "\n".join(tables.plain(fleet_page.blocks([relay], [relay], width=80), width=80))
    assert text.isprintable() or text.replace("\n", "").isprintable()
    json.loads(json.dumps(fleet_page.document([relay], [relay]), allow_nan=False))


@pytest.mark.parametrize("name", ["\x1b[2J", "a\u202eb", "x" * 60_000, "[bold]", "\u5bbf" * 40, ""])
def test_a_hostile_id_is_one_short_line(name: str) -> None:
    relay = Told().state("online", name, NOW, name).relay()
    lines = list(tables.plain(fleet_page.blocks([relay], [relay], width=80), width=80))
    assert len(lines) == 3
    assert all(line.isprintable() and len(line) <= 100 for line in lines)


@pytest.mark.parametrize(
    "topic",
    [f"{BASE}/a/b/state", f"{BASE}/a/event", "relayd/v1", "other/a/state", f"{BASE}/state", "relayd/v1x/a/state"],
)
def test_other_topics_are_nobodys(topic: str) -> None:
    fleet = Fleet(BASE)
    fleet.take(topic, state("online", "s", NOW), is_retained=True, now=NOW, monotonic=0)
    assert len(fleet) == 0


def test_a_flood_of_ids_is_counted_and_not_kept() -> None:
    fleet = Fleet(BASE)
    for number in range(MOST_RELAYS + 5):
        fleet.take(f"{BASE}/{number}/state", b"{}", is_retained=True, now=NOW, monotonic=0)
    assert (len(fleet), fleet.not_shown) == (MOST_RELAYS, 5)


def test_a_message_that_is_too_large_to_read_is_said() -> None:
    told = fresh("online")
    told.fleet.too_large(f"{BASE}/a/health", 10_000_000)
    assert told.relay().reasons[0] == "health cannot be read: 10,000,000 bytes are too many"
    assert told.health("s1", NOW).relay().reasons == ()


def test_ids_that_differ_only_at_their_end_stay_apart() -> None:
    told = (
        Told()
        .state("online", "s", NOW, "ambulance-of-odense-0417")
        .state("online", "s", NOW, "ambulance-of-odense-0418")
    )
    relays = told.relays()
    lines = list(tables.plain(fleet_page.blocks(relays, relays, width=80), width=80))
    assert [line.split()[0] for line in lines[2:]] == ["ambulan…e-0417", "ambulan…e-0418"]


# --- choosing


def several() -> list[Relay]:
    told = Told()
    told.state("online", "s", NOW, "b-ok").health("s", NOW, name="b-ok")
    told.raw("state", state("online", "s", NOW).replace(b"0.1.0", b"0.2.0"), "a-ok").health("s", NOW - 9, name="a-ok")
    told.state("online", "s", NOW, "fault").health("s", NOW, name="fault", state="fault", reasons=["disk full"])
    told.state("online", "s", NOW - 9000, "stale").health("s", NOW - 9000, name="stale", spool={"pending": 70})
    told.state("offline", "s", NOW - 9000, "lost").health("s", NOW - 9000, name="lost", device={"site": "Ribe"})
    told.state("stopped", "s", NOW, "stopped").health("s", NOW, name="stopped")
    return told.relays()


def names(relays: list[Relay]) -> list[str]:
    return [relay.id for relay in relays]


@pytest.mark.parametrize(
    ("sort", "first"),
    [
        ("attention", ["lost", "stale", "fault", "a-ok", "b-ok", "stopped"]),
        ("relay", ["a-ok", "b-ok", "fault", "lost", "stale", "stopped"]),
        ("state", ["lost", "stale", "a-ok"]),
        ("health", ["fault"]),
        ("age", ["lost", "stale", "a-ok"]),
        ("pending", ["stale"]),
        ("site", ["lost"]),
        ("version", ["b-ok", "fault"]),
    ],
)
def test_each_column_sorts_the_worst_first(sort: str, first: list[str]) -> None:
    assert names(ordered(several(), sort))[: len(first)] == first


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_can_be_turned_round(sort: str) -> None:
    assert ordered(several(), sort, is_reversed=True) == ordered(several(), sort)[::-1]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], {"a-ok", "b-ok", "fault", "stale", "lost", "stopped"}),
        (["state=lost"], {"lost"}),
        (["state=lost", "state=stale"], {"lost", "stale"}),
        (["name=*-ok", "version=0.2*"], {"a-ok"}),
        (["name=Ambulance s*"], {"stale", "stopped"}),
        (["site=ribe"], {"lost"}),
        (["reason=*DISK*"], {"fault"}),
        (["faults"], {"lost", "stale", "fault"}),
        (["faults", "state=online"], {"fault"}),
        (["site=nowhere"], set()),
    ],
)
def test_filters_of_one_kind_add_up_and_of_several_narrow_down(filters: list[str], found: set[str]) -> None:
    assert set(names(chosen(several(), filters))) == found


@pytest.mark.parametrize("wrong", ["lost", "colour=red", "=x", "faults=no"])
def test_a_filter_that_does_not_exist_is_refused_in_words(wrong: str) -> None:
    with pytest.raises(WrongFilter, match="KEY=PATTERN"):
        chosen([], [wrong])


# --- the page


def test_a_page_never_leaves_the_list() -> None:
    relays = several()
    pages = Pages()
    pages.turn(-4)
    assert list(pages.part(relays, 4)) == relays[:4]
    pages.turn(40)
    assert list(pages.part(relays, 4)) == relays[4:]
    assert list(pages.part(relays[:2], 4)) == relays[:2]
    assert list(pages.part([], 4)) == []


def test_sorting_goes_round() -> None:
    wish = Wish((), "site", is_reversed=False, limit=None)
    wish.sort_by_next()
    assert wish.sort == "attention"


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_each_relay_is_one_line_and_a_long_reason_is_cut(width: int | None) -> None:
    told = Told().state("online", "s", NOW).health("s", NOW, state="fault", reasons=["so " * 90, "and more"])
    relay = told.relay()
    lines = list(tables.plain(fleet_page.blocks([relay], [relay], width=width), width=width))
    assert len([line for line in lines if line.startswith("a ")]) == 1
    if width is not None:
        assert "…" in lines[-1]
    else:
        assert lines[-1].endswith("(+1)")


def test_the_document_has_everything_that_is_known() -> None:
    relays = several()
    document = fleet_page.document(relays[:1], relays, at=rfc3339(NOW))
    assert document["total"] == 6
    assert document["states"] == {"lost": 1, "stale": 1, "unknown": 0, "offline": 0, "online": 3, "stopped": 1}
    assert document["relays"][0]["site"] == "aarhus"
