"""Names, topics and payloads of strangers on their way through every destination of the real program, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import paho.mqtt.client
import paho.mqtt.enums
import pytest

from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.daemon.running import REPOSITORY, wait_for

STILL = (REPOSITORY / "tests" / "media" / "frame.jpg").read_bytes()
SECRETS = {
    "SECRET": "sandbox-secret",
    "SAYVU": "ak_sandbox",
    "CACHET": "1|sandbox",
    "WATCHER": "sandbox-password",
}
CONFIG = """
[device]
id = "amb-0417"
location = {{ latitude = 55.4, longitude = 10.4 }}
[spool]
path = "{spool}"
min_free = "1MB"
[broker.local]
url = "{broker}"
[fleet]
broker = "local"
[source.camera]
type = "folder"
path = "{drop}"
settle = "100ms"
rescan = "1s"
[source.button]
type = "mqtt"
broker = "local"
topics = ["threat/#"]
max_message = "1MB"
[destination.rapidsos]
type = "rapidsos"
url = "{url}"
client_id = "sandbox"
client_secret = {{ env = "SECRET" }}
[destination.share]
type = "incidentshare"
url = "{url}"
client_id = "sandbox"
client_secret = {{ env = "SECRET" }}
[destination.room]
type = "sayvu"
url = "{url}"
api_key = {{ env = "SAYVU" }}
mode = "training"
[destination.page]
type = "cachet"
url = "{url}/api"
token = {{ env = "CACHET" }}
[destination.vms]
type = "watcher"
url = "{url}/watcher/client-api/v3"
login = "gateway"
password = {{ env = "WATCHER" }}
[destination.desk]
type = "webhook"
url = "{url}/webhook"
[destination.nas]
type = "folder"
path = "{nas}"
[[rule]]
name = "media"
from = ["camera"]
when = "incident"
deliver = [
  {{ to = "rapidsos", then = [
    {{ to = "room", action = "message", text = "{{{{ item.name }}}}: {{{{ receipt.uri }}}}" }},
  ] }},
  {{ to = "share", action = "media" }},
  {{ to = "room", action = "image" }},
  {{ to = "desk" }},
  {{ to = "nas" }},
]
[[rule]]
name = "messages"
from = ["button"]
incident = {{ key = "all", collect = ["camera"], before = "10m", after = "10m" }}
deliver = [
  {{ to = "room", action = "report", category = "Violence", description = "{text}" }},
  {{ to = "room", action = "message", text = "{text}" }},
  {{ to = "share", action = "sms", phone_number = "+4512345678", notes = "{text}" }},
  {{ to = "page", action = "incident", key = "{topic}", status = "watching", name = "{topic}", message = "{text}" }},
  {{ to = "vms", action = "message", body = "{text}", user_id = 12 }},
  {{ to = "desk" }},
]
"""
TEXT = "{{ (item.topic ~ ' ' ~ (payload.text | default('none')))[:900] }}"
TOPIC = "{{ item.topic[:150] }}"
NAMES = [
    b"{{ 7*7 }}{% for x in y %}.jpg",
    b"{0.__class__}%s%n.jpg",
    b"two\nlines\r\nSet-Cookie: a=b.jpg",
    b"\x1b]0;owned\x07\x1b[2J.jpg",
    b'quote"and\'and;filename="x.jpg',
    b"$(id)`id`|id.jpg",
    b"-rf.jpg",
    b"%2e%2e%2f%00.jpg",
    b"wild+card#.jpg",
    b"\xff\xfe not utf-8.jpg",
    "\u202egpj.exe.jpg".encode(),
    "カメラ ä ß 🚑.jpg".encode(),
    b"x" * 251 + b".jpg",
    b"  blanks  .jpg",
]
TOPICS = ["threat/{{ 7*7 }}", "threat/a\u202eb", "threat/" + "long/" * 60, "threat/ä 🚑", "threat/$SYS/%00"]
PAYLOADS = [
    json.dumps({"text": "{{ 7*7 }}{% raw %}\x1b[2J\r\nX: y\u202e</script>"}).encode(),
    json.dumps({"x" * 65_536: 1, "text": "key"}).encode(),
    b'{"text": ' + b'"' + b"y" * 200_000 + b'"}',
    b"[" * 5_000 + b"]" * 5_000,
    b'{"text": NaN, "text": "twice", "a": 1e999, "b": 123456789012345678901234567890}',
    b"\xff\xfe\x00 no text at all",
    b"",
]


class Stage(Rig):
    """A relay with every destination of the sandbox, and a network drive."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        super().__init__(folder)
        self.nas = folder / "nas"
        self.nas.mkdir()
        self.config.write_text(
            CONFIG.format(
                spool=self.spool, drop=self.drop, url=self.url, broker=broker.url, nas=self.nas, text=TEXT, topic=TOPIC
            )
        )
        self.environment |= SECRETS

    def there(self, what: str) -> Any:
        with urlopen(f"{self.url}/_sandbox/{what}", timeout=10) as answer:
            return json.load(answer)

    def is_over(self, items: int) -> bool:
        spool = self.json("status")["spool"]
        return bool(spool["items"] >= items and spool["pending"] == 0)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path / "mosquitto").start()
    yield made
    made.kill()


def publish(broker: Mosquitto, topic: str, payload: bytes) -> None:
    client = paho.mqtt.client.Client(paho.mqtt.enums.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    client.publish(topic, payload, qos=1).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


@pytest.mark.timeout(600)
def test_what_strangers_call_things_arrives_everywhere_and_does_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    stage = Stage(tmp_path / "relay", broker)
    stage.start_sandbox()
    stage.start()
    try:
        wait_for(lambda: stage.json("status")["brokers"]["local"]["state"] == "ok", "it hears its broker")
        contents = {}
        for number, name in enumerate(NAMES):
            content = STILL + number.to_bytes(4, "big")
            contents[name] = hashlib.sha256(content).hexdigest()
            partial = os.fsencode(stage.drop) + b"/." + str(number).encode() + b".part"
            Path(os.fsdecode(partial)).write_bytes(content)
            Path(os.fsdecode(partial)).rename(os.fsdecode(os.fsencode(stage.drop) + b"/" + name))
        wait_for(lambda: not os.listdir(stage.drop), "every file is taken")
        messages = [(topic, PAYLOADS[0]) for topic in TOPICS] + [("threat/x", payload) for payload in PAYLOADS]
        for topic, payload in messages:
            publish(broker, topic, payload)
        wait_for(lambda: stage.is_over(len(NAMES) + len(messages)), "all of it is delivered", 120)
        dead = stage.json("items", "--state", "dead")["items"]
        reasons = [
            f"{item['name']}: {one['destination']} {one['action']}: {one['reason']}"
            for item in dead
            for one in item["deliveries"]
            if one["state"] == "dead"
        ]
        assert reasons == []
        digests = set(contents.values())
        assert {stored.sha256 for stored in stage.objects().values()} == digests
        assert {media["sha256"] for media in stage.there("incidentshare")["media"]} == digests
        reports = stage.there("sayvu")["reports"].values()
        assert {image["sha256"] for report in reports for image in report["images"]} == digests
        copies = [path for path in stage.nas.rglob("*") if path.is_file()]
        assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in copies} == digests
        lines = [line for report in reports for line in report["lines"]]
        assert any("{{ 7*7 }}" in line for line in lines)
        assert not any("49" in line for line in lines if "7*7" in line or "threat" in line)
        shown = stage.log.read_text() + "".join(
            stage.call(*words).output for words in (["items"], ["incidents"], ["status"], ["items", "--json"])
        )
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
        assert "Traceback" not in shown
    finally:
        stage.stop()
