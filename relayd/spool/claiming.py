"""Claims for an incident what was there before it opened.

Promises: page by page, newest first, each page a bounded look that goes on where the one before ended; from the
beginning again after a crash, or when the incident has grown meanwhile. What has been claimed is not claimed twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace

from relayd import incidents
from relayd.model import Incident
from relayd.spool import incident_rows
from relayd.spool.change import Change
from relayd.spool.rows import ITEM_COLUMNS, incident_from, item_from
from relayd.spool.states import add_deliveries, settle
from relayd.spool.tying import Ties, belong, is_ordered, missing

CLAIMED_AT_ONCE = 50
"""Items that one transaction claims at most: bounds how long an emergency's commit waits behind it."""

LOOKED_AT_ONCE = 1_000
"""Items that one transaction looks at for that."""

OLD_IN_A_ROW = 200
"""After this many items of a source that are too old for an incident, the ones before them are not looked at."""

_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Claiming:
    """Where the next page begins. `span` is what the incident was like when the first one did: if that has changed, the
    look begins anew."""

    span: tuple[object, ...]
    source: int = 0
    before: int = _NEWEST
    old: int = 0


def claim(
    change: Change, incident_id: str, ties: Ties, *, now: float, page: Claiming | None
) -> tuple[int, Claiming | None]:
    """A page of what came before the incident opened and belongs to it: how many items, and where the next page begins.
    None: there is no more, which is remembered."""
    row = change.db.execute("SELECT * FROM incidents WHERE id = ?", (incident_id,)).fetchone()
    if row is None:
        return 0, None
    incident = incident_from(row)
    span = (incident.collect, incident.starts_at, incident.opened_at)
    look = _Look(change, incident, page if page is not None and page.span == span else Claiming(span))
    count = 0
    for seq in look.found():
        _claim(change, incident, seq, ties, now)
        count += 1
        if count >= CLAIMED_AT_ONCE:
            return count, look.at
    if look.at.source < len(incident.collect):
        return count, look.at
    change.db.execute("UPDATE incidents SET has_claimed = 1 WHERE id = ?", (incident_id,))
    return count, None


def _claim(change: Change, incident: Incident, seq: int, ties: Ties, now: float) -> None:
    row = change.db.execute(f"SELECT {ITEM_COLUMNS}, items.payload FROM items WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
    belong(change, incident, seq)
    wanted = ties.orders(item_from(row, row["payload"]), [incident])
    orders = missing(change, seq, [one for one in wanted if not (one.opens and is_ordered(change.db, one))])
    add_deliveries(change, seq, orders, now=now)
    if orders:
        settle(change, seq, now=now)


class _Look:
    """One page; `at` is where it has got to."""

    def __init__(self, change: Change, incident: Incident, at: Claiming) -> None:
        self.at = at
        self._change = change
        self._incident = incident
        self._left = LOOKED_AT_ONCE

    def found(self) -> Iterator[int]:
        """Items that belong to it and that it has not claimed yet, newest first, source by source."""
        while self._left > 0 and self.at.source < len(self._incident.collect):
            yield from self._of_source(self._incident.collect[self.at.source])

    def _of_source(self, source: str) -> Iterator[int]:
        is_right = incident_rows.is_clock_right(self._change.db, source)
        for row in self._rows(source, self._left):
            self._left -= 1
            arrived_at = self._change.times.arrival(row["taken_steady"], row["accepted_at"])
            own = (source, row["captured_at"], arrived_at)
            belongs = incidents.covers(self._incident, *own, is_clock_right=is_right)
            old = 0 if belongs else self.at.old + (arrived_at < self._incident.starts_at)
            if old >= OLD_IN_A_ROW:
                break
            self.at = replace(self.at, before=row["seq"], old=old)
            if belongs and not row["is_claimed"]:
                yield row["seq"]
        else:
            if self._left == 0:
                return  # there may be more: for the next page
        self.at = Claiming(self.at.span, self.at.source + 1)

    def _rows(self, source: str, limit: int) -> list[sqlite3.Row]:
        return self._change.db.execute(
            "SELECT seq, captured_at, accepted_at, taken_steady,"
            " EXISTS (SELECT 1 FROM incident_items WHERE incident = ? AND item = seq) AS is_claimed"
            " FROM items INDEXED BY items_source WHERE source = ? AND has_content = 1 AND seq < ?"
            " ORDER BY seq DESC LIMIT ?",
            (self._incident.id, source, self.at.before, limit),
        ).fetchall()
