"""The relay's own faults on a status page, in the real program: lost answers, kills, and a page that is away."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

CHANCE = random.Random(23)
TO_PAGE = """
[health]
fault_after = "200ms"
waiting_after = "1h"
whole_after = "500ms"

[destination.status-page]
type = "cachet"
url = "{url}/api"
token = {{ env = "TEST_TOKEN" }}
backoff_first = "50ms"
backoff_cap = "200ms"

[[rule]]
name = "gateway faults"
from = ["relayd"]
deliver = [ {{ to = "status-page", action = "incident" }} ]
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    text = rig.config.read_text().replace('{ env = "TEST_SECRET" }', f'{{ file = "{tmp_path}/secret" }}')
    rig.config.write_text(text + TO_PAGE.format(url=rig.url))
    rig.environment["TEST_TOKEN"] = "1|sandbox"
    yield rig
    rig.stop()


def shown(rig: Rig) -> list[dict[str, Any]]:
    """What the page shows of deliveries to rapidsos."""
    with urlopen(f"{rig.url}/_sandbox/cachet", timeout=10) as answer:
        found = json.load(answer)["incidents"]
    return [each for each in found if "deliveries to rapidsos" in each["name"]]


def states(rig: Rig) -> list[tuple[int, int]]:
    """Of each incident: its state, and how many updates it has."""
    return [(each["status"], len(each["updates"])) for each in shown(rig)]


def requests(rig: Rig, operation: str) -> int:
    """How many of this kind the page was asked."""
    return sum(entry["operation"] == operation for entry in rig.ask_sandbox("/_sandbox/log")["log"])


def break_rapidsos(rig: Rig, name: str) -> None:
    (rig.config.parent / "secret").write_text("wrong")
    rig.ask_sandbox("/_sandbox/revoke", {})
    rig.drop_file(name, picture(CHANCE, 2_000))


def mend_rapidsos(rig: Rig) -> None:
    (rig.config.parent / "secret").write_text("sandbox-secret")
    rig.call("resume", "rapidsos")


def owed_to_page(rig: Rig) -> int:
    owed: int = rig.json("status")["destinations"]["status-page"]["pending"]
    return owed


def test_a_fault_is_one_incident_resolved_once_through_lost_answers_and_kills(rig: Rig) -> None:
    rig.start_sandbox(faults="incident#1 lose; update#1 lose")
    rig.start()
    break_rapidsos(rig, "one.jpg")
    wait_for(lambda: states(rig) == [(1, 0)], "the fault is on the page")
    wait_for(lambda: owed_to_page(rig) == 0, "and known to be")
    rig.kill_relay()
    rig.start()
    mend_rapidsos(rig)
    wait_for(lambda: states(rig) == [(4, 1)], "it is resolved")
    wait_for(lambda: owed_to_page(rig) == 0, "and known to be")
    assert states(rig) == [(4, 1)]
    (incident,) = shown(rig)
    assert "login refused" in incident["message"]
    assert incident["updates"][0]["message"].endswith("It is over.")


def test_a_kill_while_the_page_works_on_a_request_makes_no_second_incident_and_no_second_end(rig: Rig) -> None:
    rig.start_sandbox(faults="incident#1 outlast 3 status=0; update#1 outlast 3")
    rig.start()
    break_rapidsos(rig, "one.jpg")
    wait_for(lambda: requests(rig, "incident") == 1, "the page is asked to open an incident")
    looks = requests(rig, "incidents")
    rig.kill_relay()
    rig.start()
    wait_for(lambda: requests(rig, "incidents") > looks, "the page is looked at after the restart")
    wait_for(lambda: states(rig) == [(1, 0)], "the fault is on the page")
    wait_for(lambda: owed_to_page(rig) == 0, "and known to be")
    mend_rapidsos(rig)
    wait_for(lambda: requests(rig, "update") == 1, "the page is asked to resolve it")
    rig.kill_relay()
    rig.start()
    wait_for(lambda: states(rig) == [(4, 1)], "it is resolved")
    wait_for(lambda: owed_to_page(rig) == 0, "and known to be")
    assert states(rig) == [(4, 1)]
    assert (requests(rig, "incident"), requests(rig, "update")) == (1, 1)


def test_a_fault_that_is_over_before_the_page_can_be_had_is_one_finished_incident(rig: Rig) -> None:
    rig.start_sandbox(faults="incidents refuse; incident refuse")
    rig.start()
    break_rapidsos(rig, "one.jpg")
    wait_for(lambda: owed_to_page(rig) == 1, "the fault waits for the page")
    mend_rapidsos(rig)
    wait_for(lambda: owed_to_page(rig) == 2, "so does its end")
    rig.kill_relay()
    rig.script("")
    rig.start()
    wait_for(lambda: owed_to_page(rig) == 0, "both are told")
    assert states(rig) == [(4, 0)]
    assert shown(rig)[0]["message"].endswith("It is over.")
