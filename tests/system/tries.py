"""Tries one delivery again and again the way the worker does: steps are remembered, a rewind forgets them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from relayd.destinations.base import Attempt, Destination, Step
from relayd.errors import Rewind
from relayd.model import Delivery, Device, Fields, Item, Kind, Priority, Receipt, State

DEVICE = Device(id="amb-0417", name="Ambulance 417")


class Tries:
    """One media item owed to one destination. `steps` is what a spool would have stored of it, in order."""

    def __init__(self, destination: Destination, media: Path, content_type: str, **arguments: str) -> None:
        self.steps: dict[str, Step | None] = {}
        self._destination = destination
        self._media = media
        self._arguments: Fields = dict(arguments)
        content = media.read_bytes()
        self._item = Item(
            id="0123456789abcdefgh",
            source="front-camera",
            name=media.name,
            kind=Kind.MEDIA,
            content_type=content_type,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            md5=hashlib.md5(content).hexdigest(),
            captured_at=0.0,
            accepted_at=0.0,
        )
        self._delivery = Delivery(
            id=1,
            item_id=self._item.id,
            destination=destination.name,
            action="upload",
            rule="everything",
            priority=Priority.NORMAL,
            state=State.PENDING,
            attempts=0,
            created_at=0.0,
            due_at=0.0,
        )

    async def store_intent(self, delivery_id: int, name: str) -> None:
        self.steps.setdefault(name, None)

    async def store_step(self, delivery_id: int, name: str, result: Step) -> None:
        self.steps[name] = result

    async def once(self) -> Receipt:
        """One more try. What the adapter raises is raised; after a Rewind its step and later ones are forgotten."""
        self._delivery = replace(self._delivery, attempts=self._delivery.attempts + 1)
        attempt = Attempt(
            item=self._item,
            delivery=self._delivery,
            arguments=self._arguments,
            device=DEVICE,
            open_media=lambda: self._media.open("rb", buffering=0),
            store=self,
            steps=self.steps,
        )
        try:
            return await self._destination.deliver(attempt)
        except Rewind as rewind:
            names = list(self.steps)
            for name in names[names.index(rewind.step) :]:
                del self.steps[name]
            raise
