"""Incidents on a damaged, an older and a stopped spool: none is lost, and what waits in them goes on or ends."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from relayd.spool import SpoolConfig, check, database, export, repair
from tests.incidents.rig import Scene
from tests.spool.rig import adds_up, config, opened, to_first_shape


def change(settings: SpoolConfig, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(settings.path / "spool.db")) as db:
        for sql in statements:
            db.execute(sql)
        db.commit()


async def test_repair_makes_a_lost_incident_again_and_its_media_still_goes_to_the_same_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        scene = Scene(spool, monkeypatch)
        await scene.press()
        begun = await scene.next()
        assert begun is not None
        await scene.deliver(begun, report_id=7)
        photo = await scene.photo()
        await scene.press("B")
        waiting = await scene.photo("b.jpg")
        incidents = [one.incident.id for one in await spool.incidents.page()]
    change(settings, "PRAGMA foreign_keys = OFF", "DELETE FROM incidents", "DELETE FROM incident_items")
    change(settings, "DELETE FROM deliveries WHERE opens <> '' AND state = 'pending'")
    report = check(settings.path)
    assert not report.is_good
    assert any("deliveries name it, but it is gone" in line for line in report.problems)
    assert any("was lost with a damaged database" in line for line in report.problems)
    mended = repair(settings.path)
    assert mended.is_good, mended
    async with opened(settings) as spool:
        scene.use(spool)
        found = {one.incident.id: one for one in await spool.incidents.page()}
        assert set(found) == set(incidents)
        begun = await scene.next()
        assert begun is not None
        assert begun.incident is not None
        assert begun.incident.remote == {"room": {"report_id": 7}}
        assert {photo.id, waiting.id} >= {begun.item.id}
        assert sorted(await scene.actions(waiting)) == ["room image dead", "room image pending"]
        assert adds_up(spool)


async def test_export_tells_of_incidents_and_of_what_waits_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    async with opened(settings) as spool:
        scene = Scene(spool, monkeypatch)
        press, photo = await scene.press(), await scene.photo()
    assert export(settings.path, tmp_path / "out").is_good
    (incident,) = map(json.loads, (tmp_path / "out" / "incidents.jsonl").read_text().splitlines())
    assert (incident["key"], incident["items"]) == ("panic-A", [press.id, photo.id])
    items = list(map(json.loads, (tmp_path / "out" / "items.jsonl").read_text().splitlines()))
    assert items[1]["deliveries"][0]["incident"] == incident["id"]
    assert items[1]["deliveries"][0]["waits_for"] == ["room.report_id"]


async def test_a_spool_of_the_first_incidents_comes_to_the_newest_shape_with_all_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shape 5 knew no `brings`: what opens, also as a follow-up, is found in what was ordered."""
    settings = config(tmp_path)
    sms = {"to": "video", "action": "sms", "phone_number": "1"}
    report = {"to": "room", "action": "report", "category": "Violence", "then": [sms]}
    press = {"name": "panic", "from": ["panic"], "incident": {"key": "x", "collect": ["front"]}, "deliver": [report]}
    media = {"name": "media", "from": ["front"], "when": "incident", "deliver": [{"to": "video", "action": "media"}]}
    async with opened(settings) as spool:
        scene = Scene(spool, monkeypatch, press, media)
        await scene.press()
        photos = [await scene.photo(f"{number}.jpg") for number in range(100)]
        with contextlib.closing(sqlite3.connect(settings.path / "spool.db")) as db:
            brought = db.execute("SELECT id, brings FROM deliveries ORDER BY id").fetchall()
    with contextlib.closing(sqlite3.connect(settings.path / "spool.db", isolation_level=None)) as db:
        steps = [step for step in database.migrations() if step.number > 5]
        monkeypatch.setattr(database, "migrations", lambda: steps)
        to_first_shape(db)
        db.execute("PRAGMA user_version = 5")
    monkeypatch.undo()
    monkeypatch.undo()
    assert check(settings.path).numbers["shape"] == 1
    async with opened(settings) as spool:
        scene = Scene(spool, monkeypatch, press, media)
        with contextlib.closing(sqlite3.connect(settings.path / "spool.db")) as db:
            now_brought = db.execute("SELECT id, brings FROM deliveries ORDER BY id").fetchall()
        plain = [
            [(number, sorted(json.loads(brings or "[]"))) for number, brings in one] for one in (brought, now_brought)
        ]
        assert plain[0] == plain[1]
        await spool.incidents.settle_all(now=scene.now)
        assert await scene.actions(photos[0]) == ["video media pending"]
    assert check(settings.path).is_good
