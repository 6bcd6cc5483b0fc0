"""Where the control socket is, and how it is made."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relayd.web import place


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller, place.address_of(path) as address:
        try:
            caller.connect(address)
        except OSError:
            return False
    return True


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o177, 0o777])
def test_the_mode_is_0660_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "relayd.sock"
    with umask(mask), place.listen(path):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    descriptors = len(os.listdir("/proc/self/fd"))
    with place.listen(folder / "relayd.sock"):
        assert answers(folder / "relayd.sock")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_socket_left_by_a_killed_relay_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relayd.sock"
    place.listen(path).close()
    assert path.is_socket()
    with place.listen(path):
        assert answers(path)


def test_a_socket_somebody_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "relayd.sock"
    with place.listen(path):
        with pytest.raises(place.CannotListen, match="another relay answers"):
            place.listen(path)
        assert answers(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_something_that_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / "relayd.sock", tmp_path / "victim"
    victim.write_text("precious")
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(victim)
    with pytest.raises(place.CannotListen, match="move it away"):
        place.listen(path)
    assert path.lstat()
    assert victim.read_text() == "precious"


def test_an_empty_file_that_an_earlier_try_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "relayd.sock"
    path.touch()
    with place.listen(path):
        assert answers(path)


def test_a_file_system_that_makes_a_file_instead_of_a_socket_is_said_and_the_file_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Filed(socket.socket):
        def bind(self, address: Any) -> None:
            Path(address).touch()

    monkeypatch.setattr(socket, "socket", Filed)
    with pytest.raises(place.CannotListen, match="its file system has no sockets"):
        place.listen(tmp_path / "relayd.sock")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(place.CannotListen, match="No such file"):
        place.listen(tmp_path / "absent" / "relayd.sock")


def test_only_the_own_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "relayd.sock"
    with place.listen(path):
        old = place.identity(path)
        path.rename(tmp_path / "older.sock")
        with place.listen(path):
            place.remove(path, old)
            assert path.is_socket()
            place.remove(path, place.identity(path))
            assert not path.exists()


def test_the_systems_relay_is_found_in_run_and_every_other_one_in_its_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, system = tmp_path / "spool", tmp_path / "run"
    monkeypatch.setattr(place, "SYSTEM_FOLDER", system)
    own, shared = spool / "relayd.sock", system / "relayd.sock"
    assert place.offered(spool, has_own_config=False, environ={}) == [own]
    system.mkdir()
    assert place.offered(spool, has_own_config=False, environ={}) == [shared, own]
    assert place.offered(spool, has_own_config=True, environ={}) == [own]
    service = {"RUNTIME_DIRECTORY": f"{system}:/run/other"}
    assert place.offered(spool, has_own_config=True, environ=service) == [shared, own]
    assert place.offered(spool, has_own_config=True, environ={"RUNTIME_DIRECTORY": "/run/other"}) == [own]
