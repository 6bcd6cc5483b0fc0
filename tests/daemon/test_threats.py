"""All destinations at once against a server that means no good: no secret shows anywhere, nothing follows it to another
host, and it can neither stop the relay nor write to a terminal.
"""

from __future__ import annotations

import base64
import json
import re
import tarfile
import urllib.parse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client
import paho.mqtt.enums
import paho.mqtt.publish
import pytest

from tests.broker.mosquitto import Mosquitto
from tests.daemon.hostile import MOODS, Hostile
from tests.daemon.running import REPOSITORY, RunningRelay, wait_for

STILL = (REPOSITORY / "tests" / "media" / "frame.jpg").read_bytes()
SECRETS = {
    "RAPIDSOS": "rapid-Sommer2026",
    "SHARE": "share/c0rrect+horse=battery",
    "SAYVU": "ak_9fJq27TzRm4kXw81",
    "CACHET": "17|VbQ8sLz0pWm3nXk9RtYc5",
    "WATCHER": "gate keeper's pass",
    "HOOK": "whsec_c2VlZGVkLXNpZ25pbmcta2V5",
    "HOOK_TOKEN": "hook.token.of.the.desk",
    "HOOK_HEADER": "k3y-in-a-header",
    "BROKER": "br0ker-Passw0rd",
    "FLEET": "fl33t-Passw0rd",
    "WEB": "web-page-token-77",
}
TOKENS = [f"t0ken-{number}-{'abcdefgh'[number]}QzX81" for number in range(6)]
CONFIG = """
[device]
id = "amb-0417"
location = {{ latitude = 55.4, longitude = 10.4 }}
[spool]
path = "{spool}"
min_free = "1MB"
[web]
listen = "127.0.0.1:0"
token = {{ env = "WEB" }}
[broker.local]
url = "{broker}"
username = "amb"
password = {{ env = "BROKER" }}
[broker.fleet]
url = "{broker}"
username = "amb-0417"
password = {{ env = "FLEET" }}
[fleet]
broker = "fleet"
commands = ["status", "retry", "flush"]
health_every = "1s"
[health]
fault_after = "0s"
waiting_after = "1s"
whole_after = "1s"
[source.camera]
type = "folder"
path = "{drop}"
settle = "100ms"
rescan = "1s"
[source.button]
type = "mqtt"
broker = "local"
topics = ["threat/#"]
[destination.rapidsos]
type = "rapidsos"
url = "{url}"
client_id = "me"
client_secret = {{ env = "RAPIDSOS" }}
{quick}
[destination.share]
type = "incidentshare"
url = "{url}"
client_id = "me"
client_secret = {{ env = "SHARE" }}
stream_id = "vehicle-12"
look_for = "200ms"
{quick}
[destination.room]
type = "sayvu"
url = "{url}"
api_key = {{ env = "SAYVU" }}
mode = "training"
{quick}
[destination.page]
type = "cachet"
url = "{url}/api"
token = {{ env = "CACHET" }}
{quick}
[destination.vms]
type = "watcher"
url = "{url}/watcher/client-api/v3"
login = "me"
password = {{ env = "WATCHER" }}
look_every = "1s"
{quick}
[[destination.vms.camera]]
name = "gate-3"
title = "Gate 3"
organization = "Acme"
[destination.desk]
type = "webhook"
url = "{url}/desk"
secret = {{ env = "HOOK" }}
token = {{ env = "HOOK_TOKEN" }}
headers = {{ X-Api-Key = {{ env = "HOOK_HEADER" }} }}
{quick}
[[rule]]
name = "media"
from = ["camera"]
deliver = [
  {{ to = "rapidsos" }},
  {{ to = "share", action = "media" }},
  {{ to = "desk" }},
]
[[rule]]
name = "messages"
from = ["button"]
incident = {{ key = "{{{{ item.topic }}}}", collect = ["camera"], before = "60s", after = "10m" }}
deliver = [
  {{ to = "room", action = "report", category = "Violence", description = "{{{{ payload }}}}" }},
  {{ to = "room", action = "message", text = "{{{{ item.topic }}}}" }},
  {{ to = "share", action = "sms", phone_number = "+4512345678", notes = "{{{{ item.topic }}}}" }},
  {{ to = "share", action = "email", email = "a@example.org" }},
  {{ to = "page", action = "incident", key = "{{{{ item.topic }}}}", status = "investigating" }},
  {{ to = "vms", action = "message", body = "{{{{ item.topic }}}}", user_id = 12 }},
  {{ to = "desk" }},
]
[[rule]]
name = "own faults"
from = ["relayd"]
deliver = [{{ to = "page", action = "incident" }}]
"""
QUICK = 'backoff_first = "20ms"\nbackoff_cap = "100ms"\nconcurrency = 4'
EACH = ("rapidsos", "share", "room", "page", "desk")


class Besieged(RunningRelay):
    """A relay whose destinations are all the one hostile server, and somebody who listens to what the fleet hears."""

    def __init__(self, folder: Path, broker: Mosquitto, server: Hostile) -> None:
        super().__init__(folder)
        self.config.write_text(
            CONFIG.format(spool=self.spool, drop=self.drop, url=server.url, broker=broker.url, quick=QUICK)
        )
        self.environment |= SECRETS
        self.broker = broker
        self.heard: list[str] = []
        self.ear = paho.mqtt.client.Client(paho.mqtt.enums.CallbackAPIVersion.VERSION2)
        self.ear.on_message = self._hear
        self.ear.connect("127.0.0.1", broker.port)
        self.ear.subscribe("#", 1)
        self.ear.loop_start()

    def _hear(self, _: Any, __: Any, message: paho.mqtt.client.MQTTMessage) -> None:
        self.heard.append(f"{message.topic} {message.payload.decode()}")

    def command(self, *words: str) -> list[str]:
        return [*super().command(*words), *(["--log-level", "debug"] if words == ("run",) else [])]

    def feed(self, number: int) -> None:
        """One file and one message more."""
        partial = self.drop / f".{number}.part"
        partial.write_bytes(STILL + bytes([number]))
        partial.rename(self.drop / f"still-{number}.jpg")
        paho.mqtt.publish.single(
            f"threat/{number}", json.dumps({"n": number}), qos=1, hostname="127.0.0.1", port=self.broker.port
        )

    def everything_shown(self, bundle: Path) -> dict[str, str]:
        """Every text that relayd gives to anybody, by where."""
        rows = self.json("items", "--limit", "10000")["items"]
        incidents = self.json("incidents")["incidents"]
        self.call("doctor", "--bundle", bundle, "--online")
        with tarfile.open(bundle) as packed:
            parts = {
                f"doctor {part.name}": (packed.extractfile(part) or bundle.open("rb")).read().decode()
                for part in packed.getmembers()
                if part.isfile()
            }
        words = [
            *(
                ["status"],
                ["items"],
                ["incidents"],
                ["cameras"],
                ["check", "--online"],
                ["doctor"],
                ["status", "--json"],
            ),
            *(["items", "show", row["id"]] for row in rows),
            *(["items", "show", row["id"], "--json"] for row in rows),
            *(["why", row["id"]] for row in rows),
            *(["incidents", "show", one["id"], "--json"] for one in incidents),
        ]
        return {
            "log": self.log.read_text(),
            "fleet": "\n".join(self.heard),
            "metrics": self.ask("GET", "/metrics").body.decode(),
            **{" ".join(each): self.call(*each).output for each in words},
            **parts,
        }

    def stop(self) -> None:
        self.ear.loop_stop()
        self.end()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path / "mosquitto").start()
    yield made
    made.kill()


def forms_of(secret: str) -> set[str]:
    """As it is, and as it travels: percent-encoded, in a form, in base64, with `me:` before it."""
    pair = f"me:{secret}"
    return {
        secret,
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote_plus(secret),
        *(base64.b64encode(text.encode()).decode().rstrip("=") for text in (secret, pair)),
        json.dumps(secret)[1:-1],
    }


@pytest.mark.timeout(300)
def test_of_twenty_secrets_none_shows_anywhere_whatever_the_server_answers(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    server, other = Hostile(TOKENS), Hostile(TOKENS, host="127.0.0.2")
    server.elsewhere = other.url
    relay = Besieged(tmp_path / "relay", broker, server)
    try:
        relay.start()
        wait_for(lambda: relay.json("status")["brokers"]["local"]["state"] == "ok", "it hears its broker")
        for number, mood in enumerate(MOODS):
            server.mood = mood
            relay.feed(number)
            relay.call("retry", "--all")
            relay.call("resume")
            before = len(server.seen)
            wait_for(partial(server.has_seen, before + 12), f"they are answered: {mood}")
        status = relay.json("status")
        shown = relay.everything_shown(tmp_path / "bundle.tar.gz")
    finally:
        relay.stop()
        server.close()
        other.close()
    assert not other.seen, "nothing follows a redirect to another host"
    hits = {
        f"{secret} in {place}"
        for secret in [*SECRETS.values(), *TOKENS]
        for form in forms_of(secret)
        for place, text in shown.items()
        if form in text
    }
    assert not hits, sorted(hits)
    sent = " ".join(f"{path} {headers} {body!r}" for path, headers, body in server.seen)
    in_play = [name for name, value in SECRETS.items() if any(form in sent for form in forms_of(value))]
    assert in_play == ["RAPIDSOS", "SHARE", "SAYVU", "CACHET", "WATCHER", "HOOK_TOKEN", "HOOK_HEADER"]
    assert sum(token in sent for token in TOKENS) >= 4
    for place, text in shown.items():
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text), place
    assert max(map(len, shown["log"].splitlines())) < 3000
    assert "Traceback" not in shown["log"]
    assert status["process"]["rss_bytes"] < 250e6, "answers of ten megabytes are not kept"
