"""What is listed at the Watcher stand-in: organizations, folders, presets; and how any list is paged.

Promises: a list is never longer than the switch says, ids are spelt as the switch says, and those in a request are
checked against what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from relayd.sandbox import watcher_bodies as bodies
from relayd.sandbox.exchange import Exchange
from relayd.sandbox.settings import Settings
from relayd.sandbox.watcher_bodies import refusal

ORGANIZATIONS = ({"id": 9, "title": "Acme"}, {"id": 12, "title": "Odense Harbour"}, {"id": 13, "title": "Twin"})
FOLDERS: Mapping[int, tuple[dict[str, Any], ...]] = {
    9: ({"id": 4, "title": "Gates"}, {"id": 5, "title": "Vehicles", "parent_id": 4}),
    12: ({"id": 41, "title": "Quay"}, {"id": 42, "title": "Quay"}),
    13: (),
}
PRESETS = (
    {"id": 1, "title": "Default", "is_adjustable": True, "is_default": True},
    {"id": 2, "title": "7 days", "is_adjustable": True},
    {"id": 3, "title": "Fixed", "is_adjustable": False},
)


class Catalog:
    """As one user sees it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def listed(self, exchange: Exchange, organization: str) -> web.Response:
        """Organizations, the folders of one, or presets."""
        kind = exchange.entry.operation
        entries: Iterable[Mapping[str, Any]] = PRESETS
        if kind == "organizations":
            entries = self._organizations()
        elif kind == "folders":
            entries = FOLDERS.get(self.organization(int(organization) if organization.isdigit() else 0, 404), ())
        model = bodies.PresetQuery if kind == "presets" else bodies.PageQuery
        return self.page(kind, list(entries), bodies.query_of(exchange, model))

    def page(self, kind: str, entries: list[Mapping[str, Any]], query: bodies.PageQuery) -> web.Response:
        """At most as many as the switch says, and an opaque `next` while there are more."""
        if query.cursor is not None and not query.cursor.startswith("after-"):
            raise refusal(400, "cursor is not one of ours")
        start = int(query.cursor.removeprefix("after-")) if query.cursor else 0
        end = start + min(query.limit, self._settings.watcher_page)
        following = f"after-{end}" if end < len(entries) else None
        shown = [self.spelt(entry) for entry in entries[start:end]]
        return web.json_response({"estimated_count": len(entries), "next": following, "prev": None, kind: shown})

    def spelt(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Ids as numbers, or as texts by switch."""
        if self._settings.watcher_ids == "numbers":
            return dict(entry)
        return {key: str(value) if key == "id" or key.endswith("_id") else value for key, value in entry.items()}

    def _organizations(self) -> tuple[dict[str, Any], ...]:
        return ORGANIZATIONS[: self._settings.watcher_organizations]

    def organization(self, number: int | None, status: int) -> int:
        """The one with this number; without a number, the only one there is."""
        known = [int(str(each["id"])) for each in self._organizations()]
        if number is None and len(known) == 1:
            return known[0]
        if number not in known:
            raise refusal(status, "organization_id: which organization?", "/organization_id")
        return number

    def check_ids(self, wish: Mapping[str, Any], organization: int) -> None:
        """400 for a preset that is not there, or a folder of somebody else."""
        if wish.get("preset_id", 1) not in [each["id"] for each in PRESETS]:
            raise refusal(400, "no such preset", "/preset_id")
        folders = [each["id"] for each in FOLDERS[organization]]
        if "folder_id" in wish and wish["folder_id"] not in folders:
            raise refusal(400, "no such folder in this organization", "/folder_id")
