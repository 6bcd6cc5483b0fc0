"""What is wrong with which part; over a real spool."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relayd import clock, files
from relayd.broker import BrokerView
from relayd.clock import Synchronization
from relayd.diagnosis import Diagnosis, Examiner, Views
from relayd.errors import SpoolError, SpoolFull, SpoolUnwritable
from relayd.faults import HealthConfig
from relayd.files import Staged
from relayd.model import Capture, DestinationView, Kind, OpenFile, Outcome, Priority, SourceView, State
from relayd.spool import Room, Spool
from relayd.spool.limits import Disk, Need, room
from tests.spool.rig import NOW, begin, config, message, opened, order

SETTINGS = HealthConfig()
SYNCHRONIZED, ADRIFT, SILENT = (Synchronization(word, None) for word in (True, False, None))


@pytest.fixture(autouse=True)
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's clock is like."""
    monkeypatch.setattr(clock, "synchronization", lambda: SYNCHRONIZED)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    async with opened(config(tmp_path, max_size="2MB")) as spool:
        yield spool


def source(state: Any = "ok", reason: str = "", *, is_known: bool = True) -> SourceView:
    return SourceView(state=state, reason=reason, last_at=None, is_known=is_known)


def destination(state: Any = "ok", reason: str = "", *, is_known: bool = True) -> DestinationView:
    return DestinationView(state=state, reason=reason, next_try_at=None, under_way=0, is_known=is_known)


def views(
    sources: dict[str, SourceView] | None = None,
    destinations: dict[str, DestinationView] | None = None,
    brokers: dict[str, BrokerView] | None = None,
) -> Views:
    return Views(sources=sources or {}, destinations=destinations or {}, brokers=brokers or {})


class Eye:
    """An examiner, and what is taken to stand."""

    def __init__(self, spool: Spool) -> None:
        self.standing: set[str] = set()
        self._examiner = Examiner(spool, lambda part: part in self.standing)

    async def look(self, seen: Views | None = None, config_error: str | None = None) -> Diagnosis:
        return await self._examiner.examine(seen or views(), config_error, SETTINGS)


async def test_a_relay_with_nothing_wrong_is_ok(spool: Spool) -> None:
    found = await Eye(spool).look(views({"cam": source()}, {"hook": destination()}))
    assert (found.overall(), found.unknown) == (("ok", []), frozenset())


async def test_what_needs_a_person_comes_first_and_makes_it_a_fault(spool: Spool) -> None:
    await spool.put(message(), [order("hook")], now=NOW)
    seen = views(
        {"cam": source("waiting", "it is being opened"), "yard": source("fault", "the folder is gone")},
        {"hook": destination("waiting", "away"), "page": destination("fault", "login refused")},
        {"fleet": BrokerView(state="waiting", reason="away")},
    )
    found = await Eye(spool).look(seen, "relayd.toml:3: x: unknown")
    assert found.overall() == (
        "fault",
        [
            "source yard: the folder is gone",
            "destination page: login refused",
            "configuration: the newest was refused, the previous one runs: relayd.toml:3: x: unknown",
            "source cam: it is being opened",
            "destination hook: away",
            "broker fleet: away",
        ],
    )
    assert {part: fault.lasts_seconds for part, fault in found.faults.items()} == {
        "source cam": SETTINGS.waiting_after,
        "source yard": SETTINGS.fault_after,
        "destination hook": SETTINGS.waiting_after,
        "destination page": SETTINGS.fault_after,
        "broker fleet": SETTINGS.waiting_after,
        "configuration": SETTINGS.fault_after,
    }


async def test_a_destination_that_is_away_while_nothing_waits_for_it_is_no_fault(spool: Spool) -> None:
    away = views(destinations={"hook": destination("waiting", "away")})
    assert (await Eye(spool).look(away)).faults == {}


async def test_what_waits_only_to_tell_of_a_destinations_own_trouble_is_no_reason_to_tell_of_it(spool: Spool) -> None:
    own = dataclasses.replace(message(source="relayd"), name="fault_cleared destination hook")
    await spool.put(own, [order("hook")], now=NOW)
    eye = Eye(spool)
    for state in ("waiting", "fault"):
        seen = views(destinations={"hook": destination(state, "away")})
        assert (await eye.look(seen)).faults["destination hook"].lasts_seconds is None
    eye.standing = {"destination hook"}
    assert (await eye.look(seen)).faults["destination hook"].lasts_seconds == SETTINGS.fault_after
    eye.standing = set()
    await spool.put(dataclasses.replace(own, name="fault_raised destination other"), [order("hook")], now=NOW)
    assert (await eye.look(seen)).faults["destination hook"].lasts_seconds == SETTINGS.fault_after


async def test_the_source_of_these_messages_never_tells_of_itself(spool: Spool) -> None:
    found = await Eye(spool).look(views({"relayd": source("waiting", "the spool is full")}))
    assert found.faults["source relayd"].lasts_seconds is None
    assert found.overall() == ("degraded", ["source relayd: the spool is full"])


async def test_what_was_not_heard_of_since_the_start_is_unknown_while_something_waits_for_it(spool: Spool) -> None:
    seen = views({"cam": source(is_known=False)}, {"hook": destination(is_known=False)})
    assert (await Eye(spool).look(seen)).unknown == {"source cam"}
    await spool.put(message(), [order("hook")], now=NOW)
    assert (await Eye(spool).look(seen)).unknown == {"source cam", "destination hook"}


async def test_a_spool_is_near_its_limit_until_it_is_emptier_than_when_it_was_called_so(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="10MB", keep_dead="0s", when_full="wait")) as spool:
        eye, ids = Eye(spool), []
        while "spool" not in (found := await eye.look()).faults:
            ids.append((await spool.put(message(b"x" * 100_000), [order("hook")], now=NOW)).id)
        assert found.overall()[0] == "degraded"
        assert "max_size" in found.faults["spool"].reason
        full = spool.room().used_percent
        while "spool" in (await eye.look()).faults:
            await spool.drop([ids.pop()], now=NOW)
            await spool.purge(now=NOW + 1, keep_delivered=0, keep_dead=0)
        assert spool.room().used_percent < full - 5
        assert len(ids) > 10


async def test_a_spool_that_refuses_is_a_fault_until_there_is_room_again(tmp_path: Path) -> None:
    async with opened(config(tmp_path, max_size="2MB", when_full="wait")) as spool:
        eye, ids = Eye(spool), []
        with contextlib.suppress(SpoolFull):
            while True:
                ids.append((await spool.put(message(b"x" * 100_000), [order("hook")], now=NOW)).id)
        found = (await eye.look()).faults["spool"]
        assert found.needs_person
        assert found.reason.startswith("it refuses what comes, which stays where it is: max_size: ")
        await spool.drop(ids, now=NOW)
        while spool.room().refusal:
            await spool.purge(now=NOW + 1, keep_delivered=0, keep_dead=0)
        assert "spool" not in (await eye.look()).faults


async def test_a_refusal_that_no_source_repeats_is_over(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpoolFull):
        await spool.put(message(b"x" * 3_000_000), [order("hook")], now=NOW)
    assert spool.room().refusal
    later = clock.monotonic() + 301.0
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    assert not spool.room().refusal


def room_on(path: Path, *, min_free: str = "1GB", **disk: Any) -> Room:
    settings = config(path, max_size="10GB", min_free=min_free, min_free_inodes_percent=1.0)
    whole = Disk(total_bytes=10**11, free_bytes=5 * 10**10, total_inodes=10**6, free_inodes=10**5)
    return room(settings, replace(whole, **disk), used_bytes=10**6, kept_bytes=0, claimed=Need(), refusal="")


@pytest.mark.parametrize(("free_bytes", "is_near"), [(260, False), (100, False), (40, True)])
async def test_a_small_disk_is_near_its_limit_when_little_of_it_is_left_not_from_the_start(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, is_near: bool
) -> None:
    disk: dict[str, Any] = {"total_bytes": 300 * 10**6, "free_bytes": free_bytes * 10**6}
    monkeypatch.setattr(spool, "room", lambda: room_on(tmp_path, min_free="10MB", **disk))
    assert ("spool" in (await Eye(spool).look()).faults) == is_near


async def test_what_waits_for_room_to_be_salvaged_is_a_fault_of_the_spool(spool: Spool) -> None:
    spool._engine.waits_for = "what the damaged database holds waits to be salvaged"
    fault = (await Eye(spool).look()).faults["spool"]
    assert fault.needs_person
    assert "waits to be salvaged" in fault.reason


async def test_a_disk_that_turned_read_only_is_a_fault_of_the_spool_with_its_remedy(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Disk.of
    monkeypatch.setattr(Disk, "of", lambda path: replace(of(path), is_read_only=True))
    fault = (await Eye(spool).look()).faults["spool"]
    assert fault.needs_person
    assert "is read-only: it may have been remounted after an error: look for disk errors" in fault.reason


async def test_a_disk_that_refuses_writes_is_a_fault_of_the_spool_until_it_takes_them(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Staged:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "a.jpg").write_bytes(b"picture")
    with monkeypatch.context() as broken:
        broken.setattr(files, "link_or_copy", refuse)
        with pytest.raises(SpoolUnwritable, match="cannot be written"):
            await put_file(spool, tmp_path / "a.jpg")
        assert "cannot be written (Read-only file system)" in (await Eye(spool).look()).faults["spool"].reason
    await put_file(spool, tmp_path / "a.jpg")
    assert "spool" not in (await Eye(spool).look()).faults


async def test_an_original_that_cannot_be_read_is_no_fault_of_the_spool(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Staged:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a.jpg").write_bytes(b"picture")
    monkeypatch.setattr(files, "link_or_copy", fail)
    with pytest.raises(SpoolError, match="Input/output error"):
        await put_file(spool, tmp_path / "a.jpg")
    assert "spool" not in (await Eye(spool).look()).faults


async def put_file(spool: Spool, path: Path) -> None:
    with path.open("rb") as stream:
        origin = files.origin_of(path.name.encode(), os.fstat(stream.fileno()))
        file = OpenFile(descriptor=stream.fileno(), origin=origin, is_finished=False)
        capture = Capture(source="cam", name=path.name, kind=Kind.MEDIA, content_type="", captured_at=NOW, file=file)
        await spool.put(capture, [order("hook")], now=NOW)


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        ({"free_bytes": 10**9 + 10**8}, "100 MB are left before min_free"),
        ({"free_inodes": 15_000}, "5000 inodes are left before min_free_inodes_percent"),
        ({}, None),
        ({"total_inodes": 0, "free_inodes": 0}, None),
    ],
    ids=["others filled the disk", "inodes run out", "all is well", "a file system without fixed inodes"],
)
async def test_a_disk_that_others_fill_is_near_the_limit_too(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: dict[str, Any], said: str | None
) -> None:
    monkeypatch.setattr(spool, "room", lambda: room_on(tmp_path, **disk))
    fault = (await Eye(spool).look()).faults.get("spool")
    assert (fault and fault.reason) == (said and f"near its limit: {said}")


async def test_a_clock_is_a_fault_once_it_was_adrift_for_long(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    eye, began = Eye(spool), 5_000.0

    async def is_fault(state: Synchronization, seconds: float) -> bool:
        monkeypatch.setattr(clock, "synchronization", lambda: state)
        monkeypatch.setattr(clock, "monotonic", lambda: began + seconds)
        return "clock" in (await eye.look()).faults

    assert not any([await is_fault(ADRIFT, second) for second in range(0, 600, 60)])
    assert await is_fault(ADRIFT, 600.1)
    assert not await is_fault(SYNCHRONIZED, 601.0)
    assert not any([await is_fault((ADRIFT, SYNCHRONIZED)[minute % 2], 60.0 * minute) for minute in range(11, 99)])
    assert not any([await is_fault(SILENT, 10_000.0 + second) for second in range(0, 6000, 100)])
    assert not await is_fault(ADRIFT, 20_000.0)
    eye.standing = {"clock"}
    assert await is_fault(ADRIFT, 20_001.0), "it was told so before the restart: it need not last again"


async def died(
    spool: Spool, name: str, priority: Priority, reason: str = "400: no such report", to: str = "hook"
) -> str:
    """Something that was refused for good; the id of its item."""
    item = await spool.put(dataclasses.replace(message(), name=name), [order(to, priority)], now=NOW)
    begun = await begin(spool, to)
    assert begun is not None
    await spool.record_ended(begun.delivery.id, State.DEAD, Outcome.REJECTED, reason, now=NOW)
    return item.id


async def test_a_dead_emergency_is_a_fault_and_the_first_reason_of_all_with_what_to_do(spool: Spool) -> None:
    seen = views({"yard": source("fault", "the folder is gone")}, {"hook": destination(), "page": destination()})
    eye = Eye(spool)
    early = await died(spool, "panic", Priority.EMERGENCY)
    for number in range(3):
        await died(spool, f"clip {number}", Priority.BULK, to="page")
    late = await died(spool, "panic\x1b[2J 2", Priority.EMERGENCY, reason="x" * 500)
    state, reasons = (await eye.look(seen)).overall()
    assert state == "fault"
    assert reasons[0].startswith("EMERGENCY is dead: upload of panic")
    assert "\x1b" not in reasons[0]
    assert reasons[0].endswith(f"… (`relayd why {late}`)")
    assert len(reasons[0]) < 400
    assert reasons[1:] == [
        f"EMERGENCY is dead: upload of panic to hook: 400: no such report (`relayd why {early}`)",
        "source yard: the folder is gone",
        "3 more deliveries are dead, `relayd items --state dead`",
    ]
    for number in range(4):
        await died(spool, f"panic {number}", Priority.EMERGENCY)
    reasons = (await eye.look(seen)).overall()[1]
    assert [reason[:9] for reason in reasons] == ["EMERGENCY"] * 3 + ["source ya", "6 more de"]
    await spool.drop([early, late], now=NOW)
    assert (await eye.look(seen)).overall()[1][-1] == "4 more deliveries are dead, `relayd items --state dead`"


async def test_what_else_is_dead_is_named_once_after_what_a_person_has_to_mend_and_before_what_waits(
    spool: Spool,
) -> None:
    seen = views(
        {"yard": source("fault", "the folder is gone"), "cam": source("waiting", "it is being opened")},
        {"hook": destination()},
    )
    item = await died(spool, "clip 1", Priority.NORMAL)
    await died(spool, "clip 2", Priority.BULK)
    await died(spool, "of nobody", Priority.EMERGENCY, to="no longer configured")
    assert (await Eye(spool).look(seen)).overall()[1] == [
        "source yard: the folder is gone",
        f"dead: upload of clip 1 to hook: 400: no such report (`relayd why {item}`)",
        "source cam: it is being opened",
        "1 more delivery is dead, `relayd items --state dead`",
    ]
    quiet = views(destinations={"hook": destination()})
    assert (await Eye(spool).look(quiet)).overall()[0] == "degraded"
