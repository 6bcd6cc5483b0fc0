"""Incidents as people see them."""

from __future__ import annotations

from typing import Any

from relayd.cli import incident_pages
from relayd.cli.tables import plain
from tests.unit.test_cli_pages import NOW, at

INCIDENT: dict[str, Any] = {
    "id": "01m8ae6xt6cf3qvm3k",
    "key": "p-\x1b[2J",
    "rule": "panic",
    "state": "open",
    "opened_at": at(-60),
    "opened_by": "01m8ae6xt6kr8c19fx",
    "starts_at": at(-120),
    "ends_at": at(540),
    "closed_at": None,
    "close_reason": "",
    "collect": ["front"],
    "remote": {"control-room": {"report_id": 48213, "public_url": "https://example.com/r/48213"}},
    "items": 3,
    "deliveries": {"pending": 2, "delivered": 1},
    "belonging": [],
}


def text(blocks: Any) -> str:
    return "\n".join(plain(blocks, width=80))


def test_the_list_says_what_each_is_called_elsewhere_and_escapes_what_a_stranger_wrote() -> None:
    page = text(incident_pages.listed({"incidents": [INCIDENT], "next": "01m8"}, now=NOW))
    assert "control-room 48213" in page
    assert "\x1b" not in page
    assert "`relayd incidents --before 01m8`" in page
    assert max(map(len, page.splitlines())) <= 80


def test_one_incident_says_until_when_it_collects_and_what_is_owed_in_it() -> None:
    page = text(incident_pages.one(INCIDENT, now=NOW))
    assert "opened" in page
    assert "closes" in page
    assert "collects from front" in page
    assert "deliveries in it: 2 pending, 1 delivered" in page


def test_a_closed_one_says_why() -> None:
    page = text(incident_pages.one({**INCIDENT, "closed_at": at(-5), "close_reason": "its time is over"}, now=NOW))
    assert "its time is over" in page
    assert "closes" not in page
