"""Runs a life of the spool under strace, and judges what it left behind against what it had promised."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relayd.errors import SpoolError
from relayd.model import State
from relayd.spool import ItemDetail, Spool, check
from tests.spool.rig import NOW, adds_up, camera_file, config, opened, order

REPOSITORY = Path(__file__).parents[2]
NAMES = ("copied-1.jpg", "copied-2.jpg", "linked-1.jpg")


@dataclass
class Lived:
    """How a life ended and what it said."""

    code: int
    said: list[dict[str, Any]]
    errors: str
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def was_killed(self) -> bool:
        return self.code in (-9, 137)


async def template(work: Path) -> Path:
    """A folder with an empty spool and three files of a camera; lives start from copies of it."""
    async with opened(config(work)):
        pass
    (work / "drop").mkdir()
    for number, name in enumerate(NAMES):
        (work / "drop" / name).write_bytes(bytes([number + 65]) * (200_000 + number))
    return work


def begin_anew(template: Path, work: Path) -> Path:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)
    return work


def live(
    work: Path,
    *options: str,
    inject: str = "",
    count: str = "",
    module: str = "tests.crash.spool_life",
    is_filtered: bool = True,
) -> Lived:
    """One life, as `module` lives it; `inject` is what strace does to it, `count` the calls that are
    counted, per thread the most. `is_filtered` is faster, but some straces then count no call after the first."""
    log = work / "strace.log"
    traced = inject.partition(":")[0] or count
    filtered = ["--seccomp-bpf"] if is_filtered else []
    strace = ["strace", "-f", *filtered, "-qq", "-o", str(log), "-e", f"trace={traced}", "-e", "signal=none"]
    inject_options = ["-e", f"inject={inject}"] if inject else []
    run = subprocess.run(
        [
            *([*strace, *inject_options] if traced else []),
            sys.executable,
            "-m",
            module,
            str(work),
            *options,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [json.loads(line) for line in run.stdout.splitlines() if line.endswith("}")]
    return Lived(run.returncode, said, run.stderr, _calls(log) if count else Counter())


def _calls(log: Path) -> Counter[str]:
    by_thread: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        thread, _, call = line.partition(" ")
        if "(" in call and not call.lstrip().startswith("<"):
            by_thread[thread, call.lstrip().partition("(")[0]] += 1
    most: Counter[str] = Counter()
    for (_, name), number in by_thread.items():
        most[name] = max(most[name], number)
    return most


async def judge(template: Path, work: Path, said: list[dict[str, Any]]) -> list[str]:
    """Everything that is not as promised, in words. Takes over what was left, as the next start would."""
    wrong: list[str] = []
    async with opened(config(work, keep_content="1d"), NOW + 1) as spool:
        await spool.sweep()
        promised = [one for one in said if one["what"] == "put"]
        details = {one["id"]: await spool.item(one["id"]) for one in promised}
        was_purged = any(one["what"] == "purged" for one in said) or _ends_before_purge_answer(said)
        for one in promised:
            wrong += _content(spool, details[one["id"]], one, was_purged=was_purged)
        for one in said:
            wrong += _happened(one, details.get(one.get("item", "")), was_purged=was_purged)
        wrong += await _originals(spool, template, work)
        if not adds_up(spool):
            wrong.append(f"the counters do not add up: {spool.counters}")
        if spool.counters.items > len(NAMES) + 1:
            wrong.append(f"{spool.counters.items} items of {len(NAMES)} files and a message: something came twice")
    report = check(work / "spool")
    if not report.is_good or report.numbers["strays"]:
        wrong.append(f"check: {report}")
    return wrong


def _ends_before_purge_answer(said: list[dict[str, Any]]) -> bool:
    """All was said that comes before the purge: it may have happened without a word."""
    return any(one["what"] == "dead" for one in said)


def _content(spool: Spool, detail: ItemDetail | None, one: dict[str, Any], *, was_purged: bool) -> list[str]:
    if detail is None:
        return [] if was_purged and one["name"] == NAMES[0] else [f"{one['name']} was promised and is lost"]
    if detail.item.payload is not None:
        found = hashlib.sha256(detail.item.payload).hexdigest()
    elif detail.has_content:
        with spool.open_media(detail.item.id) as media:
            found = hashlib.sha256(media.read()).hexdigest()
    else:
        return [f"{one['name']} is {detail.state} without its content"]
    return [] if found == one["sha256"] == detail.item.sha256 else [f"{one['name']} is altered"]


def _happened(one: dict[str, Any], detail: ItemDetail | None, *, was_purged: bool) -> list[str]:
    """Whether what was said of a delivery is what its row says, or was followed by more."""
    if detail is None or one["what"] == "put":
        return []
    if one["what"] == "resent":
        times = sum(it.delivery.destination == "control-room" for it in detail.deliveries)
        return [] if times == 2 else [f"a resend was promised, and there are {times} deliveries"]
    delivery = next((it for it in detail.deliveries if it.delivery.id == one["delivery"]), None)
    if delivery is None:
        return [f"{one['what']} was said of a delivery that is lost"]
    state = delivery.delivery.state
    is_right = {
        "begun": delivery.delivery.attempts >= one.get("attempts", 1),
        "intent": state is State.DELIVERED or "upload" in delivery.steps,
        "step": state is State.DELIVERED or delivery.steps.get("upload") == {"etag": "e"},
        "deferred": state is State.DELIVERED or len(delivery.attempts) == 1,
        "delivered": state is State.DELIVERED and delivery.receipt is not None,
        "delivered again": state is State.DELIVERED and delivery.receipt is not None,
        "dead": state in (State.DEAD, State.PENDING),
    }[one["what"]]
    owes_follow_up = one["what"] == "delivered" and delivery.delivery.then and len(detail.deliveries) < 2
    wrong = [] if is_right else [f"{one['what']} was said, but the delivery is {state}"]
    return [*wrong, "a follow-up is lost"] if owes_follow_up else wrong


async def _originals(spool: Spool, template: Path, work: Path) -> list[str]:
    """Each file is at its source, or in the spool, and taking it again makes no second item of it."""
    wrong = []
    for name in NAMES:
        found = await spool.find_by_path("cam", name.encode())
        known = [it.item_id for it in await spool.known("cam", b"", 100) if it.origin.path == name.encode()]
        path = work / "drop" / name
        if not path.exists():
            if found is None and known == []:
                wrong.append(f"{name} is neither at its source nor in the spool")
            continue
        if path.read_bytes() != (template / "drop" / name).read_bytes():
            wrong.append(f"{name} is altered at its source")
        with camera_file(path) as capture:
            try:
                item = await spool.put(capture, [order()], now=NOW)
            except SpoolError as error:
                wrong.append(f"{name} cannot be put after the crash: {error}")
                continue
        if found is not None and item.id != found:
            wrong.append(f"{name} was taken twice")
    return wrong
