"""What the IncidentShare stand-in has sent and taken, and how a list shows it.

Promises: no I/O; times are the sandbox's own. A group is one stream: the first link to it and its files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Link:
    """One message that a person got. `body` is what was asked for, `kind` sms or email."""

    kind: str
    stream_id: str
    number: int
    body: Mapping[str, object]
    at: float


@dataclass(frozen=True, slots=True)
class Media:
    """One file of a stream, under the name that the site gave it."""

    stream_id: str
    name: str
    content_type: str
    size_bytes: int
    sha256: str
    at: float


@dataclass(slots=True)
class Archive:
    """Every link and every file, in the order in which they came."""

    links: list[Link] = field(default_factory=list)
    media: list[Media] = field(default_factory=list)

    @property
    def link_duplicates(self) -> int:
        """How many messages say the same to the same person as one before them."""
        return _repeats(Counter(json.dumps([link.kind, link.body], sort_keys=True) for link in self.links))

    @property
    def media_duplicates(self) -> int:
        """How many files are in their stream already."""
        return _repeats(Counter(f"{each.stream_id}/{each.sha256}" for each in self.media))

    def groups(self, *, after: float, until: float, is_whole: bool, lists_empty: bool) -> list[dict[str, object]]:
        """The streams in which something came after `after`; nothing that came after `until` is seen. `is_whole`: with
        their older files too; `lists_empty`: also for a link without files."""
        links = [link for link in self.links if link.at <= until]
        media = [each for each in self.media if each.at <= until]
        shown = []
        for stream in dict.fromkeys([*(link.stream_id for link in links), *(each.stream_id for each in media)]):
            link = next((link for link in links if link.stream_id == stream), None)
            files = [each for each in media if each.stream_id == stream]
            new = [each for each in files if each.at > after]
            if new or (lists_empty and link is not None and link.at > after):
                shown.append(_group(stream, link, files if is_whole else new))
        return shown


def text_of(moment: float) -> str:
    """`2026-01-01 09:00:00`, in UTC."""
    return datetime.fromtimestamp(moment, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


def _group(stream: str, link: Link | None, files: list[Media]) -> dict[str, object]:
    body = link.body if link is not None else {}
    return {
        "stream_id": stream,
        "date_send": None if link is None else text_of(link.at),
        "date_expires": None if link is None else text_of(link.at + 86400),
        "phone_number": body.get("phone_number"),
        "notes": body.get("notes"),
        "send_by_user_login": "relay",
        "send_by_user_id": "17",
        "send_by_team_ids": ["3"],
        "send_by_team_names": ["Dispatch"],
        "files": [
            {"name": each.name, "url": f"https://media.example.com/{each.name}", "saved_date": str(int(each.at))}
            for each in files
        ],
    }


def _repeats(seen: Counter[str]) -> int:
    return sum(seen.values()) - len(seen)
