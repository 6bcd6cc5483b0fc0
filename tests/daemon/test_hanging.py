"""A disk, a share or a name server that hangs: it stops its own part, which says so; the real process each time."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

CHANCE = random.Random(7)
SHARE = """
[source.share]
type = "folder"
path = "{share}"
settle = "100ms"
rescan = "1s"
watch = "{watch}"

[[rule]]
name = "share"
from = ["share"]
deliver = [ {{ to = "rapidsos" }} ]
"""

WAYS_OUT = """
[destination.usb]
type = "folder"
path = "{share}"
min_free = "0B"

[destination.nas]
type = "folder"
path = "{share}"
min_free = "0B"

[destination.named]
type = "webhook"
url = "https://silent.test/"
connect_timeout = "1s"

[[rule]]
name = "copies"
from = ["camera"]
deliver = [ {{ to = "usb" }}, {{ to = "nas" }}, {{ to = "named" }} ]
"""


class HangingRig(Rig):
    """A relay with a second folder on a share; the file `switch` says what hangs."""

    def __init__(self, folder: Path) -> None:
        self.switch = folder / "switch"
        super().__init__(folder, entry=("-m", "tests.hanging", str(self.switch), "--"))
        self.share = folder / "share"
        self.share.mkdir()

    def hang_up(self, *what: Path | str) -> None:
        self.switch.write_text("".join(f"{each}\n" for each in what))

    def view(self, kind: str, name: str) -> dict[str, Any]:
        found: Any = self.status()
        assert found is not None, self.tail()
        view: dict[str, Any] = found[kind][name]
        return view


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[HangingRig]:
    rig = HangingRig(tmp_path)
    yield rig
    rig.hang_up()
    rig.stop()


def stops_in_time(rig: HangingRig) -> None:
    began = time.monotonic()
    assert rig.end(signal.SIGTERM) == 0
    assert time.monotonic() - began < 5.0, rig.tail()


def test_a_share_that_hangs_is_the_fault_of_its_source_and_another_one_takes_and_delivers(rig: HangingRig) -> None:
    rig.config.write_text(rig.config.read_text() + SHARE.format(share=rig.share, watch="poll"))
    rig.start_sandbox()
    rig.start()
    rig.hang_up(rig.share)
    for number in range(20):
        (rig.share / f"hung{number}.jpg").write_bytes(picture(CHANCE, 20_000))
    wait_for(lambda: rig.view("sources", "share")["state"] == "fault", "the share's source is at fault")
    reason = rig.view("sources", "share")["reason"]
    assert str(rig.share) in reason
    assert "does not answer since 20" in reason
    assert "does not answer" in rig.call("why", rig.share / "hung0.jpg").output
    for number in range(3):
        rig.drop_file(f"whole{number}.jpg", picture(CHANCE, 20_000))
    wait_for(lambda: all(rig.is_stored(name) for name in rig.dropped), "the other source's files are delivered")
    assert rig.view("sources", "camera")["state"] == "ok"
    stops_in_time(rig)
    rig.hang_up()
    rig.spawn()
    wait_for(lambda: not list(rig.share.iterdir()), "what waited in the share is taken after all")


def test_a_share_that_hangs_while_its_files_are_copied_goes_on_as_soon_as_it_answers(rig: HangingRig) -> None:
    rig.config.write_text(rig.config.read_text() + SHARE.format(share=rig.share, watch="auto"))
    rig.start_sandbox()
    rig.start()
    rig.hang_up(rig.share / "clip.jpg")
    (rig.share / "clip.jpg").write_bytes(picture(CHANCE, 2_000_000))
    wait_for(lambda: rig.view("sources", "share")["state"] == "fault", "it hangs")
    rig.hang_up()
    wait_for(lambda: rig.view("sources", "share")["state"] == "ok", "it is whole again by itself")
    wait_for(lambda: not list(rig.share.iterdir()), "and the file is taken")
    stops_in_time(rig)


def test_disks_and_a_name_server_that_hang_hold_up_only_what_goes_there(rig: HangingRig) -> None:
    rig.config.write_text(rig.config.read_text() + WAYS_OUT.format(share=rig.share))
    rig.start_sandbox()
    rig.hang_up(rig.share, "silent.test")
    rig.start()
    for number in range(12):
        rig.drop_file(f"clip{number}.jpg", picture(CHANCE, 20_000))
    for name in ("usb", "nas"):
        wait_for(lambda: rig.view("destinations", name)["state"] == "fault", f"{name} is at fault")  # noqa: B023
        assert f"{rig.share} does not answer since 20" in rig.view("destinations", name)["reason"]
    wait_for(lambda: "the name server does not answer" in rig.view("destinations", "named")["reason"], "it is named")
    rig.drop_file("last.jpg", picture(CHANCE, 20_000))
    wait_for(lambda: all(rig.is_stored(name) for name in rig.dropped), "what goes elsewhere has arrived")
    rig.hang_up("silent.test")
    wait_for(lambda: len(list(rig.share.glob("*.jpg"))) == 13, "the disk answers again, and gets its copies")
    rig.hang_up(rig.share, "silent.test")
    rig.drop_file("hung.jpg", picture(CHANCE, 20_000))
    wait_for(lambda: rig.view("destinations", "usb")["state"] == "fault", "it hangs again")
    stops_in_time(rig)


def test_a_stop_does_not_wait_for_a_copy_that_is_being_taken_and_the_file_is_taken_at_the_next_start(
    rig: HangingRig,
) -> None:
    rig.start()
    rig.hang_up(f"slow:{rig.drop}/large.jpg")
    rig.drop_file("large.jpg", picture(CHANCE, 10_000_000))
    wait_for(lambda: list((rig.spool / "incoming").iterdir()), "it is being taken")
    stops_in_time(rig)
    assert not rig.is_taken("large.jpg")
    rig.hang_up()
    rig.start()
    wait_for(lambda: rig.view("sources", "camera")["captured"] == 1, "it is taken")
