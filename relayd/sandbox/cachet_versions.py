"""How Cachet's servers differ: what each of them lets one sort, filter and include, and who may see what.

Promises: three versions that are in use, by the date of the server; each says what it refuses, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

OLDEST, MIDDLE, NEWEST = "2025-12-02", "2026-06-25", "2026-08-22"
_PLAIN = r"filter\[(name|status|occurred_at)\]"
_OCCURS = r"filter\[(name|status|occurs_after|occurs_before|occurs_on)\]"
_META = r"filter\[(name|status|occurs_after|occurs_before|occurs_on|meta\]\[[^\]]+)\]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One server. `hides`: only some may see what is not public (before, everybody reads everything). `is_canonical`:
    the status of an incident is its own, kept in step with its newest update; before, a look showed any of the newest
    updates of the same second."""

    sorts: tuple[str, ...]
    filters: re.Pattern[str]
    includes: tuple[str, ...]
    knows_meta: bool = False
    hides: bool = False
    publishes: bool = False
    is_canonical: bool = False
    has_component_id: bool = False


VERSIONS: Mapping[str, Version] = {
    OLDEST: Version(
        sorts=("name", "status", "id"),
        filters=re.compile(_PLAIN),
        includes=("components", "updates", "user"),
        has_component_id=True,
    ),
    MIDDLE: Version(
        sorts=("name", "status", "id", "created_at"),
        filters=re.compile(_OCCURS),
        includes=("components", "components.group", "updates", "user"),
    ),
    NEWEST: Version(
        sorts=("name", "status", "id", "created_at"),
        filters=re.compile(_META),
        includes=("components", "components.group", "updates", "user", "meta"),
        knows_meta=True,
        hides=True,
        publishes=True,
        is_canonical=True,
    ),
}
