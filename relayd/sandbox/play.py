"""How the demo is played: the link, the cameras, waiting for what happens, and showing it while one waits.

Promises: whatever is shown was on record at a server, or came from the relay, at that moment; every wait has a limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from relayd import clock
from relayd.sandbox.footage import shots
from relayd.sandbox.news import News
from relayd.sandbox.promises import Written
from relayd.sandbox.records import RAPIDSOS, Records
from relayd.sandbox.stage import Stage, StageError
from relayd.sandbox.telling import CAMERA, SPOOL, UPLOADING, Seen, Telling

WEAK_BYTES_PER_SECOND = 9_000
"""Slow enough to be killed in the middle of the clip."""
_WAIT_SECONDS = 25.0
_LONGEST_SECONDS = 110.0
_LOOK_SECONDS = 0.12
_WEAK = "; ".join(f"{operation} slow {WEAK_BYTES_PER_SECOND}" for operation in ("store", "media", "image"))
_SCRIPTS = {"captive portal": "any portal", "weak": _WEAK}


class Play:
    """One play on a stage. `written` is what the cameras have written so far."""

    def __init__(self, stage: Stage, telling: Telling) -> None:
        self.stage = stage
        self.telling = telling
        self.written: list[Written] = []
        self._shots = iter(shots())
        self._link = "up"
        self._news = News()
        self._deadline = clock.monotonic() + _LONGEST_SECONDS

    def go(self, link: str) -> None:
        """Change the link: up, away, captive portal, weak."""
        self._link = link
        self.stage.script(_SCRIPTS.get(link, ""))
        self.stage.set_link(up=link != "away")

    def start_relay(self) -> None:
        """What it does while it starts is news already."""
        self.stage.start_relay(self.look)

    def drop(self, count: int = 1) -> None:
        """The next files of the story, each into the folder of its camera."""
        for _ in range(count):
            shot = next(self._shots)
            self.written.append(shot.written)
            self.stage.write_slowly(shot.written.camera, shot.written.name, shot.content)
            self.look()

    def show(self, *arguments: str) -> int:
        """What a technician would type now, and see; the exit code."""
        code, output = self.stage.show(self.telling.screen, *arguments)
        self.telling.command(f"relayd {' '.join(arguments)}", output.replace(f"{self.stage.folder}/", ""))
        return code

    def linger(self, times: int = 1) -> None:
        """Time to read, for people."""
        end = clock.monotonic() + self.telling.linger_seconds * times
        while clock.monotonic() < end:
            self.look()
            time.sleep(_LOOK_SECONDS)

    def until(self, holds: Callable[[Records], bool], what: str, look_seconds: float = _LOOK_SECONDS) -> Records:
        """Look again and again until it is so; StageError if it is not in time."""
        deadline = min(clock.monotonic() + _WAIT_SECONDS, self._deadline)
        while not holds(records := self.look()):
            if clock.monotonic() > deadline:
                raise StageError(f"not in time: {what}")
            time.sleep(look_seconds)
        return records

    def until_taken(self) -> None:
        """Until no camera has a file left."""
        self.until(
            lambda _: not any(self.stage.is_left(each.camera, each.name) for each in self.written),
            "the relay takes the files",
        )

    def look(self) -> Records:
        """Bring the view up to date, and tell what is new."""
        records = self.stage.records()
        for who, text in self._news.since_last(records):
            self.telling.hear(who, text)
        self.telling.look(self._link, [self._seen(each, records) for each in self.written])
        return records

    def has_arrived(self, written: Written, records: Records) -> bool:
        """Everywhere where it has to be."""
        return set(written.places) <= set(records.whereabouts(written.name))

    def _seen(self, written: Written, records: Records) -> Seen:
        there = records.whereabouts(written.name)
        uploads = records.uploads()
        if there:
            share = 1.0 if RAPIDSOS in there else uploads.get(written.name, 0) / written.size_bytes
            return Seen(written.name, f"at {', '.join(there)}", share, self.has_arrived(written, records))
        if written.name in uploads:
            return Seen(written.name, UPLOADING, min(1.0, uploads[written.name] / written.size_bytes))
        return Seen(written.name, CAMERA if self.stage.is_left(written.camera, written.name) else SPOOL)
