"""Flussonic Watcher: activation of cameras, messages to users, pan-tilt-zoom and reboot.

Promises: a camera of the configuration is activated once and kept as configured, in the background (see `Cameras`); the
action `camera` is delivered when that is so. A message is sent again after a lost answer, `most_unknown` times at
most: it may appear twice, and then a person looks. A command to a camera is sent at most once, and only while it is
younger than `command_max_age`: it never waits for a server and is never replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from relayd import clock, httpcheck
from relayd.destinations.at_most_once import once
from relayd.destinations.base import Attempt, Destination, Step
from relayd.destinations.watcher_cameras import Cameras
from relayd.destinations.watcher_models import (
    CameraArguments,
    CameraConfig,
    CommandArguments,
    MessageArguments,
    PtzArguments,
    RebootArguments,
    WatcherConfig,
)
from relayd.errors import DeliveryError, NotAllowed, NotReady, Rejected, TooLate, TryAgain
from relayd.memory import Unkept
from relayd.model import JSON, CameraView, Finding, Receipt
from relayd.watcher_client import Document, WatcherClient, number, segment

if TYPE_CHECKING:
    from relayd.surroundings import Surroundings


class Watcher(Destination):
    """One user of one Watcher."""

    Config = WatcherConfig
    actions: ClassVar[Mapping[str, type[BaseModel]]] = {
        "camera": CameraArguments,
        "message": MessageArguments,
        "ptz": PtzArguments,
        "reboot": RebootArguments,
    }
    receipt_fields = frozenset({"token", "stream_name", "message_id"})
    alarms = frozenset({"message"})
    never_late = frozenset({"ptz", "reboot"})

    def __init__(self, name: str, config: WatcherConfig, surroundings: Surroundings | None = None) -> None:
        self.name = name
        self._config = config
        self._client = WatcherClient(config)
        memory = Unkept() if surroundings is None else surroundings.memory(f"destination:{name}")
        self._cameras = Cameras(name, config, self._client, memory)

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Receipt: `token` and `stream_name` of the camera, `message_id`; None where an action has none."""
        match attempt.delivery.action:
            case "camera":
                return await self._activate(attempt)
            case "message":
                return await self._message(attempt)
            case "ptz":
                move = PtzArguments.model_validate(dict(attempt.arguments))
                body = move.model_dump(by_alias=True, exclude=set(CommandArguments.model_fields))
                return await self._command(attempt, move, "ptz", body, "can_use_ptz")
            case _:
                reboot = RebootArguments.model_validate(dict(attempt.arguments))
                return await self._command(attempt, reboot, "reboot", None, "can_use_actions")

    async def upkeep(self) -> None:
        await self._cameras.run()

    def nudge(self) -> None:
        self._cameras.nudge()

    def cameras(self) -> tuple[CameraView, ...]:
        return self._cameras.views()

    async def check(self) -> list[Finding]:
        """Name, TCP, TLS, the login, and for each camera whether the names in it are known and it may be added."""
        remedy = "compare login, password and url with what the Watcher's administrator gave"
        found = await httpcheck.findings(self.name, self._client.http, self._client.log_in, remedy=remedy)
        if all(finding.is_good for finding in found):
            found += [await self._check_camera(camera) for camera in self._config.camera]
        return found

    async def close(self) -> None:
        await self._client.close()

    # --- actions

    async def _activate(self, attempt: Attempt) -> Receipt:
        name = CameraArguments.model_validate(dict(attempt.arguments)).name
        camera = await self._cameras.activation(name)
        if not camera.stream_name:
            raise NotReady(
                f"camera {name} waits for its activation: `relayd cameras --qr {name}`",
                retry_after_seconds=self._config.poll_every,
            )
        fields: dict[str, JSON] = {"token": camera.token or None, "stream_name": camera.stream_name}
        return _receipt(f"camera {name} is stream {camera.stream_name}", **fields)

    async def _message(self, attempt: Attempt) -> Receipt:
        """The API lists messages, but neither says whose nor for how long: what is not listed may have been read."""
        arguments = MessageArguments.model_validate(dict(attempt.arguments))

        async def send(doubts: int) -> Step:
            return await self._tell(arguments, doubts)

        sent = await once(attempt, "message", send, terms=self._config.budget("Watcher", attempt))
        proof = sent.get("proof") or f"the server gave the message the id {sent['message_id']}"
        return _receipt(str(proof), message_id=sent["message_id"])

    async def _tell(self, arguments: MessageArguments, doubts: int) -> Step:
        body = arguments.model_dump(exclude_none=True)
        found = await self._client.ask("POST", "/messages", body=body, may="send messages", is_repeatable=False)
        message = number(found.get("id"))
        if message is None:
            raise TryAgain("the answer to the message names no message")
        proof = f"the server gave the message the id {message}"
        if doubts:
            proof += f"; {doubts} earlier answer(s) were lost, so it may be there twice"
        return {"message_id": message, "proof": proof}

    async def _command(
        self, attempt: Attempt, wish: CommandArguments, what: str, body: Document | None, right: str
    ) -> Receipt:
        """One command, within its time or not at all."""
        left_seconds = self._left_seconds(attempt, wish)
        stream = await self._cameras.stream_of(wish.name)
        if (attempt.recall("sending") or {}).get("is_open"):
            raise Rejected(f"relayd ended while it sent this {what}: it may have been done, and is not sent again")
        await attempt.note("sending", {"is_open": True})
        try:
            async with asyncio.timeout(left_seconds):
                await self._client.ask(
                    "POST",
                    f"/streams/{segment(stream)}/{what}",
                    body=body,
                    may=f"command this camera ({right})",
                    is_repeatable=False,
                    believes_gateways=False,
                )
        except TimeoutError:
            raise Rejected(
                f"no answer to this {what} within command_max_age: it may have been done, and is not sent again"
            ) from None
        except NotAllowed as error:
            raise Rejected(str(error)) from None
        except DeliveryError as error:
            if not error.nothing_happened:
                raise Rejected(f"{error}: this {what} may have been done, and is not sent again") from None
            await attempt.note("sending", {"is_open": False})
            raise
        return _receipt(f"the server took {what} of stream {stream}", stream_name=stream)

    def _left_seconds(self, attempt: Attempt, wish: CommandArguments) -> float:
        """How long it is still worth anything. Raises TooLate, also where the clock was set back since, or does not
        agree with that of who asked."""
        now, limit = clock.now(), self._config.command_max_age
        asked_at = attempt.item.accepted_at if wish.asked_at is None else wish.asked_at.timestamp()
        age = max(now - asked_at, now - attempt.item.accepted_at, key=abs)
        if abs(age) >= limit:
            by = "" if age > 0 else " by a clock that disagrees with ours"
            raise TooLate(
                f"this {attempt.delivery.action} is {abs(age):.0f} s old{by}, more than command_max_age, {limit:g} s:"
                " it was dropped, commands are never replayed late"
            )
        return limit - max(age, 0.0)

    async def _check_camera(self, camera: CameraConfig) -> Finding:
        subject = f"{self.name}: camera {camera.name}"
        try:
            ids = await self._cameras.names.ids(camera)
            organizations = await self._cameras.names.organizations()
        except DeliveryError as error:
            remedy = (
                "write the name as the server shows it, or its id, and ask its administrator for the right to see it"
            )
            return Finding(subject=subject, is_good=False, text=str(error), remedy=remedy)
        wanted = ids.get("organization_id")
        mine = [one for one in organizations if wanted is None or number(one.get("id")) == wanted]
        if wanted is None and len(mine) > 1:
            text = f"{self._config.login} belongs to {len(mine)} organizations"
            return Finding(subject=subject, is_good=False, text=text, remedy="write organization = the one it goes to")
        rights = mine[0].get("user_permissions") if mine else None
        if isinstance(rights, dict) and rights.get("can_edit_streams") is False:
            text = f"{self._config.login} may not add cameras there"
            return Finding(
                subject=subject, is_good=False, text=text, remedy="have can_edit_streams granted to the user"
            )
        return Finding(subject=subject, is_good=True, text=f"{camera.title}, its names are known")


def _receipt(proof: str, **fields: JSON) -> Receipt:
    return Receipt(proof=proof, fields={"token": None, "stream_name": None, "message_id": None, **fields})
