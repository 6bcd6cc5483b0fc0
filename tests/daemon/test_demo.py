"""The demo, run as a person runs it: it ends well, every promise breaks when its fact is wrong, a planted loss is seen,
and it cleans up however it ends."""

from __future__ import annotations

import copy
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relayd.sandbox.promises import PROMISES, Evidence, judge
from tests.unit.test_cli_qrcode import read, rows_of_terminal

REPOSITORY = Path(__file__).parents[2]
Change = Callable[[Any], object]


def start(folder: Path, *arguments: str, output: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """`relayd demo` with its temporary folder below `folder`, on a machine without mosquitto."""
    return subprocess.Popen(
        [sys.executable, "-m", "relayd", "demo", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(folder), "TERM": "xterm", "PATH": str(folder / "nothing"), "COLUMNS": "140"},
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that still work below `folder`."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = each.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.mark.timeout(600)
def test_the_demo_keeps_every_promise_and_each_breaks_when_its_fact_is_wrong(tmp_path: Path) -> None:
    begun = time.monotonic()
    running = start(tmp_path, "--keep")
    said = running.communicate(timeout=150)[0].decode()
    assert running.returncode == 0, said
    assert time.monotonic() - begun < 120
    (folder,) = tmp_path.iterdir()
    evidence = json.loads((folder / "evidence.json").read_text())
    assert_that_the_story_is_told(said, evidence)
    assert left_running(tmp_path) == []
    assert {each.promise: each.trouble for each in judge(Evidence.read(evidence))} == dict.fromkeys(PROMISES, "")
    assert set(WRONG_FACTS) == set(PROMISES)
    for promise, changes in WRONG_FACTS.items():
        for number, change in enumerate(changes):
            altered = copy.deepcopy(evidence)
            change(altered)
            assert altered != evidence, f"{promise}: change {number} changes nothing"
            broken = [each.promise for each in judge(Evidence.read(altered)) if each.trouble]
            assert promise in broken, f"{promise}: not seen to be broken by change {number}"


def assert_that_the_story_is_told(said: str, evidence: Any) -> None:
    """In words that a newcomer reads, without a word of its own about what the servers have not on record."""
    (number,) = evidence["records"]["taken"]["sayvu"]["reports"]
    (link,) = evidence["records"]["taken"]["incidentshare"]["links"]
    (activation,) = evidence["records"]["taken"]["watcher"]["activations"]
    (fault,) = evidence["records"]["taken"]["cachet"]["incidents"]
    in_order = [
        "Setting out",
        f"Watcher has made stream {activation['stream']}",
        f"status page: incident {fault['id']} opened: {fault['name']}",
        "$ relayd status",
        "login page",
        "$ relayd incidents",
        "$ relayd why front-camera/front-007.mp4",
        "SIGKILL",
        f"control room: report {number}: Panic button in Demo ambulance",
        f"SMS: link for live video sent to +4512345678; stream {link['stream_id']} is open",
        f"control room: chat of report {number}: front-00",
        "SIGKILL again",
        f"control room: chat of report {number}: front-007.mp4",
        f"status page: incident {fault['id']} is fixed",
        "What was promised",
        f"All {len(PROMISES)} promises were kept: 9 files byte for byte.",
    ]
    flat = " ".join(said.split())
    places = [flat.find(" ".join(each.split())) for each in in_order]
    assert -1 not in places, in_order[places.index(-1)]
    assert places == sorted(places)
    assert "TROUBLE" not in said
    assert "\x1b" not in said
    rows = re.findall(r"^(yes| NO)  (.{44})  (.+)$", said, re.MULTILINE)
    assert [(told, promise.rstrip()) for told, promise, _ in rows] == [("yes", promise) for promise in PROMISES]
    drawn = [line.removeprefix("  | ") for line in said.splitlines() if line.startswith("  | ")]
    code = "\n".join(line for line in drawn if line and set(line) <= set(" ▀▄█"))
    assert read(rows_of_terminal(code, is_ink_dark=False)) == activation["token"]


def taken(server: str, what: str) -> Callable[[Any], Any]:
    return lambda evidence: evidence["records"]["taken"][server][what]


objects, media, links = taken("objects", "objects"), taken("incidentshare", "media"), taken("incidentshare", "links")
reports, faults, presses = taken("sayvu", "reports"), taken("cachet", "incidents"), taken("mqtt", "messages")
activations, streams = taken("watcher", "activations"), taken("watcher", "streams")


def report(evidence: Any) -> Any:
    (found,) = reports(evidence).values()
    return found


def log(evidence: Any, operation: str) -> list[Any]:
    """Requests that did something, since the relay was back after the press."""
    return [
        each
        for each in evidence["records"]["log"]
        if each["operation"] == operation and each["has_effect"] and each["at"] >= evidence["back_at"]
    ]


def twice(found: Callable[[Any], list[Any]]) -> Change:
    return lambda evidence: found(evidence).append(dict(found(evidence)[-1]))


def other_bytes(found: Callable[[Any], list[Any]]) -> Change:
    return lambda evidence: found(evidence)[-1].update(sha256="0" * 64)


def swap_first_two(evidence: Any) -> None:
    """An image came to the control room before the report."""
    (opened, *_), (image, *_) = log(evidence, "report"), log(evidence, "image")
    opened["operation"], image["operation"] = image["operation"], opened["operation"]


def everyday_first(evidence: Any) -> None:
    """A picture that could wait began to come before the clip had."""
    waited = next(each for each in log(evidence, "store") if "side-" in each["key"])
    waited["at"] = evidence["back_at"]


def never_acknowledged(evidence: Any) -> None:
    (press,) = presses(evidence)
    press["acknowledged"] = dict.fromkeys(press["acknowledged"])


def acknowledged_late(evidence: Any) -> None:
    (press,) = presses(evidence)
    press["acknowledged"] = dict.fromkeys(press["acknowledged"], evidence["back_at"] + 1)


WRONG_FACTS: dict[str, list[Change]] = {
    "new camera activated once, by its QR code": [
        twice(activations),
        lambda evidence: activations(evidence)[0].update(stream=None),
        lambda evidence: next(iter(streams(evidence).values()))["config"].update(title="Gate 3"),
    ],
    "silence on the status page once, resolved": [
        twice(faults),
        lambda evidence: faults(evidence).clear(),
        lambda evidence: faults(evidence)[0].update(status=1),
        lambda evidence: faults(evidence)[0]["updates"].append(faults(evidence)[0]["updates"][-1]),
        lambda evidence: faults(evidence)[0].update(name="something else"),
    ],
    "press on the disk before the power failed": [twice(presses), never_acknowledged, acknowledged_late],
    "one report, first at the control room": [
        lambda evidence: reports(evidence).clear(),
        lambda evidence: reports(evidence).update({"7": report(evidence)}),
        lambda evidence: report(evidence)["body"].update(category={"category_id": 4}),
        swap_first_two,
    ],
    "stills on that report": [
        lambda evidence: report(evidence)["images"].pop(),
        lambda evidence: report(evidence)["images"][0].update(sha256="0" * 64),
        lambda evidence: report(evidence)["images"].append({"name": "stray.jpg", "sha256": "1" * 64}),
    ],
    "one SMS, which opened a stream": [
        twice(links),
        lambda evidence: links(evidence).clear(),
        lambda evidence: links(evidence)[0]["body"].update(phone_number="+4500000000"),
    ],
    "stills and clip in that stream, once": [
        twice(media),
        other_bytes(media),
        lambda evidence: media(evidence).pop(),
        lambda evidence: media(evidence)[0].update(stream_id="another"),
    ],
    "links to all of it on that report": [
        lambda evidence: report(evidence)["lines"].pop(),
        lambda evidence: report(evidence)["lines"].append("hello"),
        lambda evidence: report(evidence)["lines"].__setitem__(0, "live video: stream another"),
    ],
    "every file at RapidSOS, once": [
        twice(objects),
        other_bytes(objects),
        lambda evidence: objects(evidence).pop(0),
        lambda evidence: objects(evidence)[0].update(is_altered=True),
    ],
    "urgent files before those that can wait": [
        everyday_first,
        lambda evidence: log(evidence, "store")[0].update(has_effect=False),
    ],
    "the relay says the same as the servers": [
        lambda evidence: evidence["incidents"].clear(),
        lambda evidence: evidence["incidents"][0]["remote"]["control-room"].update(report_id=7),
        lambda evidence: evidence["incidents"][0]["remote"]["incidentshare"].update(stream_id="another"),
        lambda evidence: evidence["status"]["spool"].update(pending=1),
        lambda evidence: evidence["status"]["spool"].update(dead=1),
    ],
}


@pytest.mark.timeout(600)
def test_planted_losses_are_seen_at_a_terminal_and_the_folder_can_be_kept(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    planted = ("--plant", "store#2 corrupt silent=yes; report#1 lose")
    running = start(tmp_path, "--keep", "--pace", "0", *planted, output=theirs)
    os.close(theirs)
    heard: list[bytes] = []
    listener = threading.Thread(target=listen, args=(ours, heard))
    listener.start()
    assert running.wait(timeout=200) == 1
    listener.join(timeout=10)
    os.close(ours)
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(heard).decode())
    closing = said[said.index("what was promised") :]
    assert re.search(r"NO +every file at RapidSOS, once +not there as the camera wrote it: side-002", closing)
    assert re.search(r"NO +one report, first at the control room +2 times: report", closing)
    assert re.search(r"yes +new camera activated once", closing)
    assert "promises are broken" in closing
    assert "were kept" not in said
    (folder,) = tmp_path.iterdir()
    assert str(folder) in said.replace("\r\n", "")
    kept = {"relay.log", "relayd.toml", "sandbox", "spool", "front-camera", "evidence.json"}
    assert kept <= {each.name for each in folder.iterdir()}
    assert left_running(tmp_path) == []


def listen(descriptor: int, heard: list[bytes]) -> None:
    """Until the other side of the terminal is closed."""
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:
            return
        if not chunk:
            return
        heard.append(chunk)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    running = start(tmp_path)
    assert running.stdout is not None
    for line in running.stdout:
        if b"In town" in line:
            break
    assert left_running(tmp_path) != []
    running.send_signal(number)
    said = running.communicate(timeout=30)[0].decode()
    assert running.returncode != 0
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert left_running(tmp_path) == []
