"""Reports to the fleet over MQTT: that this relay is there, how it is doing, what happened; and takes commands.

Promises: `state` and `health` are at the broker again soon after it lost them. An event is told at least once, in
order, and forgotten only when the broker has it. Nothing here holds up a delivery: a fleet that is away, or refuses, is
waited for, and the refusal shows in the status of its broker.

`reports` says what is published, `commands` what may be asked, `lookout` which faults stand, `homeassistant` what Home
Assistant reads; `presence` keeps the retained topics right, `telling` sends the events, and `post` is the way to the
broker.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from relayd import __version__, clock
from relayd.broker import Broker, BrokerView, Message, Will
from relayd.commands import CommandDesk
from relayd.errors import RelaydError
from relayd.fields import Duration, Section, written
from relayd.homeassistant import Shown
from relayd.lookout import Lookout
from relayd.model import Device
from relayd.operations import Operations
from relayd.post import Post
from relayd.presence import Presence
from relayd.reports import encoded
from relayd.spool import Spool
from relayd.telling import Teller

log = logging.getLogger("relayd.reporter")

GOODBYE_SECONDS = 2.0
"""How long a stop waits for the broker to take `stopped`."""
MOST_COMMANDS_WAITING = 50


def _plain_topic(value: str) -> str:
    if set(value) & {"+", "#", "\0"} or value.startswith(("/", "$")) or value.endswith("/"):
        raise ValueError('must be a plain topic, write for example "relayd/v1"')
    return value


class FleetConfig(Section):
    """The broker that watches the fleet, and what it may ask."""

    broker: Annotated[str, Field(min_length=1, examples=["fleet"])]
    """Name of a `[broker.NAME]`."""
    topic: Annotated[str, Field(min_length=1, max_length=256)] = "relayd/v1"
    """Everything is below TOPIC/DEVICE-ID/."""
    health_every: Duration = written("60s", ge=1)
    """How often the status snapshot is published, besides on every change."""
    commands: tuple[Literal["status", "pause", "resume", "retry", "flush", "ptz", "reboot"], ...] = ("status",)
    """What may be asked remotely, of status, pause, resume, retry, flush, and of cameras ptz and reboot."""
    home_assistant: bool = False
    """Show the health figures in Home Assistant, by its MQTT discovery."""
    home_assistant_prefix: Annotated[str, Field(min_length=1, max_length=256)] = "homeassistant"
    """The topic below which Home Assistant looks for them."""

    @field_validator("topic", "home_assistant_prefix")
    @classmethod
    def _is_plain(cls, value: str) -> str:
        return _plain_topic(value)


class Reporter:
    """The reports of one relay to one fleet. Build it before its broker runs, then `run` it."""

    def __init__(
        self,
        config: FleetConfig,
        broker: Broker,
        spool: Spool,
        operations: Operations,
        lookout: Lookout,
        device: Device,
        session: str,
    ) -> None:
        self.base = f"{config.topic}/{device.id}"
        self._broker = broker
        self._session = session
        self._post = Post(broker, self.base)
        self._desk = CommandDesk(operations, spool.fleet, config.commands)
        self._teller = Teller(self._post, spool.fleet)
        self._presence = Presence(
            self._post,
            spool,
            operations,
            lookout,
            birth=lambda: self._state("online"),
            health_every_seconds=config.health_every,
            shown=Shown(
                device=device,
                version=__version__,
                base=self.base,
                prefix=config.home_assistant_prefix,
                health_every_seconds=config.health_every,
            )
            if config.home_assistant
            else None,
        )
        self._asked: set[asyncio.Task[None]] = set()
        self._end = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._has_ended.set()
        broker.will = Will(topic=f"{self.base}/state", payload=encoded(self._state("offline")), qos=1, retain=True)
        broker.on_connected(self._connected)
        broker.subscribe([f"{self.base}/command/+"], self._take, name="fleet commands", retained="ignore")

    async def run(self) -> None:
        """Report until `end`. Commands that come after it wait for the next start."""
        self._has_ended.clear()
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = [
                    tasks.create_task(self._presence.run(), name="fleet presence"),
                    tasks.create_task(self._teller.run(), name="fleet events"),
                ]
                await self._end.wait()
                for part in parts:
                    part.cancel()
        finally:
            for task in self._asked:
                task.cancel()
            await asyncio.gather(*self._asked, return_exceptions=True)
            self._has_ended.set()

    async def end(self, *, says_stopped: bool) -> None:
        """Report nothing more but, if wanted, the last word: `stopped`, acknowledged if the broker is there. To be
        called before the connection is closed; takes seconds at most."""
        self._end.set()
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await self._has_ended.wait()
                if says_stopped and self._broker.is_connected:
                    await self._post.publish("state", self._state("stopped"), retain=True)
        except TimeoutError:
            log.warning("the fleet could not be told that this relay stops: no answer within %.0f s", GOODBYE_SECONDS)
        except RelaydError as error:
            log.warning("the fleet could not be told that this relay stops: %s", error)

    def hint(self) -> None:
        """There are new events."""
        self._teller.hint()

    def view(self) -> dict[str, BrokerView]:
        """How the fleet's broker is doing, by name: a refused report is a fault of it, too."""
        view = self._broker.view()
        if view.state == "ok" and self._post.trouble:
            view = BrokerView(state="fault", reason=self._post.trouble)
        return {self._broker.name: view}

    async def _connected(self, is_session_present: bool) -> None:
        """A broker that kept our session may still have lost what it retained."""
        self._presence.renew()
        self._teller.hint()

    def _state(self, word: str) -> dict[str, Any]:
        return {"state": word, "session": self._session, "at": clock.rfc3339(clock.now()), "version": __version__}

    # --- commands

    async def _take(self, message: Message) -> None:
        """Never raises: a command that cannot be had is no reason to end the connection. If that ends meanwhile, the
        command is still carried out, and the broker's repetition is answered from memory."""
        if self._end.is_set():
            await asyncio.Event().wait()  # never acknowledged, so it comes again; ends with the connection
        name = message.topic.removeprefix(f"{self.base}/command/")
        if message.is_retained or len(self._asked) >= MOST_COMMANDS_WAITING:
            self._desk.let_go(name, "it is retained" if message.is_retained else "too many wait")
            return
        answering = self._answer(name, message.payload, may_be_old=self._broker.may_bring_old)
        task = asyncio.get_running_loop().create_task(answering, name="fleet command")
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        await asyncio.shield(task)

    async def _answer(self, name: str, payload: bytes, *, may_be_old: bool) -> None:
        answer = await self._desk.answer(name, payload, may_be_old=may_be_old)
        if answer is None:
            return
        try:
            await self._post.publish(f"response/{answer.id}", answer.document)
        except RelaydError as error:
            log.warning("the answer to command %s could not be sent: %s", answer.id, error)
