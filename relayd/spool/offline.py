"""`relayd spool check|repair|export`: what can be done to the spool of a stopped relay.

Promises: each owns the folder while it works (SpoolLocked if a relay runs). `check` changes nothing; `repair` removes
nothing that was accepted; `export` only reads, and says of every copy whether it is what was accepted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from relayd import clock
from relayd.errors import SpoolDamaged, SpoolError
from relayd.files import safe_name
from relayd.model import Item, Kind, State
from relayd.spool import counting, database, delivering, exported, lists, lost_incidents, salvage, timekeeping, waiting
from relayd.spool.change import Change
from relayd.spool.media import SpoolFolder
from relayd.spool.opening import open_database
from relayd.spool.records import Report
from relayd.spool.rows import ITEM_COLUMNS, item_from
from relayd.spool.states import state_of

LINES_SHOWN = 100
"""Of all problems at most this many are listed; all are counted."""
ITEMS_AT_ONCE = 500


class _Findings:
    """Problems, listed up to a limit, and counted by kind without one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: dict[str, int] = {}

    def add(self, kind: str, line: str) -> None:
        self.count(kind)
        if len(self.lines) < LINES_SHOWN:
            self.lines.append(line)

    def count(self, kind: str, by: int = 1) -> None:
        self.numbers[kind] = self.numbers.get(kind, 0) + by

    def report(self, done: tuple[str, ...] = ()) -> Report:
        return Report(is_good=not self.lines, problems=tuple(self.lines), done=done, numbers=self.numbers)


def check(path: Path, *, thorough: bool = True) -> Report:
    """Whether database, counters and media agree; with `thorough` every byte of media is read and hashed."""
    with _owned(path) as folder:
        return _check(folder, thorough=thorough).report()


def repair(path: Path) -> Report:
    """Salvage a damaged database, set states and counters right, end what is owed of media that is gone.

    Strays are moved to salvaged/. The report's problems are those that were found; `is_good` is the state afterwards.
    """
    now = clock.now()
    with _owned(path) as folder:
        found = _check(folder, thorough=False)
        done: list[str] = []
        if found.numbers.get("shape") and not found.numbers.get("damage"):
            open_database(folder, now=now).close()
            done.append("brought to the newest shape")
            found = _check(folder, thorough=False)
        if found.numbers.get("damage"):
            salvaged = salvage.rebuild(folder, now=now)
            done.append(f"database rebuilt, {salvaged.rows.get('items', 0)} items salvaged")
            if salvaged.strays:
                done.append(f"{salvaged.strays} media files without a row moved to {folder.salvaged}")
        with contextlib.closing(open_database(folder, now=now)) as db:
            done += _mend(folder, db, now)
        after = _check(folder, thorough=False)
    return Report(is_good=not after.lines, problems=tuple(found.lines), done=tuple(done), numbers=after.numbers)


def export(path: Path, target: Path) -> Report:
    """Copy everything that is still kept to `target`/STATE/, and what is known of every item to items.jsonl."""
    with _owned(path) as folder, _reading(folder) as db:
        findings = _Findings()
        _check_waiting(folder, findings)
        try:
            target.mkdir(parents=True, exist_ok=True)
            with (target / "items.jsonl").open("x", encoding="utf-8") as listing:
                for row in _all_items(db, findings):
                    item = item_from(row, row["payload"])
                    written = _export_one(folder, row, item, target, findings)
                    print(json.dumps(exported.item(db, row, item, written)), file=listing)
            with (target / "incidents.jsonl").open("x", encoding="utf-8") as listing:
                for row in db.execute("SELECT * FROM incidents ORDER BY seq"):
                    print(json.dumps(exported.incident(db, row)), file=listing)
            if folder.salvaged.is_dir():
                shutil.copytree(folder.salvaged, target / "salvaged")
        except FileExistsError as error:
            raise SpoolError(f"{error.filename} is there already: export to a new folder") from error
        except (OSError, shutil.Error) as error:
            raise SpoolError(f"cannot write to {target}: {error}") from error
        copied = findings.numbers.get("copied", 0)
        return findings.report((f"{copied} of {findings.numbers.get('items', 0)} items copied to {target}",))


def _check_waiting(folder: SpoolFolder, findings: _Findings) -> None:
    for name in salvage.waiting(folder):
        why = salvage.why_waiting(folder) or f"the next start salvages the damaged database {folder.root / name}"
        findings.add("waiting", f"what is in it is not all: {why}")


def _check(folder: SpoolFolder, *, thorough: bool) -> _Findings:
    findings = _Findings()
    _check_waiting(folder, findings)
    path = folder.root / database.FILE_NAME
    if not path.exists() or path.stat().st_size == 0:
        if not folder.is_empty():
            findings.add("damage", f"{path} is gone, but there is media")
        return findings
    try:
        with _reading(folder) as db:
            is_newest = database.vet(db)
            _check_integrity(db, findings)
            if not is_newest:
                findings.add("shape", "an older relayd wrote this spool: the next start brings it to the newest shape")
            elif not findings.numbers.get("damage"):
                _check_counters(db, findings)
                _check_states(db, findings)
                _check_incidents(db, findings)
                _check_media(db, folder, findings, thorough=thorough)
                findings.count("strays", sum(1 for _ in _strays(folder, db)))
    except sqlite3.Error as error:
        findings.add("damage", str(database.in_words(error, path)))
    except SpoolDamaged as error:
        findings.add("damage", str(error))
    return findings


def _check_integrity(db: sqlite3.Connection, findings: _Findings) -> None:
    for row in db.execute(f"PRAGMA integrity_check({LINES_SHOWN})"):
        if row[0] != "ok":
            findings.add("damage", f"database: {row[0]}")


def _check_counters(db: sqlite3.Connection, findings: _Findings) -> None:
    for row in db.execute("PRAGMA foreign_key_check"):
        findings.add("damage", f"database: a row of {row[0]} belongs to nothing")
    for (subject, name), said, counted in counting.differences(db):
        findings.add("counters", f"counter {subject} {name} says {said}, the rows say {counted}".replace("  ", " "))


def _check_states(db: sqlite3.Connection, findings: _Findings) -> None:
    for row in _all_items(db, findings):
        found = {State(one[0]) for one in db.execute("SELECT state FROM deliveries WHERE item = ?", (row["seq"],))}
        if (found or row["state"] == State.PENDING) and state_of(found) != row["state"]:
            findings.add("states", f"item {row['id']} is {row['state']}, its deliveries make it {state_of(found)}")


def _check_incidents(db: sqlite3.Connection, findings: _Findings) -> None:
    for incident in lost_incidents.lost(db):
        findings.add("incidents", f"incident {incident}: deliveries name it, but it is gone")
    for line in waiting.endless(db):
        findings.add("incidents", line)


def _check_media(db: sqlite3.Connection, folder: SpoolFolder, findings: _Findings, *, thorough: bool) -> None:
    seq = 0
    while page := lists.media_after(db, seq, ITEMS_AT_ONCE):
        for number, item in page:
            seq = number
            trouble = folder.trouble_with(item.id, item.size_bytes)
            if trouble is None and thorough and folder.digest(item.id) != item.sha256:
                trouble = "the spooled file is not what was accepted: its SHA-256 differs"
            if trouble is not None:
                findings.add("media", f"item {item.id}: {trouble}")


def _mend(folder: SpoolFolder, db: sqlite3.Connection, now: float) -> list[str]:
    """What a healthy database needs to agree with itself and with the media; what was done, in words."""
    done = []
    db.execute("BEGIN IMMEDIATE")
    change = Change(db, times=timekeeping.read_now(db))
    lost = _lose_missing(change, folder, now)
    change.write_counters()
    if lost:
        done.append(f"{lost} items without their media: what was owed of them is dead")
    incidents = lost_incidents.restore(db, now=now)
    if incidents:
        done.append(f"{incidents} lost incidents made again of what their deliveries say")
    states = salvage.correct_states(db, now=now)
    if states:
        done.append(f"{states} states of items set right")
    waits = lost_incidents.settle(db, now=now)
    if waits:
        done.append(f"what waited in vain in incidents is released or ended: {waits} kinds of it")
    wrong = counting.correct(db)
    if wrong:
        done.append(f"{wrong} counters set right")
    db.execute("COMMIT")
    strays = list(_strays(folder, db))
    for name in strays:
        folder.set_aside(name)
    if strays:
        done.append(f"{len(strays)} media files without a row moved to {folder.salvaged}")
    return done


def _lose_missing(change: Change, folder: SpoolFolder, now: float) -> int:
    lost, seq = 0, 0
    while page := lists.media_after(change.db, seq, ITEMS_AT_ONCE):
        for number, item in page:
            seq = number
            trouble = folder.trouble_with(item.id, item.size_bytes)
            if trouble is not None:
                row = change.db.execute("SELECT seq, id FROM items WHERE seq = ?", (seq,)).fetchone()
                delivering.lose(change, row, trouble, now=now)
                lost += 1
    return lost


def _export_one(folder: SpoolFolder, row: sqlite3.Row, item: Item, target: Path, findings: _Findings) -> str | None:
    """Where the content went, below `target`; None if it is not kept any more."""
    if not row["has_content"]:
        return None
    place = target / row["state"]
    place.mkdir(exist_ok=True)
    copy = place / f"{item.id}-{safe_name(item.name, item.id)}"
    try:
        if item.kind is Kind.MEDIA:
            shutil.copyfile(folder.path_of(item.id), copy)
        else:
            copy.write_bytes(item.payload or b"")
    except FileNotFoundError:
        findings.add("media", f"item {item.id}: the spooled file is gone")
        return None
    findings.count("copied")
    with copy.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != item.sha256:
            findings.add("media", f"item {item.id}: the copy is not what was accepted: its SHA-256 differs")
    return str(copy.relative_to(target))


def _all_items(db: sqlite3.Connection, findings: _Findings) -> Iterator[sqlite3.Row]:
    """Every item, page by page, counted."""
    seq = 0
    while page := db.execute(
        f"SELECT {ITEM_COLUMNS}, items.payload FROM items WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
        (seq, ITEMS_AT_ONCE),
    ).fetchall():
        seq = page[-1]["seq"]
        findings.count("items", len(page))
        yield from page


def _strays(folder: SpoolFolder, db: sqlite3.Connection) -> Iterator[str]:
    for names in folder.names():
        kept = lists.kept_media(db, names)
        yield from (name for name in names if name not in kept)


@contextlib.contextmanager
def _owned(path: Path) -> Iterator[SpoolFolder]:
    if not path.is_dir():
        raise SpoolError(f"there is no spool at {path}")
    folder = SpoolFolder(path)
    folder.lock()
    try:
        yield folder
    finally:
        folder.unlock()


@contextlib.contextmanager
def _reading(folder: SpoolFolder) -> Iterator[sqlite3.Connection]:
    db = database.connect_reader(folder.root / database.FILE_NAME)
    try:
        yield db
    finally:
        db.close()
