"""What status and items look like to people."""

import copy
from typing import Any

import pytest

from relayd import clock
from relayd.cli import item_pages, status_page
from relayd.cli.tables import Block, plain

NOW = 1_800_000_000.0
HOSTILE = "\x1b[31mred\x1b[0m\nline\u202e"


def at(offset: float) -> str:
    return clock.rfc3339(NOW + offset)


SNAPSHOT: dict[str, Any] = {
    "schema": 1,
    "device": {"id": "amb-0417", "name": "Ambulance 417", "site": "odense"},
    "version": "0.1.0",
    "state": "degraded",
    "reasons": ["destination rapidsos: unreachable"],
    "at": at(0),
    "started_at": at(-7500),
    "uptime_seconds": 7500.0,
    "session": "ab12",
    "clock": {"synchronized": True, "offset_seconds": 0.003},
    "config": {"sha256": "3fa2" * 16, "loaded_at": at(-180), "error": None, "files": []},
    "spool": {
        "items": 2316,
        "bytes": 5_000_000_000,
        "max_bytes": 20_000_000_000,
        "free_bytes": 118_000_000_000,
        "pending": 12,
        "delivered": 2301,
        "dead": 3,
        "evicted": 0,
        "expired": 0,
        "oldest_pending_seconds": 190.0,
    },
    "sources": {
        "front-camera": {"state": "ok", "reason": "", "captured": 2316, "quarantined": 1, "last_at": at(-180)},
        "rear-camera-of-the-second-vehicle": {
            "state": "fault",
            "reason": "the folder /srv/cameras/rear is not there; is the disk mounted? " * 3,
            "captured": 0,
            "quarantined": 0,
            "last_at": None,
        },
    },
    "destinations": {
        "rapidsos": {
            "state": "waiting",
            "reason": "cannot be reached: connection refused",
            "pending": 12,
            "delivered": 2301,
            "dead": 3,
            "under_way": 0,
            "last_success_at": at(-600),
            "next_try_at": at(12),
            "bytes_sent": 1_200_000_000,
        }
    },
    "brokers": {"fleet": {"state": "waiting", "reason": "login refused"}},
    "links": {},
    "incidents": {"open": 0},
    "process": {"rss_bytes": 1, "cpu_seconds": 1.0, "open_files": 1},
}

DELIVERY: dict[str, Any] = {
    "destination": "rapidsos",
    "action": "upload",
    "rule": "incident media",
    "priority": "high",
    "state": "pending",
    "attempts": 2,
    "reason": "the storage hung up",
    "due_at": at(12),
    "incident": None,
    "waits_for": [],
}
ITEM: dict[str, Any] = {
    "id": "0k3v9x7q2m5n8p1r",
    "name": "front_0001.jpg",
    "source": "front-camera",
    "kind": "media",
    "size": 123_456,
    "content_type": "image/jpeg",
    "captured_at": at(-200),
    "accepted_at": at(-190),
    "state": "pending",
    "reason": "",
    "priority": "high",
    "deliveries": [DELIVERY],
}
DETAIL: dict[str, Any] = {
    **ITEM,
    "sha256": "ab" * 32,
    "md5": "cd" * 16,
    "topic": None,
    "attributes": {"camera": "front"},
    "location": None,
    "origin_path": "front_0001.jpg",
    "content_kept": True,
    "ended_at": None,
    "deliveries": [
        {
            **DELIVERY,
            "id": 7,
            "created_at": at(-190),
            "ended_at": None,
            "receipt": None,
            "proof": None,
            "dropped": False,
            "steps": {"slot": "done", "upload": "begun"},
            "history": [
                {
                    "number": 1,
                    "started_at": at(-180),
                    "ended_at": at(-179.7),
                    "outcome": "failed",
                    "reason": "the storage hung up",
                },
                {"number": 2, "started_at": at(-10), "ended_at": None, "outcome": "started", "reason": ""},
            ],
        }
    ],
}


def text(blocks: list[Block], width: int | None = 80) -> str:
    return "\n".join(plain(blocks, width=width))


def test_the_status_screen_says_what_a_technician_asks_first() -> None:
    page = text(status_page.blocks(SNAPSHOT, now=NOW))
    for words in (
        "amb-0417 (Ambulance 417), odense: degraded",
        "destination rapidsos: unreachable",
        "[#####---------------] 5.0 GB of 20.0 GB, 118 GB free",
        "12 pending (oldest for 3 min), 2,301 delivered, 3 dead",
        "rapidsos: cannot be reached: connection refused",
        "in 12 s",
        "10 min ago",
        "broker fleet waiting: login refused",
        "running for 2 h 5 min",
        "synchronized (within 3 ms)",
        "configuration 3fa23fa23fa2",
    ):
        assert words in page


def test_the_status_screen_fits_80_columns_and_one_screen() -> None:
    lines = text(status_page.blocks(SNAPSHOT, now=NOW)).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 32


def test_a_refused_configuration_and_a_wrong_clock_are_not_overlooked() -> None:
    snapshot = copy.deepcopy(SNAPSHOT)
    snapshot["config"]["error"] = "relayd.toml:3: spool.pth: unknown key"
    snapshot["clock"] = {"synchronized": False, "offset_seconds": None}
    page = text(status_page.blocks(snapshot, now=NOW))
    assert "a newer configuration was refused: relayd.toml:3" in page
    assert "NOT synchronized" in page


def test_a_relay_without_sources_and_destinations_has_a_status_too() -> None:
    empty = {**SNAPSHOT, "sources": {}, "destinations": {}, "brokers": {}}
    empty["spool"] = {**SNAPSHOT["spool"], "max_bytes": 0, "oldest_pending_seconds": None}
    empty["clock"] = {"synchronized": None, "offset_seconds": None}
    page = text(status_page.blocks(empty, now=NOW))
    assert "no sources" in page
    assert "no destinations" in page


def test_a_relay_that_stopped_answering_is_shown_with_its_last_status() -> None:
    page = text(status_page.blocks({**SNAPSHOT, "no_answer": "nobody listens"}, now=NOW))
    assert page.startswith("NO ANSWER since ")
    assert "rapidsos" in page


def test_the_queue_shows_where_each_item_goes() -> None:
    page = text(item_pages.listed({"items": [ITEM], "next": None}, state=None, now=NOW))
    assert "0k3v9x7q2m5n8p1r  pending  123 kB  3 min" in page
    assert "front_0001.jpg from front-camera" in page.replace("\n", "")
    assert max(map(len, page.splitlines())) <= 80


def test_a_further_page_and_an_empty_one_are_said_so() -> None:
    page = text(item_pages.listed({"items": [ITEM], "next": ITEM["id"]}, state=None, now=NOW))
    assert f"relayd items --before {ITEM['id']}" in page
    assert (
        text(item_pages.listed({"items": [], "next": None}, of={"state": "dead"}, now=NOW)) == "no items in state dead"
    )
    asked = {"state": None, "source": "frnt", "destination": "nas", "before": None, "limit": 100}
    page = text(item_pages.listed({"items": [], "next": None}, of=asked, now=NOW))
    assert page == "no items from source frnt for destination nas"


def test_two_deliveries_to_one_destination_are_told_apart_by_their_action() -> None:
    first = {**ITEM["deliveries"][0], "destination": "room", "state": "delivered", "attempts": 1}
    deliveries = [{**first, "action": "image"}, {**first, "action": "message"}, {**first, "destination": "nas"}]
    page = text(item_pages.listed({"items": [{**ITEM, "deliveries": deliveries}], "next": None}, now=NOW))
    words = " ".join(page.split())
    assert "room image delivered after 1 try; room message delivered after 1 try; nas delivered" in words


def test_an_item_of_an_incident_names_it() -> None:
    page = text(item_pages.one({**DETAIL, "incidents": ["01m8ae9xxfxc3rqfeq"]}, now=NOW))
    assert "`relayd incidents show 01m8ae9xxfxc3rqfeq`" in page


def test_a_quarantined_file_is_shown_with_its_reason() -> None:
    entry = {"id": None, "name": "cut.jpg", "source": "front", "size": 9, "reason": "cut off", "at": at(-60)}
    page = text(item_pages.listed({"items": [entry], "next": None}, state="quarantined", now=NOW))
    assert "front   1 min ago  cut.jpg: cut off" in page


def test_a_delivery_whose_time_has_come_is_not_said_to_have_its_next_try_in_the_past() -> None:
    detail = copy.deepcopy(DETAIL)
    for delivery in detail["deliveries"]:
        if delivery["due_at"]:
            delivery["due_at"] = at(-90)
    page = text(item_pages.one(detail, now=NOW))
    assert "next try" not in page
    assert "waits its turn (see `relayd why`), due since" in page
    assert max(map(len, page.splitlines())) <= 80


def test_a_delivery_that_waits_for_its_incident_says_for_what() -> None:
    waiting = {**DETAIL["deliveries"][0], "incident": "01m8", "waits_for": ["control-room.report_id"]}
    page = text(item_pages.one({**DETAIL, "deliveries": [waiting]}, now=NOW))
    assert "waits for the report_id of incident 01m8" in page
    assert "waits its turn" not in page


def test_one_item_shows_every_attempt() -> None:
    page = text(item_pages.one(DETAIL, now=NOW))
    for words in ("sha256 abab", "after 2 tries (incident media, high)", "next try", "in 12 s", "step upload: begun"):
        assert words in page
    assert "0.3 s  failed   the storage hung up" in page
    assert "started" in page
    assert max(map(len, page.splitlines())) <= 80


def test_an_item_nobody_wanted_and_one_whose_content_is_gone_say_so() -> None:
    page = text(item_pages.one({**DETAIL, "deliveries": [], "content_kept": False, "reason": "evicted"}, now=NOW))
    assert "no rule wanted it" in page
    assert "no longer kept" in page


def test_an_item_names_the_incident_that_it_missed_and_why() -> None:
    missed = [{"incident": "01m8", "why": "it collects from front, not from back"}]
    page = text(item_pages.one({**DETAIL, "deliveries": [], "missed": missed}, now=NOW))
    assert "not in incident 01m8: it collects from front, not from back" in page


def spoiled(node: Any) -> Any:
    """The document with something hostile in every text and every name that a stranger can write."""
    fixed = ("at", "sha256", "priority", "outcome", "kind", "md5")
    if isinstance(node, dict):
        return {
            key: value
            if key in fixed or key.endswith("_at") or (key == "state" and "reasons" not in node)
            else spoiled(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [spoiled(one) for one in node]
    return HOSTILE + node if isinstance(node, str) else node


@pytest.mark.parametrize("width", [80, None])
def test_no_text_of_a_stranger_reaches_the_terminal_as_it_is(width: int | None) -> None:
    quarantined = {"name": "x", "source": "y", "reason": "z", "at": at(-1)}
    blocks = [
        *status_page.blocks(spoiled({**SNAPSHOT, "state": "ok"}) | {"state": "ok"}, now=NOW),
        *item_pages.listed({"items": [spoiled(ITEM)], "next": HOSTILE}, state=None, now=NOW),
        *item_pages.listed({"items": [spoiled(quarantined)], "next": None}, state="quarantined", now=NOW),
        *item_pages.one(spoiled(DETAIL), now=NOW),
    ]
    assert all(line.isprintable() for line in plain(blocks, width=width))
