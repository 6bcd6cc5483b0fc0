"""MQTT topics as a source: messages of sensors and buttons, or images that cameras publish.

Promises: a message is acknowledged after it is in the spool; while the spool refuses, it stays at the broker. A message
that the broker sends a second time (our acknowledgement was lost, or we died before it) is the same item again, not
another one. What is let go on purpose (too large, thinned out by `min_interval`) is counted and, where it is a fault,
said. Payloads are data: bad JSON is kept as the bytes that came.

How a repeated message is known: the spool's ledger keeps packet id, topic and hash of each message until the broker has
shown that it saw our acknowledgement (asked a second later). A message that comes marked as sent before and is still in
the ledger is that item. Two different messages could be taken for one only if they have the same topic and the same
bytes, and the broker used one packet id for both within that second, and the connection broke in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from relayd import clock, jsontext, mediatype
from relayd.broker import Broker, Message, Subscription
from relayd.files import printable
from relayd.model import Arrival, Capture, Finding, Item, Kind, Origin, SourceView
from relayd.sources.base import Ledger, Put, Source, SourceConfig
from relayd.sources.faults import Faults
from relayd.sources.name_pattern import NamePattern
from relayd.sources.silence import Silence
from relayd.sources.topic_config import TopicConfig
from relayd.surroundings import Surroundings

log = logging.getLogger("relayd.sources")

TOPICS_WATCHED = 10_000
"""Topics whose last message is remembered for `min_interval`; the quietest are forgotten first."""
REFUSAL_SHOWN_SECONDS = 600.0
REDELIVERY_SECONDS = 60.0
"""So long after a connection everything that had to come again has come."""
LEDGER_PAGE = 1000


class TopicSource(Source):
    """The topics of one `[source.NAME]`. Subscribes when it is built; nothing is taken before `run`."""

    Config: ClassVar[type[SourceConfig]] = TopicConfig
    while_held: ClassVar[str] = "its topics are unsubscribed, and what is published meanwhile never comes"

    def __init__(self, name: str, config: TopicConfig, ledger: Ledger, surroundings: Surroundings) -> None:
        super().__init__(name, Silence(config.expect_every, "message"))
        self._config = config
        self._ledger = ledger
        self._broker: Broker = surroundings.brokers[config.broker]
        self._pattern = None if config.topic_pattern is None else NamePattern(config.topic_pattern)
        self._put: Put | None = None
        self._is_ready = asyncio.Event()
        self._has_left = False
        self._faults = Faults(name)
        self._refusals = 0
        self._refused_at = float("-inf")
        self._thinned = 0
        self._last_at: float | None = None
        self._free_at = 0.0
        self._seen_at: OrderedDict[str, float] = OrderedDict()
        self._leftovers: set[bytes] = set()
        self._connections = 0
        self._subscription: Subscription | None = self._subscribe()

    async def run(self, put: Put) -> None:
        self._put = put
        self._is_ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            if not self._has_left and not self.is_held:
                self._is_ready.clear()

    def _subscribe(self) -> Subscription:
        config = self._config
        self._broker.on_connected(self._connected)
        return self._broker.subscribe(
            config.topics,
            self._take,
            name=f"source {self.name}",
            qos=config.qos,
            retained=config.retained,
            confirmed=self._forget,
            on_skipped=self._skipped,
        )

    def leave(self) -> None:
        self._has_left = True
        self._unsubscribe()

    def hold(self) -> None:
        """Others use the connection: what is not acknowledged would be in their way, so nothing is asked for."""
        super().hold()
        self._unsubscribe()
        self._broker.renew()

    def release(self) -> None:
        if self._subscription is None:
            self._subscription = self._subscribe()
            self._broker.renew()
        super().release()

    def _unsubscribe(self) -> None:
        """What was routed here already is taken to its end, so that the connection can acknowledge it."""
        if self._subscription is None:
            return
        self._connections += 1  # what may come again is no business of this subscription any more
        self._broker.unsubscribe(self._subscription)
        self._broker.off_connected(self._connected)
        self._subscription = None
        if self._put is not None:
            self._is_ready.set()

    def state(self) -> SourceView:
        broker = self._broker.view()
        if clock.monotonic() - self._refused_at > REFUSAL_SHOWN_SECONDS:
            self._faults.clear("refused")
        if not self._broker.is_connected:
            state, reason = broker.state, f"broker {self._broker.name}: {broker.reason}"
            return SourceView(state="fault" if state == "fault" else "waiting", reason=reason, last_at=self._last_at)
        refused = "" if self._subscription is None else self._subscription.reason
        reason = refused or self._faults.reason
        return SourceView(state="fault" if reason else "ok", reason=reason, last_at=self._last_at)

    async def check(self) -> list[Finding]:
        """Nothing of its own: the broker's check tries the subscriptions."""
        return []

    # --- taking

    async def _take(self, message: Message) -> bytes | None:
        """In the spool when it returns; the path in the ledger by which it is known, if it may come again."""
        if not self._is_ready.is_set():
            await self._is_ready.wait()
        self.silence.heard()
        if message.is_retained and self._config.retained == "ignore":
            return None
        refusal = self._refusal(message)
        if refusal is not None:
            self._refuse(message.topic, refusal)
            return None
        if self._is_too_soon(message):
            self._thinned += 1
            return None
        arrival = self._arrival(message)
        try:
            await self._keep_pace()
            await self._put_durably(self._capture(message, arrival))
        except BaseException:
            self._seen_at.pop(message.topic, None)  # it comes again, and is not too soon then
            raise
        if arrival is None or message.is_retained:
            return None
        self._leftovers.discard(arrival.origin.path)
        return arrival.origin.path

    async def _put_durably(self, capture: Capture) -> Item:
        if self._put is None:
            raise RuntimeError("a source takes nothing before it runs")
        item = await self._put(capture)
        self._last_at = clock.now()
        return item

    def _capture(self, message: Message, arrival: Arrival | None) -> Capture:
        name, content_type = message.topic, ""
        if self._config.kind == "media":
            leaf = message.topic.rpartition("/")[2] or "message"
            content_type = mediatype.content_type(message.payload[:4096], leaf)
            name = leaf if "." in leaf else leaf + mediatype.extension(content_type)
        else:
            content_type = jsontext.parsed(message.payload).content_type
        return Capture(
            source=self.name,
            name=name,
            kind=Kind.MEDIA if self._config.kind == "media" else Kind.MESSAGE,
            content_type=content_type,
            captured_at=clock.now(),
            payload=message.payload,
            topic=message.topic,
            attributes=(self._pattern.match(message.topic) or {}) if self._pattern is not None else {},
            arrival=arrival,
        )

    def _arrival(self, message: Message) -> Arrival | None:
        """How this message would be known if it came again; None: it never does, or it is always a new one."""
        if message.is_retained:
            if self._config.retained != "once":
                return None
            return Arrival(origin=_origin(b"retained " + message.topic.encode(), message), is_repeat=True)
        if not message.qos:
            return None
        origin = _origin(b"", message)
        path = b"mid %d %x" % (message.mid, origin.inode)
        return Arrival(
            origin=Origin(
                path=path, device=0, inode=origin.inode, size_bytes=origin.size_bytes, mtime_ns=origin.mtime_ns
            ),
            is_repeat=message.is_redelivery,
        )

    # --- limits

    def _refusal(self, message: Message) -> str | None:
        size_bytes, limit_bytes = len(message.payload), self._config.max_message
        if size_bytes > limit_bytes:
            return f"{size_bytes} bytes are more than max_message, {limit_bytes}"
        if len(message.topic.encode()) > self._config.max_topic:
            return f"its topic is longer than max_topic, {self._config.max_topic}"
        if not size_bytes and self._config.kind == "media":
            return "it is empty"
        return None

    def _skipped(self, topic: str, size_bytes: int) -> None:
        limit_bytes = self._broker.config.max_packet
        self._refuse(topic, f"{size_bytes} bytes are more than max_packet of broker {self._broker.name}, {limit_bytes}")

    def _refuse(self, topic: str, why: str) -> None:
        self._refusals += 1
        self._refused_at = clock.monotonic()
        times = "a message was" if self._refusals == 1 else f"{self._refusals} messages were"
        self._faults.set("refused", f"{times} refused, the last one under {printable(topic[:200])}: {why}")

    def _is_too_soon(self, message: Message) -> bool:
        interval = self._config.min_interval
        if interval is None:
            return False
        now, seen = clock.monotonic(), self._seen_at
        last = seen.get(message.topic)
        if last is not None and now - last < interval:
            return True
        seen[message.topic] = now
        seen.move_to_end(message.topic)
        if len(seen) > TOPICS_WATCHED:
            seen.popitem(last=False)
        return False

    async def _keep_pace(self) -> None:
        """Wait until `max_per_second` allows one more; up to one second's worth at once."""
        now = clock.monotonic()
        self._free_at = max(self._free_at, now - 1.0) + 1.0 / self._config.max_per_second
        if self._free_at > now:
            try:
                await asyncio.sleep(self._free_at - now)
            except asyncio.CancelledError:
                self._free_at -= 1.0 / self._config.max_per_second  # its turn is free again
                raise

    # --- what may come again

    async def _connected(self, is_session_present: bool) -> None:
        """Forget what can no longer come again."""
        self._connections += 1
        connection = self._connections
        known = await self._known()
        if not is_session_present:
            self._ledger.forget(self.name, known)
            return
        self._leftovers = set(known)
        await asyncio.sleep(REDELIVERY_SECONDS)
        if connection == self._connections:
            self._forget(list(self._leftovers))
            self._leftovers = set()

    async def _known(self) -> list[bytes]:
        found: list[bytes] = []
        after = b"mid "
        while True:
            page = await self._ledger.known(self.name, after, LEDGER_PAGE)
            found += [known.origin.path for known in page if known.origin.path.startswith(b"mid ")]
            if len(page) < LEDGER_PAGE or not page[-1].origin.path.startswith(b"mid "):
                return found
            after = page[-1].origin.path

    def _forget(self, tokens: Sequence[object]) -> None:
        self._ledger.forget(self.name, [token for token in tokens if isinstance(token, bytes)])


def _origin(path: bytes, message: Message) -> Origin:
    """A hash of topic and payload, in the columns that tell files apart."""
    digest = hashlib.sha256(message.topic.encode() + b"\0" + message.payload).digest()
    return Origin(
        path=path,
        device=0,
        inode=int.from_bytes(digest[:7], "big"),
        size_bytes=len(message.payload),
        mtime_ns=int.from_bytes(digest[7:14], "big"),
    )
