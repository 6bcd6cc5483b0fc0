"""What the demo promises, judged by what the servers recorded: pure, values in, a verdict for each promise out.

Promises: a promise holds only if its evidence is there; what is missing breaks it, as does what is there twice. Nothing
is taken from the relay but what it says of itself, in the two promises that compare it with the servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from relayd.sandbox.records import RAPIDSOS, REPORT, STREAM, Document, Records, name_of

_FIXED = 4
"""The status of what is over, on a Cachet page."""
_T = TypeVar("_T")


class Broken(Exception):
    """A promise is not kept; the text says what was found instead."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file that a camera wrote. `places` is where it has to arrive."""

    name: str
    camera: str
    size_bytes: int
    sha256: str
    places: tuple[str, ...] = (RAPIDSOS,)

    @property
    def is_urgent(self) -> bool:
        return len(self.places) > 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is judged. `back_at`: when power and link were there again, after the press. `status` and
    `incidents` are what the relay says."""

    written: Sequence[Written]
    back_at: float
    records: Records
    status: Document = field(default_factory=dict)
    incidents: Sequence[Document] = ()

    @classmethod
    def read(cls, document: Document) -> Evidence:
        """From what `dataclasses.asdict` made of it, by way of JSON."""
        written = [Written(**{**each, "places": tuple(each["places"])}) for each in document["written"]]
        return cls(**{**document, "written": written, "records": Records(**document["records"])})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the closing table: what was promised, and what is on record. Exactly one of the two is not empty."""

    promise: str
    seen: str = ""
    trouble: str = ""


def judge(evidence: Evidence) -> list[Verdict]:
    """Each promise, in the order of the story."""
    verdicts = []
    for promise, look in PROMISES.items():
        try:
            verdicts.append(Verdict(promise, seen=look(evidence)))
        except Broken as broken:
            verdicts.append(Verdict(promise, trouble=str(broken)))
    return verdicts


def _camera_activated(evidence: Evidence) -> str:
    activation = _only(evidence.records.activations, "activation")
    stream = activation["stream"]
    if stream is None:
        raise Broken("the token still waits for its camera")
    title = evidence.records.streams[stream]["config"].get("title")
    if title != activation["wish"]["title"]:
        raise Broken(f"stream {stream} is called {title!r}")
    return f"stream {stream}"


def _silence_shown_once(evidence: Evidence) -> str:
    fault = _only(evidence.records.faults, "incident on the status page")
    endings = [update for update in fault["updates"] if update["status"] == _FIXED]
    if fault["status"] != _FIXED or len(endings) != 1:
        raise Broken(f"incident {fault['id']} has status {fault['status']} and {len(endings)} endings")
    if "rear-camera" not in fault["name"]:
        raise Broken(f"incident {fault['id']} is about {fault['name']}")
    return f"incident {fault['id']}, after {endings[0]['at'] - fault['at']:.0f} s"


def _press_taken(evidence: Evidence) -> str:
    press = _only(evidence.records.presses, "press of the button")
    acknowledged_at = _only(list(press["acknowledged"].values()), "client to which the press is owed")
    if acknowledged_at is None:
        raise Broken("the relay has not acknowledged it")
    if acknowledged_at > evidence.back_at:
        raise Broken("it was acknowledged only after the relay came back")
    return f"MQTT acknowledged in {(acknowledged_at - press['at']) * 1000:.0f} ms"


def _reported_once(evidence: Evidence) -> str:
    number, report = _the_report(evidence)
    came = [each["operation"] for each in evidence.records.effects("report", "message", "image")]
    if came[:1] != ["report"]:
        raise Broken("something else came to the control room before it")
    if report["body"]["category"] != {"category_id": 3, "subcategory_id": 31}:
        raise Broken(f"report {number} is of category {report['body']['category']}")
    return f"{number}, {report['at'] - evidence.back_at:.1f} s after power"


def _stills_on_report(evidence: Evidence) -> str:
    _, report = _the_report(evidence)
    stills = _owed(evidence, REPORT)
    return _byte_for_byte(stills, report["images"])


def _texted_once(evidence: Evidence) -> str:
    link = _only(evidence.records.links, "text message")
    phone = link["body"].get("phone_number")
    if link["kind"] != "sms" or phone != "+4512345678":
        raise Broken(f"{link['kind']} to {phone}")
    return str(link["stream_id"])


def _files_in_stream(evidence: Evidence) -> str:
    stream = _only(evidence.records.links, "text message")["stream_id"]
    strays = [media["name"] for media in evidence.records.media if media["stream_id"] != stream]
    if strays:
        raise Broken(f"in another stream: {', '.join(strays)}")
    return _byte_for_byte(_owed(evidence, STREAM), evidence.records.media, are_counted=True)


def _links_on_report(evidence: Evidence) -> str:
    _, report = _the_report(evidence)
    stream = _only(evidence.records.links, "text message")["stream_id"]
    wanted = {f"live video: stream {stream}"}
    wanted |= {f"{each.name}: {_address(evidence, each)}" for each in evidence.written if each.is_urgent}
    missing = wanted - set(report["lines"])
    if missing:
        raise Broken(f"not in the chat: {'; '.join(sorted(missing))}")
    strange = set(report["lines"]) - wanted
    if strange:
        raise Broken(f"in the chat, though nobody asked for it: {'; '.join(sorted(strange))}")
    return f"{len(wanted)} lines of chat"


def _everything_at_rapidsos(evidence: Evidence) -> str:
    altered = [name_of(each) for each in evidence.records.objects if each["is_altered"]]
    if altered:
        raise Broken(f"stored with other bytes for a while: {', '.join(altered)}")
    return _byte_for_byte(_owed(evidence, RAPIDSOS), evidence.records.objects, are_counted=True)


def _urgent_first(evidence: Evidence) -> str:
    """By the server's own clock: the last urgent file was there before the first other one began to come."""
    urgent = {each.name for each in evidence.written if each.is_urgent}
    stored = evidence.records.effects("store", since=evidence.back_at)
    ended = [each["ended_at"] for each in stored if name_of(each) in urgent]
    began = [each["at"] for each in stored if name_of(each) not in urgent]
    if len(ended) < len(urgent) or not began:
        raise Broken(f"{len(ended)} urgent and {len(began)} other files came since the relay was back")
    if max(ended) > min(began):
        raise Broken(f"a file that could wait came {max(ended) - min(began):.1f} s too early")
    return f"{len(ended)} urgent, then {len(began)} others"


def _relay_agrees(evidence: Evidence) -> str:
    number, _ = _the_report(evidence)
    stream = _only(evidence.records.links, "text message")["stream_id"]
    remote = _only(evidence.incidents, "incident of the relay")["remote"]
    said = (
        remote.get("control-room", {}).get("report_id"),
        remote.get("incidentshare", {}).get("stream_id"),
    )
    if said != (int(number), stream):
        raise Broken(f"the relay calls them {said[0]} and {said[1]}, the servers {number} and {stream}")
    spool = evidence.status["spool"]
    if spool["pending"] or spool["dead"] or spool["evicted"]:
        raise Broken(f"it still owes {spool['pending']}, and gave up {spool['dead'] + spool['evicted']}")
    return f"{spool['delivered']} items, none owed"


PROMISES: dict[str, Callable[[Evidence], str]] = {
    "new camera activated once, by its QR code": _camera_activated,
    "silence on the status page once, resolved": _silence_shown_once,
    "press on the disk before the power failed": _press_taken,
    "one report, first at the control room": _reported_once,
    "stills on that report": _stills_on_report,
    "one SMS, which opened a stream": _texted_once,
    "stills and clip in that stream, once": _files_in_stream,
    "links to all of it on that report": _links_on_report,
    "every file at RapidSOS, once": _everything_at_rapidsos,
    "urgent files before those that can wait": _urgent_first,
    "the relay says the same as the servers": _relay_agrees,
}


def _the_report(evidence: Evidence) -> tuple[str, Document]:
    return _only(list(evidence.records.reports.items()), "report")


def _only(found: Sequence[_T], what: str) -> _T:
    if len(found) != 1:
        raise Broken(f"no {what}" if not found else f"{len(found)} times: {what}")
    return found[0]


def _owed(evidence: Evidence, place: str) -> list[Written]:
    return [each for each in evidence.written if place in each.places]


def _byte_for_byte(owed: Iterable[Written], there: Sequence[Document], *, are_counted: bool = False) -> str:
    """Each by its SHA-256, and nothing else. `are_counted`: each once, not only at least once."""
    wanted = {each.sha256: each for each in owed}
    found = [each["sha256"] for each in there]
    missing = [each.name for sha256, each in wanted.items() if sha256 not in found]
    if missing:
        raise Broken(f"not there as the camera wrote it: {', '.join(missing)}")
    strange = [str(each.get("name") or name_of(each)) for each in there if each["sha256"] not in wanted]
    if strange:
        raise Broken(f"there, though no camera wrote it for this place: {', '.join(strange)}")
    if are_counted and len(found) != len(wanted):
        twice = sorted({wanted[sha256].name for sha256 in found if found.count(sha256) > 1})
        raise Broken(f"there more than once: {', '.join(twice)}")
    return f"{len(wanted)} of {len(wanted)}, byte for byte"


def _address(evidence: Evidence, written: Written) -> str:
    """What RapidSOS calls the file that it stores."""
    found = [each for each in evidence.records.objects if each["sha256"] == written.sha256]
    return f"ref://{found[0]['key'].split('/')[1]}" if found else "(not there)"
