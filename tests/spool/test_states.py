"""A spool of 0.1.0, where unclaimed and dropped were no states yet, is brought to today's."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from pathlib import Path

import pytest

from relayd.errors import SpoolTooNew
from relayd.model import State
from relayd.spool import Spool, check, database
from tests.spool.rig import NOW, adds_up, config, opened

RELEASED = 7
"""The shape of 0.1.0."""
MANY = 10_000
KINDS: tuple[tuple[str, str, int, str, tuple[tuple[str, int], ...], State], ...] = (
    ("pending", "", 2, "media", (("pending", 0), ("dead", 0)), State.PENDING),
    ("delivered", "", 2, "message", (("delivered", 0),), State.DELIVERED),
    ("dead", "", 1, "media", (("dead", 0), ("delivered", 0)), State.DEAD),
    ("dead", "", 1, "media", (("dead", 1), ("delivered", 0)), State.DROPPED),
    ("dead", "", 1, "message", (("dead", 1), ("dead", 0)), State.DEAD),
    ("dead", "", 1, "message", (("dead", 1), ("expired", 0)), State.EXPIRED),
    ("dead", "dropped by hand", 4, "media", (), State.DROPPED),
    ("pending", "", 4, "media", (), State.UNCLAIMED),
    ("expired", "no rule wanted it", 4, "message", (), State.UNCLAIMED),
    ("expired", "", 2, "media", (("expired", 0),), State.EXPIRED),
    ("evicted", "", 3, "media", (("evicted", 0),), State.EVICTED),
    ("evicted", "evicted: no room in the spool", 4, "media", (), State.EVICTED),
)
"""State, reason, priority, kind and deliveries (state, dropped) as 0.1.0 wrote them; and what it is today."""


def spool_of_the_release(path: Path, items: int) -> None:
    """`items` of them, one kind after the other, with the counters that 0.1.0 would have."""
    path.parent.mkdir(parents=True)
    schema = Path(__file__).with_name("schema_0.1.0.sql").read_text(encoding="utf-8")
    steps = tuple(step for step in database.migrations() if step.number <= RELEASED)
    with contextlib.closing(database.connect(path)) as db:
        database.bring_up_to_date(db, schema, steps)
        db.execute("BEGIN")
        for number in range(items):
            _store(db, number, *KINDS[number % len(KINDS)][:5])
        db.execute(
            "INSERT INTO counters VALUES ('', 'purged.delivered', 40), ('destination:api', 'purged.delivered', 40)"
        )
        db.execute("INSERT INTO counters SELECT '', state, count(*) FROM items GROUP BY state")
        db.execute("UPDATE counters SET value = value + 40 WHERE subject = '' AND name = 'delivered'")
        db.execute(
            "INSERT INTO counters SELECT 'destination:' || destination, state, count(*) FROM deliveries"
            " WHERE dropped = 0 GROUP BY destination, state"
        )
        db.execute("UPDATE counters SET value = value + 40 WHERE subject = 'destination:api' AND name = 'delivered'")
        db.execute(
            "INSERT INTO counters VALUES ('', 'stored', ?1), ('', 'accepted', ?1 + 40), ('', 'bytes', 0)", (items,)
        )
        db.execute("COMMIT")


def _store(
    db: sqlite3.Connection,
    number: int,
    state: str,
    reason: str,
    priority: int,
    kind: str,
    deliveries: tuple[tuple[str, int], ...],
) -> None:
    ended_at = None if state == "pending" else NOW
    seq = db.execute(
        "INSERT INTO items (id, source, name, kind, content_type, size_bytes, sha256, md5, captured_at, accepted_at,"
        " state, priority, has_content, ended_at, reason)"
        " VALUES (?, 'cam', 'a', ?, 'x/y', 7, '', '', ?, ?, ?, ?, 0, ?, ?)",
        (f"{number:018}", kind, NOW, NOW, state, priority, ended_at, reason),
    ).lastrowid
    for own, was_dropped in deliveries:
        db.execute(
            "INSERT INTO deliveries (item, destination, action, rule, priority, state, created_at, owed_since, due_at,"
            " dropped) VALUES (?, 'api', 'upload', 'test', 2, ?, ?, ?, ?, ?)",
            (seq, own, NOW, NOW, NOW, was_dropped),
        )


async def test_a_spool_of_the_release_keeps_every_item_in_one_state_and_its_counters_add_up(tmp_path: Path) -> None:
    settings = config(tmp_path)
    spool_of_the_release(settings.path / "spool.db", MANY)
    expected = [KINDS[number % len(KINDS)][5] for number in range(MANY)]
    began = time.monotonic()
    async with opened(settings) as spool:
        took = time.monotonic() - began
        assert took < 10
        counters = spool.counters
        assert counters.items == len(expected) + 40
        for state in State:
            purged = 40 if state is State.DELIVERED else 0
            assert getattr(counters, state) == expected.count(state) + purged, state
        assert adds_up(spool)
        for summary in await spool.items(limit=len(KINDS)):
            assert summary.state is KINDS[int(summary.item.id) % len(KINDS)][5]
    assert check(settings.path).is_good
    assert database.number_of(sqlite3.connect(settings.path / "spool.db")) > RELEASED


async def test_the_release_refuses_what_was_brought_to_todays_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    spool_of_the_release(settings.path / "spool.db", len(KINDS))
    async with opened(settings):
        pass
    released = tuple(step for step in database.migrations() if step.number <= RELEASED)
    monkeypatch.setattr(database, "migrations", lambda: released)
    with pytest.raises(SpoolTooNew):
        await Spool.open(settings, now=NOW)


def test_a_migration_that_is_cut_leaves_the_shape_of_the_release(tmp_path: Path) -> None:
    """Cut after every statement of it."""
    source = tmp_path / "whole" / "spool.db"
    spool_of_the_release(source, 2 * len(KINDS))
    whole = next(step for step in database.migrations() if "unclaimed" in step.sql)
    before = next(step.number for step in reversed(database.migrations()) if step.number < whole.number)
    statements = [part for part in whole.sql.split(";\n") if part.strip()]
    for cut in range(1, len(statements)):
        path = tmp_path / f"cut-{cut}.db"
        path.write_bytes(source.read_bytes())
        half = database.Migration(number=whole.number, sql=";\n".join([*statements[:cut], "SELECT * FROM nowhere;"]))
        earlier = tuple(step for step in database.migrations() if step.number < whole.number)
        with contextlib.closing(database.connect(path)) as db:
            with pytest.raises(sqlite3.Error, match="nowhere"):
                database.bring_up_to_date(db, None, (*earlier, half))
            assert database.number_of(db) == before
        with contextlib.closing(database.connect(path)) as db:
            database.bring_up_to_date(db)
            assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            states = [row["state"] for row in db.execute("SELECT state FROM items ORDER BY seq")]
            assert states == [kind[5] for kind in KINDS] * 2


def test_the_checks_of_migrated_tables_are_those_of_new_ones(tmp_path: Path) -> None:
    def checks(path: Path) -> set[str]:
        with contextlib.closing(database.connect(path)) as db:
            database.bring_up_to_date(db)
            rows = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL")
            return {f"{row['name']}: {found}" for row in rows for found in re.findall(r"CHECK \(.*?\)\)", row["sql"])}

    spool_of_the_release(tmp_path / "old" / "spool.db", 0)
    assert checks(tmp_path / "old" / "spool.db") == checks(tmp_path / "new.db")
