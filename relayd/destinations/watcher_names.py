"""Names of organizations, presets and folders as the server lists them, turned into ids.

Promises: nothing is guessed: a name that is not there, or is there twice, is Rejected with what one could mean. Lists
are kept for a while, and fetched anew for a name that they lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from relayd import clock
from relayd.destinations.watcher_models import CameraConfig
from relayd.errors import Rejected
from relayd.httpanswer import scrubbed
from relayd.model import JSON
from relayd.templates import did_you_mean
from relayd.watcher_client import Document, WatcherClient, number

KEPT_SECONDS = 600.0
_MANY = 8


class WatcherNames:
    """The lists of one user of one server."""

    def __init__(self, client: WatcherClient) -> None:
        self._client = client
        self._lists: dict[tuple[str, str], tuple[float, list[Document]]] = {}

    async def ids(self, camera: CameraConfig) -> dict[str, JSON]:
        """`organization_id`, `preset_id` and `folder_id`, as far as the camera names them. Raises DeliveryError."""
        found: dict[str, JSON] = {}
        if camera.organization is not None:
            found["organization_id"] = await self._organization(camera.organization)
        if camera.preset is not None:
            query = {key: int(str(value)) for key, value in found.items()}
            found["preset_id"] = await self._id("preset", camera.preset, "/presets", "presets", query)
        if camera.folder is not None:
            found["folder_id"] = await self._folder(camera.folder, found.get("organization_id"))
        return found

    async def organizations(self) -> list[Document]:
        """All that the user belongs to."""
        return await self._list("/organizations", "organizations", {}, is_fresh=False)

    def forget(self) -> None:
        """The server refused one of these ids: look again before they are used."""
        self._lists.clear()

    async def _organization(self, wanted: int | str) -> int:
        return await self._id("organization", wanted, "/organizations", "organizations", {})

    async def _folder(self, wanted: int | str, organization: JSON) -> int:
        if isinstance(wanted, int):
            return wanted
        if organization is None:
            mine = await self.organizations()
            if len(mine) != 1:
                raise Rejected(f'the folder "{wanted[:60]}" needs organization, one of: {_listed(mine)}')
            organization = number(mine[0].get("id"))
        path = f"/organizations/{quote(str(organization), safe='')}/folders"
        return await self._id("folder", wanted, path, "folders", {})

    async def _id(self, what: str, wanted: int | str, path: str, key: str, query: Mapping[str, int]) -> int:
        if isinstance(wanted, int):
            return wanted
        matching: list[int] = []
        entries: list[Document] = []
        for is_fresh in (False, True):
            entries = await self._list(path, key, query, is_fresh=is_fresh)
            same = [entry for entry in entries if _folded(str(entry.get("title", ""))) == _folded(wanted)]
            matching = [found for entry in same if (found := number(entry.get("id"))) is not None]
            if matching:
                break
        if len(matching) == 1:
            return matching[0]
        if matching:
            several = ", ".join(map(str, matching[:_MANY]))
            raise Rejected(f'there are {len(matching)} {what}s called "{wanted[:60]}" (ids {several}): write the id')
        as_id = number(wanted)
        if as_id is not None:
            return as_id
        titles = [scrubbed(str(entry.get("title", "")), 60) for entry in entries]
        near = did_you_mean(wanted, titles) if titles else ""
        hint = near if near.startswith(", did") else f"; there are: {_listed(entries)}"
        raise Rejected(f'there is no {what} "{wanted[:60]}"{hint}')

    async def _list(self, path: str, key: str, query: Mapping[str, int], *, is_fresh: bool) -> list[Document]:
        place = (path, str(sorted(query.items())))
        fetched_at, entries = self._lists.get(place, (float("-inf"), []))
        if is_fresh or clock.monotonic() - fetched_at > KEPT_SECONDS:
            entries = await self._client.whole(path, key, query, may=f"list {key}")
            self._lists[place] = (clock.monotonic(), entries)
        return entries


def _listed(entries: list[Document]) -> str:
    shown = [f'"{scrubbed(str(entry.get("title", "")), 60)}" ({entry.get("id")})' for entry in entries[:_MANY]]
    return ", ".join(shown) + (", …" if len(entries) > _MANY else "") or "none"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
