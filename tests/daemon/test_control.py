"""The control API of a running relay, byte by byte on its socket."""

import json
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.running import RunningRelay, wait_for

CONTRACT = {
    "schema",
    "device",
    "version",
    "state",
    "reasons",
    "started_at",
    "uptime_seconds",
    "session",
    "clock",
    "config",
    "spool",
    "sources",
    "destinations",
    "brokers",
    "links",
    "incidents",
    "process",
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRelay]:
    running = RunningRelay(tmp_path_factory.mktemp("control"))
    running.start()
    yield running
    assert running.end() == 0


def picture(folder: Path, name: str = "a.jpg", filling: bytes = b"x") -> Path:
    file = folder / name
    file.write_bytes(b"\xff\xd8\xff\xe0" + filling * 1000 + b"\xff\xd9")
    return file


def staged(relay: RunningRelay) -> list[Path]:
    return list((relay.spool / "incoming").iterdir())


# --- looking


def test_the_status_has_every_field_of_the_contract(relay: RunningRelay) -> None:
    document = relay.ask("GET", "/api/v1/status").document
    assert set(document) >= CONTRACT
    assert document["device"]["id"] == "amb-0417"
    assert set(document["sources"]) == {"camera"}
    assert set(document["destinations"]) == {"rapidsos"}


def test_metrics_show_the_numbers_of_the_status(relay: RunningRelay) -> None:
    answer = relay.ask("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    assert re.search(r"^relayd_spool_pending \d+$", text, re.MULTILINE)
    assert re.search(r'^relayd_destination_state\{destination="rapidsos",state="\w+"\} 1$', text, re.MULTILINE)


def test_health_is_the_state_with_its_reasons(relay: RunningRelay) -> None:
    answer = relay.ask("GET", "/healthz")
    assert answer.status == (503 if answer.document["state"] == "fault" else 200)
    assert set(answer.document) == {"state", "reasons"}


def test_items_are_found_page_by_page(relay: RunningRelay, tmp_path: Path) -> None:
    sent = [relay.send(picture(tmp_path, f"page{n}.jpg", b"%d" % n)) for n in range(5)]
    found: list[str] = []
    before = ""
    while True:
        page = relay.ask("GET", f"/api/v1/items?limit=2{before}").document
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        before = f"&before={page['next']}"
    assert [one for one in found if one in sent] == sent[::-1]
    assert len(found) == len(set(found))


# --- what cannot be done


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "words"),
    [
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("POST", "/api/v1/status", None, 405, "Not Allowed"),
        ("GET", "/api/v1/items/absent", None, 404, "no item absent"),
        ("GET", "/api/v1/items?limit=0", None, 400, "limit"),
        ("GET", "/api/v1/items?limit=1&limit=2", None, 400, "more than once"),
        ("GET", "/api/v1/items?state=lost", None, 400, "state"),
        ("GET", "/api/v1/items?colour=red", None, 400, "colour"),
        ("GET", "/api/v1/why", None, 400, "about"),
        ("GET", "/api/v1/why?about=%FF%0a%1b", None, 404, "neither an item nor a file"),
        ("POST", "/api/v1/items/absent/retry", None, 404, "no item absent"),
        ("POST", "/api/v1/items/absent/drop", b"{}", 404, "no item absent"),
        ("POST", "/api/v1/destinations/absent/pause", None, 404, "no destination absent"),
        ("POST", "/api/v1/retry", b"", 400, "items"),
        ("POST", "/api/v1/resend", b'{"to": "hook"}', 400, "name the items, or since when"),
        ("POST", "/api/v1/resend", b'{"to": "hook", "items": ["a"], "text": "b"}', 400, "go with since"),
        ("POST", "/api/v1/resend", b'{"to": "hook", "since": "2026-01-01T00:00:00"}', 400, "since"),
        ("POST", "/api/v1/items/a/resend", b"", 400, "to"),
        ("POST", "/api/v1/retry", b"not json", 400, "not a JSON document"),
        ("POST", "/api/v1/retry", b"[1]", 400, "not a JSON object"),
        ("POST", "/api/v1/retry", b"[" * 100_000, 400, "not a JSON document"),
        ("POST", "/api/v1/retry", b'{"items": null, "all": true}', 400, "all"),
        ("POST", "/api/v1/retry", b'{"items": [7]}', 400, "items.0"),
        ("POST", "/api/v1/retry", b'{"items": "' + b"x" * 2_000_000 + b'"}', 413, "size"),
        ("POST", "/api/v1/drop", b'{"items": []}', 400, "items"),
        ("POST", "/api/v1/send?to=rapidsos", b"x", 400, "name"),
        ("POST", "/api/v1/send?name=a.jpg&to=absent", b"x", 404, "no destination absent"),
        ("POST", "/api/v1/send?name=a.jpg&to=rapidsos&action=fly", b"x", 400, "no action fly"),
        ("POST", "/api/v1/send?name=a.jpg&to=rapidsos&arguments=7", b"x", 400, "JSON object"),
        ("POST", "/api/v1/send?name=a%00.jpg&to=rapidsos", b"x", 400, "NUL"),
        ("POST", "/api/v1/send?name=a.jpg&to=rapidsos", b"", 400, "a.jpg"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_in_json(
    relay: RunningRelay, method: str, target: str, body: bytes | None, status: int, words: str
) -> None:
    answer = relay.ask(method, target, body)
    assert answer.status == status, answer.body
    assert set(answer.document) == {"error"}
    assert words in answer.document["error"]
    assert staged(relay) == []


def test_an_upload_that_breaks_off_is_not_taken_and_leaves_nothing(relay: RunningRelay) -> None:
    before = relay.json("status")["spool"]["items"]
    with relay.connect() as caller:
        caller.sendall(
            b"POST /api/v1/send?name=cut.jpg&to=rapidsos HTTP/1.1\r\nHost: r\r\nContent-Length: 9000000\r\n\r\n"
        )
        caller.sendall(b"x" * 3_000_000)
        wait_for(lambda: staged(relay), "the upload is under way")
    wait_for(lambda: not staged(relay), "the rest is cleared away")
    assert relay.json("status")["spool"]["items"] == before


def test_too_many_requests_at_once_are_told_to_come_again(relay: RunningRelay) -> None:
    callers = []
    try:
        for _ in range(32):
            caller = relay.connect()
            caller.sendall(b"POST /api/v1/pause HTTP/1.1\r\nHost: r\r\nContent-Length: 10\r\n\r\n")
            callers.append(caller)
        busy = wait_for(
            lambda: (answer := relay.ask("GET", "/healthz")).headers["Retry-After"] and answer, "it is too much"
        )
        assert busy.status == 503
        assert "too many" in busy.document["error"]
    finally:
        for caller in callers:
            caller.close()
    wait_for(lambda: relay.ask("GET", "/api/v1/status").status == 200, "it is over")


# --- changing


def test_a_sent_file_arrives_whole_in_the_spool_with_its_own_time(relay: RunningRelay, tmp_path: Path) -> None:
    file = picture(tmp_path, "big.jpg", b"0123456789" * 400)
    item = relay.ask("GET", f"/api/v1/items/{relay.send(file)}").document
    assert item["size"] == file.stat().st_size
    assert item["name"] == "big.jpg"
    assert item["captured_at"][:19] == relay.json("why", item["id"])["item"]["captured_at"][:19]
    [delivery] = item["deliveries"]
    assert (delivery["destination"], delivery["action"], delivery["priority"]) == ("rapidsos", "upload", "normal")
    assert file.exists()
    assert staged(relay) == []


def test_the_same_file_may_be_sent_twice(relay: RunningRelay, tmp_path: Path) -> None:
    file = picture(tmp_path)
    assert relay.send(file) != relay.send(file)


def test_who_changed_something_is_in_the_log(relay: RunningRelay) -> None:
    relay.ask("POST", "/api/v1/destinations/rapidsos/resume")
    assert re.search(r"POST /api/v1/destinations/rapidsos/resume asked by user \w+, process \d+", relay.log.read_text())


def test_an_answer_says_which_spool_it_is_about(relay: RunningRelay) -> None:
    assert relay.ask("GET", "/healthz").headers["Relayd-Spool"] == str(relay.spool.resolve())


# --- the socket itself


def test_only_owner_and_group_may_use_the_socket(relay: RunningRelay) -> None:
    assert stat.S_IMODE(relay.socket.lstat().st_mode) == 0o660


def test_a_killed_relay_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path) -> None:
    relay = RunningRelay(tmp_path / "relay")
    relay.start()
    relay.end(signal.SIGKILL)
    assert relay.socket.is_socket()
    relay.start()
    assert relay.end() == 0
    assert not relay.socket.exists()


def test_a_spool_deeper_than_a_socket_address_can_be_talked_to(tmp_path: Path) -> None:
    relay = RunningRelay(tmp_path / ("x" * 80) / ("y" * 80))
    relay.start()
    try:
        assert json.loads(relay.call("status", "--json").stdout)["device"]["id"] == "amb-0417"
    finally:
        relay.end()
