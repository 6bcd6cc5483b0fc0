"""A reload leaves alone what did not change: the real process, a real server, a real broker."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

CHANCE = random.Random(11)
COPY = '\n[destination.usb]\ntype = "folder"\npath = "{path}"\n'
LISTENER = """
[broker.local]
url = "{url}"

[source.panic]
type = "mqtt"
broker = "local"
topics = ["vehicle/panic"]
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker").start()
    yield broker
    broker.kill()


def status(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = rig.ask("GET", "/api/v1/status").document
    return found


def items(rig: Rig) -> list[dict[str, Any]]:
    done = subprocess.run([*rig.command("items", "--json")], capture_output=True, check=True, timeout=30)
    listed: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return listed


def load(rig: Rig, text: str) -> None:
    """Write this configuration and have it loaded; it must be good."""
    rig.config.write_text(text)
    assert rig.process is not None
    rig.process.send_signal(signal.SIGHUP)
    wait_for(lambda: (now := status(rig)["config"])["is_current"] and now["error"] is None, f"loaded: {rig.tail()}")


def said(rig: Rig, words: str) -> int:
    return rig.log.read_text().count(words)


def test_an_upload_under_way_survives_the_change_of_another_destination(rig: Rig) -> None:
    rig.start_sandbox("store#1 slow 30000")
    rig.start()
    rig.drop_file("large.jpg", picture(CHANCE, 300_000))
    wait_for(rig.is_uploading, "the upload is under way")
    text = rig.config.read_text()
    for folder in ("one", "two"):  # comes, and is changed
        load(rig, text + COPY.format(path=rig.drop.parent / folder))
        assert status(rig)["destinations"]["rapidsos"]["under_way"] == 1
    load(rig, text)  # and goes
    wait_for(rig.has_arrived, "the upload ended")
    (item,) = items(rig)
    assert item["deliveries"][0]["attempts"] == 1
    assert rig.toll().is_clean
    assert said(rig, "is watched by inotify") == 1


def test_a_broker_stays_connected_when_sections_beside_it_change(rig: Rig, broker: Mosquitto) -> None:
    text = rig.config.read_text()
    rig.config.write_text(text + LISTENER.format(url=broker.url))
    rig.start()
    wait_for(lambda: status(rig)["brokers"]["local"]["state"] == "ok", "connected")
    for changed in (
        text.replace('settle = "100ms"', 'settle = "200ms"') + LISTENER.format(url=broker.url),
        text + LISTENER.format(url=broker.url) + COPY.format(path=rig.drop.parent / "usb"),
        text + LISTENER.format(url=broker.url).replace('"vehicle/panic"', '"vehicle/panic", "vehicle/door"'),
    ):
        load(rig, changed)
    with publisher(broker) as client:
        client.publish("vehicle/door", b'{"open": true}', qos=1).wait_for_publish(10)
    wait_for(lambda: status(rig)["sources"]["panic"]["captured"] == 1, "the new topic is subscribed to")
    assert len(re.findall(r"New client connected from .* as relayd-", broker.log.read_text())) == 1
    assert said(rig, "broker local: connected") == 1


def test_a_broker_whose_own_section_changed_connects_anew_and_nothing_sent_meanwhile_is_lost(
    rig: Rig, broker: Mosquitto
) -> None:
    text = rig.config.read_text() + LISTENER.format(url=broker.url)
    rig.config.write_text(text)
    rig.start()
    wait_for(lambda: status(rig)["brokers"]["local"]["state"] == "ok", "connected")
    with Publishing(broker) as publishing:
        for seconds in (31, 32, 33):
            load(rig, text.replace('url = "mqtt', f'keepalive = "{seconds}s"\nurl = "mqtt'))
            wait_for(lambda: status(rig)["brokers"]["local"]["state"] == "ok", "connected")
    wait_for(lambda: status(rig)["sources"]["panic"]["captured"] >= publishing.count, "everything came")
    assert status(rig)["sources"]["panic"]["captured"] == publishing.count
    assert len(re.findall(r"New client connected from .* as relayd-", broker.log.read_text())) == 4


def test_a_source_replaced_on_a_living_broker_takes_each_message_once(rig: Rig, broker: Mosquitto) -> None:
    text = rig.config.read_text() + LISTENER.format(url=broker.url)
    rig.config.write_text(text)
    rig.start()
    wait_for(lambda: status(rig)["brokers"]["local"]["state"] == "ok", "connected")
    with Publishing(broker) as publishing:
        for number in range(10):
            load(rig, text + f'expect_every = "{number + 1}h"\n')
    wait_for(lambda: status(rig)["sources"]["panic"]["captured"] >= publishing.count, "everything came")
    assert status(rig)["sources"]["panic"]["captured"] == publishing.count
    assert said(rig, "broker local: connected") == 1


def test_a_rule_takes_effect_without_its_source_starting_again(rig: Rig) -> None:
    text = rig.config.read_text()
    usb = rig.drop.parent / "usb"
    usb.mkdir()
    rig.config.write_text(text + COPY.format(path=usb))
    rig.start()
    load(rig, rig.config.read_text().replace('deliver = [ { to = "rapidsos" } ]', 'deliver = [ { to = "usb" } ]'))
    rig.drop_file("new.jpg", picture(CHANCE, 1000))
    wait_for(lambda: status(rig)["destinations"]["usb"]["delivered"] == 1, "it goes where the new rule says")
    assert status(rig)["destinations"]["rapidsos"]["pending"] == 0
    assert said(rig, "is watched by inotify") == 1


def test_what_is_owed_to_a_removed_destination_is_cut_in_time_kept_shown_and_arrives_when_it_is_back(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, entry=("-m", "tests.daemon.hurried"))
    try:
        rig.start_sandbox("store#1 slow 10000")
        rig.start()
        text = rig.config.read_text()
        rig.drop_file("slow.jpg", picture(CHANCE, 300_000))
        wait_for(rig.is_uploading, "the upload is under way")
        without = text[: text.index("[destination.")] + COPY.format(path=tmp_path / "usb")
        load(rig, without)
        wait_for(lambda: "1 deliveries under way are cut" in rig.log.read_text(), "it was cut")
        gone = status(rig)
        assert gone["destinations"]["rapidsos"]["pending"] == 1
        assert "not in the configuration any more" in gone["destinations"]["rapidsos"]["reason"]
        assert gone["state"] == "degraded"
        load(rig, text)
        wait_for(rig.has_arrived, "it arrives")
        assert rig.toll().is_clean
    finally:
        rig.stop()


def test_a_changed_destination_ends_what_is_under_way_before_its_successor_begins(rig: Rig) -> None:
    rig.start_sandbox("store#1 slow 200000")
    rig.start()
    rig.drop_file("large.jpg", picture(CHANCE, 300_000))
    wait_for(rig.is_uploading, "the upload is under way")
    load(rig, rig.config.read_text().replace('backoff_cap = "500ms"', 'backoff_cap = "400ms"'))
    rig.drop_file("next.jpg", picture(CHANCE, 1000))
    wait_for(rig.has_arrived, "both arrived")
    assert [item["deliveries"][0]["attempts"] for item in items(rig)] == [1, 1]
    assert rig.toll().is_clean


def test_a_hundred_reloads_leave_nothing_behind(rig: Rig, broker: Mosquitto) -> None:
    text = rig.config.read_text() + LISTENER.format(url=broker.url) + COPY.format(path=rig.drop.parent / "usb")
    rig.config.write_text(text)
    relay = rig.start()
    tasks = Path(f"/proc/{relay.pid}/task")

    def change(number: int) -> None:
        """Every kind of part in turn, and each time another rule."""
        load(
            rig,
            text.replace('settle = "100ms"', f'settle = "{100 + number % 3}ms"')
            .replace('backoff_cap = "500ms"', f'backoff_cap = "{500 + number % 5}ms"')
            .replace('topics = ["vehicle/panic"]', f'topics = ["vehicle/panic", "x/{number % 7}"]')
            .replace("[broker.local]", f'[broker.local]\nkeepalive = "{30 + number % 10 // 9}s"')
            .replace('name = "everything"', f'name = "everything {number}"\nwhen = "item.size != {number}"'),
        )

    def used() -> tuple[int, int, int]:
        wait_for(lambda: {view["state"] for view in status(rig)["sources"].values()} == {"ok"}, "all are open again")
        now = status(rig)["process"]
        return now["rss_bytes"], now["open_files"], len(list(tasks.iterdir()))

    for number in range(30):
        change(number)
    memory, files, threads = used()
    for number in range(100):
        change(number)
    wait_for(lambda: used()[1] <= files + 2, f"no descriptor is left over {files}: {used()}")
    memory_after, _, threads_after = used()
    assert threads_after <= threads + 4  # those of a source that is just being replaced
    assert memory_after - memory < 6_000_000
    rig.drop_file("after.jpg", picture(CHANCE, 1000))
    wait_for(lambda: rig.is_taken("after.jpg"), "it still takes files")


def test_a_changed_file_is_loaded_by_itself_where_that_is_wanted_and_a_bad_one_is_refused(rig: Rig) -> None:
    text = rig.config.read_text() + "\n[reload]\nwatch = true\n"
    rig.config.write_text(text)
    rig.start()
    replaced = rig.config.with_name("new.toml")
    replaced.write_text(text + COPY.format(path=rig.drop.parent / "usb"))
    replaced.rename(rig.config)  # as editors save
    wait_for(lambda: "usb" in status(rig)["destinations"], "the new file is in force")
    rig.config.write_text(text.replace("settle", "setle"))
    refused = wait_for(lambda: status(rig)["config"]["error"], "the bad one is refused")
    assert re.search(r"relayd\.toml:\d+: source\.camera\.setle: ", refused)
    now = status(rig)["config"]
    assert now["is_current"] is False
    assert now["files_sha256"] not in (None, now["sha256"])
    load(rig, text.replace("watch = true", "watch = false"))


def test_sigterm_in_the_middle_of_a_reload_ends_it_within_five_seconds(rig: Rig) -> None:
    rig.start_sandbox("store#1+ slow 10000")
    relay = rig.start()
    rig.drop_file("slow.jpg", picture(CHANCE, 300_000))
    wait_for(rig.is_uploading, "the upload is under way")
    load(rig, rig.config.read_text().replace('backoff_cap = "500ms"', 'backoff_cap = "400ms"'))
    began = time.monotonic()  # the old destination still has seconds to end its upload
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(timeout=10) == 0
    assert time.monotonic() - began < 5.0
    assert "Traceback" not in rig.log.read_text()
    rig.script("")
    rig.spawn()
    wait_for(rig.has_arrived, "it arrived after the restart")


@pytest.mark.parametrize("wait_seconds", [0.0, 0.2, 0.4, 0.6])
def test_sigterm_while_it_starts_ends_it_at_once(rig: Rig, wait_seconds: float) -> None:
    relay = rig.spawn()
    rig.let_relay_run(wait_seconds)
    began = time.monotonic()
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(timeout=10) in (0, -signal.SIGTERM)
    assert time.monotonic() - began < 5.0
    rig.start()


# --- a broker's other client


def publisher(broker: Mosquitto) -> Any:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()

    class Closing:
        def __enter__(self) -> mqtt.Client:
            return client

        def __exit__(self, *_: object) -> None:
            client.disconnect()
            client.loop_stop()

    return Closing()


class Publishing:
    """Publishes without a break, each message another one; `count` of them by the end of the context."""

    def __init__(self, broker: Mosquitto) -> None:
        self.count = 0
        self._broker = broker
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def __enter__(self) -> Publishing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(30)

    def _publish(self) -> None:
        with publisher(self._broker) as client:
            while not self._is_over.wait(0.005):
                client.publish("vehicle/panic", b"%d" % self.count, qos=1).wait_for_publish(10)
                self.count += 1
