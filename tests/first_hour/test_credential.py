"""`relayd credential`: a secret reaches the service and nobody else, from a terminal, a pipe or a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relayd import credstore, dropins
from relayd.cli import main
from relayd.errors import SecretMissing
from relayd.fields import Secret
from tests.first_hour.terminal import Terminal

VALUE = "hunter2 with a blank"
CONFIG = """
[destination.rapidsos]
type = "rapidsos"
url = "https://api-sandbox.rapidsos.com"
client_id = "x"
client_secret = { credential = "rapidsos" }
[destination.hook]
type = "webhook"
url = "https://hooks.example.org"
token = { credential = "hook" }
headers = { X-Key = { credential = "rapidsos" } }
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    made = tmp_path / "image"
    made.mkdir()
    return made


@pytest.fixture
def config(tmp_path: Path) -> Path:
    place = tmp_path / "relayd.toml"
    place.write_text(CONFIG)
    return place


def call(*words: str | Path, typed: bytes = b"") -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], input=typed)


def stored(image: Path, name: str = "rapidsos") -> Path:
    return credstore.plain_place(name, image)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- add


def test_at_a_terminal_it_is_asked_for_twice_and_never_shown(image: Path) -> None:
    with Terminal(["credential", "add", "rapidsos", "--root", str(image)], folder=image) as terminal:
        terminal.answer("Secret rapidsos", VALUE)
        terminal.answer("Once more", "hunter3")
        terminal.until("not the same")
        terminal.answer("Secret rapidsos", VALUE)
        terminal.answer("Once more", VALUE)
        assert terminal.end() == 0
        assert "hunter" not in terminal.screen
        assert "systemctl restart" not in terminal.screen  # nothing runs in an image
    assert stored(image).read_text() == VALUE


def test_ctrl_c_at_the_prompt_stores_nothing(image: Path) -> None:
    with Terminal(["credential", "add", "rapidsos", "--root", str(image)], folder=image) as terminal:
        terminal.answer("Secret rapidsos", VALUE)
        terminal.until("Once more")
        terminal.interrupt()
        assert terminal.end() != 0
    assert list(image.iterdir()) == []


def test_from_a_pipe_it_is_stored_for_root_alone_and_the_line_break_is_said_to_go(image: Path, config: Path) -> None:
    result = call("--config", config, "credential", "add", "rapidsos", "--root", image, typed=VALUE.encode() + b"\r\n")
    assert result.exit_code == 0, result.output
    assert stored(image).read_text() == VALUE
    assert (mode_of(stored(image)), mode_of(stored(image).parent)) == (0o600, 0o700)
    assert "line break at its end was left out" in result.output
    assert "destination.rapidsos.client_secret" in result.output
    assert "destination.hook.headers.X-Key" in result.output
    assert VALUE not in result.output


def test_from_a_file_and_in_place_of_an_older_one(image: Path, tmp_path: Path) -> None:
    (tmp_path / "value").write_text("new")
    call("credential", "add", "rapidsos", "--root", image, typed=b"old")
    result = call("credential", "add", "rapidsos", "--root", image, "--file", tmp_path / "value")
    assert "is replaced" in result.output
    assert stored(image).read_text() == "new"
    assert [path.name for path in stored(image).parent.iterdir()] == ["rapidsos"]


def test_a_value_on_the_command_line_is_wrong_usage(image: Path) -> None:
    result = call("credential", "add", "rapidsos", "hunter2", "--root", image)
    assert result.exit_code == 2
    assert not stored(image).exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", ".hidden", "a b", "a:b", "a%h", "ä", "a\nb", "x" * 129])
def test_a_name_that_cannot_be_is_wrong_usage(image: Path, name: str) -> None:
    result = call("credential", "add", "--root", image, "--", name, typed=b"x")
    assert result.exit_code == 2
    assert list(image.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [(b"", "empty"), (b" \r\n", "empty"), (b"\xff\xfe", "UTF-8"), (b"a\0b", "NUL"), (b"x" * 70_000, "KiB")],
)
def test_a_value_that_is_no_secret_is_refused_and_the_old_one_stays(image: Path, value: bytes, said: str) -> None:
    call("credential", "add", "rapidsos", "--root", image, typed=b"old")
    result = call("credential", "add", "rapidsos", "--root", image, typed=value)
    assert result.exit_code == 1
    assert said in result.stderr
    assert stored(image).read_text() == "old"


def test_every_line_of_a_secret_is_kept(image: Path) -> None:
    result = call("credential", "add", "key", "--root", image, typed=b" one\ntwo \n")
    assert stored(image, "key").read_text() == "one\ntwo"
    assert "2 lines" in result.output
    assert "white space around it" in result.output


def test_the_unit_loads_it_and_starts_without_it_when_it_gets_lost(image: Path) -> None:
    call("credential", "add", "rapidsos", "--root", image, typed=b"x")
    assert dropins.place("50-credential-rapidsos", image).read_text().splitlines() == [
        dropins.MARK,
        "[Service]",
        "LoadCredential=rapidsos:/etc/relayd/credentials/rapidsos",
        r"SetCredential=rapidsos:\n",
    ]


def test_the_unit_with_its_drop_in_is_one_that_systemd_reads(image: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    call("credential", "add", "rapidsos", "--root", image, typed=b"x")
    assert dropins_are_read(image) == ""


def dropins_are_read(image: Path) -> str:
    """What systemd says of the unit with the drop-ins of the image; nothing if all is good."""
    unit = image / "etc/systemd/system/relayd.service"
    text = (Path(__file__).parents[2] / "systemd/relayd.service").read_text()
    unit.write_text(re.sub("ExecStart=.*", "ExecStart=/bin/true", text))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    return "\n".join(line for line in ran.stderr.splitlines() if "relayd.service" in line)


def test_a_drop_in_that_somebody_else_wrote_is_left_alone(image: Path) -> None:
    place = dropins.place("50-credential-rapidsos", image)
    place.parent.mkdir(parents=True)
    place.write_text("[Service]\n")
    result = call("credential", "add", "rapidsos", "--root", image, typed=b"x")
    assert result.exit_code == 1
    assert "somebody else" in result.stderr
    assert place.read_text() == "[Service]\n"


def test_a_link_in_the_place_of_the_secret_is_replaced_and_not_followed(image: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    stored(image).parent.mkdir(parents=True)
    stored(image).symlink_to(victim)
    call("credential", "add", "rapidsos", "--root", image, typed=b"x")
    assert victim.read_text() == "untouched"
    assert not stored(image).is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("words", [["add", "rapidsos"], ["list"], ["remove", "rapidsos"]])
def test_without_root_the_line_to_type_is_said(words: list[str], config: Path) -> None:
    program = (
        "import os, sys; from relayd.cli import credential, main\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, "credential", *words]
    ran = subprocess.run(command, capture_output=True, text=True, input="x", timeout=60)
    assert ran.returncode == 1
    assert re.search(rf"^  sudo \S+ credential {' '.join(words)}$", ran.stderr, re.MULTILINE), ran.stderr


# --- list and remove


def test_the_list_shows_names_and_keys_marks_what_is_missing_and_no_value(image: Path, config: Path) -> None:
    call("credential", "add", "rapidsos", "--root", image, typed=VALUE.encode())
    call("credential", "add", "unused", "--root", image, typed=VALUE.encode())
    result = call("--config", config, "credential", "list", "--root", image)
    assert result.exit_code == 0
    assert VALUE not in result.output
    assert re.search(r"^rapidsos +yes +destination\.rapidsos\.client_secret, ", result.output, re.MULTILINE)
    assert re.search(r"^unused +yes +nothing$", result.output, re.MULTILINE)
    assert re.search(r"^hook +missing +destination\.hook\.token$", result.output, re.MULTILINE)
    assert "relayd credential add hook" in result.output
    document = json.loads(call("--config", config, "credential", "list", "--json", "--root", image).stdout)
    assert [(one["name"], one["stored"]) for one in document] == [("hook", False), ("rapidsos", True), ("unused", True)]


def test_the_list_works_with_a_configuration_that_has_faults(image: Path, config: Path) -> None:
    config.write_text(CONFIG + "nonsense = 1\n[wrong]\n")
    assert "missing" in call("--config", config, "credential", "list", "--root", image).output


def test_what_the_unit_does_not_load_is_said(image: Path) -> None:
    call("credential", "add", "rapidsos", "--root", image, typed=b"x")
    dropins.place("50-credential-rapidsos", image).unlink()
    assert "relayd setup" in call("credential", "list", "--root", image).output


def test_what_is_removed_is_gone_and_who_still_names_it_is_said(image: Path, config: Path) -> None:
    call("credential", "add", "rapidsos", "--root", image, typed=b"x")
    result = call("--config", config, "credential", "remove", "rapidsos", "--root", image)
    assert result.exit_code == 0
    assert "still names it: destination.rapidsos.client_secret" in result.output
    assert [path for path in image.rglob("*") if path.is_file()] == []
    again = call("credential", "remove", "rapidsos", "--root", image)
    assert again.exit_code == 1
    assert "there is no credential rapidsos" in again.stderr


# --- on the system itself: encrypted, and read again by a technician


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of the system, elsewhere; and a key of the machine of our own."""
    if os.geteuid() != 0 or shutil.which("systemd-creds") is None:
        pytest.skip("needs root and systemd-creds")
    monkeypatch.setattr(credstore, "PLAIN_FOLDER", tmp_path / "credentials")
    monkeypatch.setattr(credstore, "ENCRYPTED_FOLDER", tmp_path / "credstore.encrypted")
    monkeypatch.setattr(credstore, "RUNNING_FOLDER", tmp_path / "running")
    monkeypatch.setattr(dropins, "FOLDER", tmp_path / "relayd.service.d")
    monkeypatch.setattr(dropins, "SYSTEMD_RUNS", tmp_path / "no-systemd")
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "machine.key"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    return tmp_path


def test_with_systemd_creds_it_is_encrypted_and_a_technician_reads_the_same(system: Path) -> None:
    result = call("credential", "add", "rapidsos", typed=VALUE.encode() + b"\n")
    assert result.exit_code == 0, result.output
    assert "encrypted for this machine" in result.output
    assert "systemctl restart relayd" in result.output
    place = system / "credstore.encrypted" / "relayd.rapidsos"
    assert VALUE.encode() not in place.read_bytes()
    assert (mode_of(place), mode_of(place.parent)) == (0o600, 0o700)
    drop_in = dropins.place("50-credential-rapidsos").read_text()
    assert f"\nLoadCredentialEncrypted=rapidsos:{place}\n" in drop_in
    assert Secret(credential="rapidsos").reveal() == VALUE
    assert re.search(r"^rapidsos +encrypted +nothing$", call("credential", "list").output, re.MULTILINE)


def test_without_systemd_creds_it_is_a_file_of_roots_and_that_is_said(
    system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(system))
    result = call("credential", "add", "rapidsos", typed=VALUE.encode())
    assert result.exit_code == 0, result.output
    assert "there is no systemd-creds" in result.output
    assert (system / "credentials" / "rapidsos").read_text() == VALUE
    assert Secret(credential="rapidsos").reveal() == VALUE


def test_of_the_two_ways_only_the_newest_is_kept(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(system))
    call("credential", "add", "rapidsos", typed=b"first")
    monkeypatch.setenv("PATH", path)
    call("credential", "add", "rapidsos", typed=b"second")
    assert list((system / "credentials").iterdir()) == []
    assert Secret(credential="rapidsos").reveal() == "second"
    monkeypatch.setenv("PATH", str(system))
    call("credential", "add", "rapidsos", typed=b"third")
    assert list((system / "credstore.encrypted").iterdir()) == []
    assert Secret(credential="rapidsos").reveal() == "third"


def test_what_another_machine_encrypted_is_said_so(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("credential", "add", "rapidsos", typed=VALUE.encode())
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(system / "other.key"))
    with pytest.raises(SecretMissing, match=r"cannot be decrypted on this machine.*relayd credential add rapidsos"):
        Secret(credential="rapidsos").reveal()


def test_a_technician_finds_what_the_running_service_was_given(system: Path) -> None:
    (system / "running").mkdir()
    (system / "running" / "by-hand").write_text("value\n")
    assert Secret(credential="by-hand").reveal() == "value"
    with pytest.raises(SecretMissing, match="there is no credential other: run `relayd credential add other`"):
        Secret(credential="other").reveal()


def test_the_empty_one_that_stands_for_a_lost_file_is_missing_in_the_list(system: Path, config: Path) -> None:
    call("credential", "add", "rapidsos", typed=VALUE.encode())
    (system / "credstore.encrypted" / "relayd.rapidsos").unlink()
    (system / "running").mkdir()
    (system / "running" / "rapidsos").write_text("\n")
    (system / "running" / "hook").write_text("by hand")
    found = json.loads(call("--config", config, "credential", "list", "--json").stdout)
    assert [(one["name"], one["stored"], one["loaded_by_unit"]) for one in found] == [
        ("hook", True, True),
        ("rapidsos", False, False),
    ]


def test_within_the_service_only_what_systemd_handed_over_counts(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("credential", "add", "rapidsos", typed=VALUE.encode())
    handed = system / "handed"
    handed.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    with pytest.raises(SecretMissing, match="was not handed over by systemd"):
        Secret(credential="rapidsos").reveal()
    (handed / "rapidsos").write_text("\n")
    with pytest.raises(SecretMissing, match="is empty"):
        Secret(credential="rapidsos").reveal()


def test_the_value_is_in_no_argument_of_any_process_that_is_started(system: Path) -> None:
    """strace sees every execve with its arguments and its environment."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not there")
    seen = system / "execve"
    program = (
        "import sys; from pathlib import Path; from relayd import credstore, dropins; from relayd.cli import main\n"
        "credstore.PLAIN_FOLDER, credstore.ENCRYPTED_FOLDER, dropins.FOLDER = map(Path, sys.argv[1:4])\n"
        "main(sys.argv[4:])"
    )
    command = ["strace", "-f", "-v", "-s", "4096", "-e", "trace=execve", "-o", str(seen), sys.executable, "-c", program]
    command += [*(str(system / name) for name in ("plain", "encrypted", "drop-ins")), "credential", "add", "rapidsos"]
    ran = subprocess.run(command, input=VALUE.encode(), capture_output=True, timeout=60)
    assert ran.returncode == 0
    assert (system / "encrypted" / "relayd.rapidsos").exists()
    assert "systemd-creds" in seen.read_text()
    assert VALUE not in seen.read_text()
    assert VALUE.encode() not in ran.stdout + ran.stderr
