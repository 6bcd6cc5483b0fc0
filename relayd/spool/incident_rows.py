"""Rows of incidents: opened, joined, closed, found by their key or by what they cover, forgotten.

Promises: one is open under a key; a rule has no more open ones than it may have. Whatever opens or closes one counts it
and tells the fleet in the same transaction.
"""

from __future__ import annotations

import sqlite3

from relayd import clock, incidents
from relayd.clock import Stamp
from relayd.model import Incident, Item, Opening
from relayd.spool import timekeeping
from relayd.spool.change import INCIDENTS, Change, source_subject
from relayd.spool.outbox import report
from relayd.spool.rows import incident_from, new_id, to_json

AGREED = "agreed_ms"
"""The counter of a source that says when its clock agreed with ours last, in steady time."""

LATE_SECONDS = 7 * 86_400.0
"""How long after its end an incident is still looked at for items that were captured within its span."""


def open_or_join(change: Change, opening: Opening, item: Item, now: float) -> Incident | None:
    """None if the rule has as many open ones as it may have, so that strange keys do not fill the table."""
    stamp = change.times.stamp
    row = _row_under(change, opening.key)
    if row is not None:
        found = timekeeping.following(incident_from(row), row, stamp)
        over = timekeeping.why_over(found, row["boot"], now=now)
        if over is None:
            return _join(change, found, incidents.joined(found, opening, now=now), stamp)
        end(change, found, over, now=now)
    if _count_open(change, opening.rule) >= opening.most_open:
        return None
    incident = incidents.opened(opening, incident_id=new_id(now), now=now)
    change.db.execute(
        "INSERT INTO incidents (id, key, rule, item, collect, opened_at, starts_at, ends_at, boot, clock_offset)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            incident.id,
            incident.key,
            incident.rule,
            item.id,
            to_json(incident.collect),
            incident.opened_at,
            incident.starts_at,
            incident.ends_at,
            stamp.boot,
            stamp.offset_seconds,
        ),
    )
    change.count("open", 1, INCIDENTS)
    change.has_incidents = True
    change.say("incident %s opened by rule %r, key %a", incident.id, incident.rule, incident.key)
    report(change, "incident_opened", _told(incident) | {"item": item.id}, now=now)
    return incident


def end(change: Change, incident: Incident, reason: str, *, now: float) -> None:
    over = incidents.closed(incident, reason, now=now)
    change.db.execute(
        "UPDATE incidents SET ends_at = ?, closed_at = ?, closed_steady = ?, close_reason = ? WHERE id = ?",
        (over.ends_at, over.closed_at, change.times.steady(now), reason, incident.id),
    )
    count = change.db.execute("SELECT count(*) FROM incident_items WHERE incident = ?", (incident.id,)).fetchone()[0]
    change.count("open", -1, INCIDENTS)
    change.say("incident %s closed with %d items: %s", incident.id, count, reason)
    report(change, "incident_closed", _told(incident) | {"reason": reason, "items": count}, now=now)
    change.touched[incident.id] = now


def close(change: Change, incident_id: str, reason: str, *, now: float) -> bool:
    """Close one by hand; False if it is not open."""
    now = change.times.today(now)
    row = change.db.execute("SELECT * FROM incidents WHERE id = ? AND closed_at IS NULL", (incident_id,)).fetchone()
    if row is not None:
        end(change, incident_from(row), reason, now=now)
    return row is not None


def close_overdue(change: Change, *, now: float) -> int:
    """Close those whose time is over, or was never right; how many."""
    now = change.times.today(now)
    is_synchronized = clock.synchronization().is_synchronized
    rows = change.db.execute(
        "SELECT * FROM incidents WHERE closed_at IS NULL AND (ends_at < ?1 OR (?2 AND starts_at > ?1 AND boot <> ?3))",
        (now, bool(is_synchronized), clock.boot()),
    ).fetchall()
    for row in rows:
        incident = incident_from(row)
        is_past = incident.ends_at < now
        end(change, incident, "its time is over" if is_past else timekeeping.WRONG_CLOCK, now=now)
    return len(rows)


def forget(change: Change, *, now: float, keep_seconds: float) -> None:
    """Remove what closed long ago and has no items left."""
    change.db.execute(
        "DELETE FROM incidents WHERE closed_steady < ?"
        " AND NOT EXISTS (SELECT 1 FROM incident_items WHERE incident = incidents.id)",
        (change.times.steady(now) - max(keep_seconds, LATE_SECONDS),),
    )


def open_under(change: Change, key: str) -> Incident | None:
    row = _row_under(change, key)
    return None if row is None else incident_from(row)


def may_claim(db: sqlite3.Connection) -> bool:
    """Whether any is open, which may come to look through what was there before once more."""
    return db.execute("SELECT 1 FROM incidents WHERE closed_at IS NULL LIMIT 1").fetchone() is not None


def covering(db: sqlite3.Connection, item: Item) -> list[Incident]:
    """Those whose span an item that comes now was captured in, closed ones too: a camera may send later."""
    moments = (incidents.moment_of(item.captured_at, item.accepted_at), item.accepted_at)
    rows = db.execute(
        "SELECT * FROM incidents INDEXED BY incidents_span WHERE ends_at >= ? AND starts_at <= ?"
        " AND instr(collect, ?) ORDER BY seq",
        (min(moments), max(moments), to_json(item.source)),
    )
    found = [incident_from(row) for row in rows]
    if not found:
        return []
    is_right = is_clock_right(db, item.source)
    own = (item.source, item.captured_at, item.accepted_at)
    return [one for one in found if incidents.covers(one, *own, is_clock_right=is_right)]


def note_clock(change: Change, item: Item) -> None:
    """Remember of a source that incidents collect from that its clock is right, if this item says so."""
    if item.source in change.collected and incidents.agrees(item.captured_at, item.accepted_at):
        change.mark(AGREED, change.times.steady(item.accepted_at), source_subject(item.source))


def is_clock_right(db: sqlite3.Connection, source: str) -> bool:
    """Whether a source's clock said the same as ours lately."""
    row = db.execute(
        "SELECT value FROM counters WHERE subject = ? AND name = ?", (source_subject(source), AGREED)
    ).fetchone()
    if row is None:
        return False
    return bool(timekeeping.read_now(db).reached() - row["value"] / 1000 <= incidents.RIGHT_FOR_SECONDS)


def _join(change: Change, before: Incident, incident: Incident, stamp: Stamp) -> Incident:
    """What came before is looked through again only if it may have been too early, or of another source."""
    has_grown = incident.starts_at < before.starts_at or incident.collect != before.collect
    change.db.execute(
        "UPDATE incidents SET collect = ?, opened_at = ?, starts_at = ?, ends_at = ?, boot = ?, clock_offset = ?,"
        " has_claimed = has_claimed AND NOT ? WHERE id = ?",
        (
            to_json(incident.collect),
            incident.opened_at,
            incident.starts_at,
            incident.ends_at,
            stamp.boot,
            stamp.offset_seconds,
            has_grown,
            incident.id,
        ),
    )
    change.has_incidents = True
    return incident


def _count_open(change: Change, rule: str) -> int:
    count: int = change.db.execute(
        "SELECT count(*) FROM incidents WHERE closed_at IS NULL AND rule = ?", (rule,)
    ).fetchone()[0]
    return count


def _row_under(change: Change, key: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = change.db.execute(
        "SELECT * FROM incidents WHERE key = ? AND closed_at IS NULL", (key,)
    ).fetchone()
    return row


def _told(incident: Incident) -> dict[str, str]:
    return {"incident": incident.id, "key": incident.key, "rule": incident.rule}
