"""START HERE for MQTT: one `Broker` per `[broker.NAME]`: connects, serves, and comes back for ever.

Promises: a message is acknowledged after everybody who subscribed has taken it durably (`broker_inbox`); `publish`
returns after the broker's own good answer; a refused connection, subscription or message is a fault with a reason, in
`view`, while everything else goes on. Trouble with one broker never reaches anybody else: `run` raises nothing.
Version 5 is tried first, then 3.1.1. A broker that speaks 3.1.1 cannot say that it refused a message.

`broker_wire` is one connection, `broker_packets` the bytes, `broker_filters` topics, `broker_words` reason codes,
`broker_check` what `check --online` tries.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from relayd import broker_check, clock, pulse
from relayd.broker_config import BrokerConfig
from relayd.broker_filters import is_topic, widest
from relayd.broker_inbox import Confirmed, Handler, Inbox, Taker
from relayd.broker_packets import Message
from relayd.broker_paho import Events
from relayd.broker_routes import Routes, Subscription, retain_handling
from relayd.broker_settings import ConnectionLost, Settings, Welcome, Will
from relayd.broker_trouble import Trouble, not_taken, trouble_of
from relayd.broker_wire import Wire
from relayd.broker_words import FIRST_BAD, UNSUPPORTED_VERSION, in_words, meaning, refusal
from relayd.errors import Rejected, RelaydError, SecretMissing, Unavailable
from relayd.model import Finding
from relayd.tls import NoAuthorities

__all__ = ["Broker", "BrokerConfig", "BrokerView", "Confirmed", "Handler", "Message", "Subscription", "Will"]

log = logging.getLogger("relayd.broker")

Hook = Callable[[bool], Awaitable[None]]

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
STEADY_SECONDS = 30.0
"""A connection that held this long, or over which something was taken, starts the backoff anew."""
LOOK_SECONDS = 60.0
"""How often a connection that holds is looked at."""
MANY_SHORT = 3
"""So many connections in a row that broke before they were steady: something other than the network breaks them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerView:
    """For the status snapshot. `waiting`: it mends itself; `fault`: a person has to do something."""

    state: Literal["ok", "waiting", "fault"]
    reason: str


class Broker:
    """One broker, by name. Build it, `subscribe`, then `run`."""

    def __init__(
        self,
        name: str,
        config: BrokerConfig,
        client_id: str,
        will: Will | None = None,
        *,
        keeps_session: bool = True,
    ) -> None:
        """`keeps_session` False: the broker forgets this client when it leaves; for those who only look."""
        self.name = name
        self._keeps_session = keeps_session
        self.config = config
        self.client_id = client_id
        self.will = will
        self._routes = Routes(name)
        self._hooks: list[Hook] = []
        self._version_5 = config.protocol != "3.1.1"
        self._is_version_known = config.protocol != "auto"
        self._wire: Wire | None = None
        self._welcome: Welcome | None = None
        self._outgoing = asyncio.Semaphore(1)
        self._trouble = Trouble("it is being connected to", is_fault=False)
        self._refused: dict[str, str] = {}
        self._connected_at = float("-inf")
        self._short_lived = 0
        self._answered = 0
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._asked: dict[str, frozenset[Subscription]] = {}

    # --- for everybody

    def subscribe(
        self,
        filters: Sequence[str],
        handler: Handler,
        *,
        name: str,
        qos: int = 1,
        retained: Literal["take", "once", "ignore"] = "take",
        confirmed: Confirmed | None = None,
        on_skipped: Callable[[str, int], None] | None = None,
    ) -> Subscription:
        """From now on, also across reconnections, `handler` is given each message that one of `filters` matches, once,
        however they overlap; the broker's acknowledgement waits for it. If it raises, the connection is dropped and the
        message comes again. Subscribe before `run`: a kept session sends at once what had to wait, and what nobody
        wants is let go. `on_skipped` is told topic and size of messages over `max_packet`, which nobody gets.

        `retained` says what to do with messages that the broker kept from before; "once" asks for them only where a
        subscription is new (as far as the broker can), so takers should be ready to see one again.
        """
        made = Subscription(
            name=name,
            filters=tuple(filters),
            qos=qos,
            retained=retained,
            taker=Taker(handler, confirmed),
            on_skipped=on_skipped,
        )
        self._routes.add(made)
        return made

    async def ask(self, subscription: Subscription, pattern: str) -> None:
        """Ask for one more filter, over the present connection alone: for those who take what the broker kept bit by
        bit, because it queues no more than so many messages at once. Raises Unavailable."""
        wire, welcome = self._wire, self._welcome
        if wire is None or welcome is None:
            raise Unavailable(f"broker {self.name}: {self.view().reason}")
        self._routes.ask(subscription, pattern)
        try:
            await wire.ask_for(pattern, qos=subscription.qos, identifier=None, retain_handling=0)
        except (ConnectionLost, TimeoutError) as error:
            raise Unavailable(f"broker {self.name}: {error}") from None

    def unsubscribe(self, subscription: Subscription) -> None:
        """Give nothing more to its handler. The broker is told by `renew`, or at the next connection."""
        self._routes.remove(subscription)

    def renew(self) -> None:
        """Subscriptions came or went while it runs: tell the broker, over the connection that is there."""
        self._changed.set()

    def on_connected(self, hook: Hook) -> None:
        """`await hook(is_session_present)` after each connection, once the subscriptions are in place. Without a
        session the broker may have lost everything, retained messages included. A hook that fails is logged."""
        self._hooks.append(hook)

    def off_connected(self, hook: Hook) -> None:
        """Not any more."""
        self._hooks.remove(hook)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Returns after the broker's good answer, with its reason code: 0, or 0x10 if nobody subscribes (QoS 0: after
        handing it to the connection, which proves nothing).

        Raises Unavailable, TryAgain if the broker does not allow this topic, Rejected if it never takes such a message.
        """
        wire, welcome = self._wire, self._welcome
        if wire is None or welcome is None:
            raise Unavailable(f"broker {self.name}: {self.view().reason}")
        self._refuse_what_cannot_be(welcome, topic, payload, qos, retain=retain)
        try:
            async with self._outgoing:
                code = await wire.send(topic, payload, qos=qos, retain=retain)
        except ConnectionLost as error:
            raise Unavailable(f"broker {self.name}: the connection ended before the answer: {error}") from None
        except TimeoutError:
            raise Unavailable(f"broker {self.name}: no answer within {self.config.connect_timeout:.0f} s") from None
        self._answered += 1
        if code >= FIRST_BAD:
            raise refusal(self.name, topic, code)
        return code

    def nudge(self) -> None:
        """The network may be back: do not wait for the end of the backoff."""
        self._wake.set()

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """Everybody who takes something from it."""
        return self._routes.subscriptions

    @property
    def is_connected(self) -> bool:
        return self._welcome is not None

    @property
    def version(self) -> str:
        """The version of MQTT in use: "5" or "3.1.1"."""
        return "5" if self._version_5 else "3.1.1"

    def view(self) -> BrokerView:
        """For the status snapshot; no I/O."""
        if self._short_lived >= MANY_SHORT and clock.monotonic() - self._connected_at < STEADY_SECONDS:
            return BrokerView(state="fault", reason=self._suspicion)
        if not self.is_connected:
            return BrokerView(state="fault" if self._trouble.is_fault else "waiting", reason=self._trouble.in_full)
        reason = next(iter(self._refused.values()), "")
        return BrokerView(state="fault" if reason else "ok", reason=reason)

    async def check(self, filters: Sequence[str] = (), topics: Sequence[str] = ()) -> list[Finding]:
        """Name, TCP, TLS, login, the right to subscribe to `filters` and to publish under `topics`, as far as one gets;
        under a client id of its own, so that a running relay is not thrown out. Publishes empty messages."""
        return await broker_check.findings(
            self.name, self.config, self._settings_for_check, filters=widest(filters), topics=topics
        )

    # --- for ever

    async def run(self) -> None:
        """Connect, serve, and connect again. Ends by cancellation, with a goodbye to the broker."""
        failures = 0
        while True:
            self._wake.clear()
            pulse.beat(LONGEST_WAIT_SECONDS)
            started = clock.monotonic()
            trouble, was_useful = await self._serve_once()
            lasted_seconds = clock.monotonic() - started
            if was_useful or lasted_seconds > STEADY_SECONDS:
                failures = 0
            is_short = trouble.was_connected and self._connected_at >= started and lasted_seconds < STEADY_SECONDS
            self._short_lived = self._short_lived + 1 if is_short else 0
            if trouble.try_again_at_once:
                continue
            failures += 1
            self._tell(trouble)
            ceiling = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 16))
            await self._wait(clock.jitter(ceiling))

    async def _serve_once(self) -> tuple[Trouble, bool]:
        """One connection, from its beginning to its end; why it ended, and whether something was taken over it."""
        lost: list[BaseException] = []
        answered_before = self._answered
        inbox = Inbox(
            self._routes.takers_of,
            lambda error: self._drop(wire, lost, error),
            most=self.config.receive_maximum,
            most_bytes=self.config.max_waiting,
        )
        try:
            wire = Wire(
                await asyncio.to_thread(self._settings),
                Events(arrived=inbox.arrived, too_large=self._skip(inbox), confirmed=inbox.confirmed),
            )
        except (SecretMissing, NoAuthorities, OSError, ssl.SSLError) as error:
            return trouble_of(error, self.config), False
        inbox.attach(wire)
        try:
            welcome = await wire.open()
            await self._serve(wire, welcome)
        except (ConnectionLost, OSError, TimeoutError, UnicodeError) as error:
            trouble = self._version_trouble(error) or trouble_of(error, self.config)
        else:
            trouble = not_taken(lost[0]) if lost else trouble_of(wire.lost.result(), self.config)
        finally:
            self._wire = self._welcome = None
            inbox.close()
            await wire.leave()
        return trouble, inbox.taken > 0 or self._answered > answered_before

    async def _serve(self, wire: Wire, welcome: Welcome) -> None:
        """Until the connection ends."""
        self._is_version_known = True
        self._connected_at = clock.monotonic()
        self._wire, self._outgoing = wire, asyncio.Semaphore(welcome.outgoing)
        await self._ask_for_everything(wire, welcome)
        self._welcome = welcome
        self._tell(None)
        hooks = [
            asyncio.create_task(self._call(hook, welcome), name=f"broker {self.name} hook") for hook in self._hooks
        ]
        try:
            await self._until_lost(wire, welcome)
        finally:
            for task in hooks:
                task.cancel()

    async def _until_lost(self, wire: Wire, welcome: Welcome) -> None:
        """Raises ConnectionLost or TimeoutError if changed subscriptions have no answer."""
        while not wire.lost.done():
            pulse.beat(LOOK_SECONDS)
            if self._changed.is_set():
                self._changed.clear()
                await self._ask_for_what_changed(wire, welcome)
            changed = asyncio.ensure_future(self._changed.wait())
            events: list[asyncio.Future[Any]] = [wire.lost, changed]
            try:
                await asyncio.wait(events, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()

    async def _call(self, hook: Hook, welcome: Welcome) -> None:
        try:
            await hook(welcome.is_session_present)
        except RelaydError as error:
            log.warning("broker %s: %s", self.name, error)

    def _drop(self, wire: Wire, lost: list[BaseException], error: BaseException) -> None:
        """Somebody could not take a message: the connection ends, and the broker keeps it."""
        if not lost:
            lost.append(error)
            if not isinstance(error, RelaydError):
                log.error("broker %s: a message could not be taken", self.name, exc_info=error)
        wire.close()

    def _skip(self, inbox: Inbox) -> Callable[[str, int, int, int], None]:
        def too_large(topic: str, qos: int, mid: int, size_bytes: int) -> None:
            self._routes.skipped(topic, size_bytes)
            inbox.skipped(qos, mid)

        return too_large

    # --- subscriptions

    async def _ask_for_everything(self, wire: Wire, welcome: Welcome) -> None:
        """Raises ConnectionLost, TimeoutError."""
        self._changed.clear()
        self._asked = {pattern: frozenset(self._routes.wanted_by(pattern)) for pattern in self._routes.wide}
        self._refused.clear()
        self._routes.refuse(())
        codes = await _all(self._ask_for(wire, welcome, pattern) for pattern in self._routes.wide)
        refused = [pattern for pattern, code in zip(self._routes.wide, codes, strict=True) if code >= FIRST_BAD]
        if refused and welcome.has_identifiers and self._version_5:
            self._routes.refuse(refused)
            await _all(self._ask_for(wire, welcome, pattern, is_again=True) for pattern in self._routes.granted)

    async def _ask_for_what_changed(self, wire: Wire, welcome: Welcome) -> None:
        """New filters first, so that nothing is missed in between. Those that stay are asked for again where messages
        carry identifiers, which follow from all of them. Raises ConnectionLost, TimeoutError."""
        before, wide = self._asked, list(self._routes.wide)
        self._asked = {pattern: frozenset(self._routes.wanted_by(pattern)) for pattern in wide}
        gone = [pattern for pattern in before if pattern not in self._asked]
        fresh = [pattern for pattern in wide if self._asked[pattern] - before.get(pattern, frozenset())]
        if not gone and not fresh:
            return
        for pattern in gone:
            self._refused.pop(pattern, None)
        self._routes.refuse(self._routes.refused & self._asked.keys() - set(fresh))
        known = frozenset(one for wanted in before.values() for one in wanted)
        codes = await _all(self._ask_for(wire, welcome, pattern, known=known) for pattern in fresh)
        refused = {pattern for pattern, code in zip(fresh, codes, strict=True) if code >= FIRST_BAD}
        if welcome.has_identifiers and self._version_5:
            self._routes.refuse({*self._routes.refused, *refused})
            again = self._routes.granted if refused else [one for one in self._routes.granted if one not in fresh]
            await _all(self._ask_for(wire, welcome, pattern, is_again=True) for pattern in again)
        for pattern in gone:
            await wire.ask_no_more_for(pattern)

    async def _ask_for(
        self,
        wire: Wire,
        welcome: Welcome,
        pattern: str,
        *,
        is_again: bool = False,
        known: frozenset[Subscription] = frozenset(),
    ) -> int:
        """`is_again`: only for the identifier, which says what else is granted. Those `known` have what the broker kept
        from before."""
        wanted = self._routes.wanted_by(pattern)
        new = [one for one in wanted if one not in known]
        qos = max(one.qos for one in wanted)
        code = await wire.ask_for(
            pattern,
            qos=qos,
            identifier=self._routes.identifier(pattern) if welcome.has_identifiers else None,
            retain_handling=2 if is_again or not new else retain_handling(new),
        )
        if code >= FIRST_BAD:
            reason = f"subscribing to {pattern!a} is refused: {in_words(code)}; {meaning(code).remedy}"
        elif code < qos:
            reason = f"{pattern!a} comes with QoS {code} only, not {qos}: messages may be lost on the way here"
        else:
            reason = ""
        for one in wanted:
            one.troubles.pop(pattern, None)
            if reason:
                one.troubles[pattern] = reason
        if reason:
            self._refused[pattern] = reason
            log.warning("broker %s: %s", self.name, reason)
        return code

    # --- publishing

    def _refuse_what_cannot_be(self, welcome: Welcome, topic: str, payload: bytes, qos: int, *, retain: bool) -> None:
        if not is_topic(topic):
            raise Rejected(f"{topic[:200]!a} is no topic to publish under")
        limit_bytes = min(self.config.max_packet, welcome.max_packet_bytes or self.config.max_packet)
        size_bytes = len(payload) + len(topic.encode()) + 16
        if size_bytes > limit_bytes:
            raise Rejected(f"{size_bytes} bytes are more than a packet to broker {self.name} may have, {limit_bytes}")
        if qos > welcome.max_qos:
            raise refusal(self.name, topic, 0x9B)
        if retain and not welcome.can_retain:
            raise refusal(self.name, topic, 0x9A)

    # --- connecting

    def _settings(self) -> Settings:
        """As of now: a renewed password or certificate counts from the next connection. Raises SecretMissing,
        NoAuthorities, OSError, ssl.SSLError."""
        config = self.config
        return Settings(
            host=config.host,
            port=config.port,
            client_id=self.client_id,
            is_version_5=self._version_5,
            username=config.username,
            password=None if config.password is None else config.password.reveal(),
            tls=broker_check.context(config) if config.is_encrypted else None,
            will=self.will,
            keepalive_seconds=max(1, round(config.keepalive)),
            timeout_seconds=config.connect_timeout,
            keeps_session=self._keeps_session,
            session_expiry_seconds=min(round(config.session_expiry), 0xFFFFFFFE),
            receive_maximum=config.receive_maximum,
            max_packet_bytes=config.max_packet,
        )

    def _settings_for_check(self, *, is_version_5: bool) -> Settings:
        return replace(
            self._settings(),
            client_id=f"{self.client_id}-check",
            is_version_5=is_version_5,
            keeps_session=False,
            will=None,
        )

    def _version_trouble(self, error: Exception) -> Trouble | None:
        """Whether the other version should be tried, at once."""
        if self._is_version_known:
            return None
        is_about_version = (
            isinstance(error, ConnectionLost) and not error.is_tls and error.code in (None, UNSUPPORTED_VERSION)
        )
        if not is_about_version:
            return None
        self._version_5 = not self._version_5
        if self._version_5:
            return None
        log.info("broker %s does not take MQTT 5: trying 3.1.1", self.name)
        return Trouble(str(error), is_fault=False, try_again_at_once=True)

    @property
    def _suspicion(self) -> str:
        return (
            f"connections to {self.config.host} port {self.config.port} break again and again soon after they are made:"
            f" does another relay use the client id {self.client_id!a}?"
        )

    def _tell(self, trouble: Trouble | None) -> None:
        """Said once when it comes, once when it goes."""
        if trouble is None:
            log.info("broker %s: connected, MQTT %s", self.name, self.version)
            self._trouble = Trouble("the connection has just ended", is_fault=False)
            return
        if trouble.text != self._trouble.text:
            log.warning("broker %s: %s", self.name, trouble.text)
        self._trouble = trouble

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return


async def _all(asked: Iterable[Awaitable[int]]) -> list[int]:
    """What each of them returns, once all are through; raises the first failure."""
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, int)]
