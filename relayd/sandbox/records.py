"""What the servers of a sandbox have recorded, as its control address shows it; for whoever judges from outside.

Promises: nothing here comes from the relay; what is not there is an empty list, never an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Document = Mapping[str, Any]

RAPIDSOS, REPORT, STREAM = "RapidSOS", "report", "stream"
"""Where a file may be."""


@dataclass(frozen=True, slots=True)
class Records:
    """`taken` is `/_sandbox/records`, `log` the requests of `/_sandbox/log`, oldest first."""

    taken: Document = field(default_factory=dict)
    log: Sequence[Document] = ()

    @property
    def presses(self) -> Sequence[Document]:
        """Messages at the broker: `topic`, `payload`, `at`, `acknowledged`."""
        return self._list("mqtt", "messages")

    @property
    def reports(self) -> Mapping[str, Document]:
        """By number: `body`, `at`, `lines`, `images`."""
        found: Mapping[str, Document] = self.taken.get("sayvu", {}).get("reports", {})
        return found

    @property
    def links(self) -> Sequence[Document]:
        """Messages to people: `kind`, `stream_id`, `body`, `at`."""
        return self._list("incidentshare", "links")

    @property
    def media(self) -> Sequence[Document]:
        """Files of streams: `stream_id`, `name`, `sha256`, `at`."""
        return self._list("incidentshare", "media")

    @property
    def objects(self) -> Sequence[Document]:
        """Files at RapidSOS: `key`, `sha256`, `size_bytes`, `stored`, `is_altered`."""
        return self._list("objects", "objects")

    @property
    def faults(self) -> Sequence[Document]:
        """Incidents of the status page: `id`, `name`, `status`, `at`, `updates`."""
        return self._list("cachet", "incidents")

    @property
    def activations(self) -> Sequence[Document]:
        """Tokens of Watcher: `token`, `stream`."""
        return self._list("watcher", "activations")

    @property
    def streams(self) -> Mapping[str, Document]:
        """Cameras of Watcher, by stream: `config`, `alive`."""
        found: Mapping[str, Document] = self.taken.get("watcher", {}).get("streams", {})
        return found

    def whereabouts(self, name: str) -> tuple[str, ...]:
        """Where a file of this name is, whatever is in it."""
        stem, _, extension = name.rpartition(".")
        there = {
            RAPIDSOS: any(name_of(each) == name for each in self.objects),
            REPORT: any(image["name"] == name for report in self.reports.values() for image in report["images"]),
            STREAM: any(
                each["name"].startswith(f"{stem}-") and each["name"].endswith(f".{extension}") for each in self.media
            ),
        }
        return tuple(place for place, is_there in there.items() if is_there)

    def uploads(self) -> Mapping[str, int]:
        """On their way to RapidSOS: file name → bytes that have come."""
        is_open = (
            each for each in self.log if each["operation"] == "store" and each["outcome"] == "open" and each["key"]
        )
        return {name_of(each): each["received_bytes"] for each in is_open}

    def refused(self) -> int:
        """How many requests got no right answer so far."""
        return sum(each["outcome"] != "answered" or each["fault"] is not None for each in self.log)

    def effects(self, *operations: str, since: float = 0.0) -> Sequence[Document]:
        """The requests that did something, in the order in which they came."""
        return [
            each for each in self.log if each["operation"] in operations and each["has_effect"] and each["at"] >= since
        ]

    def _list(self, server: str, what: str) -> Sequence[Document]:
        found: Sequence[Document] = self.taken.get(server, {}).get(what, [])
        return found


def name_of(stored: Document) -> str:
    """The last part of the key under which RapidSOS stores a file."""
    return str(stored["key"]).rsplit("/", 1)[-1]
