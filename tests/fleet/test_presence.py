"""`state` and `health`: birth, will, the last word, and what comes back after the broker lost it; real processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.broker.mosquitto import Mosquitto
from tests.crash.rig import Rig
from tests.daemon.running import wait_for
from tests.fleet.onlooker import BASE, Onlooker

STATE = f"{BASE}/amb-0417/state"
HEALTH = f"{BASE}/amb-0417/health"


def test_a_relay_says_that_it_is_online_and_how_it_is_retained(rig: Rig, broker: Mosquitto, onlooker: Onlooker) -> None:
    rig.start()
    birth = onlooker.wait_for("state")
    health = onlooker.wait_for("health")
    assert (birth["state"], birth["session"]) == ("online", health["session"])
    assert set(birth) == {"state", "session", "at", "version"}
    assert health["brokers"]["fleet"] == {"state": "ok", "reason": ""}
    assert health["device"]["id"] == "amb-0417"
    late = Onlooker(broker)
    assert late.wait_for("state") == birth
    late.wait_for("health")
    assert [one.is_retained for topic in ("state", "health") for one in late.all(topic)] == [True, True]
    late.close()


def test_after_sigkill_the_broker_says_offline_with_the_same_session(rig: Rig, onlooker: Onlooker) -> None:
    rig.start()
    first = onlooker.wait_for("state", lambda it: it["state"] == "online")
    rig.kill_relay()
    will = onlooker.wait_for("state", lambda it: it["state"] == "offline")
    assert will["session"] == first["session"]
    rig.spawn()
    second = onlooker.wait_for("state", lambda it: it["state"] == "online" and it["session"] != first["session"])
    assert second["at"] > first["at"]


def test_a_late_will_of_an_old_session_is_recognisable(rig: Rig, onlooker: Onlooker, tmp_path: Path) -> None:
    """The link breaks without a word, the relay starts anew, and only then the broker gives the old connection up."""
    rig.start()
    first = onlooker.wait_for("state", lambda it: it["state"] == "online")
    assert rig.process is not None
    frozen = rig.process
    frozen.send_signal(signal.SIGSTOP)
    twin = Rig(tmp_path / "twin")
    twin.config.write_text(
        rig.config.read_text()
        .replace(str(rig.spool), str(twin.spool))
        .replace(str(rig.drop), str(twin.drop))
        .replace("[broker.fleet]", '[broker.fleet]\nclient_id = "twin"')
    )
    try:
        twin.start()
        second = onlooker.wait_for("state", lambda it: it["session"] != first["session"])
        frozen.send_signal(signal.SIGKILL)
        will = onlooker.wait_for("state", lambda it: it["state"] == "offline")
        assert (will["session"], second["state"]) == (first["session"], "online")
        assert will["session"] != second["session"]
    finally:
        twin.stop()


def test_a_clean_stop_says_stopped_and_no_will_follows(rig: Rig, broker: Mosquitto, onlooker: Onlooker) -> None:
    relay = rig.start()
    birth = onlooker.wait_for("state")
    began = time.monotonic()
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(10) == 0
    assert time.monotonic() - began < 5.0
    last = onlooker.wait_for("state", lambda it: it["state"] == "stopped")
    assert last["session"] == birth["session"]
    assert [it["state"] for it in onlooker.documents("state")] == ["online", "stopped"]


def test_a_stop_is_not_held_up_by_a_fleet_that_answers_nothing(rig: Rig, broker: Mosquitto, onlooker: Onlooker) -> None:
    relay = rig.start()
    onlooker.wait_for("health")
    broker.freeze()
    began = time.monotonic()
    relay.send_signal(signal.SIGTERM)
    assert relay.wait(10) == 0
    assert time.monotonic() - began < 5.0
    broker.thaw()


def test_a_broker_that_lost_everything_has_state_and_health_again(
    rig: Rig, broker: Mosquitto, onlooker: Onlooker
) -> None:
    rig.start()
    birth = onlooker.wait_for("state")
    onlooker.wait_for("health")
    broker.kill()
    broker.start()
    again = Onlooker(broker)
    assert again.wait_for("state", lambda it: it["state"] == "online")["session"] == birth["session"]
    again.wait_for("health")
    again.close()


def test_health_comes_at_intervals_and_with_every_change_of_its_state(rig: Rig, onlooker: Onlooker) -> None:
    rig.start_sandbox()
    rig.start()
    onlooker.wait_for("health", lambda it: it["state"] == "ok")
    before = len(onlooker.all("health"))
    rig.call("pause", "rapidsos")
    degraded = onlooker.wait_for("health", lambda it: it["state"] == "degraded", 5)
    assert degraded["destinations"]["rapidsos"]["state"] == "paused"
    assert len(onlooker.all("health")) == before + 1
    rig.config.write_text(rig.config.read_text().replace('health_every = "60s"', 'health_every = "1s"'))
    assert rig.process is not None
    rig.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(onlooker.all("health")) > before + 4, "health comes each second", 10)


def test_a_reload_that_keeps_the_place_does_not_say_stopped_and_one_that_moves_does(
    rig: Rig, onlooker: Onlooker
) -> None:
    relay = rig.start()
    birth = onlooker.wait_for("state")
    good = rig.config.read_text()
    rig.config.write_text(good.replace('rescan = "1s"', 'rescan = "2s"'))
    relay.send_signal(signal.SIGHUP)
    onlooker.wait_for("event", lambda it: it["type"] == "config_reloaded")
    assert len(onlooker.all("state")) == 1, "the connection stayed"
    rig.config.write_text(good.replace('health_every = "60s"', 'health_every = "50s"'))
    relay.send_signal(signal.SIGHUP)
    wait_for(lambda: len(onlooker.all("state")) == 2, "it is online again")
    assert {it["state"] for it in onlooker.documents("state")} == {"online"}
    rig.config.write_text(good.replace('id = "amb-0417"', 'id = "amb-0418"'))
    relay.send_signal(signal.SIGHUP)
    moved = onlooker.wait_for(f"{BASE}/amb-0418/state")
    assert moved["session"] == birth["session"]
    assert onlooker.documents(STATE)[-1]["state"] == "stopped"
    assert onlooker.wait_for(f"{BASE}/amb-0418/health")["device"]["id"] == "amb-0418"


def test_a_broker_that_does_not_allow_our_topics_is_a_fault_with_the_reason(tmp_path: Path, rig: Rig) -> None:
    rights = tmp_path / "rights"
    rights.write_text(f"topic write {STATE}\ntopic readwrite {BASE}/amb-0417/command/#\n")
    strict = Mosquitto(
        tmp_path / "strict", options=f"max_queued_messages 1000\nacl_file {rights}", is_persistent=False
    ).start()
    try:
        text = rig.config.read_text()
        start = text.index('url = "mqtt://')
        rig.config.write_text(text[:start] + f'url = "{strict.url}"' + text[text.index("\n", start) :])
        rig.start()
        broken = wait_for(
            lambda: (it := rig.json("status")["brokers"]["fleet"])["state"] == "fault" and it,
            "the refusal shows",
        )
        assert "not allowed" in broken["reason"]
        assert HEALTH in broken["reason"]
    finally:
        rig.stop()
        strict.stop()


def test_check_online_tries_the_rights_of_the_fleets_topics_and_disturbs_nobody(rig: Rig, onlooker: Onlooker) -> None:
    result = rig.call("check", "--online")
    assert "has no effect" not in result.output
    assert f"{BASE}/amb-0417/command/+" in result.output
    assert f"{BASE}/amb-0417/response/check" in result.output
    assert {one.topic for one in onlooker.seen()} <= {f"{BASE}/amb-0417/response/check"}
