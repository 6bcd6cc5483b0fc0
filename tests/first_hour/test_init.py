"""`relayd init`: a technician at a terminal, real services, and a configuration that works as written."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import string
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relayd import destinations
from relayd.cli import main
from relayd.first_config import interview
from relayd.first_config.console import Console
from relayd.spool import SpoolConfig
from tests.broker.mosquitto import Mosquitto, free_port
from tests.first_hour.conftest import BROKER_PASSWORD, BROKER_USER
from tests.first_hour.terminal import Terminal

ROOT = Path(__file__).parents[2]
DEVICE = [
    ("Device id", "amb-0417"),
    ("Its name", "Ambulance 417"),
    ("Site", "odense"),
    ("Where it stands", "55.4, 10.4"),
]
SECRET = "sandbox-secret"
Dialogue = Sequence[tuple[str, str]]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where it is written; the folder is empty."""
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder / "relayd.toml"


@pytest.fixture
def cameras(tmp_path: Path) -> Path:
    folder = tmp_path / "cameras" / "front"
    folder.mkdir(parents=True)
    return folder


def at_a_terminal(output: Path, *words: str) -> Terminal:
    return Terminal(["init", "--output", str(output), *words], folder=output.parent)


def answer_all(terminal: Terminal, dialogue: Dialogue) -> None:
    for prompt, typed in dialogue:
        terminal.answer(prompt, typed)


def from_a_pipe(output: Path, answers: Sequence[str], *words: str) -> Result:
    typed = "".join(f"{answer}\n" for answer in answers)
    return CliRunner().invoke(main, ["init", "--output", str(output), *words], input=typed)


def check(output: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(output), "check", *words])


def broker(mosquitto: Mosquitto, password: str = BROKER_PASSWORD, name: str = "local") -> list[tuple[str, str]]:
    return [
        ("Address of a broker", mosquitto.url),
        ("Name of this broker", name),
        ("User name there", BROKER_USER),
        ("Place", "file"),
        ("File", ""),
        ("is not shown", password),
    ]


def rapidsos(url: str, secret: str = SECRET) -> list[tuple[str, str]]:
    return [
        ("Kind", "rapidsos"),
        ("Name of this destination", ""),
        ("url", url),
        ("client_id", "sandbox"),
        ("Place", "file"),
        ("File", ""),
        ("is not shown", secret),
    ]


# --- the golden path


def test_a_technician_at_a_terminal_gets_a_configuration_that_works(
    output: Path, cameras: Path, mosquitto: Mosquitto, sandbox: str
) -> None:
    with at_a_terminal(output) as terminal:
        answer_all(terminal, DEVICE)
        answer_all(terminal, broker(mosquitto))
        terminal.until("ok 127.0.0.1")
        terminal.answer("Address of a broker", "")
        terminal.answer("fleet's broker see this relay", "y")
        terminal.until("  ok ")
        answer_all(terminal, [("Folder", str(cameras)), ("Name of this source", "front-camera")])
        terminal.until("watched by inotify")
        terminal.answer("Folder", "")
        answer_all(terminal, rapidsos(sandbox))
        terminal.until("accepted")
        answer_all(terminal, [("Kind", "sayvu"), ("Name", "control-room"), ("url", sandbox), ("mode", "")])
        answer_all(terminal, [("Place", "file"), ("File", ""), ("is not shown", "ak_sandbox")])
        terminal.until("ok ")
        terminal.answer("Kind", "done")
        answer_all(terminal, [("panic button", "y"), ("Its topic", ""), ("means pressed", ""), ("incident", "y")])
        answer_all(terminal, [("set off", "control-room report"), ("category", "Vehicle"), ("description", "")])
        assert "1) Security" in terminal.screen  # as the control center lists them
        terminal.answer("pictures of an incident", "")
        terminal.answer("Send everything from front-camera", "")
        terminal.answer("Write", "")
        assert terminal.end() == 0
        assert f"relayd --config {output} setup" in terminal.screen
        assert f"relayd --config {output} check --online" in terminal.screen
        assert "\x1b" not in terminal.screen
        for secret in (SECRET, BROKER_PASSWORD, "ak_sandbox"):
            assert secret not in terminal.screen.replace(f"secrets/{secret}", "")
    written = tomllib.loads(output.read_text())
    assert written["device"] == {
        "id": "amb-0417",
        "name": "Ambulance 417",
        "site": "odense",
        "location": {"latitude": 55.4, "longitude": 10.4},
    }
    assert written["source"]["panic"]["topics"] == ["vehicle/panic"]
    assert [(rule["name"], [one["to"] for one in rule["deliver"]]) for rule in written["rule"]] == [
        ("panic button", ["control-room"]),
        ("pictures of an incident", ["rapidsos", "control-room"]),
        ("everything from front-camera to rapidsos", ["rapidsos"]),
    ]
    assert written["rule"][0]["incident"]["collect"] == ["front-camera"]
    assert check(output).exit_code == 0
    online = json.loads(check(output, "--online", "--json").stdout)["online"]
    wrong = [one["subject"] for one in online if not one["ok"]]
    assert {subject for subject in wrong if subject.startswith(("broker", "rapidsos", "source"))} == set()
    assert oct(output.stat().st_mode & 0o777) == "0o640"
    assert oct((output.parent / "secrets" / "rapidsos").stat().st_mode & 0o077) == "0o0"


# --- the file


def test_every_key_stands_below_a_line_that_says_what_it_is(output: Path, cameras: Path, sandbox: str) -> None:
    result = from_a_pipe(
        output,
        [*(typed for _, typed in DEVICE), "", str(cameras), "", "", *typed_of(rapidsos(sandbox)), "done", "", ""],
    )
    assert result.exit_code == 0, result.output
    lines = output.read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"[a-z_]+ = |\[", line)]
    assert len(keys) > 12
    for number in keys:
        assert re.match(r"# \S.{4,}", lines[number - 1]), lines[number]
        assert len(lines[number - 1]) <= 120
    assert check(output).exit_code == 0


def typed_of(dialogue: Dialogue) -> list[str]:
    return [typed for _, typed in dialogue]


class Responder:
    """Answers by what is asked: the last matching pattern counts; Enter where nothing matches."""

    def __init__(self, answers: dict[str, str | list[str]]) -> None:
        self.shown = ""
        self._asked = 0
        self._answers = {
            pattern: [value] if isinstance(value, str) else list(value) for pattern, value in answers.items()
        }

    def isatty(self) -> bool:
        return False

    def write(self, words: str) -> int:
        self.shown += words
        return len(words)

    def flush(self) -> None:
        return

    def readline(self, limit: int = -1) -> str:
        question = self.shown.rsplit("\n", 1)[-1]
        self._asked += 1
        assert self._asked < 200, f"asked for ever: {question}"
        for pattern, values in self._answers.items():
            if re.search(pattern, question) and values:
                return (values.pop(0) if len(values) > 1 else values[0]) + "\n"
        return "\n"


@pytest.mark.parametrize("kind", destinations.known_types())
def test_each_type_of_destination_can_be_asked_for_and_what_comes_out_is_good(
    kind: str, output: Path, cameras: Path, mosquitto: Mosquitto, sandbox: str
) -> None:
    usb = output.parent / "usb"
    usb.mkdir()
    addresses = {"cachet": f"{sandbox}/api", "watcher": f"{sandbox}/watcher/client-api/v3"}
    answers: dict[str, str | list[str]] = {
        r"^Address of a broker": [mosquitto.url, ""],
        r"^User name there": BROKER_USER,
        r"^Folder": [str(cameras), ""],
        r"^Kind": [kind, "done"],
        r"^url": addresses.get(kind, sandbox),
        r"^path": str(usb),
        r"^client_id": "sandbox",
        r"^Place": "file",
        r"^the password \(is not": BROKER_PASSWORD,
        r"is not shown": SECRET,
        r"^What now": "keep",
        r"^set off|What does it set off": "1",
        r"^phone_number": "+4512345678",
        r"^(to_)?email": "someone@example.org",
        r"^user_id": "1",
        r"^category": "1",
    }
    responder = Responder(answers)
    interview(Console(responder, responder), output, None)  # type: ignore[arg-type]
    assert check(output).exit_code == 0, output.read_text()
    written = tomllib.loads(output.read_text())
    assert [section["type"] for section in written["destination"].values()] == [kind]
    assert SECRET not in output.read_text() + responder.shown


# --- wrong answers


def test_a_missing_folder_is_offered_to_be_made_and_is_made_at_the_end_only(output: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "front"
    with at_a_terminal(output) as terminal:
        answer_all(terminal, [*DEVICE, ("Address of a broker", ""), ("Folder", "cameras/front")])
        terminal.until("write an absolute path")
        answer_all(terminal, [("Folder", str(folder)), ("Name of this source", "")])
        terminal.until("does not exist")
        answer_all(terminal, [("Make it at the end", "y"), ("Folder", "")])
        terminal.until("Kind")
        assert not folder.exists()
        answer_all(terminal, [("", "done"), ("Write", "y")])
        assert terminal.end() == 0
    assert folder.is_dir()
    assert tomllib.loads(output.read_text())["source"]["front"]["path"] == str(folder)


def test_a_broker_that_is_down_or_refuses_the_login_is_said_and_can_be_corrected(
    output: Path, mosquitto: Mosquitto
) -> None:
    closed = f"mqtt://127.0.0.1:{free_port()}"
    with at_a_terminal(output) as terminal:
        answer_all(terminal, [*DEVICE, ("Address of a broker", "http://127.0.0.1")])
        terminal.until("not the address of a broker")
        answer_all(terminal, [("Address of a broker", closed), ("Name of this broker", ""), ("User name there", "")])
        terminal.until("FAILED broker local: connection:")
        terminal.until("->")
        answer_all(terminal, [("What now", "change"), ("Its address", mosquitto.url), ("User name there", BROKER_USER)])
        answer_all(terminal, [("Place", "file"), ("File", ""), ("is not shown", "wrong")])
        terminal.until("FAILED broker local: login:")
        answer_all(terminal, [("What now", "change"), ("Its address", ""), ("User name there", "")])
        answer_all(terminal, [("Place", ""), ("File", ""), ("is not shown", BROKER_PASSWORD)])
        terminal.until("ok 127.0.0.1")
        answer_all(terminal, [("Address of a broker", ""), ("fleet", ""), ("Folder", ""), ("Kind", ""), ("panic", "n")])
        terminal.answer("Write", "")
        assert terminal.end() == 0
        assert BROKER_PASSWORD not in terminal.screen
    assert tomllib.loads(output.read_text())["broker"]["local"]["url"] == mosquitto.url
    assert (output.parent / "secrets" / "local-password").read_text() == f"{BROKER_PASSWORD}\n"


def test_a_wrong_secret_is_said_with_its_remedy_and_may_be_kept_for_later(output: Path, sandbox: str) -> None:
    answers = [*(typed for _, typed in DEVICE), "", "", *typed_of(rapidsos(sandbox, "wrong")), "keep", "done", ""]
    result = from_a_pipe(output, answers)
    assert result.exit_code == 0, result.output
    assert "FAILED rapidsos: login:" in result.output
    assert "compare client_id and client_secret" in " ".join(result.output.split())
    assert check(output).exit_code == 0
    assert check(output, "--online").exit_code == 1


def test_a_destination_that_does_not_work_can_be_left_out(output: Path, sandbox: str) -> None:
    answers = [*(typed for _, typed in DEVICE), "", "", *typed_of(rapidsos(sandbox, "wrong")), "drop", "done", ""]
    assert from_a_pipe(output, answers).exit_code == 0
    assert "destination" not in tomllib.loads(output.read_text())
    assert not (output.parent / "secrets").exists()


def test_a_secret_for_later_is_named_with_the_command_that_stores_it(output: Path, sandbox: str) -> None:
    answers = [*(typed for _, typed in DEVICE), "", "", *typed_of(rapidsos(sandbox, "")), "keep", "done", ""]
    result = from_a_pipe(output, answers)
    assert f"write the secret into {output.parent}/secrets/rapidsos" in result.output


@pytest.mark.parametrize("wrong", ["a b", "ä", "x" * 65, "../x"])
def test_an_answer_that_the_model_refuses_is_asked_again(output: Path, wrong: str) -> None:
    result = from_a_pipe(output, [wrong, "amb-1", "", "", "200, 5", "", "", "", "done", "y"])
    assert result.exit_code == 0, result.output
    assert result.output.count("  ! ") == 2
    assert tomllib.loads(output.read_text())["device"] == {"id": "amb-1"}


def test_a_question_mark_explains(output: Path) -> None:
    result = from_a_pipe(output, ["?", "amb-1", "", "", "", "", "", "done", "y"])
    assert "Unique in the fleet" in result.output
    assert result.exit_code == 0


def test_a_disk_on_which_the_defaults_do_not_fit_is_said_and_limits_that_fit_are_proposed(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50M", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setattr(SpoolConfig.model_fields["path"], "default", small / "relayd")
        SpoolConfig.model_rebuild(force=True)
        answers = ["amb-1", "", "", "", "change", "", "1 apple", "", "", "", "", "done", "y"]
        result = from_a_pipe(output, answers)
        assert result.exit_code == 0, result.output
        assert "FAILED the spool: no room" in " ".join(result.output.split())
        assert "not a size" in result.output
        spool = tomllib.loads(output.read_text())["spool"]
        assert re.fullmatch(r"\d\dMB", spool["max_size"])
        assert check(output, "--online", "--json").stdout.count('"subject": "spool",\n      "ok": true') == 1
    finally:
        monkeypatch.undo()
        SpoolConfig.model_rebuild(force=True)
        subprocess.run(["umount", str(small)], check=True)


def test_words_that_the_far_side_cannot_be_asked_for_are_typed(output: Path, mosquitto: Mosquitto) -> None:
    answers: dict[str, str | list[str]] = {
        r"^Address of a broker": [mosquitto.url, ""],
        r"^User name there": BROKER_USER,
        r"^Kind": ["sayvu", "done"],
        r"^url": f"http://127.0.0.1:{free_port()}",
        r"^Place": "file",
        r"^the password": BROKER_PASSWORD,
        r"is not shown": "ak_x",
        r"^What now": "keep",
        r"^category \(for example": ["", "Medical"],
    }
    responder = Responder(answers)
    interview(Console(responder, responder), output, None)  # type: ignore[arg-type]
    assert tomllib.loads(output.read_text())["rule"][0]["deliver"][0]["category"] == "Medical"


# --- nothing behind


@pytest.mark.parametrize("count", range(14))
def test_answers_that_end_too_early_are_exit_code_2_and_leave_nothing(
    output: Path, cameras: Path, sandbox: str, count: int
) -> None:
    answers = [*(typed for _, typed in DEVICE), "", str(cameras), "", "", *typed_of(rapidsos(sandbox))][:count]
    result = from_a_pipe(output, answers)
    assert result.exit_code == 2
    assert "the answers end before the question" in result.stderr
    assert "nothing was written" in result.stderr
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("prompt", ["Device id", "Where it stands", "Folder", "is not shown", "Write"])
def test_ctrl_c_leaves_nothing_and_the_terminal_as_it_was(
    output: Path, tmp_path: Path, sandbox: str, prompt: str
) -> None:
    dialogue = [*DEVICE, ("Address of a broker", ""), ("Folder", str(tmp_path / "new")), ("Name of this source", "")]
    dialogue += [("Make it", "y"), ("Folder", ""), *rapidsos(sandbox), ("Kind", "done"), ("Send everything", "")]
    with at_a_terminal(output) as terminal:
        for asked, typed in dialogue:
            if asked == prompt:
                break
            terminal.answer(asked, typed)
        terminal.until(prompt)
        terminal.interrupt()
        assert terminal.end() == 1
        assert "nothing was written" in terminal.screen
        assert "Traceback" not in terminal.screen
        assert terminal.echoes()
    assert list(output.parent.iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_there_is_only_overwritten_when_asked_for(output: Path) -> None:
    output.write_text("mine")
    short = ["amb-1", "", "", "", "", "", "done", "y"]
    refused = from_a_pipe(output, ["n"])
    assert (refused.exit_code, output.read_text()) == (1, "mine")
    assert "nothing was written" in refused.stderr
    assert from_a_pipe(output, ["", *short]).exit_code == 1
    assert from_a_pipe(output, [*short[:-1], "n"], "--force").exit_code == 1
    assert output.read_text() == "mine"
    assert from_a_pipe(output, ["y", *short]).exit_code == 0
    assert "amb-1" in output.read_text()
    assert from_a_pipe(output, ["amb-2", *short[1:]], "--force").exit_code == 0
    assert "amb-2" in output.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_who_may_not_write_there_is_told_before_the_first_question(output: Path) -> None:
    program = (
        "import os, sys; from relayd.cli import first, main\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "main(sys.argv[1:])"
    )
    ran = subprocess.run([sys.executable, "-c", program, "init"], capture_output=True, text=True, input="", timeout=60)
    assert ran.returncode == 1
    assert re.search(r"^  sudo \S+ init$", ran.stderr, re.MULTILINE), ran.stderr
    assert "Device id" not in ran.stdout


# --- hostile names, secrets


@pytest.mark.parametrize(
    "name", ['a"b', "it's", "100% %n", "back\\slash", "-rf", "$(id)", "{{ 7*7 }}", "æ—\u202e", "\x7f"]
)
def test_a_folder_with_any_name_is_written_so_that_it_is_read_as_itself(
    output: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    result = from_a_pipe(output, ["amb-1", "", "", "", "", str(folder), "", "", "done", "y"])
    assert result.exit_code == 0, result.output
    (section,) = tomllib.loads(output.read_text())["source"].values()
    assert section["path"] == str(folder)
    assert check(output).exit_code == 0
    assert "\u202e" not in result.output


def test_of_twenty_secrets_none_is_in_the_file_the_output_or_an_argument(output: Path, sandbox: str) -> None:
    chance = random.Random(20)
    secrets = ["".join(chance.choices(string.ascii_letters + string.digits + "!#%&/(){}", k=24)) for _ in range(20)]
    answers = [*(typed for _, typed in DEVICE), "", ""]
    for number, secret in enumerate(secrets):
        answers += ["rapidsos", f"rapidsos-{number}", sandbox, "sandbox", "file", "", secret, "keep"]
    answers += ["done", ""]
    seen = output.parent / "execve"
    command = [sys.executable, "-m", "relayd", "init", "--output", str(output)]
    if shutil.which("strace") is not None:
        command = ["strace", "-f", "-v", "-s", "4096", "-e", "trace=execve", "-o", str(seen), *command]
    typed = "\n".join([*answers, ""])
    ran = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = ran.stdout + ran.stderr + output.read_text() + (seen.read_text() if seen.exists() else "")
    assert [secret for secret in secrets if secret in told] == []
    stored = {path.read_text().strip() for path in (output.parent / "secrets").iterdir()}
    assert stored == set(secrets)
