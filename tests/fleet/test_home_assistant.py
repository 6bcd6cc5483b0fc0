"""What Home Assistant is told: documents in the form that it documents, templates that hold for a real snapshot."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from typing import Any

import jinja2
import pytest

from relayd.homeassistant import FIGURES, Shown, node_of
from relayd.model import Device
from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.daemon.running import wait_for
from tests.fleet.onlooker import Onlooker

DEVICE = Device(id="amb-0417", name="Ambulance 417", site="odense")
SHOWN = Shown(device=DEVICE, version="1.2", base="relayd/v1/amb-0417", prefix="homeassistant", health_every_seconds=60)
HEALTH: dict[str, Any] = {
    "state": "degraded",
    "reasons": ["destination api: timeout", "1 deliveries are dead"],
    "started_at": "2026-01-31T12:00:00.000Z",
    "spool": {
        "bytes": 250,
        "max_bytes": 1000,
        "free_bytes": 7,
        "pending": 3,
        "delivered": 4,
        "dead": 1,
        "evicted": 0,
        "oldest_pending_seconds": None,
    },
    "destinations": {
        "api": {"last_success_at": "2026-01-31T12:00:00.000Z"},
        "nas": {"last_success_at": None},
        "other": {"last_success_at": "2026-01-31T13:00:00.000Z"},
    },
    "process": {"rss_bytes": 50_000_000},
}


def rendered(template: str, document: Any) -> str:
    """As Home Assistant does it."""
    return jinja2.Environment(autoescape=False).from_string(template).render(value_json=document)


def test_each_figure_has_a_topic_and_a_document_in_home_assistants_form() -> None:
    documents = SHOWN.documents()
    assert len(documents) == len(FIGURES)
    assert len({document["unique_id"] for document in documents.values()}) == len(FIGURES)
    for topic, document in documents.items():
        assert re.fullmatch(r"homeassistant/(sensor|binary_sensor)/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+/config", topic)
        assert document["state_topic"] == "relayd/v1/amb-0417/health"
        assert document["availability_topic"] == "relayd/v1/amb-0417/state"
        assert document["expire_after"] == 180
        assert document["device"] == {
            "identifiers": ["relayd_amb-0417"],
            "name": "Ambulance 417",
            "manufacturer": "relayd",
            "model": "Edge relay",
            "sw_version": "1.2",
            "suggested_area": "odense",
        }
        assert document["origin"]["name"] == "relayd"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("state", "degraded"),
        ("problem", "OFF"),
        ("reason", "destination api: timeout; 1 deliveries are dead"),
        ("pending", "3"),
        ("oldest_pending", "0"),
        ("spool_used", "25.0"),
        ("last_success", "2026-01-31T13:00:00.000Z"),
        ("memory", "50000000"),
    ],
)
def test_the_templates_show_the_figures(key: str, shown: str) -> None:
    document = next(document for topic, document in SHOWN.documents().items() if topic.endswith(f"/{key}/config"))
    assert rendered(document["value_template"], HEALTH) == shown


def test_a_relay_that_never_delivered_and_one_that_is_not_there_are_shown_as_such() -> None:
    documents = {topic.split("/")[-2]: document for topic, document in SHOWN.documents().items()}
    nothing = {**HEALTH, "destinations": {}, "reasons": []}
    assert rendered(documents["last_success"]["value_template"], nothing) == "None"
    assert rendered(documents["reason"]["value_template"], nothing) == ""
    for word, shown in (("online", "online"), ("offline", "offline"), ("stopped", "offline")):
        assert rendered(documents["state"]["availability_template"], {"state": word}) == shown


def test_ids_that_home_assistant_does_not_take_become_others_that_differ() -> None:
    names = [node_of(device) for device in ("a.b", "a_b", "a-b", "a..b")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)


def test_it_is_told_while_it_is_switched_on_and_nothing_is_left_after(
    rig: Rig, broker: Mosquitto, onlooker: Onlooker
) -> None:
    off = rig.config.read_text()
    relay = rig.start()
    onlooker.wait_for("health")
    assert not kept(broker, "homeassistant/")
    reload(rig, relay.send_signal, f"{off}home_assistant = true\n")
    wait_for(lambda: len(kept(broker, "homeassistant/")) == len(FIGURES), "every figure is told")
    health = onlooker.documents("health")[-1]
    for document in kept(broker, "homeassistant/").values():
        rendered(document["value_template"], health)
    reload(rig, relay.send_signal, f'{off}home_assistant = true\nhome_assistant_prefix = "ha/discovery"\n')
    wait_for(lambda: len(kept(broker, "ha/discovery/")) == len(FIGURES), "every figure is told elsewhere")
    wait_for(lambda: not kept(broker, "homeassistant/"), "nothing is left")
    reload(rig, relay.send_signal, off)
    wait_for(lambda: not kept(broker, "ha/discovery/"), "nothing is left at all")


def reload(rig: Rig, send_signal: Callable[[int], None], text: str) -> None:
    rig.config.write_text(text)
    send_signal(signal.SIGHUP)


def kept(broker: Mosquitto, prefix: str) -> dict[str, Any]:
    """What the broker holds for somebody who comes now; `state` is the last thing that it always holds."""
    late = Onlooker(broker)
    late.wait_for("health")
    found = {one.topic: json.loads(one.payload) for one in late.seen() if one.topic.startswith(prefix)}
    late.close()
    return found
