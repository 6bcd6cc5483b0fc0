"""One camera: a token is made and kept, looked at until a camera has seen it, and the stream is kept as configured.

Promises: each call of `advance` does one step. A token is on the disk before it is shown or asked about, so at most one
waits for a camera; only an answer that is lost on its way leaves a spare one at the server, which does nothing: after
`most_unknown` more of those a person is asked to look. Nothing is ever deleted at the server.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from urllib.parse import quote

from relayd import clock
from relayd.destinations import watcher_stream
from relayd.destinations.watcher_models import CameraConfig, WatcherConfig
from relayd.destinations.watcher_names import WatcherNames
from relayd.errors import DeliveryError, Rejected, TryAgain
from relayd.files import printable
from relayd.memory import Memory, Told
from relayd.messages import about
from relayd.model import CameraView, Fields
from relayd.watcher_client import Document, Missing, WatcherClient, segment

log = logging.getLogger("relayd.cameras")

POLL_GROWTH = 1.5
ASKED_AGAIN = 60
"""The server does not keep what we ask for: it is asked again at every so manyth look."""


class Camera:
    """The camera `config` of destination `owner`. `fact` is what is remembered of it: `token`, `stream_name`, `at`."""

    def __init__(
        self,
        owner: str,
        config: CameraConfig,
        settings: WatcherConfig,
        client: WatcherClient,
        names: WatcherNames,
        memory: Memory,
    ) -> None:
        self.config = config
        self.fact: Document = {}
        self._owner = owner
        self._settings = settings
        self._client = client
        self._names = names
        self._memory = memory
        self._turn = asyncio.Lock()
        self._unsaved: Told | None = None
        self._is_saved = True
        self._polls = 0
        self._looks_in_vain = 0
        self._sent: Document = {}
        self._stream: Document = {}
        self._trouble = ""
        self._is_fault = False
        self.due_at = 0.0
        self.failures = 0

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def token(self) -> str:
        return str(self.fact.get("token") or "")

    @property
    def _tokens_lost(self) -> int:
        """How many tokens were asked for whose answer did not come, since the last one that did."""
        lost = self.fact.get("lost")
        return lost if isinstance(lost, int) else 0

    @property
    def stream_name(self) -> str:
        """Empty until it is activated."""
        return str(self.fact.get("stream_name") or "")

    async def advance(self) -> float:
        """One step; how many seconds the next one may wait. Raises DeliveryError, or what the spool says."""
        async with self._turn:
            await self._save()
            if self.stream_name:
                return await self._keep()
            if not self.token:
                return await self._ask_for_token()
            return await self._look_at_token()

    def take_over(self, fact: Fields) -> None:
        """What was remembered from before; a stream that the configuration names goes before it."""
        self.fact = dict(fact)
        named = self.config.stream_name
        if named is not None and named != self.stream_name:
            self._remember({"token": "", "stream_name": named, "at": clock.now()})

    def nudge(self) -> None:
        """Look soon, and often for a while."""
        self._polls = 0
        if not self.stream_name:
            if self._tokens_lost > self._settings.most_unknown:
                self._remember({"lost": self._settings.most_unknown})
            self.due_at = min(self.due_at, clock.monotonic() + clock.jitter(1.0))

    def troubled(self, error: Exception, *, is_fault: bool) -> None:
        """It cannot go on: said once, until `mended`."""
        reason = str(error).replace(quote(self.token, safe=""), "…") if self.token else str(error)
        if not self._trouble:
            told = about(destination=self._owner, camera=self.name)
            log.warning("%s: camera %s: %s", self._owner, self.name, reason, extra=told)
        self._trouble, self._is_fault = reason, is_fault
        self.failures += 1

    def mended(self) -> None:
        self.failures = 0
        if self._trouble:
            log.info("%s: camera %s: no longer so: %s", self._owner, self.name, self._trouble)
            self._trouble, self._is_fault = "", False

    def view(self, outage: str, *, is_fault: bool) -> CameraView:
        """As of the last look; `outage` is why nobody can look now, else empty."""
        alive, changed_at, frame_at = watcher_stream.stats(self._stream)
        at = self.fact.get("at")
        known = CameraView(
            name=self.config.name,
            title=self.config.title,
            state="ok",
            reason="",
            stream_name=self.stream_name or None,
            alive=alive,
            last_change_at=changed_at,
            last_frame_at=frame_at,
            activated_at=float(at) if isinstance(at, (int, float)) and self.stream_name else None,
        )
        if self.token and not self.stream_name and self._is_saved:
            known = replace(known, token=self.token, qr=self._settings.qr.replace("{token}", self.token))
        reason, is_fault = (self._trouble, self._is_fault) if self._trouble else (outage, is_fault)
        if reason:
            return replace(known, state="fault" if is_fault else "waiting", reason=reason)
        if not self.stream_name:
            how = f": show it the QR code of `relayd cameras --qr {self.name}`" if self.token else " token"
            return replace(known, state="waiting", reason=f"waits for its activation{how}")
        is_wanted = not self._stream.get("disabled") and self._stream.get("static") is not False
        if alive is False and is_wanted:
            since = "" if frame_at is None else f" since {clock.rfc3339(frame_at)}"
            return replace(known, state="dead", reason=f"sends no frames{since}")
        return known

    # --- activation

    async def _ask_for_token(self) -> float:
        if self._tokens_lost > self._settings.most_unknown:
            raise Rejected(
                f"the server was asked for an activation token {self._tokens_lost} times and its answers got lost: look"
                " in Watcher for tokens that nobody uses, then `relayd cameras` asks for one more"
            )
        ids = await self._names.ids(self.config)
        body = watcher_stream.wish(self.config, ids)
        lost = self._tokens_lost
        self._remember({"lost": lost + 1})
        await self._save()
        try:
            token = await self._token(body)
        except DeliveryError as error:
            if error.nothing_happened:
                self._remember({"lost": lost} if lost else {})
            raise
        self._remember({"token": token, "at": clock.now()})
        await self._save()
        log.info("%s: camera %s waits for its activation: `relayd cameras --qr %s`", self._owner, self.name, self.name)
        return self._settings.poll_every

    async def _token(self, body: Document) -> str:
        may = "add cameras (can_edit_streams)"
        found = await self._change("POST", "/agent_activation_token", body, may, is_repeatable=False)
        token = found.get("token")
        if not isinstance(token, str) or not token or printable(token) != token or len(token) > 512:
            raise TryAgain("the answer to the activation has no token that could be shown")
        return token

    async def _look_at_token(self) -> float:
        path = f"/agent_activation_token/{quote(self.token, safe='')}"
        try:
            found = await self._client.ask("GET", path, may="look at activations (can_edit_streams)")
        except Missing:
            log.warning("%s: the token of camera %s is gone at the server: another one is made", self._owner, self.name)
            self._remember({})
            await self._save()
            return 0.0
        name = found.get("stream_name") or found.get("camera_name")
        if isinstance(name, str) and name:
            await self._activated(name)
            return 0.0
        if not name and "token" not in found:
            raise TryAgain("the answer about the activation token has an unknown shape")
        self._polls += 1
        grown = self._settings.poll_every * POLL_GROWTH ** min(self._polls - 1, 32)
        return max(self._settings.poll_every, min(grown, self._settings.backoff_cap))

    async def _activated(self, stream_name: str) -> None:
        told: Told = (
            "camera_activated",
            {
                "destination": self._owner,
                "camera": self.name,
                "title": self.config.title,
                "stream_name": stream_name,
            },
        )
        self._remember({"token": self.token, "stream_name": stream_name, "at": clock.now()}, told)
        await self._save()
        log.info("%s: camera %s is activated: stream %s", self._owner, self.name, printable(stream_name))

    # --- as configured

    async def _keep(self) -> float:
        path = f"/streams/{segment(self.stream_name)}"
        try:
            stream = await self._client.ask("GET", path, may="see this stream")
        except Missing:
            self._stream = {}
            raise Rejected(
                f"its stream {printable(self.stream_name)} is gone at the server, or the user may not see it: if it was"
                " deleted on purpose, take the camera out of the configuration, or give it another name to activate it"
                " anew"
            ) from None
        if stream.get("name") != self.stream_name:
            raise TryAgain(f"the answer about the stream {printable(self.stream_name)} is about something else")
        self._stream = stream
        ids = await self._names.ids(self.config)
        wanted = watcher_stream.changes(self.config, ids, stream)
        if not wanted:
            self._sent = {}
            return self._settings.look_every
        if wanted == self._sent:
            self._looks_in_vain += 1
            if self._looks_in_vain % ASKED_AGAIN == 0:
                self._sent = {}
            hint = ": a preset that is not adjustable keeps its own recording" if "dvr" in wanted else ""
            raise Rejected(f"the server takes the change of {', '.join(sorted(wanted))} but does not keep it{hint}")
        await self._change("PUT", path, wanted, "change this stream (can_edit_streams)")
        self._sent = wanted
        log.info("%s: camera %s: changed %s at the server", self._owner, self.name, ", ".join(sorted(wanted)))
        return 0.0

    async def _change(
        self, method: str, path: str, body: Document, may: str, *, is_repeatable: bool = True
    ) -> Document:
        """A call that carries ids; if it is refused, they are looked up anew for the next one."""
        try:
            return await self._client.ask(method, path, body=body, may=may, is_repeatable=is_repeatable)
        except Rejected:
            self._names.forget()
            raise

    # --- memory

    def _remember(self, fact: Fields, told: Told | None = None) -> None:
        self.fact, self._unsaved, self._is_saved = dict(fact), told, False

    async def _save(self) -> None:
        """What has happened gets onto the disk before anything else does."""
        if self._is_saved:
            return
        await self._memory.remember(self.name, self.fact or None, event=self._unsaved)
        self._is_saved = True
