"""Episodes of a Flussonic Watcher (motion, faces, vehicles) as a source: each of them, and each change, is a message.

Promises: what the server lists is taken once and durably; a repeat after a crash is the same
item again, by the ledger: an episode is known by its id and its time of change. Where it goes on is on the disk, moves
only after `put` has returned, and is told by the server's clock alone. What appears late or out of order is found by
looking back. A server that cannot be had, or answers anything else, is a fault of the source with the reason, and is
left alone with a capped, jittered backoff.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from relayd import clock, httpcheck
from relayd.errors import DeliveryError, Quarantined, SpoolFull, SpoolUnwritable, Unavailable, Unreachable
from relayd.model import Capture, Fields, Finding, Kind, SourceView
from relayd.retry import Backoff
from relayd.sources import episode
from relayd.sources.base import Ledger, Put, Source, SourceConfig
from relayd.sources.episode import Episode
from relayd.sources.episodes_config import EpisodesConfig
from relayd.sources.faults import Faults
from relayd.sources.silence import Silence
from relayd.surroundings import Surroundings
from relayd.watcher_client import Document, WatcherClient, WatcherLogin, number

LEDGER_PAGE = 1000
EARLIEST_MS, LATEST_MS = 10**12, 10**13
"""What the API takes for `updated_at_gt`."""
AHEAD_MS = 60_000
"""A change that the server dates so far ahead of its own clock does not make us skip what comes before it."""
FULL_SECONDS = 5.0
REFUSAL_SHOWN_SECONDS = 600.0
SHORTEST_ROUND_SECONDS = 1.0
"""Between two answers that bring nothing new: a server that holds no answer is not asked in a circle."""
MAY = "list episodes"

Known = Mapping[str, Fields]
"""What is remembered, by key."""


class EpisodesSource(Source):
    """The episodes of one `[source.NAME]`."""

    Config: ClassVar[type[SourceConfig]] = EpisodesConfig
    while_held: ClassVar[str] = "the server is not asked, and episodes are taken after that"

    def __init__(self, name: str, config: EpisodesConfig, ledger: Ledger, surroundings: Surroundings) -> None:
        section = surroundings.sections.get(config.watcher)
        if not isinstance(section, WatcherLogin):
            raise ValueError(f'source {name}: there is no destination "{config.watcher}" of type watcher')
        super().__init__(name, Silence(config.expect_every, "episode"))
        self.config = config
        self.memory = surroundings.memory(f"source:{name}")
        self.taken: dict[bytes, int] = {}
        self.faults = Faults(name)
        self._login = section.model_copy(
            update={"answer_timeout": section.answer_timeout + config.poll_timeout, "max_answer": config.max_answer}
        )
        self._ledger = ledger
        self._followers: list[_Follower] = []
        self._put: Put | None = None
        self._last_at: float | None = None
        self._is_away = False
        self._refused_at = float("-inf")

    async def run(self, put: Put) -> None:
        self._put = put
        client = WatcherClient(self._login)
        try:
            known = await self.memory.everything()
            await self._recall()
            self._followers = [_Follower(self, client, media, known) for media in self.config.media or (None,)]
            async with asyncio.TaskGroup() as tasks:
                for follower in self._followers:
                    tasks.create_task(follower.run(), name=f"source {self.name}: {follower.key}")
        finally:
            await client.close()

    def state(self) -> SourceView:
        if clock.monotonic() - self._refused_at > REFUSAL_SHOWN_SECONDS:
            self.faults.clear("refused")
        reason = self.faults.reason
        state: Literal["ok", "waiting", "fault"] = "ok" if not reason else "waiting" if self._is_away else "fault"
        return SourceView(state=state, reason=reason, last_at=self._last_at)

    async def check(self) -> list[Finding]:
        """The login, and whether episodes may be listed."""
        client = WatcherClient(self._login)

        async def look() -> None:
            await client.log_in()
            await client.ask("GET", "/episodes", query={"limit": 1}, may=MAY)

        try:
            remedy = f"compare login, password and url of destination {self.config.watcher} with what you were given"
            return await httpcheck.findings(self.name, client.http, look, remedy=remedy)
        finally:
            await client.close()

    # --- for the followers

    async def take(self, found: Episode, server_now: float | None) -> None:
        """In the spool when it returns, or refused for good and said so."""
        if self._put is None:
            raise RuntimeError("a source takes nothing before it runs")
        now = clock.now()
        age_seconds = 0.0 if server_now is None else max(0.0, server_now - found.updated_ms / 1000)
        capture = Capture(
            source=self.name,
            name=f"episode-{found.id}",
            kind=Kind.MESSAGE,
            content_type="application/json",
            captured_at=now - age_seconds,
            payload=found.payload,
            arrival=found.arrival,
        )
        await self._put_surely(self._put, capture)
        self.taken[found.key] = found.updated_ms
        self.silence.heard()
        self._last_at = now

    def failed(self, key: str, error: DeliveryError) -> None:
        """A follower cannot go on: it waits if nobody is there, else it is a fault."""
        self._is_away = isinstance(error, Unreachable)
        self.faults.set(key, str(error))

    def refused(self, reason: str) -> None:
        """One will never be taken: a fault for a while."""
        self._refused_at = clock.monotonic()
        self.faults.set("refused", reason)

    def settled(self) -> None:
        """Forget what no follower will be shown again."""
        floor = min(follower.cursor for follower in self._followers)
        gone = [key for key, updated_ms in self.taken.items() if updated_ms <= floor]
        for key in gone:
            del self.taken[key]
        self._ledger.forget(self.name, gone)

    # --- taking

    async def _put_surely(self, put: Put, capture: Capture) -> None:
        while True:
            try:
                await put(capture)
            except (SpoolFull, SpoolUnwritable) as error:
                self._is_away = True
                self.faults.set("spool", str(error))
                await asyncio.sleep(FULL_SECONDS / 2 + clock.jitter(FULL_SECONDS))
            except Quarantined as error:
                self.refused(f"{capture.name} was refused: {error}")
                return
            else:
                self.faults.clear("spool")
                return

    async def _recall(self) -> None:
        """What is in the spool already, and may be listed again."""
        after = episode.PREFIX
        while True:
            page = await self._ledger.known(self.name, after, LEDGER_PAGE)
            mine = [known.origin for known in page if known.origin.path.startswith(episode.PREFIX)]
            self.taken.update({origin.path: origin.mtime_ns for origin in mine})
            if len(page) < LEDGER_PAGE or not mine:
                return
            after = page[-1].origin.path


class _Follower:
    """Follows the changes of one stream, or of all. `cursor` is on the disk: nothing up to it is asked for again;
    `seen` is how far it has got, ahead of `cursor` by what may still appear out of order. Both in milliseconds."""

    def __init__(self, source: EpisodesSource, client: WatcherClient, media: str | None, known: Known) -> None:
        self.key = "cursor" if media is None else f"cursor {media}"
        self.cursor = number(known.get(self.key, {}).get("updated_at")) or 0
        self._source = source
        self._client = client
        self._media = media
        self._seen = self.cursor
        self._backoff = Backoff(source.config.backoff_first, source.config.backoff_cap)
        self._failures = 0
        self._looked_back_at = clock.monotonic()
        self._fresh_at = clock.monotonic()

    async def run(self) -> None:
        while True:
            try:
                if not self.cursor:
                    await self._begin()
                wait = await self._round()
            except DeliveryError as error:
                self._failures += 1
                self._source.failed(self.key, error)
                wish = (error.retry_after_seconds if isinstance(error, Unavailable) else None) or 0.0
                wait = min(wish, self._backoff.cap_seconds)
                wait += clock.jitter(self._backoff.ceiling_seconds(self._failures))
            else:
                self._failures = 0
                self._source.faults.clear(self.key)
            await asyncio.sleep(wait)

    async def _begin(self) -> None:
        """The very first time: from some time before now, as the server sees it. Raises DeliveryError."""
        await self._client.ask("GET", "/episodes", query={"limit": 1}, may=MAY)
        now = self._client.http.server_now() or clock.now()
        await self._move_to(_bounded(int((now - self._source.config.since) * 1000)))
        self._seen = self.cursor

    async def _round(self) -> float:
        """One question that the server may hold until there is something; how long to wait before the next."""
        config = self._source.config
        asked_at = clock.monotonic()
        fresh = await self._fetch(after=self._seen, poll_seconds=int(config.poll_timeout))
        if fresh:
            self._fresh_at = clock.monotonic()
        late = 0
        if self.cursor < self._seen and (clock.monotonic() - self._looked_back_at >= config.overlap or not fresh):
            late = await self._look_back()
        answered_seconds = clock.monotonic() - asked_at
        return 0.0 if fresh or late else max(0.0, SHORTEST_ROUND_SECONDS - answered_seconds)

    async def _look_back(self) -> int:
        """Take what appeared out of order, then move on: how many that were."""
        late = await self._fetch(after=self.cursor, poll_seconds=0)
        overlap = self._source.config.overlap
        self._looked_back_at = now = clock.monotonic()
        is_quiet = now - self._fresh_at >= overlap and not late
        settled = self._seen if is_quiet else self._seen - int(overlap * 1000)
        if settled > self.cursor:
            await self._move_to(settled)
            self._source.settled()
        return late

    async def _fetch(self, *, after: int, poll_seconds: int) -> int:
        """Take every episode changed after that, page by page; how many were new. The order of pages is not known, so
        it counts as seen only when the last one is in the spool. Raises DeliveryError."""
        fresh, seen = 0, self._seen
        async for page in self._client.pages("/episodes", "episodes", self._query(after, poll_seconds), may=MAY):
            for one in sorted(self._read(page), key=lambda each: each.updated_ms):
                if one.key not in self._source.taken:
                    await self._source.take(one, self._client.http.server_now())
                    fresh += 1
                seen = max(seen, min(one.updated_ms, self._latest()))
        self._seen = seen
        return fresh

    def _read(self, page: list[Document]) -> Iterator[Episode]:
        keeps_images = self._source.config.preview
        for entry in page:
            one = episode.read(entry, keeps_images=keeps_images)
            if one is None:
                self._source.refused("an episode without a usable episode_id or updated_at was left out")
            else:
                yield one

    def _query(self, after: int, poll_seconds: int) -> dict[str, str | int]:
        config = self._source.config
        query: dict[str, str | int] = {
            "updated_at_gt": _bounded(after),
            "limit": max(1, config.page >> min(self._failures, 16)),
        }
        if poll_seconds:
            query["poll_timeout"] = poll_seconds
        if self._media is not None:
            query["media"] = self._media
        if config.episode_type is not None:
            query["episode_type"] = config.episode_type
        if config.select is not None:
            query["select"] = config.select
        if config.group_view:
            query["group_view"] = "true"
        return query

    def _latest(self) -> int:
        """No change is believed to be later than this."""
        now = self._client.http.server_now()
        return LATEST_MS if now is None else int(now * 1000) + AHEAD_MS

    async def _move_to(self, moment_ms: int) -> None:
        await self._source.memory.remember(self.key, {"updated_at": moment_ms})
        self.cursor = moment_ms


def _bounded(moment_ms: int) -> int:
    return min(max(moment_ms, EARLIEST_MS), LATEST_MS)
