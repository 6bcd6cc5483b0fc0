"""The command line's frame: names, help, exit codes, and what it costs to start."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from relayd.cli import COMMANDS, main
from relayd.config import spool_path_of
from relayd.web import place

ROOT = Path(__file__).parents[2]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration nobody runs, on a machine without a system's relay."""
    monkeypatch.setattr(place, "SYSTEM_FOLDER", tmp_path / "run")
    file = tmp_path / "relayd.toml"
    file.write_text(f'[spool]\npath = "{tmp_path / "spool"}"\n')
    (tmp_path / "spool").mkdir()
    return file


# --- names and help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listed_help_of_a_command_is_its_own(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert (command.help or "").split("\n")[0].startswith(COMMANDS[name].help.removesuffix("."))
    assert call(name, "--help").exit_code == 0


def test_the_readmes_command_table_lists_exactly_the_commands_there_are() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^\| command \|.*\n((?:\|.*\n)+)", readme, re.MULTILINE | re.IGNORECASE)
    assert table is not None, "the README has no table whose first column is called command"
    cells = [re.split(r"(?<!\\)\|", row)[1] for row in table[1].splitlines()]
    assert {name for cell in cells for name in re.findall(r"`(?:relayd )?([a-z]+)", cell)} == set(COMMANDS)


def test_help_lists_every_command_and_the_exit_codes() -> None:
    text = call("--help").output
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in COMMANDS)
    assert "3 no running relay answers" in " ".join(text.split())


@pytest.mark.parametrize(("typed", "meant"), [("stauts", "status"), ("item", "items"), ("snd", "send")])
def test_an_unknown_command_suggests_the_nearest(typed: str, meant: str) -> None:
    result = call(typed)
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.output


def test_a_command_like_no_other_points_to_the_help() -> None:
    result = call("xyzzy")
    assert result.exit_code == 2
    assert "relayd --help" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["status", "--jsn"],
        ["retry"],
        ["retry", "--all", "0123"],
        ["resend", "--to", "usb"],
        ["resend", "0123"],
        ["resend", "0123", "--until", "10m", "--to", "usb"],
        ["resend", "a", "b", "--since", "10m", "--to", "usb"],
        ["resend", "--since", "yesterday", "--to", "usb"],
        ["resend", "--since", "25:00", "--to", "usb"],
        ["drop"],
        ["send", "a.jpg"],
        ["send", "--to", "x"],
        ["send", "a.jpg", "--to", "x", "--set", "novalue"],
        ["send", "a.jpg", "--to", "x", "--priority", "soon"],
        ["items", "--state", "lost"],
        ["items", "--limit", "0"],
        ["items", "show"],
        ["why"],
        ["spool"],
        ["spool", "export"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"relayd \d+\.\d+\.\d+\n", call("--version").output)


def test_status_and_help_start_without_the_heavy_libraries(tmp_path: Path) -> None:
    """What makes them slow to start on a gateway: rich, aiohttp, pydantic, asyncio."""
    config = tmp_path / "relayd.toml"
    config.write_text(f'[spool]\npath = "{tmp_path}"\n')
    program = (
        "import sys; from relayd.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(sorted({'rich', 'aiohttp', 'pydantic', 'asyncio', 'sqlite3'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["--config", str(config), "status"]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines()[-1] == "[]", done.stderr


# --- no relay


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--watch"],
        ["items"],
        ["items", "show", "x"],
        ["why", "x"],
        ["send", __file__, "--to", "x"],
        ["retry", "--all"],
        ["resend", "0123", "--to", "usb"],
        ["drop", "x"],
        ["pause"],
        ["resume", "x"],
    ],
)
def test_without_a_running_relay_the_exit_code_is_3_and_says_where_it_looked(
    config: Path, arguments: list[str]
) -> None:
    result = call("--config", config, *arguments)
    assert result.exit_code == 3, result.output
    assert str(config.parent / "spool" / "relayd.sock") in result.stderr
    assert str(config.parent / "run" / "relayd.sock") in result.stderr
    assert "relayd run" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("content", ["", "not toml = = =", "spool = 3", "[spool]\npath = 7", "[spool]\npath = ''"])
def test_a_configuration_that_cannot_be_used_still_leads_to_a_relay(
    config: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    config.write_text(content)
    assert call("--config", config, "status").exit_code == 3


@pytest.mark.parametrize("content", ['[spool]\npath = "/x/y"', "[spool]", 'x = 1\n[spool]\npath = "relative"', "[[["])
def test_client_and_daemon_agree_on_where_the_spool_is(tmp_path: Path, content: str) -> None:
    config = tmp_path / "relayd.toml"
    config.write_text(content)
    result = call("--config", config, "status")
    assert str(spool_path_of([config]) / "relayd.sock") in result.stderr


def test_a_dead_socket_is_no_relay(config: Path) -> None:
    place.listen(config.parent / "spool" / "relayd.sock").close()
    result = call("--config", config, "status")
    assert result.exit_code == 3
    assert "nobody listens" in result.stderr


# --- somebody else on the socket


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Somebody who takes each call, reads a little, says this, and hangs up."""
    path.parent.mkdir(exist_ok=True)
    with place.listen(path) as listening:
        listening.setblocking(True)

        def serve() -> None:
            while True:
                caller, _ = listening.accept()
                with caller:
                    if not caller.recv(65536).startswith((b"GET", b"POST")):
                        return
                    caller.sendall(answer)
                    caller.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
                last.sendall(b"end")
            thread.join(10)


def http(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def test_the_relay_of_another_spool_is_never_taken_for_the_configured_one(config: Path) -> None:
    with answering(
        config.parent / "run" / "relayd.sock", http("200 OK", b'{"dropped": 1}', "Relayd-Spool: /elsewhere")
    ):
        result = call("--config", config, "status")
    assert result.exit_code == 3
    assert "/elsewhere" in result.stderr


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (b"", 3, "hung up"),
        (b"\x00\x01garbage\r\n\r\n", 3, "hung up"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", 3, "hung up"),
        (http("500 Internal Server Error", b"Server got itself in trouble"), 1, "journalctl"),
        (http("200 OK", b"[1]"), 1, "failed inside"),
        (http("409 Conflict", b'{"error": "no\\u001b[2J room"}'), 1, r"no\x1b[2J room"),
    ],
)
def test_a_strange_answer_is_one_sentence(config: Path, answer: bytes, code: int, words: str) -> None:
    with answering(config.parent / "spool" / "relayd.sock", answer):
        result = call("--config", config, "status")
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


# --- a stopped relay's spool


@pytest.mark.parametrize("arguments", [["check"], ["repair"], ["export", "out"]])
def test_a_spool_that_never_was_is_said_so(tmp_path: Path, arguments: list[str]) -> None:
    config = tmp_path / "relayd.toml"
    config.write_text(f'[spool]\npath = "{tmp_path / "absent"}"\n')
    result = call("--config", config, "spool", *arguments)
    assert result.exit_code == 1
    assert "nothing was ever stored" in result.stderr
    assert not (tmp_path / "absent").exists()
