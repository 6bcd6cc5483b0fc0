"""Somebody who watches the fleet's topics with paho alone, and judges every payload by the published schemas."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import jsonschema
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from relayd import reports, status
from tests.broker.mosquitto import Mosquitto
from tests.patience import PATIENT_SECONDS

BASE = "relayd/v1"
SCHEMAS = {
    "state": reports.state_schema(),
    "health": status.json_schema(),
    "event": reports.event_schema(),
    "response": reports.response_schema(),
}


@dataclass(frozen=True)
class Seen:
    """One message. `is_retained`: the broker had kept it."""

    topic: str
    payload: bytes
    is_retained: bool

    @property
    def document(self) -> Any:
        return json.loads(self.payload)


class Onlooker:
    """Connected from its making to `close`; it finds the broker again by itself."""

    def __init__(self, broker: Mosquitto) -> None:
        self._seen: list[Seen] = []
        self._faults: list[str] = []
        self._news = threading.Condition()
        self._is_subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"onlooker-{uuid4().hex}")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe([("#", 1)]) and None
        self._client.on_subscribe = lambda *_: self._is_subscribed.set()
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._is_subscribed.wait(10)

    def close(self) -> None:
        """Raises AssertionError if any payload did not fit its schema."""
        self._client.disconnect()
        self._client.loop_stop()
        assert self._faults == []

    # --- looking

    def all(self, topic: str) -> list[Seen]:
        """Every message under a topic so far; `topic` is the whole one, or what follows the device."""
        with self._news:
            return [one for one in self._seen if topic in (one.topic, _inner(one.topic))]

    def seen(self) -> list[Seen]:
        """Everything so far."""
        with self._news:
            return list(self._seen)

    def all_below(self, level: str) -> list[Seen]:
        """Every message whose topic goes on after the device with this level."""
        with self._news:
            return [one for one in self._seen if _inner(one.topic).startswith(f"{level}/")]

    def documents(self, topic: str) -> list[Any]:
        return [one.document for one in self.all(topic)]

    def wait_for(
        self, topic: str, true: Callable[[Any], Any] = lambda _: True, seconds: float = PATIENT_SECONDS
    ) -> Any:
        """The first document under the topic for which it is true."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                for one in self._seen:
                    if topic in (one.topic, _inner(one.topic)) and one.payload and true(one.document):
                        return one.document
                left = deadline - time.monotonic()
                assert left > 0, f"nothing such under {topic}: {[one.topic for one in self._seen][-30:]}"
                self._news.wait(left)

    def forget(self) -> None:
        """Look at what comes from now on."""
        with self._news:
            self._seen.clear()

    # --- asking

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def ask(self, device: str, name: str, command_id: str, /, *, seconds: float = 15.0, **arguments: Any) -> Any:
        """Send a command; its answer, if it comes within so many seconds."""
        before = len(self.all(f"response/{command_id}"))
        self.publish(f"{BASE}/{device}/command/{name}", json.dumps({"id": command_id, **arguments}).encode())
        deadline = time.monotonic() + seconds
        with self._news:
            while len(found := [one for one in self._seen if _inner(one.topic) == f"response/{command_id}"]) <= before:
                left = deadline - time.monotonic()
                assert left > 0, f"no answer to {name} {command_id}"
                self._news.wait(left)
        return found[before].document

    def _take(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        seen = Seen(message.topic, bytes(message.payload), message.retain)
        kind = _inner(seen.topic).partition("/")[0]
        if kind in SCHEMAS and seen.payload:
            try:
                jsonschema.validate(seen.document, SCHEMAS[kind])
            except (ValueError, jsonschema.ValidationError) as error:
                self._faults.append(f"{seen.topic}: {error}")
        with self._news:
            self._seen.append(seen)
            self._news.notify_all()


def _inner(topic: str) -> str:
    """What follows the device; the whole topic where it is none of the fleet's."""
    levels = topic.removeprefix(f"{BASE}/").partition("/")
    return levels[2] if topic.startswith(f"{BASE}/") else topic
