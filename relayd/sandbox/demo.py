"""The demo: a drive through a dead zone with the real relay, told live.

Promises: the relay is the real daemon and is really killed; the verdict comes from the bytes on the sandbox's disk,
never from what the relay says of itself alone; under a minute, without network and without root.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from relayd import clock
from relayd.sandbox.shelf import StoredObject
from relayd.sandbox.stage import Stage, StageError, samples
from relayd.sandbox.telling import Place, Seen, Telling, Verdict

_WAIT_SECONDS = 20.0
_LONGEST_SECONDS = 55.0
_LOOK_SECONDS = 0.12
_WEAK_LINK = 9_000
"""Bytes a second: slow enough to be killed in the middle of the clip."""


class Drive:
    """One drive: coverage, dead zone, a captive portal, a weak link where the relay dies, home."""

    def __init__(self, stage: Stage, telling: Telling) -> None:
        self._stage = stage
        self._telling = telling
        self._samples = samples()
        self._names = iter(self._samples)
        self._dropped: dict[str, bytes] = {}
        self._link = "up"
        self._deadline = clock.monotonic() + _LONGEST_SECONDS

    def run(self, planted: str = "") -> bool:
        """Play it, and compare. True only if everything arrived byte for byte."""
        troubles: list[str] = []
        try:
            self._set_out(planted)
            self._through_coverage()
            self._through_dead_zone()
            self._past_captive_portal()
            self._killed_on_weak_link()
            self._home()
        except StageError as error:
            troubles.append(str(error))
        verdicts = self._verdicts()
        troubles += self._surplus()
        self._telling.close_with(verdicts)
        missing = [each.name for each in verdicts if each.trouble]
        if missing:
            troubles.append(f"not here as the camera wrote them: {', '.join(missing)}")
        for trouble in troubles:
            self._telling.say(f"TROUBLE: {trouble}")
        if not troubles:
            self._telling.say(f"Everything arrived: {len(verdicts)} files, byte for byte, each under one key.")
        return not troubles

    def _set_out(self, planted: str) -> None:
        tell = self._telling
        tell.chapter("Setting out")
        self._stage.start_sandbox(planted)
        tell.say("A strict stand-in of RapidSOS and its storage listens on this machine only.")
        self._stage.start_relay()
        tell.say(f"The relay runs, and watches the camera's folder {self._stage.camera}.")
        self._linger()

    def _through_coverage(self) -> None:
        self._telling.chapter("In town, with coverage")
        self._drop(2)
        self._until(lambda: self._arrived() == 2, "the first two pictures arrive")
        self._telling.say("Both pictures are at RapidSOS; the camera's folder is empty again.")
        self._linger()

    def _through_dead_zone(self) -> None:
        tell = self._telling
        tell.chapter("Into the dead zone")
        self._go("away")
        tell.say("No link any more. The camera goes on.")
        self._drop(4)
        self._until(lambda: not any(self._stage.camera.iterdir()), "the relay takes the files")
        before = self._stage.refused()
        self._until(lambda: self._stage.refused() > before, "the relay tries and fails")
        self._show("status")
        self._linger()
        clip = next(name for name in self._dropped if name.endswith(".mp4"))
        self._show("why", str(self._stage.camera / clip))
        self._linger()

    def _past_captive_portal(self) -> None:
        tell = self._telling
        tell.chapter("A petrol station with free WiFi")
        self._go("captive portal")
        tell.say("Every request is answered with 200 and a login page. A success? Only for who does not look.")
        arrived, before = self._arrived(), self._stage.refused()
        self._until(lambda: self._stage.refused() >= before + 2, "the relay tries through the portal")
        if self._arrived() != arrived or self._stage.snapshot()["spool"]["delivered"] != arrived:
            raise StageError("the relay took a login page for a delivery")
        tell.say("Nothing counts as delivered; everything still waits in the spool.")
        self._linger()

    def _killed_on_weak_link(self) -> None:
        tell = self._telling
        tell.chapter("A weak link, and a power cut")
        self._go("weak")
        tell.say(f"The link is back, at {_WEAK_LINK // 1000} kB/s.")
        clip = next(name for name in self._dropped if name.endswith(".mp4"))
        size = len(self._dropped[clip])
        self._until(lambda: self._stage.uploads().get(clip, 0) > size // 4, "the clip is on its way")
        share = self._stage.uploads().get(clip, 0) / size
        self._stage.kill_relay()
        tell.say(f"SIGKILL: the relay died with {share:.0%} of {clip} sent.")
        if self._holds(clip):
            raise StageError(f"{clip} was stored before the relay was killed: the machine is too busy for this demo")
        self._drop(1)
        tell.say("The camera does not notice, and leaves another picture.")
        self._linger()

    def _home(self) -> None:
        tell = self._telling
        tell.chapter("Home")
        self._go("up")
        self._stage.start_relay()
        tell.say("The relay is back and reads from its disk what it owes.")
        self._drop(1)
        self._until(lambda: self._arrived() == len(self._dropped), "everything arrives", seconds=30.0)
        self._until(lambda: self._stage.snapshot()["spool"]["pending"] == 0, "the relay knows it", look_seconds=0.5)
        self._show("items")
        counted = self._stage.snapshot()["spool"]
        if (counted["delivered"], counted["dead"]) != (len(self._dropped), 0):
            raise StageError(f"the relay counts {counted['delivered']} delivered and {counted['dead']} dead")

    def _go(self, link: str) -> None:
        """Change the link: up, away, captive portal, weak."""
        self._link = link
        self._stage.script({"captive portal": "any portal", "weak": f"store slow {_WEAK_LINK}"}.get(link, ""))
        self._stage.set_link(up=link != "away")

    def _drop(self, count: int) -> None:
        for _ in range(count):
            name = next(self._names)
            self._dropped[name] = self._samples[name]
            self._stage.write_slowly(name, self._samples[name])
            self._look()

    def _show(self, *arguments: str) -> None:
        _, output = self._stage.relay_says(*arguments)
        self._telling.command(f"relayd {' '.join(arguments)}", output)

    def _linger(self) -> None:
        """Time to read, for people."""
        end = clock.monotonic() + self._telling.linger_seconds
        while clock.monotonic() < end:
            self._look()
            time.sleep(_LOOK_SECONDS)

    def _until(
        self, holds: Callable[[], bool], what: str, seconds: float = _WAIT_SECONDS, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        """Look again and again until it is so; StageError if it is not in time."""
        deadline = min(clock.monotonic() + seconds, self._deadline)
        while not holds():
            if clock.monotonic() > deadline:
                raise StageError(f"not in time: {what}")
            self._look()
            time.sleep(look_seconds)
        self._look()

    def _look(self) -> None:
        """Bring the view up to date."""
        uploads, stored = self._stage.uploads(), {each.name for each in self._stage.objects()}
        self._telling.look(self._link, [self._seen(name, uploads, stored) for name in self._dropped])

    def _seen(self, name: str, uploads: Mapping[str, int], stored: set[str]) -> Seen:
        size = len(self._dropped[name])
        if name in stored:
            return Seen(name, size, Place.STORED)
        if name in uploads:
            return Seen(name, size, Place.UPLOADING, min(1.0, uploads[name] / size))
        is_left = (self._stage.camera / name).exists()
        return Seen(name, size, Place.CAMERA if is_left else Place.SPOOL)

    def _arrived(self) -> int:
        return sum(self._holds(name) for name in self._dropped)

    def _holds(self, name: str) -> bool:
        return any(each.name == name for each in self._stage.objects())

    def _verdicts(self) -> list[Verdict]:
        """Every file the camera wrote against the bytes on the sandbox's disk."""
        objects = self._stage.objects()
        return [_verdict(name, content, objects) for name, content in self._samples.items()]

    def _surplus(self) -> list[str]:
        strangers = [each.name for each in self._stage.objects() if each.name not in self._samples]
        return [f"stored, but never written by the camera: {', '.join(strangers)}"] if strangers else []


def _verdict(name: str, content: bytes, objects: Sequence[StoredObject]) -> Verdict:
    sha256 = hashlib.sha256(content).hexdigest()
    found = [each for each in objects if each.name == name]
    times = sum(each.stored for each in found)
    if not found:
        return Verdict(name, len(content), sha256, 0, "never arrived")
    if len(found) > 1:
        return Verdict(name, len(content), sha256, times, f"under {len(found)} keys")
    path = Path(found[0].file)
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        return Verdict(name, len(content), sha256, times, "other bytes")
    return Verdict(name, len(content), sha256, times)
