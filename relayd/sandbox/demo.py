"""START HERE for the demo: a drive with the real relay, told live, from a new camera through a dead zone to home.

Promises: the relay is the real daemon and is really killed; the verdict comes from what the servers of the sandbox have
on record (`promises`), never from what the relay says of itself alone; about a minute, without network, without root.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from relayd import clock
from relayd.sandbox.play import WEAK_BYTES_PER_SECOND, Play
from relayd.sandbox.promises import Evidence, Written, judge
from relayd.sandbox.records import REPORT, STREAM, Records
from relayd.sandbox.stage import Stage, StageError
from relayd.sandbox.telling import Telling

EVIDENCE = "evidence.json"
"""In the folder of the demo: everything that was judged."""
_KILLED_AFTER_SHARE = 0.4
_RELAY_LOOK_SECONDS = 0.5


class Drive:
    """One drive."""

    def __init__(self, stage: Stage, telling: Telling) -> None:
        self._stage = stage
        self._telling = telling
        self._play = Play(stage, telling)
        self._back_at = 0.0

    def run(self, planted: str = "") -> bool:
        """Play it, and judge. True only if every promise was kept."""
        troubles: list[str] = []
        try:
            self._set_out(planted)
            self._through_town()
            self._new_camera()
            self._silent_camera()
            self._into_dead_zone()
            self._past_captive_portal()
            self._panic()
            self._weak_link()
            self._home()
        except StageError as error:
            troubles.append(str(error))
        verdicts = judge(self._evidence())
        self._telling.close_with(verdicts)
        broken = [each.promise for each in verdicts if each.trouble]
        if broken:
            troubles.append(f"{len(broken)} of {len(verdicts)} promises are broken.")
        for trouble in troubles:
            self._telling.say(f"TROUBLE: {trouble}")
        if not troubles:
            self._telling.say(f"All {len(verdicts)} promises were kept: {len(self._play.written)} files byte for byte.")
        return not troubles

    # --- before the dead zone

    def _set_out(self, planted: str) -> None:
        tell = self._telling
        tell.chapter("Setting out")
        self._stage.start_sandbox(planted)
        tell.say(
            "Strict stand-ins of RapidSOS, IncidentShare, a SayVU control room, a Cachet status page, a Flussonic"
            " Watcher and an MQTT broker listen on this machine only."
        )
        self._play.drop()
        self._play.start_relay()
        tell.say("The relay runs. It watches the folders of three cameras, and listens for a panic button.")
        self._play.linger()

    def _through_town(self) -> None:
        self._telling.chapter("In town, with coverage")
        self._play.drop()
        self._play.until_taken()
        self._play.until(self._has_everything_arrived, "the first two pictures arrive")
        self._telling.say("Both pictures are at RapidSOS; the folders of the cameras are empty again.")
        self._play.linger()

    def _new_camera(self) -> None:
        tell = self._telling
        tell.chapter("A new camera is mounted in the cabin")
        tell.say("The relay has asked Watcher for a token, and shows it as a QR code. The camera is held before it:")
        self._play.until(lambda _: bool(self._camera()["token"]), "Watcher gives a token", _RELAY_LOOK_SECONDS)
        if self._play.show("cameras", "--qr", "cabin") != 0:  # this terminal cannot draw it
            self._play.show("cameras", "--qr", "cabin", "--png", "cabin.png")
        self._play.linger()
        self._stage.scan(self._camera()["qr"])
        self._play.until(lambda _: self._camera()["state"] == "ok", "the camera is activated", _RELAY_LOOK_SECONDS)
        tell.say(f"Scanned. Watcher has made stream {self._camera()['stream_name']}, and the relay knows it.")
        self._play.linger()

    def _silent_camera(self) -> None:
        tell = self._telling
        tell.chapter("A camera falls silent")
        tell.say("The rear camera should bring a picture every 10 s. Since the first there was none.")
        self._play.until(lambda records: bool(records.faults), "the silence is on the status page")
        tell.say("Nobody had to look for it: the relay's own health is a source like any other.")
        self._play.linger()

    # --- in it

    def _into_dead_zone(self) -> None:
        tell = self._telling
        tell.chapter("Into the dead zone")
        self._play.go("away")
        tell.say("No link any more. The cameras go on.")
        before = self._play.look().refused()
        self._play.drop(2)
        self._play.until_taken()
        self._play.until(lambda records: records.refused() > before, "the relay tries and fails")
        self._play.show("status")
        self._play.linger(times=2)

    def _past_captive_portal(self) -> None:
        tell = self._telling
        tell.chapter("A petrol station with free WiFi")
        self._play.go("captive portal")
        tell.say("Every request is answered with 200 and a login page. A success? Only for who does not look.")
        before = self._play.look()
        delivered = self._stage.tell("status")["spool"]["delivered"]
        self._play.until(lambda records: records.refused() >= before.refused() + 2, "the relay tries the portal")
        if self._stage.tell("status")["spool"]["delivered"] != delivered:
            raise StageError("the relay took a login page for a delivery")
        tell.say("Nothing counts as delivered; everything still waits in the spool.")
        self._play.linger()

    def _panic(self) -> None:
        tell = self._telling
        tell.chapter("Dead zone again: somebody presses the panic button")
        self._play.go("away")
        self._play.drop()
        self._play.until_taken()
        self._stage.press_button()
        tell.say("The button speaks MQTT. The broker is told that the relay has the message when it is on the disk.")
        self._play.until(_is_acknowledged, "the relay acknowledges the press")
        tell.say("It has been told so.")
        self._play.drop(2)
        self._play.until_taken()
        self._play.show("incidents")
        self._play.linger()
        tell.say("The picture from before the press belongs to it, too. What about the clip?")
        self._play.show("why", f"front-camera/{self._clip.name}")
        self._play.linger()
        self._stage.kill_relay()
        tell.say("And now the power fails: SIGKILL. No goodbye, nothing written back.")
        self._play.linger()

    # --- and out of it

    def _weak_link(self) -> None:
        tell = self._telling
        tell.chapter("Power is back, and a weak link")
        self._play.go("weak")
        tell.say(f"{WEAK_BYTES_PER_SECOND // 1000} kB/s for each upload. What goes first?")
        self._back_at = clock.now()
        self._play.start_relay()
        clip = self._clip
        records = self._play.until(self._have_stills_arrived, "the report and its pictures arrive")
        waiting = [each.name for each in self._play.written if not self._play.has_arrived(each, records)]
        tell.say(f"The report, its pictures and their links are there. Still waiting: {', '.join(waiting)}.")
        enough = clip.size_bytes * _KILLED_AFTER_SHARE
        records = self._play.until(lambda now: now.uploads().get(clip.name, 0) > enough, "the clip is on its way")
        share = records.uploads()[clip.name] / clip.size_bytes
        self._stage.kill_relay()
        if self._play.has_arrived(clip, self._play.look()):
            raise StageError(f"{clip.name} was stored before the relay was killed: this machine is too busy")
        tell.say(f"SIGKILL again: the relay died with {share:.0%} of {clip.name} sent.")
        self._play.drop()
        tell.say("The side camera does not notice, and leaves another picture.")
        self._play.linger()

    def _home(self) -> None:
        tell = self._telling
        tell.chapter("Home")
        self._play.go("up")
        self._play.start_relay()
        tell.say("The relay is back, and reads from its disk what it owes.")
        self._play.until(self._has_everything_arrived, "everything arrives")
        self._play.drop()
        tell.say("The rear camera works again.")
        self._play.until(lambda records: records.faults[0]["status"] == 4, "the status page shows the end of it")
        self._play.until(self._has_everything_arrived, "the last picture arrives")
        self._play.until(
            lambda _: self._stage.tell("status")["spool"]["pending"] == 0,
            "the relay knows that nothing is owed any more",
            _RELAY_LOOK_SECONDS,
        )
        self._play.show("incidents")
        self._play.linger()

    # --- what is looked at

    @property
    def _clip(self) -> Written:
        return next(each for each in self._play.written if each.name.endswith(".mp4"))

    def _camera(self) -> Any:
        """The new camera, as the relay knows it."""
        return self._stage.tell("cameras")["cameras"][0]

    def _has_everything_arrived(self, records: Records) -> bool:
        return all(self._play.has_arrived(each, records) for each in self._play.written)

    def _have_stills_arrived(self, records: Records) -> bool:
        """With the links to them, so that nothing of it is on its way when the relay is killed."""
        stills = [each for each in self._play.written if REPORT in each.places]
        lines = [line for report in records.reports.values() for line in report["lines"]]
        has_links = all(any(line.startswith(each.name) for line in lines) for each in stills)
        return has_links and all({REPORT, STREAM} <= set(records.whereabouts(each.name)) for each in stills)

    def _evidence(self) -> Evidence:
        """What there is to judge, also after a play that broke off; kept in the folder."""
        records, status, incidents = Records(), {}, []
        try:
            records = self._stage.records()
            status, incidents = self._stage.tell("status"), self._stage.tell("incidents")["incidents"]
        except StageError as error:
            self._telling.say(f"({error})")
        evidence = Evidence(self._play.written, self._back_at, records, status, incidents)
        text = json.dumps(asdict(evidence), indent=1)
        (self._stage.folder / EVIDENCE).write_text(text, encoding="utf-8")
        return evidence


def _is_acknowledged(records: Records) -> bool:
    return all(press["acknowledged"] and all(press["acknowledged"].values()) for press in records.presses)
