"""The configuration of the interface and the two examples, as they are written: only their addresses, secrets and
folders are moved to this machine. Each is checked, started, and plays what its comments say.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import paho.mqtt.publish
import pytest

from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.daemon.running import REPOSITORY, wait_for

CONTRACT = REPOSITORY / "tests" / "unit" / "config_samples" / "contract.toml"
VEHICLE, SITE = (REPOSITORY / "config" / "examples" / f"{name}.toml" for name in ("vehicle", "site"))
MEDIA = REPOSITORY / "tests" / "media"
STILL, CLIP = (MEDIA / "frame.jpg").read_bytes(), (MEDIA / "clip.mp4").read_bytes()
SECRETS = {
    "rapidsos": "sandbox-secret",
    "incidentshare": "sandbox-secret",
    "sayvu": "ak_sandbox",
    "cachet": "1|sandbox",
    "watcher": "sandbox-password",
    "fleet-password": "of-the-fleet",
    "web-token": "of-the-page",
    "desk-key": "of-the-desk",
}
SECONDS = 60.0


class Home(Rig):
    """One of the files on this machine, with a sandbox and a broker."""

    def __init__(self, folder: Path, broker: Mosquitto, place: Path) -> None:
        super().__init__(folder)
        self.broker = broker
        self.nas = folder / "nas"
        self.nas.mkdir()
        credentials = folder / "credentials"
        credentials.mkdir()
        for name, value in SECRETS.items():
            (credentials / name).write_text(value)
        self.environment["CREDENTIALS_DIRECTORY"] = str(credentials)
        self.config.write_text(self._moved(place.read_text(encoding="utf-8"), credentials))

    def _moved(self, text: str, credentials: Path) -> str:
        for pattern, here in (
            (r'"mqtts?://[^"]*"', f'"{self.broker.url}"'),
            (r'"https://desk\.example\.org/relay"', f'"{self.url}/webhook"'),
            (r'"https://[a-z.-]+(/api|/watcher/client-api/v3)?"', rf'"{self.url}\1"'),
            (r'client_id = "[^"]*"', 'client_id = "sandbox"'),
            (r'"/etc/relayd/secrets/rapidsos"', f'"{credentials}/rapidsos"'),
            (r'"/var/lib/relayd"', f'"{self.spool}"'),
            (r'"/srv/(?:cameras/front|ftp/gates)"', f'"{self.drop}"'),
            (r'"/mnt/nas/relayd"', f'"{self.nas}"'),
            (r"must_be_mounted = true", "must_be_mounted = false"),
            (r'min_free = "[^"]*"', 'min_free = "1MB"'),
            (r"\[spool\]\n(?!path)", f'[spool]\npath = "{self.spool}"\n'),
            (r'\[web\]\nlisten = "[^"]*"', '[web]\nlisten = "127.0.0.1:0"'),
        ):
            text = re.sub(pattern, here, text)
        return f'{text}\n[health]\nfault_after = "200ms"\nwhole_after = "1s"\n'

    def publish(self, topic: str, **payload: object) -> None:
        paho.mqtt.publish.single(topic, json.dumps(payload), qos=1, hostname="127.0.0.1", port=self.broker.port)

    def there(self, what: str, **wish: object) -> Any:
        """What a server has, or what somebody does there."""
        body = json.dumps(wish).encode() if wish else None
        with urlopen(Request(f"{self.url}/_sandbox/{what}", data=body), timeout=10) as answer:
            return json.load(answer)

    def is_heard(self) -> bool:
        status: Any = self.status()
        return status is not None and all(broker["state"] == "ok" for broker in status["brokers"].values())

    def owes_nothing(self) -> bool:
        spool = self.json("status")["spool"]
        assert spool["dead"] == 0, self.call("items", "--state", "dead", "--json").output
        return bool(spool["pending"] == 0)

    def reports(self) -> list[dict[str, Any]]:
        return list(self.there("sayvu")["reports"].values())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    made = Mosquitto(tmp_path / "mosquitto").start()
    yield made
    made.kill()


@pytest.fixture
def home(tmp_path: Path, broker: Mosquitto, request: pytest.FixtureRequest) -> Iterator[Home]:
    it = Home(tmp_path / "home", broker, request.param)
    it.start_sandbox()
    it.start()
    wait_for(it.is_heard, "it hears its brokers")
    yield it
    it.stop()


def posted(home: Home) -> list[dict[str, Any]]:
    """What the desk was told: episodes, and what is wrong with the gateway (its clock, for example)."""
    return [post["payload"] for post in home.there("webhook")["posts"].values()]


def play_the_button(home: Home) -> None:
    """A still before, a still and a clip after; what both the interface and the vehicle promise of them."""
    home.drop_file("before.jpg", STILL)
    wait_for(lambda: home.is_taken("before.jpg"), "the first still is taken")
    home.publish("vehicle/gps", latitude=55.5, longitude=10.5)
    home.publish("vehicle/panic", pressed=True)
    wait_for(lambda: len(home.reports()) == 1, "the control center has its report")
    home.drop_file("after.mp4", CLIP)
    wait_for(lambda: len(home.there("incidentshare")["media"]) == 2, "both are on the stream", SECONDS)
    wait_for(home.owes_nothing, "all of it is delivered", SECONDS)
    (report,) = home.reports()
    assert report["body"]["description"] == "Panic button in Ambulance 417"
    assert (report["body"]["location"]["y"], report["body"]["location"]["x"]) == (55.5, 10.5)
    assert {line.split(":")[0] for line in report["lines"] if "ref://" in line} == {"before.jpg", "after.mp4"}
    assert hashlib.sha256(STILL).hexdigest() in {image["sha256"] for image in report["images"]}
    share = home.there("incidentshare")
    (stream,) = {link["stream_id"] for link in share["links"]}
    assert {(media["stream_id"], media["sha256"]) for media in share["media"]} == {
        (stream, hashlib.sha256(content).hexdigest()) for content in (STILL, CLIP)
    }
    assert home.is_stored("before.jpg")
    assert home.is_stored("after.mp4")
    (incident,) = home.json("incidents")["incidents"]
    assert (incident["state"], incident["items"]) == ("open", 3)
    assert incident["remote"]["incidentshare"]["stream_id"] == stream


def play_the_camera(home: Home) -> None:
    """The camera of the Watcher waits for its QR code, is activated, and kept as configured."""

    def camera() -> dict[str, Any]:
        (found,) = home.json("cameras")["cameras"]
        assert isinstance(found, dict)
        return found

    wait_for(lambda: camera()["token"], "there is a token to show")
    stream = home.there("watcher/scan", token=camera()["token"])["stream_name"]
    wait_for(lambda: camera()["stream_name"] == stream, "it is activated", SECONDS)
    wait_for(lambda: home.there("watcher")["streams"][stream]["config"]["title"] == "Gate 3", "as configured", SECONDS)


def play_a_fault(home: Home) -> None:
    """A folder that goes away opens one incident on the status page, and resolves it when it is back."""
    gone = home.drop.with_name("gone")
    home.drop.rename(gone)
    (page,) = wait_for(lambda: home.there("cachet")["incidents"], "the status page shows it", SECONDS)
    assert page["status"] == 1
    gone.rename(home.drop)
    wait_for(lambda: home.there("cachet")["incidents"][0]["status"] == 4, "it is resolved", SECONDS)
    assert len(home.there("cachet")["incidents"]) == 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("home", [CONTRACT], indirect=True)
def test_the_configuration_of_the_interface_plays_the_whole_story(home: Home) -> None:
    play_the_button(home)
    play_the_camera(home)
    play_a_fault(home)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("home", [VEHICLE], indirect=True)
def test_the_example_of_a_vehicle_does_what_it_says(home: Home) -> None:
    play_the_button(home)
    home.publish("vehicle/panic", pressed=False)
    wait_for(lambda: any("Released at" in line for line in home.reports()[0]["lines"]), "the all clear is said")
    wait_for(lambda: home.json("incidents")["incidents"][0]["state"] == "closed", "the incident is closed")
    home.drop_file("later.mp4", CLIP + b"\0\0\0\x08free")
    wait_for(lambda: home.is_stored("later.mp4"), "what comes later goes to RapidSOS", SECONDS)
    assert len(home.there("incidentshare")["media"]) == 2


@pytest.mark.timeout(600)
@pytest.mark.parametrize("home", [SITE], indirect=True)
def test_the_example_of_a_site_does_what_it_says(home: Home) -> None:
    folder = home.drop / "gate-1" / "20260131"
    folder.mkdir(parents=True)
    (folder / "0815.jpg").write_bytes(STILL)
    wait_for((home.nas / "gate-1" / "20260131" / "0815.jpg").is_file, "it is on the drive", SECONDS)
    wait_for(home.objects, "and at RapidSOS", SECONDS)
    now = int(time.time() * 1000)
    home.there("watcher/episode", episode_id=7051, media="cam-1", opened_at=now, updated_at=now)
    wait_for(lambda: any("7051" in json.dumps(told) for told in posted(home)), "the desk has the episode", SECONDS)
    play_the_camera(home)
    play_a_fault(home)


@pytest.mark.parametrize("place", [CONTRACT, VEHICLE, SITE], ids=lambda place: place.stem)
def test_check_finds_nothing_to_remark_but_what_is_not_built_yet(
    place: Path, tmp_path: Path, broker: Mosquitto
) -> None:
    home = Home(tmp_path / "home", broker, place)
    done = home.call("check")
    assert done.exit_code == 0, done.output
    remarks = [line for line in done.output.splitlines() if re.match(r".*:\d+: ", line)]
    assert all(re.search(r": (web|link\.wwan0): has no effect yet", line) for line in remarks), remarks
