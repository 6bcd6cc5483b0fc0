"""The command line against a running relay: what a technician types, and what scripts rely on."""

import asyncio
import contextlib
import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jsonschema
import pytest

from relayd.cli import queue
from relayd.sandbox import Sandbox
from tests.daemon.running import REPOSITORY, RunningRelay, wait_for

HOSTILE = "a\x1b[2J\nb\u202ec[red]{{7*7}}.jpg"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRelay]:
    """Its destination refuses every connection."""
    running = RunningRelay(tmp_path_factory.mktemp("cli"))
    running.start()
    yield running
    assert running.end() == 0


def picture(file: Path, filling: bytes = b"x") -> Path:
    file.write_bytes(b"\xff\xd8\xff\xe0" + filling * 1000 + b"\xff\xd9")
    return file


# --- looking


def test_status_is_one_screen_of_plain_text_where_there_is_no_terminal(relay: RunningRelay) -> None:
    result = relay.call("status")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    for words in ("on amb-0417", "spool [", "SOURCE", "camera", "DESTINATION", "rapidsos", "running for"):
        assert words in result.output


def test_status_json_is_as_its_published_schema_says(relay: RunningRelay) -> None:
    schema = json.loads(relay.call("schema", "status").stdout)
    jsonschema.validate(relay.json("status"), schema)


def test_a_dropped_file_is_listed_and_explained(relay: RunningRelay) -> None:
    picture(relay.drop / "front_0001.jpg", b"q")
    item = wait_for(
        lambda: next((one for one in relay.json("items")["items"] if one["name"] == "front_0001.jpg"), None),
        "the file is an item",
    )
    wait_for(lambda: not (relay.drop / "front_0001.jpg").exists(), "the original is taken away")
    assert item["deliveries"][0]["destination"] == "rapidsos"
    assert item["id"] in relay.call("items").output
    for about in (item["id"], relay.drop / "front_0001.jpg"):
        result = relay.call("why", about)
        assert result.exit_code == 0, result.output
        assert "front_0001.jpg" in result.output
        assert "rapidsos" in result.output
        assert len(result.output.splitlines()) == 1
    shown = relay.call("items", "show", item["id"])
    assert item["id"] in shown.output
    assert "rapidsos upload: pending" in shown.output


def test_items_are_found_by_state_source_and_destination(relay: RunningRelay, tmp_path: Path) -> None:
    sent = relay.send(picture(tmp_path / "by_hand.jpg"))
    for arguments, is_there in (
        (["--state", "pending"], True),
        (["--state", "delivered"], False),
        (["--destination", "rapidsos"], True),
        (["--destination", "absent"], False),
        (["--source", "camera"], False),
        (["--limit", "1"], True),
        (["--before", sent], False),
    ):
        found = [item["id"] for item in relay.json("items", *arguments)["items"]]
        assert (sent in found) == is_there, arguments


def test_a_quarantined_file_is_listed_with_its_reason(relay: RunningRelay) -> None:
    (relay.drop / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no end")
    found = wait_for(lambda: relay.json("items", "--state", "quarantined")["items"], "it is set aside")
    assert found[0]["name"] == "cut.jpg"
    text = relay.call("items", "--state", "quarantined").output
    assert "cut.jpg" in text
    assert found[0]["reason"] in text
    assert found[0]["reason"].split()[0] in relay.call("why", relay.drop / "cut.jpg").output


def test_a_cut_file_is_handed_over_only_if_a_person_says_so_and_is_marked(relay: RunningRelay, tmp_path: Path) -> None:
    cut, empty = tmp_path / "crash.jpg", tmp_path / "empty.jpg"
    cut.write_bytes(b"\xff\xd8\xff\xe0 and no end")
    empty.touch()
    refused = relay.call("send", cut, "--to", "rapidsos")
    assert refused.exit_code == 1
    assert "the JPEG is cut off" in refused.output
    assert "--as-it-is" in refused.output
    assert relay.call("send", "--as-it-is", empty, "--to", "rapidsos").exit_code == 1
    item = relay.send(cut, "--to", "rapidsos", "--as-it-is")
    shown = relay.json("items", "show", item)
    assert "cut off" in shown["damage"]
    assert f"taken as it is: {shown['damage']}" in relay.call("items", "show", item).output
    assert f"It was taken as it is: {shown['damage']}." in relay.call("why", item).output


def test_what_nobody_knows_is_exit_code_1_and_one_sentence(relay: RunningRelay) -> None:
    for arguments in (
        ["why", "/nowhere/at all"],
        ["why", "absent"],
        ["items", "show", "../status"],
        ["drop", "absent"],
    ):
        result = relay.call(*arguments)
        assert result.exit_code == 1, arguments
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""


# --- changing


def test_files_that_cannot_be_taken_do_not_keep_the_others(relay: RunningRelay, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    good = picture(tmp_path / "good.jpg")
    result = relay.call("send", tmp_path / "absent.jpg", tmp_path / "pipe", tmp_path, good, "--to", "rapidsos")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].endswith(f" {good}")
    assert [line.split(": ")[-1] for line in result.stderr.splitlines()] == [
        "No such file or directory",
        "not a regular file",
        "Is a directory",
    ]


@pytest.mark.parametrize("name", [HOSTILE.encode(), b"\xff\xfe.jpg", b"-rf.jpg", b"a" * 251 + b".jpg"])
def test_a_hostile_name_is_sent_listed_and_shown_harmlessly(relay: RunningRelay, tmp_path: Path, name: bytes) -> None:
    picture(file := tmp_path / os.fsdecode(name))
    sent = relay.send(file)
    for arguments in (["items"], ["items", "show", sent], ["why", sent], ["items", "--json"], ["status"]):
        result = relay.call(*arguments)
        assert result.exit_code == 0, result.output
        assert all(line.isprintable() for line in result.output.splitlines())
    assert relay.json("items", "show", sent)["name"] == name.decode("utf-8", "backslashreplace")


def test_sending_to_nowhere_is_refused_with_the_names_there_are(relay: RunningRelay, tmp_path: Path) -> None:
    result = relay.call("send", picture(tmp_path / "a.jpg"), "--to", "rapidos")
    assert result.exit_code == 1
    assert "there are: rapidsos" in result.stderr


def test_a_pause_holds_until_resumed(relay: RunningRelay) -> None:
    assert relay.call("pause", "rapidsos").output == "paused: rapidsos\n"
    assert relay.json("status")["destinations"]["rapidsos"]["state"] == "paused"
    assert "paused" in relay.call("status").output
    assert relay.json("resume") == {"resumed": ["rapidsos"]}
    assert relay.json("status")["destinations"]["rapidsos"]["state"] != "paused"
    assert relay.call("pause", "absent").exit_code == 1


def test_a_file_in_quarantine_is_listed_with_its_place_and_dropped_and_nothing_else_is(
    relay: RunningRelay, tmp_path: Path
) -> None:
    precious = picture(tmp_path / "precious.jpg")
    links = [relay.drop / os.fsdecode(name) for name in (b"link.jpg", b"caf\xe9.jpg")]
    shown = {f"{relay.drop}/link.jpg", f"{relay.drop}/caf\\xe9.jpg"}
    for link in links:
        link.symlink_to(precious)

    def listed() -> set[str]:
        return {row["path"] for row in relay.json("items", "--state", "quarantined")["items"]}

    wait_for(lambda: shown <= listed(), "both are in quarantine, with their places")
    page = " ".join(relay.call("items", "--state", "quarantined").output.split())
    assert f"{relay.drop}/link.jpg: it is a symbolic link" in page
    assert "is in no source's folder" in relay.call("drop", str(precious)).stderr
    absent = relay.call("drop", str(relay.drop / "absent.jpg"))
    assert (absent.exit_code, "is not in quarantine" in absent.stderr) == (1, True)
    assert relay.call("drop", *map(str, links)).output == "2 dropped\n"
    assert not any(link.is_symlink() for link in links)
    assert precious.exists()
    wait_for(lambda: not shown & listed(), "they are in the list no longer")


def test_a_relay_without_a_socket_works_and_commands_say_that_it_cannot_be_reached(tmp_path: Path) -> None:
    relay = RunningRelay(tmp_path)
    relay.socket.mkdir()
    try:
        process = relay.spawn()
        wait_for(lambda: "no command reaches this relay" in relay.log.read_text(), "it says so")
        picture(relay.drop / "a.jpg")
        wait_for(lambda: not (relay.drop / "a.jpg").exists(), "it takes files all the same")
        refused = relay.call("status")
        assert refused.exit_code == 3
        assert f"a relay runs (process {process.pid}), but no command reaches it" in " ".join(refused.stderr.split())
        assert f"journalctl _PID={process.pid}" in refused.stderr
        assert "Traceback" not in relay.log.read_text()
    finally:
        relay.end()
    assert "no running relay answers" in " ".join(relay.call("status").stderr.split())


def test_a_source_is_paused_by_its_name_and_lets_go_of_its_folder(relay: RunningRelay) -> None:
    assert relay.call("pause", "camera").output == "paused: camera: files stay in its folder, which may be unmounted\n"
    assert relay.process is not None
    open_links = [str(link.readlink()) for link in Path(f"/proc/{relay.process.pid}/fd").iterdir()]
    assert str(relay.drop) not in open_links
    assert relay.json("status")["sources"]["camera"]["state"] == "paused"
    shown = relay.call("status").output
    assert "source camera: paused by hand, `relayd resume camera`" in " ".join(shown.split())
    assert relay.json("resume", "camera") == {"resumed": ["camera"]}
    assert relay.json("status")["sources"]["camera"]["state"] != "paused"
    refused = relay.call("pause", "absent")
    assert "no destination or source absent; there are: camera, rapidsos" in refused.stderr
    assert "no source rapidsos; there are: camera" in relay.call("pause", "--source", "rapidsos").stderr


def test_a_dropped_item_ends_the_alerts_and_a_retry_says_what_it_did(relay: RunningRelay, tmp_path: Path) -> None:
    sent = relay.send(picture(tmp_path / "unwanted.jpg"))
    assert relay.call("retry", sent).exit_code == 1
    assert relay.call("drop", sent).output == "1 dropped\n"
    assert relay.json("items", "show", sent)["state"] == "dropped"
    assert [item["id"] for item in relay.json("items", "--state", "dropped")["items"]] == [sent]
    spool = relay.json("status")["spool"]
    assert (spool["dead"], spool["dropped"]) == (0, 1)
    assert relay.call("drop", sent).exit_code == 1
    assert "dropped" in relay.call("items", "show", sent).output


def test_what_was_delivered_is_sent_again_by_name_or_by_time_and_the_rest_says_why_not(tmp_path: Path) -> None:
    relay, disk = RunningRelay(tmp_path / "resending"), tmp_path / "disk"
    disk.mkdir()
    with relay.config.open("a") as config:
        config.write(f'[destination.usb]\ntype = "folder"\npath = "{disk}"\n')
    relay.start()
    try:
        sent = relay.json("send", picture(tmp_path / "a.jpg"), "--to", "usb", "--wait")["sent"][0]["id"]
        waiting = relay.send(picture(tmp_path / "b.jpg"))
        (disk / "a.jpg").unlink()
        result = relay.call("resend", sent, waiting, "--to", "usb")
        assert result.exit_code == 0, result.output
        assert result.output.splitlines() == [
            f"{sent} a.jpg: sent again to usb (copy)",
            f"{waiting} b.jpg: not sent again, it was never delivered there",
        ]
        wait_for((disk / "a.jpg").exists, "it is there again")
        wait_for(lambda: relay.json("items", "show", sent)["state"] == "delivered", "it is recorded")
        answer = relay.json("resend", "A.J", "--since", "10m", "--until", "2100-01-01", "--to", "usb")
        assert [one["item"] for one in answer["resent"]] == [sent]
        assert answer["left"] == []
        assert relay.call("resend", waiting, "--to", "usb").exit_code == 1
        assert relay.call("resend", "--since", "10m", "--source", "camera", "--to", "usb").exit_code == 1
        assert relay.call("resend", sent, "--to", "absent").exit_code == 1
    finally:
        relay.end()


def test_a_report_that_is_sent_again_is_named_as_what_people_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"resent": [{"item": "1", "name": "press", "actions": ["report"], "alarms": ["report"]}]}
    queue._tell_resent({**result, "left": [], "more": False}, "control-room")
    said = capsys.readouterr().out
    assert said == "1 press: sent again to control-room (report), which people are told of at once: report\n"


# --- on a terminal


class Terminal:
    """A command on a pseudo-terminal of 80 columns."""

    def __init__(self, relay: RunningRelay, arguments: Sequence[str], **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "relayd", "--config", str(relay.config), *arguments],
            cwd=REPOSITORY,
            env={**kept, "TERM": "xterm", **environment},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, true: Callable[[str], bool], seconds: float = 20.0) -> str:
        """All that was written, as soon as it fits."""
        deadline = time.monotonic() + seconds
        while not true(self.text):
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"not within {seconds:.0f} s; so far: {self.text!r}"
            try:
                self.text += os.read(self._ours, 65536).decode()
            except OSError:
                assert true(self.text), self.text
        return self.text

    def read_all(self) -> str:
        with contextlib.suppress(AssertionError):
            self.read_until(lambda _: False)
        self.process.wait(20)
        os.close(self._ours)
        return self.text


def test_a_terminal_gets_colours_and_80_columns(relay: RunningRelay) -> None:
    text = Terminal(relay, ["status"], COLUMNS="80").read_all()
    assert "\x1b[" in text
    assert "DESTINATION" in text


def test_no_color_is_obeyed_on_a_terminal(relay: RunningRelay) -> None:
    text = Terminal(relay, ["status"], NO_COLOR="1", COLUMNS="80").read_all()
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_watch_redraws_until_ctrl_c_and_survives_the_relay(tmp_path: Path) -> None:
    relay = RunningRelay(tmp_path / "watched")
    relay.start()
    screen = Terminal(relay, ["status", "--watch"])
    try:
        screen.read_until(lambda text: text.count("on amb-0417") >= 2)
        relay.end()
        screen.read_until(lambda text: "NO ANSWER since" in text)
        relay.start()
        after = len(screen.text)
        screen.read_until(
            lambda text: "on amb-0417" in text[after:] and "NO ANSWER" not in text[text.rindex("on amb") :]
        )
        screen.process.send_signal(signal.SIGINT)
        screen.read_all()
        assert screen.process.returncode == 0
        assert "Traceback" not in screen.text
    finally:
        screen.process.kill()
        relay.end()


def test_watch_without_a_terminal_is_a_document_a_line(relay: RunningRelay) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "relayd", "--config", str(relay.config), "status", "--watch", "--json"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        assert watcher.stdout is not None
        lines = [watcher.stdout.readline() for _ in range(2)]
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(20) == 0
    assert [json.loads(line)["schema"] for line in lines] == [1, 1]


# --- what is stored


def test_spool_commands_say_that_the_relay_runs(relay: RunningRelay, tmp_path: Path) -> None:
    for arguments in (["check"], ["repair"], ["export", str(tmp_path / "out")]):
        result = relay.call("spool", *arguments)
        assert result.exit_code == 1, result.output
        assert "systemctl stop relayd" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_the_spool_of_a_stopped_relay_is_checked_repaired_and_exported(tmp_path: Path) -> None:
    relay = RunningRelay(tmp_path / "stopped")
    relay.start()
    file = picture(tmp_path / "kept.jpg")
    relay.send(file)
    relay.end()
    checked = relay.call("spool", "check")
    assert checked.exit_code == 0, checked.output
    assert "good" in checked.output
    assert relay.json("spool", "check")["is_good"] is True
    exported = relay.call("spool", "export", tmp_path / "out")
    assert exported.exit_code == 0, exported.output
    assert file.read_bytes() in [one.read_bytes() for one in (tmp_path / "out").rglob("*") if one.is_file()]
    next(one for one in (relay.spool / "media").rglob("*") if one.is_file()).unlink()
    assert relay.call("spool", "check").exit_code == 1
    assert relay.call("spool", "repair").exit_code in (0, 1)
    assert relay.call("spool", "check").exit_code == 0


# --- the daemon's own exit codes


def test_a_second_relay_on_the_same_spool_is_exit_code_1(relay: RunningRelay) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "relayd", "--config", str(relay.config), "run"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TEST_SECRET": "x"},
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_a_wrong_configuration_is_exit_code_2_with_every_error(tmp_path: Path) -> None:
    config = tmp_path / "relayd.toml"
    config.write_text('[spool]\npth = "x"\nmax_size = 5\n')
    result = subprocess.run(
        [sys.executable, "-m", "relayd", "--config", str(config), "run"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == ["spool.pth", "spool.max_size"]


# --- to the end


async def test_send_and_wait_ends_when_the_destination_has_it(tmp_path: Path) -> None:
    async with Sandbox() as sandbox:
        relay = RunningRelay(tmp_path / "relay", sandbox.url)
        await asyncio.to_thread(relay.start)
        try:
            file = picture(tmp_path / "wanted.jpg")
            result = await asyncio.to_thread(relay.call, "send", file, "--to", "rapidsos", "--wait")
            assert result.exit_code == 0, result.output
            assert result.output.splitlines()[-1].endswith("delivered")
            [stored] = sandbox.objects.values()
            assert stored.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
            sandbox.script("slot status 400")
            refused = picture(tmp_path / "refused.jpg", b"y")
            result = await asyncio.to_thread(relay.call, "send", refused, "--to", "rapidsos", "--wait", "--json")
            assert result.exit_code == 1
            assert json.loads(result.stdout)["sent"][0]["state"] == "dead"
            again = await asyncio.to_thread(relay.call, "retry", "--all", "--destination", "rapidsos")
            assert again.output == "1 delivery is tried again\n"
            sandbox.script()
        finally:
            await asyncio.to_thread(relay.end)
