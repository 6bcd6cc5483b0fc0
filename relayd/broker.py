"""START HERE for MQTT: one `Broker` per `[broker.NAME]`: connects, serves, and comes back for ever.

Promises: a message is acknowledged after everybody who subscribed has taken it durably (`broker_inbox`); `publish`
returns after the broker's own good answer; a refused connection, subscription or message is a fault with a reason, in
`view`, while everything else goes on. Trouble with one broker never reaches anybody else: `run` raises nothing.
Version 5 is tried first, then 3.1.1. A broker that speaks 3.1.1 cannot say that it refused a message.

`broker_wire` is one connection, `broker_login` how it begins, `broker_grants` what the broker sends over it,
`broker_outgoing` what goes to it, `broker_standing` how all that is told. `broker_packets` are the bytes,
`broker_filters` topics, `broker_words` reason codes; `broker_check` is what `check --online` tries.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from relayd import broker_check, clock, pulse
from relayd.broker_config import BrokerConfig
from relayd.broker_filters import widest
from relayd.broker_grants import Grants
from relayd.broker_inbox import Confirmed, Handler, Inbox, Taker
from relayd.broker_login import Login
from relayd.broker_outgoing import Outgoing
from relayd.broker_packets import Message
from relayd.broker_paho import Events
from relayd.broker_routes import Routes, Subscription
from relayd.broker_settings import ConnectionLost, Welcome, Will
from relayd.broker_standing import STEADY_SECONDS, BrokerView, Standing
from relayd.broker_trouble import Trouble, not_taken, trouble_of
from relayd.broker_wire import Wire
from relayd.errors import RelaydError, SecretMissing, Unavailable
from relayd.model import Finding
from relayd.threads import in_own_thread
from relayd.tls import NoAuthorities

__all__ = ["Broker", "BrokerConfig", "BrokerView", "Confirmed", "Handler", "Message", "Subscription", "Will"]

log = logging.getLogger("relayd.broker")

Hook = Callable[[bool], Awaitable[None]]

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
OLD_SECONDS = 30.0
"""How long after a connection was made messages from before it may still come."""
LOOK_SECONDS = 60.0
"""How often a connection that holds is looked at."""


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
        self.config = config
        self.client_id = client_id
        self.will = will
        self._login = Login(name, config, client_id, keeps_session=keeps_session)
        self._routes = Routes(name)
        self._grants = Grants(name, self._routes)
        self._outgoing = Outgoing(name, config)
        self._standing = Standing(name, config, client_id)
        self._hooks: list[Hook] = []
        self._connection: tuple[Wire, Welcome] | None = None
        self._is_served = False
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

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
        wire, _ = self._there()
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
        wire, welcome = self._there()
        return await self._outgoing.send(wire, welcome, topic, payload, qos=qos, retain=retain)

    def _there(self) -> tuple[Wire, Welcome]:
        """The connection, as soon as the broker has taken it: what came over it at once can be answered. Raises
        Unavailable."""
        if self._connection is None:
            raise Unavailable(f"broker {self.name}: {self.view().reason}")
        return self._connection

    def nudge(self) -> None:
        """The network may be back: do not wait for the end of the backoff."""
        self._wake.set()

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """Everybody who takes something from it."""
        return self._routes.subscriptions

    @property
    def is_connected(self) -> bool:
        """The connection is there, and everything is asked for."""
        return self._is_served

    @property
    def may_bring_old(self) -> bool:
        """Whether a message that comes now may have waited at the broker: it kept our session, and the connection is
        so young that what waited may still be coming."""
        if self._connection is None:
            return True
        _, welcome = self._connection
        return welcome.is_session_present and self._standing.connected_seconds() < OLD_SECONDS

    @property
    def version(self) -> str:
        """The version of MQTT in use: "5" or "3.1.1"."""
        return "5" if self._login.is_version_5 else "3.1.1"

    def view(self) -> BrokerView:
        """For the status snapshot; no I/O."""
        return self._standing.view(is_connected=self.is_connected, refused=self._grants.refused)

    async def check(self, filters: Sequence[str] = (), topics: Sequence[str] = ()) -> list[Finding]:
        """Name, TCP, TLS, login, the right to subscribe to `filters` and to publish under `topics`, as far as one gets;
        under a client id of its own, so that a running relay is not thrown out. Publishes empty messages."""
        return await broker_check.findings(
            self.name, self.config, self._login.settings_for_check, filters=widest(filters), topics=topics
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
            lasted_seconds = self._standing.ended(trouble, started_at=started)
            if was_useful or lasted_seconds > STEADY_SECONDS:
                failures = 0
            if trouble.try_again_at_once:
                continue
            failures += 1
            self._standing.tell(trouble)
            ceiling = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 16))
            await self._wait(clock.jitter(ceiling))

    async def _serve_once(self) -> tuple[Trouble, bool]:
        """One connection, from its beginning to its end; why it ended, and whether something was taken over it."""
        lost: list[BaseException] = []
        answered_before = self._outgoing.answered
        inbox = Inbox(
            self._routes.takers_of,
            lambda error: self._drop(wire, lost, error),
            most=self.config.receive_maximum,
            most_bytes=self.config.max_waiting,
        )
        try:
            wire = Wire(
                await in_own_thread("settings", self._login.settings, self.will),
                Events(arrived=inbox.arrived, too_large=self._skip(inbox), confirmed=inbox.confirmed),
            )
        except (SecretMissing, NoAuthorities, OSError, ssl.SSLError) as error:
            return trouble_of(error, self.config), False
        inbox.attach(wire)
        try:
            welcome = await wire.open()
            await self._serve(wire, welcome)
        except (ConnectionLost, OSError, TimeoutError, UnicodeError) as error:
            trouble = self._login.other_version(error) or trouble_of(error, self.config)
        else:
            trouble = not_taken(lost[0]) if lost else trouble_of(wire.lost.result(), self.config)
        finally:
            self._connection, self._is_served = None, False
            inbox.close()
            await wire.leave()
        return trouble, inbox.taken > 0 or self._outgoing.answered > answered_before

    async def _serve(self, wire: Wire, welcome: Welcome) -> None:
        """Until the connection ends."""
        self._login.accepted()
        self._standing.connected()
        self._outgoing.allow(welcome)
        self._connection = wire, welcome
        self._changed.clear()
        await self._grants.ask_for_everything(wire, welcome)
        self._is_served = True
        self._standing.serves(self.version)
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
                await self._grants.ask_for_what_changed(wire, welcome)
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

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
