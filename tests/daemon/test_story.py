"""The story: a panic button in a dead zone, pictures before and after it, a clip, and a backlog of bulk footage.

Whatever the order in which things come and whenever the relay is killed: one report, its lines and pictures on it, the
clip on the stream that the SMS opened, every file once and unaltered at RapidSOS, and the bulk behind what is urgent.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import paho.mqtt.publish
import pytest

from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

CONFIG = """
[device]
id = "amb-0417"
name = "Ambulance 417"
location = {{ latitude = 55.403, longitude = 10.402 }}
[spool]
path = "{spool}"
min_free = "1MB"
[broker.local]
url = "{broker}"
[source.panic]
type = "mqtt"
broker = "local"
topics = ["vehicle/panic"]
[source.front]
type = "folder"
path = "{drop}"
settle = "100ms"
rescan = "1s"
[source.trunk]
type = "folder"
path = "{trunk}"
settle = "100ms"
rescan = "1s"

[destination.rapidsos]
type = "rapidsos"
url = "{url}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SECRET" }}
backoff_first = "50ms"
backoff_cap = "300ms"
[destination.control-room]
type = "sayvu"
url = "{url}"
api_key = {{ env = "TEST_KEY" }}
mode = "training"
backoff_first = "50ms"
backoff_cap = "300ms"
[destination.share]
type = "incidentshare"
url = "{url}"
client_id = "sandbox"
client_secret = {{ env = "TEST_SHARE" }}
backoff_first = "50ms"
backoff_cap = "300ms"
look_for = "300ms"

[[rule]]
name = "panic"
from = ["panic"]
when = "payload.pressed"
priority = "emergency"
incident = {{ key = "panic-{{{{ device.id }}}}", collect = ["front"], before = "10m", after = "10m" }}
deliver = [
  {{ to = "control-room", action = "report", category = "Violence", description = "Panic in {{{{ device.name }}}}" }},
  {{ to = "control-room", action = "message", text = "pressed" }},
  {{ to = "share", action = "sms", phone_number = "+4512345678" }},
]
[[rule]]
name = "stills"
from = ["front"]
when = "incident and item.content_type == 'image/jpeg'"
priority = "high"
deliver = [
  {{ to = "control-room", action = "image" }},
  {{ to = "rapidsos", then = [
    {{ to = "control-room", action = "message", text = "{{{{ item.name }}}}: {{{{ receipt.uri }}}}" }},
  ] }},
]
[[rule]]
name = "clips"
from = ["front"]
when = "incident and item.content_type == 'video/mp4'"
deliver = [ {{ to = "share", action = "media" }} ]
[[rule]]
name = "bulk"
from = ["trunk"]
priority = "bulk"
deliver = [ {{ to = "rapidsos" }} ]
"""
CLIP = (Path(__file__).parents[1] / "media" / "clip.mp4").read_bytes()
STILLS, BULK = 4, 6


class Story(Rig):
    """The relay, its world, and what was dropped into it."""

    def __init__(self, folder: Path, broker: Mosquitto, seed: int) -> None:
        super().__init__(folder)
        self.chance = random.Random(seed)
        self.broker = broker
        self.trunk = folder / "trunk"
        self.trunk.mkdir()
        self.config.write_text(
            CONFIG.format(spool=self.spool, drop=self.drop, trunk=self.trunk, url=self.url, broker=broker.url)
        )
        self.environment |= {"TEST_KEY": "ak_sandbox", "TEST_SHARE": "sandbox-secret"}
        self.stills: dict[str, str] = {}
        self.bulk: dict[str, str] = {}

    def still(self) -> None:
        name, content = f"still-{len(self.stills)}.jpg", picture(self.chance, self.chance.choice((3_000, 40_000)))
        self.drop_file(name, content)
        self.stills[name] = hashlib.sha256(content).hexdigest()

    def clip(self) -> None:
        self.drop_file("clip.mp4", CLIP)

    def backlog(self) -> None:
        name, content = f"bulk-{len(self.bulk)}.jpg", picture(self.chance, 150_000)
        (self.trunk / f".{name}").write_bytes(content)
        (self.trunk / f".{name}").rename(self.trunk / name)
        self.bulk[name] = hashlib.sha256(content).hexdigest()

    def press(self) -> None:
        """As the dashboard does it: with QoS 1, and again until the broker has it."""
        paho.mqtt.publish.single(
            "vehicle/panic", '{"pressed": true}', qos=1, hostname="127.0.0.1", port=self.broker.port
        )

    def link(self, *, is_up: bool) -> None:
        self.ask_sandbox("/_sandbox/link", {"up": is_up})

    def there(self, what: str) -> Any:
        """What a server has."""
        with urlopen(f"{self.url}/_sandbox/{what}", timeout=10) as answer:
            return json.load(answer)

    def live(self, seconds: float) -> None:
        """Run for a while, then be killed and come back."""
        self.let_relay_run(seconds)
        self.kill_relay()
        self.spawn()

    def broker_is_heard(self) -> bool:
        """From now on the broker keeps for the relay what it misses while it is away."""
        status: Any = self.status()
        return status is not None and status["brokers"]["local"]["state"] == "ok"

    def has_opened(self) -> bool:
        status = self.status()
        return status is not None and status["incidents"]["open"] == 1

    def is_over(self) -> bool:
        """Everything was taken, and nothing is owed any more."""
        if any(not name.name.startswith(".") for folder in (self.drop, self.trunk) for name in folder.iterdir()):
            return False
        status = self.status()
        return status is not None and status["spool"]["pending"] == 0 and status["spool"]["delivered"] > BULK


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()


BEFORE = ["media", "press"]
AFTER = ["press", "media"]
AROUND = ["media", "press", "press", "media"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("order", "kills"),
    [
        pytest.param(BEFORE, "everywhere", id="media before the button"),
        pytest.param(AFTER, "everywhere", id="media after the button"),
        pytest.param(AROUND, "everywhere", id="media around the button"),
        pytest.param(AROUND, "offline", id="urgent before bulk"),
    ],
)
def test_the_story_ends_the_same_in_every_order_of_arrival(
    tmp_path: Path, broker: Mosquitto, order: list[str], kills: str
) -> None:
    story = Story(tmp_path / "relay", broker, seed=len(order))
    try:
        story.start_sandbox()
        story.start()
        wait_for(story.broker_is_heard, "the relay hears the broker")
        story.link(is_up=False)
        for _ in range(BULK):
            story.backlog()
        for number, scene in enumerate(order):
            if scene == "press":
                story.press()
            else:
                for _ in range(STILLS // order.count("media")):
                    story.still()
                if number == order.index("media"):
                    story.clip()
            story.live(story.chance.uniform(0.2, 1.5))
        wait_for(lambda: story.status() is not None, "the relay is back")
        wait_for(lambda: not list(story.drop.glob("*.*")) and story.has_opened(), "all of it is in the spool")
        story.link(is_up=True)
        for _ in range(3 if kills == "everywhere" else 0):
            story.live(story.chance.uniform(0.3, 1.0))
        wait_for(story.is_over, "everything is delivered")
        judge(story, is_in_order=kills == "offline")
    finally:
        story.stop()


def judge(story: Story, *, is_in_order: bool) -> None:
    tail = story.tail()
    (report,) = story.there("sayvu")["reports"].values()
    assert Counter(image["sha256"] for image in report["images"]).keys() == set(story.stills.values()), tail
    lines = Counter(report["lines"])
    assert lines["pressed"] >= 1
    assert {line.split(":")[0] for line in lines} == {"pressed", *story.stills}
    share = story.there("incidentshare")
    (stream,) = {link["stream_id"] for link in share["links"]}
    assert [(media["stream_id"], media["sha256"]) for media in share["media"]] == [
        (stream, hashlib.sha256(CLIP).hexdigest())
    ], tail
    stored = [one["sha256"] for one in story.there("objects")["objects"]]
    assert Counter(stored) == Counter([*story.stills.values(), *story.bulk.values()]), tail
    incidents = story.json("incidents")["incidents"]
    assert len(incidents) == 1
    assert incidents[0]["remote"]["share"]["stream_id"] == stream
    assert incidents[0]["items"] >= STILLS + 2
    status = story.json("status")
    assert status["spool"]["dead"] == 0
    if is_in_order:
        last_still = max(stored.index(digest) for digest in story.stills.values())
        ahead = [digest for digest in stored[:last_still] if digest in story.bulk.values()]
        assert len(ahead) <= 1, "the backlog got more than its share before what is urgent"
        effects = [entry["operation"] for entry in story.there("log")["log"] if entry["has_effect"]]
        assert effects.index("report") < effects.index("message")
        assert effects.index("report") < effects.index("image")
        assert effects.count("report") == 1
