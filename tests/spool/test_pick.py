"""Which delivery is next, against a plain account of it; and that many which back off cost a look nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.model import Priority
from relayd.spool import database
from relayd.spool.picking import FEW_DUE, Wanted, next_due, pick
from relayd.spool.states import LANES, MEDIA_LANE

NOW, BACKOFF = 1000.0, 300.0


@dataclass(frozen=True)
class Row:
    priority: int
    lane: int
    due_at: float
    is_owed: bool = True


class Table:
    """A spool's database with nothing but deliveries to `api`; the number of a row is its id and its item."""

    def __init__(self, path: Path) -> None:
        self.db = database.connect(path)
        database.bring_up_to_date(self.db)

    def fill(self, rows: Sequence[Row]) -> None:
        for table in ("deliveries", "items"):
            self.db.execute(f"DELETE FROM {table}")
        self.db.executemany(
            "INSERT INTO items (seq, id, source, name, kind, content_type, size_bytes, sha256, md5, captured_at,"
            " accepted_at, state, priority, has_content)"
            " VALUES (?, ?, 's', 'n', 'media', 't', 1, '', '', 0, 0, 'pending', 0, 0)",
            [(number, str(number)) for number in range(len(rows))],
        )
        self.db.executemany(
            "INSERT INTO deliveries (id, item, destination, action, rule, priority, lane, state, waits_for, created_at,"
            " owed_since, due_at) VALUES (?1, ?1, 'api', 'a', 'r', ?2, ?3, 'pending', ?4, 0, 0, ?5)",
            [
                (number, row.priority, row.lane, "" if row.is_owed else '["id"]', row.due_at)
                for number, row in enumerate(rows)
            ],
        )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    made = Table(tmp_path_factory.mktemp("pick") / "spool.db")
    with contextlib.closing(made.db):
        yield made


def expected(rows: Sequence[Row], wanted: Wanted) -> int | None:
    """Without any index."""

    def order(number: int) -> tuple[float, ...]:
        row = rows[number]
        is_late = row.due_at > wanted.now
        within = -number if row.lane == MEDIA_LANE else row.due_at
        return (row.priority, row.lane, is_late, within)

    due = [
        number
        for number, row in enumerate(rows)
        if row.is_owed
        and number not in wanted.exclude
        and row.priority <= wanted.least_urgent
        and not wanted.now < row.due_at <= wanted.now + wanted.longest_backoff
    ]
    return min(due, key=order, default=None)


def wish(exclude: frozenset[int] = frozenset(), least: Priority = Priority.BULK, *, backlog_turn: int = 0) -> Wanted:
    return Wanted(
        destination="api",
        now=NOW,
        longest_backoff=BACKOFF,
        exclude=exclude,
        least_urgent=least,
        backlog_turn=backlog_turn,
    )


ROWS = st.builds(
    Row,
    priority=st.sampled_from([int(priority) for priority in Priority]),
    lane=st.sampled_from(LANES),
    due_at=st.floats(NOW - 50, NOW + BACKOFF + 50),
    is_owed=st.sampled_from([True, True, True, False]),
)


DUE_OR_WAITING = ROWS.filter(lambda row: row.due_at <= NOW + BACKOFF)


@settings(deadline=None, max_examples=150)
@given(
    rows=st.lists(ROWS, max_size=12, unique_by=lambda row: row.due_at),
    exclude=st.frozensets(st.integers(0, 11), max_size=4),
    least=st.sampled_from(list(Priority)),
)
def test_the_next_one_is_what_a_look_at_every_row_finds(
    table: Table, rows: list[Row], exclude: frozenset[int], least: Priority
) -> None:
    table.fill(rows)
    wanted = wish(exclude, least)
    found = pick(table.db, wanted)
    assert (None if found is None else found["id"]) == expected(rows, wanted)
    looked_at = [
        row.due_at for number, row in enumerate(rows) if row.is_owed and number not in exclude and row.priority <= least
    ]
    later = next_due(table.db, wanted)
    assert later == (NOW if found is not None else min(looked_at, default=None))


def test_of_much_media_that_is_due_the_newest_goes_first(table: Table) -> None:
    rows = [Row(Priority.HIGH, MEDIA_LANE, NOW - number) for number in range(FEW_DUE + 3)]
    table.fill(rows)
    found = pick(table.db, wish(frozenset({FEW_DUE + 2})))
    assert found is not None
    assert found["id"] == FEW_DUE + 1


def test_media_that_backs_off_costs_a_look_nothing(table: Table) -> None:
    def look_seconds(count: int) -> float:
        rows = [Row(Priority.HIGH, MEDIA_LANE, NOW + 10 + number / 1000) for number in range(count)]
        table.fill([*rows[1:], Row(Priority.BULK, LANES[-1], NOW)])
        taken = []
        for _ in range(50):
            began = time.perf_counter()
            found = pick(table.db, wish())
            taken.append(time.perf_counter() - began)
            assert found is not None
            assert found["priority"] == Priority.BULK
        return min(taken)

    assert look_seconds(20_000) < 5 * look_seconds(20)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(DUE_OR_WAITING, max_size=12, unique_by=lambda row: row.due_at))
def test_nobody_starves_whatever_goes_before(table: Table, rows: list[Row]) -> None:
    """On the turns of the backlog everybody who has something due is looked at first some time, the oldest of the media
    of incidents, too; while an emergency is due, only among emergencies; and the least urgent every second time."""
    table.fill(rows)
    due = {number: row for number, row in enumerate(rows) if row.is_owed and row.due_at <= NOW}
    if not due:
        return
    has_emergency = any(row.priority == Priority.EMERGENCY for row in due.values())
    field = {number: row for number, row in due.items() if row.priority == Priority.EMERGENCY or not has_emergency}
    picked = []
    for turn in range(1, 2 * 3 * 16 + 1):
        found = pick(table.db, wish(backlog_turn=turn))
        assert found is not None
        picked.append(int(found["id"]))
    ways = {(row.priority, row.lane) for row in field.values()}
    assert {(rows[number].priority, rows[number].lane) for number in picked} >= ways - {min(ways)}
    for priority, lane in ways:
        if lane == MEDIA_LANE:
            of_lane = [number for number, row in field.items() if (row.priority, row.lane) == (priority, lane)]
            assert min(of_lane, key=lambda number: rows[number].due_at) in picked
    least_urgent = max(row.priority for row in field.values())
    assert all(rows[number].priority == least_urgent for number in picked[::2])
