"""Events reach the fleet at least once, in order and under one id, whatever happens on the way; real processes."""

from __future__ import annotations

import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relayd.model import State
from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for
from tests.fleet.onlooker import Onlooker

CHANCE = random.Random(3)


def of_type(*wanted: str) -> Callable[[Any], bool]:
    return lambda event: event["type"] in wanted


def delivered(rig: Rig, count: int) -> Callable[[], bool]:
    return lambda: rig.json("status")["spool"]["delivered"] == count


def test_a_delivery_is_told_with_item_destination_and_receipt(rig: Rig, onlooker: Onlooker) -> None:
    rig.start_sandbox()
    rig.start()
    rig.drop_file("gate.jpg", picture(CHANCE, 2_000))
    event = onlooker.wait_for("event", of_type("delivered"))
    shown = rig.json("items")["items"][0]
    assert (event["item"], event["name"], event["destination"]) == (shown["id"], "gate.jpg", "rapidsos")
    assert event["receipt"]["uri"]
    assert (rig.json("status")["spool"]["items"], rig.json("status")["spool"]["delivered"]) == (1, 1)


def test_what_was_delivered_while_the_fleet_was_away_is_told_after_a_kill_and_only_then_forgotten(
    rig: Rig, broker: Mosquitto, onlooker: Onlooker
) -> None:
    rig.start_sandbox()
    rig.start()
    onlooker.wait_for("health")
    broker.kill()
    for number in range(5):
        rig.drop_file(f"{number}.jpg", picture(CHANCE, 2_000))
    wait_for(delivered(rig, 5), "all are delivered")
    rig.kill_relay()
    broker.start()
    again = Onlooker(broker)
    rig.start()
    wait_for(lambda: len(again.all("event")) >= 5, "five events")
    numbers = [event["number"] for event in again.documents("event")]
    assert numbers == sorted(numbers)
    assert len({event["item"] for event in again.documents("event")}) == 5
    rig.end()
    again.forget()
    rig.start()
    again.wait_for("health")
    rig.drop_file("last.jpg", picture(CHANCE, 2_000))
    assert again.wait_for("event", of_type("delivered"))["name"] == "last.jpg"
    assert len(again.all("event")) == 1
    again.close()


def test_a_kill_between_commit_and_acknowledgement_repeats_the_event_under_its_id(
    rig: Rig, broker: Mosquitto, onlooker: Onlooker
) -> None:
    rig.start_sandbox()
    rig.start()
    onlooker.wait_for("health")
    broker.freeze()
    rig.drop_file("gate.jpg", picture(CHANCE, 2_000))
    wait_for(delivered(rig, 1), "it is delivered")
    rig.kill_relay()
    broker.thaw()
    rig.start()
    wait_for(lambda: rig.json("status")["brokers"]["fleet"]["state"] == "ok", "the fleet is there")
    onlooker.wait_for("event", of_type("delivered"))
    rig.drop_file("next.jpg", picture(CHANCE, 2_000))
    onlooker.wait_for("event", lambda event: event["name"] == "next.jpg")
    first = [event for event in onlooker.documents("event") if event["name"] == "gate.jpg"]
    assert {event["id"] for event in first} == {first[0]["id"]}


def test_what_died_or_had_to_go_is_told_even_if_the_relay_is_killed_before_the_fleet_returns(
    rig: Rig, broker: Mosquitto, onlooker: Onlooker, tmp_path: Path
) -> None:
    text = rig.config.read_text().replace('min_free = "1MB"', 'min_free = "1MB"\nmax_size = "1MB"')
    rig.config.write_text(text.replace('name = "everything"', 'name = "everything"\npriority = "bulk"'))
    rig.start()
    onlooker.wait_for("health")
    broker.kill()
    rig.drop_file("bulk.jpg", picture(CHANCE, 300_000))
    wait_for(lambda: rig.json("status")["spool"]["items"] == 1, "it is taken")
    urgent = tmp_path / "urgent.jpg"
    sent = []
    for _ in range(2):
        urgent.write_bytes(picture(CHANCE, 300_000))
        sent.append(rig.send(urgent, "--priority", "emergency"))
    wait_for(lambda: rig.json("status")["spool"]["evicted"] == 1, "the bulk had to go")
    assert rig.call("drop", sent[0]).exit_code == 0
    rig.kill_relay()
    broker.start()
    again = Onlooker(broker)
    rig.start()
    evicted = again.wait_for("event", of_type("evicted"))
    dropped = again.wait_for("event", of_type("dropped"))
    assert (evicted["name"], evicted["reason"]) == ("bulk.jpg", "evicted: no room in the spool")
    assert (dropped["item"], dropped["reason"]) == (sent[0], "dropped by hand")
    spool = rig.json("status")["spool"]
    assert spool["items"] == 3 == sum(spool[state] for state in State)
    again.close()


def test_a_reload_and_a_refused_one_are_told(rig: Rig, onlooker: Onlooker) -> None:
    relay = rig.start()
    good = rig.config.read_text()
    rig.config.write_text(good.replace("settle", "setle"))
    relay.send_signal(signal.SIGHUP)
    rejected = onlooker.wait_for("event", of_type("config_rejected"))
    assert rejected["problem_count"] == 1
    assert "setle" in rejected["problems"][0]
    rig.config.write_text(good.replace('rescan = "1s"', 'rescan = "2s"'))
    relay.send_signal(signal.SIGHUP)
    reloaded = onlooker.wait_for("event", of_type("config_reloaded"))
    assert reloaded["sha256"] == rig.json("status")["config"]["sha256"]
    assert reloaded["files"] == [str(rig.config)]


def test_a_fault_is_told_once_also_across_a_restart(rig: Rig, onlooker: Onlooker) -> None:
    rig.config.write_text(rig.config.read_text().replace('health_every = "60s"', 'health_every = "1s"'))
    rig.environment["TEST_SECRET"] = "hunter2-is-not-it"
    rig.start_sandbox()
    rig.start()
    rig.drop_file("gate.jpg", picture(CHANCE, 2_000))
    raised = onlooker.wait_for("event", of_type("fault_raised"))
    assert (raised["kind"], raised["destination"]) == ("destination", "rapidsos")
    assert "hunter2" not in str(onlooker.documents("health")) + str(raised)
    rig.kill_relay()
    onlooker.forget()
    rig.start()
    onlooker.wait_for("health", lambda it: it["uptime_seconds"] > 3.5 and it["state"] == "fault")
    assert {event["id"] for event in onlooker.documents("event")} <= {raised["id"]}


def test_a_fault_that_ends_is_told_to_be_over_with_the_same_words_also_after_a_kill_in_between(
    rig: Rig, onlooker: Onlooker
) -> None:
    rig.config.write_text(rig.config.read_text() + '\n[health]\nfault_after = "200ms"\nwhole_after = "1s"\n')
    away = rig.drop.with_name("away")
    rig.start()
    rig.drop.rename(away)
    raised = onlooker.wait_for("event", of_type("fault_raised"))
    assert (raised["part"], raised["kind"], raised["source"]) == ("source camera", "source", "camera")
    rig.kill_relay()
    away.rename(rig.drop)
    rig.start()
    cleared = onlooker.wait_for("event", of_type("fault_cleared"))
    kept = ("part", "kind", "source", "reason", "since")
    assert [cleared[key] for key in kept] == [raised[key] for key in kept]
    assert len({event["id"] for event in onlooker.documents("event")}) == 2


def test_an_event_that_the_broker_never_takes_is_left_out_and_the_next_one_comes(tmp_path: Path, rig: Rig) -> None:
    narrow = Mosquitto(tmp_path / "narrow", options="max_packet_size 700", is_persistent=False).start()
    onlooker = Onlooker(narrow)
    try:
        text = rig.config.read_text()
        good = re.sub(r'url = "mqtt://[^"]*"', f'url = "{narrow.url}"', text)
        rig.config.write_text(good)
        relay = rig.start()
        onlooker.wait_for("state")
        rig.config.write_text("".join(f"[unknown{number}]\n" for number in range(20)))
        relay.send_signal(signal.SIGHUP)
        wait_for(lambda: "event 1 (config_rejected) is left out" in rig.log.read_text(), "it is too large")
        rig.config.write_text(good.replace('rescan = "1s"', 'rescan = "2s"'))
        relay.send_signal(signal.SIGHUP)
        assert onlooker.wait_for("event")["number"] == 2
        assert "more than a packet" in rig.json("status")["brokers"]["fleet"]["reason"]
    finally:
        rig.stop()
        onlooker.close()
        narrow.stop()
