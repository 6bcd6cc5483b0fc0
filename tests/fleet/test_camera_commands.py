"""`ptz` and `reboot` from the fleet: through the queue, once, and never late; a real relay, broker and stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd.sandbox import Sandbox
from relayd.sandbox.watcher import PREFIX, Activation
from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.daemon.running import wait_for
from tests.fleet.onlooker import BASE, Onlooker

DEVICE = "amb-0417"
COMMAND = f"{BASE}/{DEVICE}/command"
VMS = """
[destination.{name}]
type = "watcher"
url = "{url}"
login = "gateway"
password = {{ env = "TEST_PASSWORD" }}
command_max_age = "60s"

[[destination.{name}.camera]]
name = "gate-3"
title = "Gate 3"
stream_name = "{stream}"
"""


class Gate:
    """A relay with a camera, and what the server was asked to do with it."""

    def __init__(self, rig: Rig, onlooker: Onlooker, sandbox: Sandbox) -> None:
        self.rig, self.onlooker, self.sandbox = rig, onlooker, sandbox
        sandbox.watcher.activations["t"] = Activation("t", {"title": "Gate 3", "organization_id": 9})
        self.stream = sandbox.watcher.scan("t")
        text = rig.config.read_text().replace('"flush"]', '"flush", "ptz", "reboot"]')
        rig.config.write_text(text)
        rig.environment["TEST_PASSWORD"] = "sandbox-password"
        self.add_destination("vms")

    def add_destination(self, name: str) -> None:
        with self.rig.config.open("a") as config:
            config.write(VMS.format(name=name, url=self.sandbox.url + PREFIX, stream=self.stream))

    @property
    def done(self) -> list[dict[str, Any]]:
        return self.sandbox.watcher.streams[self.stream].commands

    def start(self) -> None:
        self.onlooker.forget()
        self.rig.start()
        self.onlooker.wait_for("health")

    def ask(self, name: str, command_id: str, /, **arguments: Any) -> Any:
        return self.onlooker.ask(DEVICE, name, command_id, **arguments)

    def ended(self, item: str) -> dict[str, Any]:
        """The only delivery of an item, once it has ended."""

        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.rig.json("items", "show", item)["deliveries"][0]
            return None if found["state"] == "pending" else found

        delivery: dict[str, Any] = wait_for(look, f"{item} has ended")
        return delivery


@pytest.fixture
async def gate(rig: Rig, onlooker: Onlooker) -> AsyncIterator[Gate]:
    async with Sandbox() as sandbox:
        yield Gate(rig, onlooker, sandbox)
        await asyncio.to_thread(rig.stop)


def at(age_seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=age_seconds)).isoformat()


async def test_a_camera_is_moved_and_restarted_once_each_and_the_item_tells_of_it(gate: Gate) -> None:
    def play() -> None:
        gate.start()
        first = gate.ask("ptz", "move", camera="gate-3", **{"left": 50, "in": 20})
        assert first["ok"]
        delivery = gate.ended(first["result"]["id"])
        assert (delivery["state"], delivery["priority"], delivery["destination"]) == ("delivered", "high", "vms")
        assert gate.ask("ptz", "move", camera="gate-3", left=50) == first
        again = gate.ask("reboot", "again", name=gate.stream, destination="vms", priority="emergency")
        assert gate.ended(again["result"]["id"])["priority"] == "emergency"
        item = gate.rig.json("items", "show", first["result"]["id"])
        assert (item["source"], item["name"], item["kind"]) == ("hand", "ptz gate-3", "message")

    await asyncio.to_thread(play)
    moved = {"command": "move_continuous", "up": 0, "down": 0, "left": 50, "right": 0, "in": 20, "out": 0}
    assert gate.done == [moved, {"command": "reboot"}]


async def test_a_command_that_is_too_old_by_its_own_time_is_dropped_by_the_destination(gate: Gate) -> None:
    def play() -> None:
        gate.start()
        late = gate.ask("reboot", "late", camera="gate-3", asked_at=at(120))
        delivery = gate.ended(late["result"]["id"])
        assert delivery["state"] == "expired"
        assert "never replayed late" in delivery["reason"]
        soon = gate.ask("reboot", "soon", camera="gate-3", asked_at=at(1))
        assert gate.ended(soon["result"]["id"])["state"] == "delivered"

    await asyncio.to_thread(play)
    assert gate.done == [{"command": "reboot"}]


async def test_a_command_that_waited_at_the_broker_is_done_only_if_it_says_that_it_is_young(gate: Gate) -> None:
    def play() -> None:
        gate.start()
        gate.rig.end()
        for name, body in (("silent", {}), ("old", {"asked_at": at(120)}), ("young", {"asked_at": at(0)})):
            request = {"id": name, "camera": "gate-3", **body}
            gate.onlooker.publish(f"{COMMAND}/reboot", json.dumps(request).encode())
        gate.start()
        refused = gate.onlooker.wait_for("response/silent")
        assert not refused["ok"]
        assert "may have waited at the broker" in refused["error"]
        assert gate.ask("reboot", "silent", camera="gate-3") == refused
        assert gate.ended(gate.onlooker.wait_for("response/old")["result"]["id"])["state"] == "expired"
        assert gate.ended(gate.onlooker.wait_for("response/young")["result"]["id"])["state"] == "delivered"

    await asyncio.to_thread(play)
    assert gate.done == [{"command": "reboot"}]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("ptz", {}, "camera: Field required"),
    ("ptz", {"camera": "gate-3", "up": 101}, "up: Input should be less than or equal to 100"),
    ("ptz", {"camera": "gate-3", "up": [1]}, "up"),
    ("ptz", {"camera": "gate-3", "\x1b[31m": 1}, "Extra inputs are not permitted"),
    ("ptz", {"camera": "gate-3", "priority": "normal"}, "priority: Input should be 'emergency' or 'high'"),
    ("ptz", {"camera": "{{ 7*7 }}"}, "name: it must be plain, nothing is filled in here"),
    ("ptz", {"camera": "gate-3", "command": "{% raw %}"}, "command: it must be plain"),
    ("reboot", {"camera": "gate-3", "up": 1}, "up: Extra inputs are not permitted"),
    ("reboot", {"camera": "gate-3", "asked_at": "yesterday"}, "asked_at: "),
    ("reboot", {"camera": "gate-3", "destination": "nowhere"}, "no destination nowhere; there are: rapidsos, vms"),
    ("reboot", {"camera": "gate-3", "destination": "rapidsos"}, "rapidsos has no action reboot; there are: upload"),
]


async def test_what_could_never_be_done_is_refused_and_is_no_item(gate: Gate) -> None:
    def play() -> None:
        gate.start()
        for number, (name, arguments, said) in enumerate(REFUSED):
            answer = gate.ask(name, f"x{number}", **arguments)
            assert (answer["id"], answer["ok"]) == (f"x{number}", False)
            assert said in answer["error"]
            assert "\x1b" not in answer["error"]
        assert gate.rig.json("items")["items"] == []

    await asyncio.to_thread(play)
    assert gate.done == []


async def test_with_several_watchers_the_destination_must_be_named_and_without_any_it_is_said(
    gate: Gate, tmp_path: Path, broker: Mosquitto
) -> None:
    gate.add_destination("other")

    def play() -> None:
        gate.start()
        answer = gate.ask("reboot", "1", camera="gate-3")
        assert answer["error"] == "destination: several can do this, name one: other, vms"
        assert gate.ask("reboot", "2", camera="gate-3", destination="vms")["ok"]
        wait_for(lambda: gate.done, "it is done")
        text = gate.rig.config.read_text()
        gate.rig.config.write_text(text[: text.index("[destination.vms]")])
        gate.rig.end()
        gate.start()
        answer = gate.ask("reboot", "3", camera="gate-3", asked_at=at(0))
        assert answer["error"] == "no destination of this relay has an action reboot"

    await asyncio.to_thread(play)
    assert gate.done == [{"command": "reboot"}]
