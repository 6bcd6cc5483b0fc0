"""One episode as the API lists it, as the message that it becomes: pure, values in, values out.

Promises: what is no episode is told apart and never raises. Ids are whole numbers in the message, however they came;
nothing in it lets anybody watch the stream.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from relayd.model import JSON, Arrival, Origin
from relayd.watcher_client import Document, number

PREFIX = b"episode "
_LARGEST = 2**62
_IMAGES = frozenset({"preview", "frame_preview"})
_SECRET = "playback_token"  # noqa: S105 - the name of a field


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """An episode at one state: `id` and `updated_ms` (Unix milliseconds, by the server's clock) say which."""

    id: int
    updated_ms: int
    payload: bytes

    @property
    def key(self) -> bytes:
        """Its path in the ledger."""
        return PREFIX + b"%d %d" % (self.id, self.updated_ms)

    @property
    def arrival(self) -> Arrival:
        """How the spool knows it again; always asked, since any of them may be listed twice."""
        origin = Origin(path=self.key, device=0, inode=self.id % _LARGEST, size_bytes=0, mtime_ns=self.updated_ms)
        return Arrival(origin=origin, is_repeat=True)


def read(found: Document, *, keeps_images: bool) -> Episode | None:
    """The episode in one entry of the list; None if it is none."""
    identity, updated_ms = number(found.get("episode_id")), number(found.get("updated_at"))
    if identity is None or updated_ms is None or not 0 < updated_ms < _LARGEST:
        return None
    told = {key: value for key, value in found.items() if keeps_images or key not in _IMAGES}
    payload = json.dumps(_harmless({**told, "episode_id": identity, "updated_at": updated_ms}), ensure_ascii=False)
    return Episode(id=identity, updated_ms=updated_ms, payload=payload.encode("utf-8", "replace"))


def _harmless(found: JSON) -> JSON:
    """Without tokens, however deep: the parser bounds the depth."""
    if isinstance(found, Mapping):
        return {key: _harmless(value) for key, value in found.items() if key != _SECRET}
    return [_harmless(value) for value in found] if isinstance(found, list) else found
