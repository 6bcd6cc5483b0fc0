"""The shape of the database and how older ones get there."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from relayd.errors import SpoolTooNew
from relayd.spool import Spool, database
from relayd.spool.database import Migration
from tests.spool.rig import NOW, config, message, opened, order, to_first_shape

ONE = "CREATE TABLE items (seq INTEGER PRIMARY KEY, id TEXT) STRICT;"
TWO = Migration(number=2, sql="ALTER TABLE items ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey';")
THREE = Migration(number=3, sql="CREATE INDEX items_colour ON items (colour); UPDATE items SET colour = 'red';")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


def shape(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Columns and indexes, whatever the comments."""
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    found = {name: [tuple(row) for row in db.execute(f"PRAGMA table_info({name})")] for name in tables}
    indexes = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name")
    found["indexes"] = [(row[0], re.sub(r"\s+", " ", row[1])) for row in indexes]
    return found


def test_every_column_says_what_it_is_for() -> None:
    table = ""
    for line in database.newest_schema().splitlines():
        if line.startswith("CREATE TABLE"):
            table = line.split()[2]
        elif line.startswith(")"):
            assert "STRICT" in line, table
        elif line.startswith("    ") and not line.strip().startswith(("PRIMARY KEY", "CHECK", "--")):
            assert re.search(r"-- \S", line), f"{table}: {line.strip()}"


def test_a_new_spool_has_the_newest_shape_and_the_settings_that_durability_hangs_on(path: Path) -> None:
    with contextlib.closing(database.connect(path)) as db:
        newest = len(database.migrations()) + 1
        assert database.bring_up_to_date(db) == (0, newest)
        assert database.bring_up_to_date(db) == (newest, newest)
        settings = {
            name: db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "auto_vacuum", "foreign_keys")
        }
        assert settings == {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2, "foreign_keys": 1}


def test_the_shipped_migrations_lead_to_the_shipped_schema(path: Path) -> None:
    steps = database.migrations()
    assert [step.number for step in steps] == list(range(2, len(steps) + 2))
    with contextlib.closing(database.connect(path)) as db:
        assert database.bring_up_to_date(db)[1] == len(steps) + 1
        newest = shape(db)
    assert set(newest) >= set(database.TABLES)
    with contextlib.closing(database.connect(path.with_name("older.db"))) as db:
        database.bring_up_to_date(db)
        to_first_shape(db)
        assert database.bring_up_to_date(db) == (1, len(steps) + 1)
        assert shape(db) == newest


def test_an_older_shape_is_migrated_step_by_step_and_keeps_its_rows(path: Path) -> None:
    with contextlib.closing(database.connect(path)) as db:
        database.bring_up_to_date(db, ONE, ())
        db.execute("INSERT INTO items (id) VALUES ('a')")
        assert database.bring_up_to_date(db, ONE, (TWO, THREE)) == (1, 3)
        assert [tuple(row) for row in db.execute("SELECT id, colour FROM items")] == [("a", "red")]
        assert database.number_of(db) == 3


def test_a_migration_that_fails_leaves_the_shape_before_and_is_tried_again(path: Path) -> None:
    broken = Migration(number=3, sql="CREATE TABLE extra (x INTEGER) STRICT; SELECT * FROM nowhere;")
    with contextlib.closing(database.connect(path)) as db:
        database.bring_up_to_date(db, ONE, ())
        before = shape(db)
        with pytest.raises(sqlite3.Error, match="nowhere"):
            database.bring_up_to_date(db, ONE, (TWO, broken))
        assert database.number_of(db) == 2
        assert "extra" not in shape(db)
        assert shape(db) != before
        assert database.bring_up_to_date(db, ONE, (TWO, THREE)) == (2, 3)


async def test_a_newer_spool_is_refused_and_not_touched(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        item = await spool.put(message(), [order()], now=NOW)
    path = settings.path / "spool.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        number = database.number_of(db)
        db.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    with pytest.raises(SpoolTooNew, match=rf"shape 999 .* up to {number}: install the newer version again"):
        await Spool.open(settings, now=NOW)
    assert path.read_bytes() == before
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {number}")
    async with opened(settings) as spool:
        assert await spool.item(item.id) is not None


def test_picking_the_next_never_scans_nor_sorts(path: Path) -> None:
    with contextlib.closing(database.connect(path)) as db:
        database.bring_up_to_date(db)
        for index, lane, order in (
            ("deliveries_due", 0, "due_at"),
            ("deliveries_newest", 1, "item DESC"),
            ("deliveries_due", 2, "due_at"),
        ):
            for condition in ("due_at <= 5", "due_at > 5"):
                plan = [
                    row["detail"]
                    for row in db.execute(
                        f"EXPLAIN QUERY PLAN SELECT * FROM deliveries INDEXED BY {index} WHERE state = 'pending'"
                        f" AND waits_for = '' AND held = 0 AND destination = 'a' AND priority = 1 AND lane = {lane}"
                        f" AND {condition} ORDER BY {order} LIMIT 1"
                    )
                ]
                assert len(plan) == 1
                assert plan[0].startswith(f"SEARCH deliveries USING INDEX {index} (destination=? AND priority=?")


def test_looking_for_all_media_does_not_walk_over_messages(path: Path) -> None:
    with contextlib.closing(database.connect(path)) as db:
        database.bring_up_to_date(db)
        plan = [
            row["detail"]
            for row in db.execute(
                "EXPLAIN QUERY PLAN SELECT * FROM items INDEXED BY items_media WHERE seq > 1 AND kind = 'media'"
                " AND has_content = 1 ORDER BY seq LIMIT 500"
            )
        ]
        assert plan == ["SEARCH items USING INDEX items_media (rowid>?)"] or plan[0].startswith("SEARCH items USING")
        assert len(plan) == 1


def test_the_worst_of_what_is_dead_is_found_without_a_sort(path: Path) -> None:
    with contextlib.closing(database.connect(path)) as db:
        database.bring_up_to_date(db)
        plan = [
            row["detail"]
            for row in db.execute(
                "EXPLAIN QUERY PLAN SELECT * FROM deliveries INDEXED BY deliveries_dead WHERE state = 'dead'"
                " AND destination IN ('a', 'b') ORDER BY priority, id DESC LIMIT 3"
            )
        ]
        assert plan == ["SCAN deliveries USING INDEX deliveries_dead"]
