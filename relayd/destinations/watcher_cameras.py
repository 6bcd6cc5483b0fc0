"""The cameras of one Watcher, looked after one step at a time: the upkeep of the destination.

Promises: one request at a time, so that no delivery has to wait for it; a server that cannot be had is left alone with
a capped, jittered backoff, and so is each camera that fails by itself. Trouble is said in the log once, and its end.
Cameras that are no longer in the configuration are remembered, listed, and left as they are at the server.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3

from relayd import clock
from relayd.destinations.watcher_camera import Camera
from relayd.destinations.watcher_models import WatcherConfig
from relayd.destinations.watcher_names import WatcherNames
from relayd.errors import LoginRefused, NotAllowed, Rejected, SpoolError, TryAgain, Unavailable
from relayd.files import printable
from relayd.memory import Memory
from relayd.messages import about
from relayd.model import CameraView, Fields
from relayd.retry import Backoff
from relayd.templates import did_you_mean
from relayd.watcher_client import WatcherClient

log = logging.getLogger("relayd.cameras")

LONGEST_REFUSAL_SECONDS = 3600.0
"""What a person has to mend is tried again at least this often; `relayd cameras` makes it sooner."""
SPREAD = 0.25
"""Waits are drawn from this much less to this much more."""
NUDGE_SECONDS = 5.0


class Cameras:
    """All cameras of destination `owner`."""

    def __init__(self, owner: str, config: WatcherConfig, client: WatcherClient, memory: Memory) -> None:
        self.names = WatcherNames(client)
        self._owner = owner
        self._config = config
        self._memory = memory
        self._backoff = Backoff(config.backoff_first, config.backoff_cap)
        self._cameras = {
            camera.name: Camera(owner, camera, config, client, self.names, memory) for camera in config.camera
        }
        self._removed: dict[str, Fields] = {}
        self._is_loaded = False
        self._loading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._outage = ""
        self._is_fault = False
        self._failures = 0
        self._paused_until = 0.0
        self._not_before = 0.0

    async def run(self) -> None:
        """Look after them, for ever; at once, if there are none."""
        await self._load()
        for name, fact in self._removed.items():
            log.info("%s: camera %s is no longer in the configuration; %s", self._owner, name, _left(fact))
        while self._cameras:
            self._wake.clear()
            camera = min(self._cameras.values(), key=lambda each: each.due_at)
            wait = max(camera.due_at, self._paused_until) - clock.monotonic()
            if wait > 0:
                await self._sleep(wait)
            else:
                await self._look_after(camera)

    async def activation(self, name: str) -> Camera:
        """The camera of this name, one step further if it is not activated. Raises Rejected, or what stops it."""
        camera = self._cameras.get(name)
        if camera is None:
            hint = did_you_mean(name, self._cameras) if self._cameras else ""
            raise Rejected(f'no camera "{printable(name)[:64]}" is configured at {self._owner}{hint}')
        await self._load()
        if not camera.stream_name:
            await camera.advance()
        return camera

    async def stream_of(self, name: str) -> str:
        """The stream of a camera by its name here, or `name` itself as that of a stream. Raises Rejected."""
        await self._load()
        camera = self._cameras.get(name)
        if camera is None:
            return name
        if not camera.stream_name:
            raise Rejected(f"camera {name} is not activated yet: `relayd cameras --qr {name}`")
        return camera.stream_name

    def nudge(self) -> None:
        """Look soon."""
        soon = max(self._not_before, clock.monotonic() + clock.jitter(NUDGE_SECONDS))
        self._paused_until = min(self._paused_until, soon)
        for camera in self._cameras.values():
            camera.nudge()
        self._wake.set()

    def views(self) -> tuple[CameraView, ...]:
        """Those of the configuration in its order, then those that were removed from it; none before `run`."""
        if not self._is_loaded:
            return ()
        known = [camera.view(self._outage, is_fault=self._is_fault) for camera in self._cameras.values()]
        return (*known, *(_removed(name, fact) for name, fact in self._removed.items()))

    # --- one turn

    async def _look_after(self, camera: Camera) -> None:
        try:
            wait = await camera.advance()
        except Unavailable as error:
            self._pause(error)
            return
        except (NotAllowed, Rejected) as error:
            camera.troubled(error, is_fault=True)
            wait = self._config.look_every
            if not camera.stream_name:
                wait = min(LONGEST_REFUSAL_SECONDS, wait * 2.0 ** min(camera.failures - 1, 32))
        except (TryAgain, SpoolError, sqlite3.Error, OSError) as error:
            camera.troubled(error, is_fault=not isinstance(error, TryAgain))
            wait = self._config.backoff_first + clock.jitter(self._backoff.ceiling_seconds(camera.failures))
        else:
            camera.mended()
        self._answered()
        camera.due_at = clock.monotonic() + wait * (1 - SPREAD) + clock.jitter(wait * 2 * SPREAD)

    def _pause(self, error: Unavailable) -> None:
        """The server cannot be had: all cameras wait."""
        if not self._outage:
            told = about(destination=self._owner)
            log.warning("%s: cameras are not looked after: %s", self._owner, error, extra=told)
        self._outage, self._is_fault = str(error), isinstance(error, LoginRefused)
        self._failures += 1
        wish = min(error.retry_after_seconds or 0.0, self._config.backoff_cap)
        ceiling = self._backoff.ceiling_seconds(self._failures)
        self._not_before = clock.monotonic() + wish
        self._paused_until = self._not_before + ceiling * SPREAD + clock.jitter(ceiling)

    def _answered(self) -> None:
        if self._outage:
            log.info("%s: cameras are looked after again after %d failed tries", self._owner, self._failures)
        self._outage, self._is_fault, self._failures = "", False, 0

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    # --- what is remembered

    async def _load(self) -> None:
        """Once: what is known of each camera, also of one that had another name before."""
        async with self._loading:
            if self._is_loaded:
                return
            facts = await self._memory.everything()
            for camera in self._cameras.values():
                was = camera.config.formerly
                if was is not None and was in facts and was not in self._cameras:
                    if camera.name not in facts:
                        facts[camera.name] = facts[was]
                        await self._memory.remember(camera.name, facts[was])
                    if facts[camera.name] == facts[was]:
                        await self._memory.remember(was, None)
                        del facts[was]
                camera.take_over(facts.get(camera.name, {}))
            self._removed = {name: fact for name, fact in facts.items() if name not in self._cameras}
            self._is_loaded = True


def _removed(name: str, fact: Fields) -> CameraView:
    stream = fact.get("stream_name")
    return CameraView(
        name=name,
        title="",
        state="removed",
        reason=f"no longer in the configuration; {_left(fact)}",
        stream_name=str(stream) if stream else None,
    )


def _left(fact: Fields) -> str:
    """What is still at the server of a camera that we no longer look after."""
    if fact.get("stream_name"):
        return (
            f"its stream {printable(str(fact['stream_name']))} is left at the server: delete it there if it should go"
        )
    return "its activation token was never used"
