"""A drop folder as a source: files that cameras write, FTP servers receive, or people put there.

Promises: the scan (at start, every `rescan`, and after lost hints) is the truth, inotify and polling only hint. A
folder that is missing, unmounted, replaced or that hangs is a fault of this source alone, which mends itself. Nothing
that is known to be unfinished or cut off, and nothing that is not a plain file of the folder's own, is taken.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from relayd import clock, mediatype
from relayd.errors import WrongRequest
from relayd.files import printable
from relayd.memory import Unkept
from relayd.model import Capture, Finding, Item, Origin, SourceView
from relayd.sources import folder_findings
from relayd.sources.base import Ledger, Put, Source, SourceConfig
from relayd.sources.camera_clock import CameraClock
from relayd.sources.faults import Faults
from relayd.sources.folder_config import FolderConfig, zone_of
from relayd.sources.folder_emptied import Emptied
from relayd.sources.folder_file import Busy
from relayd.sources.folder_pickup import lookup
from relayd.sources.folder_unfinished import Unfinished
from relayd.sources.folder_visit import Visit
from relayd.sources.path_filter import PathFilter, is_unfinished
from relayd.sources.silence import Silence
from relayd.surroundings import Surroundings
from relayd.threads import PartThreads, in_own_thread

log = logging.getLogger("relayd.sources")

REOPEN_SECONDS = 1.0
THREADS = 4
WHY_SECONDS = 2.0
CHECK_SECONDS = 15.0
"""How long a folder may take to be looked at; one that takes longer hangs, for all that a person can wait for."""


class FolderSource(Source):
    """One drop folder. `run` opens it again and again; all that concerns it while it is open is a `Visit`."""

    Config: ClassVar[type[SourceConfig]] = FolderConfig
    while_held: ClassVar[str] = "files stay in its folder, which may be unmounted"

    def __init__(
        self, name: str, config: FolderConfig, ledger: Ledger, surroundings: Surroundings | None = None
    ) -> None:
        super().__init__(name, Silence(config.expect_every, "file"))
        self._config = config
        self._ledger = ledger
        self._faults = Faults(name)
        self._visit: Visit | None = None
        self._last_at: float | None = None
        owner = f"source:{name}"
        memory = Unkept() if surroundings is None else surroundings.memory(owner)
        self._emptied = Emptied(memory, None if config.keep_originals else config.remove_empty, self._faults)
        self._camera_clock = CameraClock(name, memory, config.time_zone, zone_of(config.time_zone))
        self._unfinished = Unfinished(config.unfinished_after if config.unfinished == "take" else None)
        self._threads: PartThreads | None = None

    async def run(self, put: Put) -> None:
        self._faults.clear_all_but("folder")  # what was so before a pause is found out anew
        self._threads = threads = PartThreads(f"source-{self.name}", THREADS)
        try:
            await self._camera_clock.load()
            while True:
                await self._visit_once(partial(self._put_timed, put), threads)
                await asyncio.sleep(REOPEN_SECONDS)
        finally:
            threads.close()

    async def _put_timed(self, put: Put, capture: Capture) -> Item:
        """At the time by our clock."""
        item = await put(self._camera_clock.corrected(capture))
        await self._camera_clock.store()
        return item

    async def let_go(self) -> None:
        if self._threads is not None:
            await self._threads.idle()

    async def _visit_once(self, put: Put, threads: PartThreads) -> None:
        try:
            folder_fd = await threads.run("it is opened", folder_findings.open_folder, self._config, undo=os.close)
        except OSError as error:
            self._faults.set("folder", folder_findings.in_words(self._config.path, error))
            return
        self._visit = Visit(
            self.name,
            self._config,
            self._ledger,
            folder_fd,
            threads=threads,
            faults=self._faults,
            accepted=self._on_accepted,
            unfinished=self._unfinished,
            emptied=self._emptied,
        )
        try:
            reason = await self._visit.stay(put)
        finally:
            self._visit.leave()
            self._visit = None
        self._faults.clear_all_but("folder")
        self._faults.set("folder", reason)

    def _on_accepted(self) -> None:
        self._last_at = clock.now()
        self.silence.heard()

    def view(self) -> SourceView:
        view = super().view()
        is_all = view.state == "ok" and self._camera_clock.reason
        return replace(view, state="fault", reason=self._camera_clock.reason) if is_all else view

    def state(self) -> SourceView:
        hang = None if self._threads is None else self._threads.hang
        if hang is not None:
            reason = folder_findings.hangs(self._config.path, hang)
            return SourceView(state="fault", reason=reason, last_at=self._last_at)
        if self._faults.reason:
            return SourceView(state="fault", reason=self._faults.reason, last_at=self._last_at)
        if self._visit is not None and self._visit.is_full:
            reason = "the spool takes nothing now, it is full or cannot be written: files stay in their folder"
            return SourceView(state="waiting", reason=reason, last_at=self._last_at)
        if self._visit is None:
            return SourceView(state="waiting", reason="it is being opened", last_at=self._last_at)
        return SourceView(state="ok", reason="", last_at=self._last_at)

    async def check(self) -> list[Finding]:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await in_own_thread("it is tried", folder_findings.findings, self.name, self._config)
        except TimeoutError:
            text = folder_findings.does_not_answer(self._config.path, f"within {CHECK_SECONDS:.0f} s")
            return [
                Finding(subject=f"source {self.name}", is_good=False, text=text, remedy=folder_findings.HUNG_REMEDY)
            ]

    def path_within(self, path: str) -> bytes | None:
        folder = os.fsencode(os.path.normpath(self._config.path))
        for candidate in (os.path.normpath(path), os.path.realpath(path)):
            raw = os.fsencode(candidate)
            for root in (folder, os.path.realpath(folder)):
                if raw.startswith(root.rstrip(b"/") + b"/"):
                    return raw[len(root.rstrip(b"/")) + 1 :]
        return None

    async def why(self, path: str) -> str | None:
        try:
            async with asyncio.timeout(WHY_SECONDS):
                inside, is_there, is_link = await in_own_thread(
                    "why", lambda: (self.path_within(path), os.path.lexists(path), Path(path).is_symlink())
                )
        except TimeoutError:
            folder = self._config.path
            is_within = Path(os.path.normpath(path)).is_relative_to(folder)
            return folder_findings.does_not_answer(folder, "now") if is_within else None
        if inside is None:
            return None
        row = await lookup(self._ledger, self.name, inside)
        if row is not None and row.reason is not None:
            return self._why_quarantined(path, row.origin, row.reason)
        if row is not None:
            return f"It was taken as item {row.item_id} and is still in the folder. {self._faults.reason}".strip()
        if not is_there and not self._faults.of("folder"):
            return None
        if is_link:
            return f"It is not taken: {Busy.ALIAS.value}."
        return self._why_not_taken(inside)

    def path_of(self, path: bytes) -> str | None:
        return os.fsdecode(os.path.join(os.fsencode(self._config.path), path))  # noqa: PTH118 - bytes

    async def discard(self, path: str) -> bool:
        try:
            async with asyncio.timeout(WHY_SECONDS):
                inside = await in_own_thread("path", self.path_within, path)
                if inside is None:
                    return False
                row = await lookup(self._ledger, self.name, inside)
                if row is None or row.reason is None:
                    raise WrongRequest(
                        f"{printable(path)} is not in quarantine; `relayd why FILE` says where it stands"
                    )
                await in_own_thread("it is removed", folder_findings.discard, self._config, row.origin)
        except TimeoutError:
            raise WrongRequest(folder_findings.does_not_answer(self._config.path, "now")) from None
        except OSError as error:
            raise WrongRequest(f"{printable(path)} cannot be removed: {error.strerror}") from None
        log.info("source %s: %s is removed from quarantine, by hand", self.name, printable(inside))
        if self._visit is not None:
            self._visit.look_at_all()
        return True

    def _why_quarantined(self, path: str, origin: Origin, reason: str) -> str:
        if not mediatype.is_cut(reason):
            again = "relayd looks at it again when it changes; if it never will, `relayd drop FILE` removes it"
            return f"It is in quarantine and stays where it is: {reason}; {again}."
        when = self._unfinished.when(origin, path)
        return (
            f"It is in quarantine: {reason}, probably a broken upload. It is taken as soon as it changes{when}."
            f" At once: `relayd send --as-it-is {printable(shlex.quote(path))} --to NAME`."
        )

    def _why_not_taken(self, inside: bytes) -> str:
        if self.is_held:
            return f"Source {self.name} is {self.view().reason}."
        wanted = PathFilter(self._config.include, self._config.exclude)
        if is_unfinished(inside.rpartition(b"/")[2]):
            return "Its name is one that writers use for hidden or unfinished files: such are never taken."
        if b"/" in inside and not self._config.recursive:
            return f"It is in a sub-folder, and source {self.name} has recursive = false."
        if wanted.leaves_out(inside):
            return "Its name is one that NAS and Windows use for their own files: taken only where include names it."
        if not wanted.wants(inside):
            return f"It does not match include and exclude of source {self.name}."
        if self._faults.of("folder"):
            return f"Nothing is taken at the moment: {self._faults.of('folder')}."
        reason = None if self._visit is None else self._visit.reason_for(inside)
        if reason is not None:
            return f"It is not taken yet: {reason}."
        looks = f"relayd looks at the folder again every {self._config.rescan:.0f} s"
        return f"It is not taken yet: its writer may still have it open, or it has just come; {looks}."
