"""`spool check|repair|export`: on the spool of a stopped relay."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from relayd.errors import SpoolError, SpoolLocked
from relayd.model import Kind, Outcome, Receipt, State
from relayd.spool import SpoolConfig, check, export, repair
from relayd.spool.rows import new_id
from tests.spool.rig import NOW, adds_up, begun, config, media_names, message, opened, order, to_first_shape


async def filled(settings: SpoolConfig) -> list[str]:
    """Three pictures and two messages; the first picture is delivered, the second dead."""
    async with opened(settings) as spool:
        ids = [
            (await spool.put(message(b"picture %d" % number, kind=Kind.MEDIA), [order()], now=NOW + number)).id
            for number in range(3)
        ]
        ids += [(await spool.put(message(b"{}"), [order("mqtt")], now=NOW)).id for _ in range(2)]
        await spool.record_delivered(
            (await begun(spool, now=NOW + 9)).delivery.id, Receipt(proof="", fields={"uri": "u"}), now=NOW
        )
        it = await begun(spool, now=NOW + 9)
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        await spool._engine.settled()
    return ids


def change(settings: SpoolConfig, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(settings.path / "spool.db")) as db:
        db.execute(sql)
        db.commit()


def path_of(settings: SpoolConfig, item_id: str) -> Path:
    return settings.path / "media" / item_id[-1] / item_id


async def test_a_healthy_spool_is_good_and_checking_changes_nothing(tmp_path: Path) -> None:
    settings = config(tmp_path)
    await filled(settings)
    before = (settings.path / "spool.db").read_bytes()
    report = check(settings.path)
    assert (report.is_good, report.problems, report.numbers["items"]) == (True, (), 5)
    assert (settings.path / "spool.db").read_bytes() == before


async def test_all_three_refuse_while_a_relay_runs_and_where_there_is_no_spool(tmp_path: Path) -> None:
    settings = config(tmp_path)
    for act in (check, repair, lambda path: export(path, tmp_path / "out")):
        with pytest.raises(SpoolError, match="no spool"):
            act(settings.path)
    async with opened(settings):
        for act in (check, repair, lambda path: export(path, tmp_path / "out")):
            with pytest.raises(SpoolLocked):
                act(settings.path)


async def test_check_finds_wrong_counters_states_and_media_and_repair_mends_them(tmp_path: Path) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    change(settings, "UPDATE counters SET value = value + 1 WHERE subject = 'destination:api' AND name = 'pending'")
    change(settings, f"UPDATE items SET state = 'delivered' WHERE id = '{ids[3]}'")
    path_of(settings, ids[1]).unlink()
    stray = new_id(NOW)
    path_of(settings, stray).write_bytes(b"stray")
    report = check(settings.path)
    assert not report.is_good
    assert report.numbers["strays"] == 1
    text = "\n".join(report.problems)
    assert "counter destination:api pending says 2, the rows say 1" in text
    assert f"item {ids[3]} is delivered, its deliveries make it pending" in text
    assert f"item {ids[1]}: the spooled file is gone" in text
    mended = repair(settings.path)
    assert mended.is_good
    assert len(mended.done) == 4
    assert (settings.path / "salvaged" / stray).read_bytes() == b"stray"
    assert check(settings.path).is_good
    async with opened(settings) as spool:
        assert adds_up(spool)
        assert (spool.counters.pending, spool.counters.dead) == (3, 1)


async def test_check_hashes_media_and_a_flipped_bit_is_found(tmp_path: Path) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    path_of(settings, ids[2]).write_bytes(b"Picture 2")
    assert check(settings.path, thorough=False).is_good
    assert any(ids[2] in line and "SHA-256" in line for line in check(settings.path).problems)


async def test_repair_salvages_a_damaged_database(tmp_path: Path) -> None:
    settings = config(tmp_path)
    await filled(settings)
    media = media_names(settings.path)
    (settings.path / "spool.db").write_bytes(b"garbage" * 1000)
    assert check(settings.path).numbers["damage"] == 1
    report = repair(settings.path)
    assert report.is_good
    assert any("database rebuilt" in line for line in report.done)
    assert sorted(entry.name for entry in (settings.path / "salvaged").iterdir()) == media
    assert len(list(settings.path.glob("spool.db.damaged-*"))) == 1


async def test_check_lists_at_most_a_hundred_problems_and_counts_all(tmp_path: Path) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        for number in range(130):
            await spool.put(message(b"%d" % number, kind=Kind.MEDIA), [order()], now=NOW)
    for name in media_names(settings.path):
        path_of(settings, name).unlink()
    report = check(settings.path)
    assert (len(report.problems), report.numbers["media"]) == (100, 130)


async def test_a_spool_of_an_older_shape_is_not_called_damaged_and_repair_brings_it_up_to_date(tmp_path: Path) -> None:
    settings = config(tmp_path)
    await filled(settings)
    with contextlib.closing(sqlite3.connect(settings.path / "spool.db", isolation_level=None)) as db:
        to_first_shape(db)
    report = check(settings.path)
    assert report.numbers == {"shape": 1}
    assert "older relayd" in report.problems[0]
    mended = repair(settings.path)
    assert (mended.is_good, mended.done) == (True, ("brought to the newest shape",))
    async with opened(settings) as spool:
        assert spool.counters.items == 5


async def test_export_copies_what_is_kept_and_tells_of_everything(tmp_path: Path) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    target = tmp_path / "usb" / "out"
    report = export(settings.path, target)
    assert report.is_good
    assert report.done == (f"4 of 5 items copied to {target}",)
    documents = [json.loads(line) for line in (target / "items.jsonl").read_text().splitlines()]
    assert [document["id"] for document in documents] == ids
    assert documents[0]["file"] is None
    assert documents[0]["deliveries"][0]["receipt"] == {"uri": "u"}
    assert documents[1]["file"].startswith("dead/")
    assert (target / documents[2]["file"]).read_bytes() == b"picture 2"
    assert (target / documents[3]["file"]).read_bytes() == b"{}"
    with pytest.raises(SpoolError, match="export to a new folder"):
        export(settings.path, target)


async def test_export_takes_along_what_a_repair_set_aside_and_says_what_is_missing(tmp_path: Path) -> None:
    settings = config(tmp_path)
    ids = await filled(settings)
    (settings.path / "salvaged").mkdir()
    (settings.path / "salvaged" / "x").write_bytes(b"x")
    path_of(settings, ids[1]).unlink()
    path_of(settings, ids[2]).write_bytes(b"Picture 2")
    report = export(settings.path, tmp_path / "out")
    assert not report.is_good
    assert len(report.problems) == 2
    assert (tmp_path / "out" / "salvaged" / "x").read_bytes() == b"x"
