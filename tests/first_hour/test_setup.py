"""`relayd setup`: what the machine needs for a configuration, done once, said, and undone when not needed any more."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from relayd import credstore, dropins
from relayd.cli import main
from relayd.dropins import CannotQuote, folder_line, quoted
from relayd.provision import places, readable
from relayd.provision.account import Account
from relayd.provision.places import Place, sandbox_lines

ROOT = Path(__file__).parents[2]
SERVICE = Account(uid=65534, gid=65534)
"""Stands for user relayd, whom a machine that only runs tests does not have."""
CAMERA = 65533
HOSTILE = [
    'a"b',
    "it's",
    "100% %n %%",
    "back\\slash",
    "semi;colon:colon",
    "-rf",
    " blank ",
    "$(id)",
    "{{ 7*7 }}",
    "ä—\u202e",
]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to others and to ask as them")


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users may pass through, which pytest's own ones are not."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="relayd-test-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def machine(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system whose own folders are below it; none of them is hidden from the service."""
    tmp_path = open_path
    monkeypatch.setattr(credstore, "PLAIN_FOLDER", tmp_path / "etc" / "credentials")
    monkeypatch.setattr(credstore, "ENCRYPTED_FOLDER", tmp_path / "credstore.encrypted")
    monkeypatch.setattr(credstore, "RUNNING_FOLDER", tmp_path / "running")
    monkeypatch.setattr(dropins, "FOLDER", tmp_path / "relayd.service.d")
    monkeypatch.setattr(dropins, "SYSTEMD_RUNS", tmp_path / "no-systemd")
    monkeypatch.setattr(readable, "OURS", tmp_path / "etc")
    monkeypatch.setattr(places, "TEMPORARY", ())
    monkeypatch.setattr(Account, "of_service", classmethod(lambda _: SERVICE))
    (tmp_path / "etc").mkdir()
    return tmp_path


def write(machine: Path, *sections: str) -> Path:
    place = machine / "etc" / "relayd.toml"
    place.write_text(f'[spool]\npath = "{machine}/spool"\n' + "\n".join(sections))
    if not (machine / "spool").exists():
        (machine / "spool").mkdir()
        os.chown(machine / "spool", SERVICE.uid, SERVICE.gid)
    return place


def source(path: Path, *lines: str, name: str = "front") -> str:
    return "\n".join([f"[source.{name}]", 'type = "folder"', f"path = '{path}'", *lines])


def call(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(config), "setup", *words])


def drop_folder(place: Path, *, mode: int = 0o700, owner: int = CAMERA) -> Path:
    place.mkdir(parents=True)
    place.chmod(mode)
    os.chown(place, owner, owner)
    return place


def as_somebody(uid: int, script: str, *arguments: str | Path) -> bool:
    ran = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *map(str, arguments)],
        user=uid,
        group=uid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        timeout=20,
    )
    return ran.returncode == 0


# --- rights


@needs_root
def test_the_service_may_take_what_a_camera_leaves_and_the_owner_stays(machine: Path) -> None:
    folder = drop_folder(machine / "srv" / "front")
    config = write(machine, source(folder))
    assert not as_somebody(SERVICE.uid, 'ls "$1"', folder)
    result = call(config)
    assert result.exit_code == 0, result.output
    assert folder.stat().st_uid == CAMERA
    assert as_somebody(SERVICE.uid, 'ls "$1"', folder)
    # A camera that lets nobody else read what it writes, as FTP servers do.
    assert as_somebody(CAMERA, 'cd "$1" && umask 077 && echo picture > new.jpg', folder)
    assert as_somebody(SERVICE.uid, 'cat "$1/new.jpg" && rm "$1/new.jpg"', folder)


@needs_root
def test_the_way_to_a_folder_is_opened_to_pass_and_to_nothing_else(machine: Path) -> None:
    folder = drop_folder(drop_folder(machine / "srv") / "front")
    assert call(write(machine, source(folder))).exit_code == 0
    assert as_somebody(SERVICE.uid, 'ls "$1"', folder)
    assert not as_somebody(SERVICE.uid, 'ls "$1"', machine / "srv")


@needs_root
def test_a_second_run_finds_nothing_to_do(machine: Path) -> None:
    config = write(machine, source(drop_folder(machine / "front")))
    assert "done: " in call(config).output
    before = {path: path.lstat().st_mtime_ns for path in machine.rglob("*")}
    again = call(config)
    assert (again.exit_code, "nothing to do" in again.output) == (0, True)
    assert {path: path.lstat().st_mtime_ns for path in machine.rglob("*")} == before


@needs_root
def test_a_dry_run_says_the_same_and_changes_nothing(machine: Path) -> None:
    folder = drop_folder(machine / "front")
    config = write(machine, source(folder))
    before = {path: path.lstat().st_ctime_ns for path in machine.rglob("*")}
    said = call(config, "--dry-run")
    assert said.exit_code == 0
    assert {path: path.lstat().st_ctime_ns for path in machine.rglob("*")} == before
    done = call(config)
    assert said.output.replace("would do: ", "done: ") == done.output


@needs_root
def test_a_missing_folder_is_left_to_the_technician_or_made_if_asked(machine: Path) -> None:
    config = write(machine, source(machine / "srv" / "front"))
    result = call(config)
    assert result.exit_code == 1
    assert "does not exist → relayd setup --create" in result.output
    assert not (machine / "srv").exists()
    made = call(config, "--create")
    assert "setfacl -m u:USER:rwx" in made.output  # nobody knows who the camera is
    found = (machine / "srv" / "front").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o2770, SERVICE.gid)
    assert as_somebody(SERVICE.uid, 'cd "$1" && echo x > a && rm a', machine / "srv" / "front")
    assert call(config).exit_code == 0


@needs_root
def test_what_was_there_before_is_opened_too_but_nothing_that_a_link_leads_to(machine: Path) -> None:
    folder = drop_folder(machine / "front")
    victim = machine / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)
    (folder / "old.jpg").write_text("picture")
    (folder / "old.jpg").chmod(0o600)
    (folder / "link.jpg").symlink_to(victim)
    os.link(victim, folder / "hard.jpg")
    (folder / "sub").mkdir(mode=0o700)
    os.mkfifo(folder / "pipe")
    config = write(machine, source(folder, "recursive = true"))
    assert "1 sub-folder" in call(config).output
    assert as_somebody(SERVICE.uid, 'cat "$1/old.jpg" && cd "$1/sub"', folder)
    assert not as_somebody(SERVICE.uid, 'cat "$1"', victim)
    assert "nothing to do" in call(config).output


@needs_root
def test_no_right_is_given_through_a_link_that_a_camera_made(machine: Path) -> None:
    victim = machine / "victim"
    victim.mkdir(mode=0o700)
    (machine / "front").symlink_to(victim)
    os.chown(machine / "front", CAMERA, CAMERA, follow_symlinks=False)
    result = call(write(machine, source(machine / "front")))
    assert result.exit_code == 1
    assert "a link that root did not make" in result.output
    assert not as_somebody(SERVICE.uid, 'ls "$1"', victim)


@needs_root
def test_a_sticky_folder_is_left_to_the_technician(machine: Path) -> None:
    result = call(write(machine, source(drop_folder(machine / "front", mode=0o1777))))
    assert result.exit_code == 1
    assert f"chmod -t {machine}/front" in result.output


@needs_root
def test_a_folder_that_is_only_read_gets_no_right_to_write(machine: Path) -> None:
    folder = drop_folder(machine / "front")
    assert call(write(machine, source(folder, "keep_originals = true"))).exit_code == 0
    assert as_somebody(SERVICE.uid, 'ls "$1"', folder)
    assert not as_somebody(SERVICE.uid, 'echo x > "$1/a"', folder)
    assert "front" not in dropins.place("50-folders").read_text()


@needs_root
def test_the_configuration_and_its_secrets_become_readable_for_the_service_alone(machine: Path) -> None:
    (machine / "etc" / "secrets").mkdir(mode=0o700)
    for name, mode in (("closed", 0o600), ("open", 0o644)):
        (machine / "etc" / "secrets" / name).write_text("hunter2")
        (machine / "etc" / "secrets" / name).chmod(mode)
    sections = [
        f'[destination.{name}]\ntype = "webhook"\nurl = "http://127.0.0.1"\n'
        f'token = {{ file = "{machine}/etc/secrets/{name}" }}'
        for name in ("closed", "open")
    ]
    config = write(machine, *sections)
    config.chmod(0o600)
    result = call(config)
    assert result.exit_code == 0, result.output
    assert "hunter2" not in result.output
    for path in (config, machine / "etc" / "secrets" / "closed", machine / "etc" / "secrets" / "open"):
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, SERVICE.gid)
    assert "nothing to do" in call(config).output


@needs_root
def test_a_missing_credential_is_said_and_a_stored_one_is_loaded(machine: Path) -> None:
    section = '[destination.hook]\ntype = "webhook"\nurl = "http://127.0.0.1"\ntoken = { credential = "hook" }'
    config = write(machine, section)
    result = call(config)
    assert result.exit_code == 1
    assert "destination.hook.token needs it → relayd credential add hook" in result.output
    (machine / "etc" / "credentials").mkdir(mode=0o700)
    (machine / "etc" / "credentials" / "hook").write_text("x")
    assert "done: the unit loads credential hook" in call(config).output
    (machine / "etc" / "credentials" / "hook").unlink()
    assert "stored no more" in call(config).output
    assert not dropins.place("50-credential-hook").exists()


@needs_root
def test_a_folder_that_is_not_needed_any_more_leaves_the_unit(machine: Path) -> None:
    config = write(machine, source(drop_folder(machine / "a")), source(drop_folder(machine / "b"), name="other"))
    call(config)
    assert f'ReadWritePaths="-{machine}/b"' in dropins.place("50-folders").read_text()
    config = write(machine, source(machine / "a"))
    call(config)
    assert f"{machine}/b" not in dropins.place("50-folders").read_text()


@needs_root
def test_what_systemd_cannot_name_is_left_to_the_technician_and_the_rest_is_done(machine: Path) -> None:
    good, bad = drop_folder(machine / "good"), drop_folder(machine / "b\nad")
    text = source(good) + f'\n[source.bad]\ntype = "folder"\npath = "{machine}/b\\nad"\n'
    result = call(write(machine, text))
    assert result.exit_code == 1
    assert "give it another name" in result.output
    assert bad.is_dir()
    assert str(good) in dropins.place("50-folders").read_text()
    assert all("\nad" not in line for line in result.output.splitlines())


def test_a_configuration_with_faults_is_exit_code_2(machine: Path) -> None:
    config = machine / "etc" / "relayd.toml"
    config.write_text("[device]\nnam = 1\n")
    assert call(config, "--root", str(machine)).exit_code == 2


@needs_root
def test_without_the_user_of_the_service_it_says_what_is_missing(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Account, "of_service", classmethod(lambda _: None))
    result = call(write(machine))
    assert result.exit_code == 1
    assert "no user relayd" in result.stderr


def test_the_tree_of_an_image_gets_folders_and_drop_ins(tmp_path: Path) -> None:
    image = tmp_path / "image"
    (image / "etc" / "relayd").mkdir(parents=True)
    (image / "etc" / "relayd" / "relayd.toml").write_text(source(Path("/srv/front")))
    result = CliRunner().invoke(main, ["setup", "--root", str(image), "--create"])
    assert "run `relayd setup` there, too" in result.output
    assert (image / "srv" / "front").is_dir()
    assert 'ReadWritePaths="-/srv/front"' in dropins.place("50-folders", image).read_text()


# --- what the unit is told


def place_at(path: str, **more: bool) -> Place:
    return Place(path=Path(path), owner="source x", is_drop=True, **more)


def test_each_folder_is_opened_in_the_way_that_the_sandbox_needs() -> None:
    assert sandbox_lines([place_at("/srv/x")]) == ['ReadWritePaths="-/srv/x"']
    assert sandbox_lines([place_at("/home/u/x")]) == ["ProtectHome=tmpfs", 'BindPaths="-/home/u/x"']
    assert sandbox_lines([place_at("/tmp/x", is_written=False)]) == ['BindReadOnlyPaths="-/tmp/x"']
    assert sandbox_lines([place_at("/srv/x", is_written=False)]) == []
    assert sandbox_lines([Place(path=Path("/var/lib/relayd"), owner="the spool", is_spool=True)]) == []
    assert sandbox_lines([place_at("/"), place_at("/proc/x")]) == []


def test_around_a_mount_point_its_folder_is_opened_so_that_a_disk_that_comes_later_is_seen() -> None:
    assert sandbox_lines([place_at("/media/usb", is_mount=True)]) == ['ReadWritePaths="-/media"']
    assert sandbox_lines([place_at("/usb", is_mount=True)]) == ['ReadWritePaths="-/usb"']


def unquoted(text: str, *, keeps_escapes: bool = False, is_word: bool = True) -> str:
    """As systemd's extract_first_word does with EXTRACT_UNQUOTE: quotes and backslashes taken away; a word ends at a
    blank, and within BindPaths= at colons only."""
    out, quote, letters = [], "", iter(text)
    for letter in letters:
        if letter == "\\":
            out.append(("\\" if keeps_escapes else "") + next(letters))
        elif quote and letter == quote:
            quote = ""
        elif not quote and letter in "\"'":
            quote = letter
        else:
            assert quote or not is_word or letter not in " \t", "the word ends here"
            out.append(letter)
    assert not quote
    return "".join(out)


def without_specifiers(text: str) -> str:
    assert re.fullmatch(r"([^%]|%%)*", text, re.DOTALL)
    return text.replace("%%", "%")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_path_is_read_as_itself_or_refused(name: str) -> None:
    path = Path("/srv/" + name)
    try:
        plain, bound = folder_line("ReadWritePaths", path), folder_line("BindPaths", path)
    except CannotQuote:
        assert re.search(r"[\x00-\x08\x0a-\x1f\x7f]", str(path))
        return
    assert "\n" not in plain + bound
    assert without_specifiers(unquoted(plain.removeprefix("ReadWritePaths="))) == f"-{path}"
    once = unquoted(bound.removeprefix("BindPaths="), keeps_escapes=True)
    assert re.fullmatch(r"(?:[^:\\]|\\.)*", once, re.DOTALL), "a colon would part it in two"
    assert without_specifiers(unquoted(once, is_word=False)) == f"-{path}"


def test_a_name_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(CannotQuote):
        quoted(Path("/srv/\udcff"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_systemd_reads_the_drop_in_of_hostile_names_without_a_word(tmp_path: Path) -> None:
    found = [place_at(f"{base}/{name}") for base in ("/srv", "/home/u") for name in HOSTILE]
    dropins.put("50-folders", sandbox_lines(found), tmp_path)
    unit = tmp_path / "etc/systemd/system/relayd.service"
    unit.write_text(re.sub("ExecStart=.*", "ExecStart=/bin/true", (ROOT / "systemd/relayd.service").read_text()))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert [line for line in ran.stderr.splitlines() if "relayd.service" in line] == []


@needs_root
@pytest.mark.parametrize("name", HOSTILE)
def test_a_folder_with_a_hostile_name_is_set_up_like_any_other(machine: Path, name: str) -> None:
    folder = drop_folder(machine / name)
    place = machine / "etc" / "relayd.toml"
    write(machine)
    path = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    place.write_text(place.read_text() + f'[source.front]\ntype = "folder"\npath = "{path}"\n')
    result = call(place)
    assert result.exit_code == 0, result.output
    assert as_somebody(SERVICE.uid, 'cd "$1" && echo x > a && rm a', folder)
    assert "\u202e" not in result.output


@needs_root
def test_a_file_system_without_access_lists_is_said_with_the_command(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine / "no-lists"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "ramfs", "ramfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no right to mount")
    try:
        folder.chmod(0o700)
        result = call(write(machine, source(folder)))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert result.exit_code == 1
    assert "has no access lists: run `chgrp relayd" in result.output
