"""Deliveries that wait for a remote id of their incident: due once a receipt has brought it, ended when none can come
any more, and back when one can again.

Promises: `look_after` is the last thing in every operation that touched an incident, so no order of events leaves a
delivery waiting for what never comes; one that waits for itself in a circle ends with its incident. What it costs
follows from how many kinds of needs there are, not from how many deliveries wait; what is more than MOVED_AT_ONCE is
left to the next operation, and named in `Change.unsettled`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from relayd.incidents import bare, is_dispensable
from relayd.model import JSON, Fields, State
from relayd.spool.change import Change
from relayd.spool.rows import names_from, names_to_column, to_json
from relayd.spool.states import known_of, move_delivery, remote_of, settle, unmet

MOVED_AT_ONCE = 500
"""Deliveries of one kind that one operation moves at most: bounds how long an emergency's commit waits behind it."""

_NEVER = (State.DEAD, State.EXPIRED, State.EVICTED, State.DROPPED)


def give_remote(change: Change, row: sqlite3.Row, receipt: Fields, *, now: float) -> None:
    """A delivery (a whole row) was proven: what its receipt calls the incident is known from now on; the first one
    counts."""
    names = names_from(row["opens"])
    if not row["incident"] or not names:
        return
    remote = remote_of(change.db, row["incident"])
    given: dict[str, JSON] = {name: receipt[name] for name in names if receipt.get(name) is not None}
    remote[row["destination"]] = {**given, **remote.get(row["destination"], {})}
    change.db.execute("UPDATE incidents SET remote = ? WHERE id = ?", (to_json(remote), row["incident"]))
    change.touched[row["incident"]] = now


def look_after(change: Change) -> None:
    """Release, end and wake what waits in the incidents that were touched."""
    while change.touched:
        incident, now = change.touched.popitem()
        if incident not in change.unsettled:
            _Look(change, incident, now).all_kinds()


def touch(change: Change, incident: str, *, now: float) -> None:
    """As an operation of its own: look after this one."""
    change.touched[incident] = now


def with_waiting(db: sqlite3.Connection) -> list[str]:
    """Ids of the incidents, there or lost, in which something waits."""
    rows = db.execute(
        "SELECT DISTINCT incident FROM deliveries INDEXED BY deliveries_waiting"
        " WHERE waits_for <> '' AND state = 'pending'"
    )
    return [row["incident"] for row in rows]


def endless(db: sqlite3.Connection) -> Iterator[str]:
    """What waits in vain, and should have been released or ended, in words; for `spool check`."""
    for incident in with_waiting(db):
        yield from _Look(Change(db), incident, 0.0).unsettled()


@dataclass(slots=True)
class _Look:
    """One look at one incident."""

    change: Change
    incident: str
    now: float

    def all_kinds(self) -> None:
        pending = list(self._kinds(State.PENDING))
        ended = [(state, kind) for state in _NEVER for kind in self._kinds(state)]
        if not pending and not ended:
            return
        known = known_of(self.change.db, self.incident)
        coming = self._coming(known)
        for kind in pending:
            self._judge(kind, known, coming)
        for state, kind in ended:
            needs = unmet(names_from(kind), known)
            if all(bare(need) in coming for need in needs if not is_dispensable(need)):
                self._wake(state, kind)

    def unsettled(self) -> Iterator[str]:
        known = known_of(self.change.db, self.incident)
        coming = self._coming(known)
        for kind in self._kinds(State.PENDING):
            needs, reason = self._verdict(kind, known, coming)
            if reason is not None or needs != set(names_from(kind)):
                names = " and ".join(map(bare, names_from(kind)))
                why = reason or "it is known, or dispensable"
                yield f"incident {self.incident}: deliveries wait for {names}: {why}"

    def _judge(self, kind: str, known: Collection[str], coming: Collection[str]) -> None:
        """Of those that wait for the same."""
        needs, reason = self._verdict(kind, known, coming)
        if reason is not None:
            self._move(State.PENDING, kind, State.DEAD, reason)
        elif needs != set(names_from(kind)):
            self._wait_for(kind, needs)

    def _verdict(self, kind: str, known: Collection[str], coming: Collection[str]) -> tuple[set[str], str | None]:
        """What they still have to wait for, and why that never comes, if so."""
        needs = unmet(names_from(kind), known)
        lacking = {need for need in needs if bare(need) not in coming}
        spared = {need for need in lacking if is_dispensable(need)}
        reasons = (self._why_never(need) for need in sorted(lacking - spared))
        return needs - spared, next((reason for reason in reasons if reason), None)

    def _wait_for(self, kind: str, needs: Collection[str]) -> None:
        """These are what they still lack; without any they are due."""
        rows = self.change.db.execute(
            "UPDATE deliveries SET waits_for = ?, due_at = ?, reason = '' WHERE id IN"
            " (SELECT id FROM deliveries INDEXED BY deliveries_waiting WHERE incident = ? AND state = 'pending'"
            " AND waits_for <> '' AND waits_for = ? LIMIT ?) RETURNING destination",
            (names_to_column(needs), self.change.times.due(self.now), self.incident, kind, MOVED_AT_ONCE),
        ).fetchall()
        self.change.hints |= {row["destination"] for row in rows}
        self._go_on_after(len(rows))

    def _wake(self, state: State, kind: str) -> None:
        """What ended because its remote id could not come waits for it again."""
        for delivery in self._move(state, kind, State.PENDING, ""):
            self.change.db.execute(
                "UPDATE deliveries SET due_at = ?, owed_since = ? WHERE id = ?",
                (self.change.times.due(self.now), self.change.times.steady(self.now), delivery),
            )
            self.change.touched[self.incident] = self.now  # what it waits for may be known by now

    def _move(self, state: State, kind: str, to: State, reason: str) -> list[int]:
        rows = self.change.db.execute(
            "SELECT deliveries.id, item FROM deliveries INDEXED BY deliveries_waiting JOIN items ON items.seq = item"
            " WHERE incident = ? AND deliveries.state = ? AND waits_for <> '' AND waits_for = ?"
            " AND has_content = 1 LIMIT ?",
            (self.incident, state, kind, MOVED_AT_ONCE),
        ).fetchall()
        for row in rows:
            move_delivery(self.change, row, to, reason=reason, now=self.now)
        for item in {row["item"] for row in rows}:
            settle(self.change, item, now=self.now)
        self._go_on_after(len(rows))
        return [row["id"] for row in rows]

    def _go_on_after(self, moved: int) -> None:
        if moved == MOVED_AT_ONCE:
            self.change.unsettled.add(self.incident)

    def _kinds(self, state: State) -> Iterator[str]:
        """What deliveries in this state wait for, each kind once: a seek for each."""
        last = ""
        while True:
            row = self.change.db.execute(
                "SELECT waits_for FROM deliveries INDEXED BY deliveries_waiting"
                " WHERE incident = ? AND state = ? AND waits_for <> '' AND waits_for > ? ORDER BY waits_for LIMIT 1",
                (self.incident, state, last),
            ).fetchone()
            if row is None:
                return
            yield (last := row["waits_for"])

    def _coming(self, known: Collection[str]) -> set[str]:
        """The remote ids that pending deliveries may bring, which themselves wait for nothing that never comes."""
        bringing = [
            (names_from(brings), unmet(names_from(waits_for), known))
            for brings in self._brought()
            for waits_for in self._awaited_by(brings)
        ]
        coming: set[str] = set()
        while True:
            more = coming.union(
                *(
                    names
                    for names, needs in bringing
                    if all(bare(need) in coming or is_dispensable(need) for need in needs)
                )
            )
            if more == coming:
                return coming
            coming = more

    def _brought(self) -> Iterator[str]:
        last = ""
        while True:
            row = self.change.db.execute(
                "SELECT brings FROM deliveries INDEXED BY deliveries_bringing"
                " WHERE incident = ? AND brings <> '' AND brings > ? ORDER BY brings LIMIT 1",
                (self.incident, last),
            ).fetchone()
            if row is None:
                return
            yield (last := row["brings"])

    def _awaited_by(self, brings: str) -> Iterator[str]:
        """What pending deliveries that bring this wait for themselves; '' for those that wait for nothing."""
        operator, last = ">=", ""
        while True:
            row = self.change.db.execute(
                "SELECT waits_for FROM deliveries INDEXED BY deliveries_bringing WHERE incident = ? AND brings <> ''"  # noqa: S608
                f" AND brings = ? AND state = 'pending' AND waits_for {operator} ? ORDER BY waits_for LIMIT 1",
                (self.incident, brings, last),
            ).fetchone()
            if row is None:
                return
            yield (last := row["waits_for"])
            operator = ">"

    def _why_never(self, need: str) -> str | None:
        """In words, or None while it may still come."""
        name = bare(need).rpartition(".")[2]
        ended = self._newest_ended(bare(need))
        if ended is not None:
            what = f"the {ended['action']} to {ended['destination']}"
            if ended["state"] == State.DELIVERED:
                return f"{what} gave no {name}"
            again = f"`relayd retry {ended['item_id']}` tries that again, and this with it"
            if not ended["has_content"]:
                again = "it cannot be tried again, since its content is no longer kept"
            return f"there is no {name} for it: {what} is {ended['state']} ({ended['reason']}); {again}"
        row = self.change.db.execute("SELECT closed_at FROM incidents WHERE id = ?", (self.incident,)).fetchone()
        if row is None:
            return f"there is no {name} for it: incident {self.incident} was lost with a damaged database"
        if row["closed_at"] is None:
            return None
        nobody = f"there is no {name} for it: incident {self.incident} is closed, and"
        if any(bare(need) in names_from(brings) for brings in self._brought()):
            return f"{nobody} what was to bring one waits for this in turn: the rules want both to be first"
        return f"{nobody} nothing in it asked for one"

    def _newest_ended(self, need: str) -> sqlite3.Row | None:
        """Of what was to bring it."""
        found = [
            self.change.db.execute(
                "SELECT deliveries.id, items.id AS item_id, destination, action, deliveries.state, deliveries.reason,"
                " has_content FROM deliveries INDEXED BY deliveries_bringing JOIN items ON items.seq = item"
                " WHERE incident = ? AND brings <> '' AND brings = ? AND deliveries.state = ?"
                " ORDER BY deliveries.id DESC LIMIT 1",
                (self.incident, brings, state),
            ).fetchone()
            for brings in self._brought()
            if need in names_from(brings)
            for state in (*_NEVER, State.DELIVERED)
        ]
        return max((row for row in found if row is not None), key=lambda row: int(row["id"]), default=None)
