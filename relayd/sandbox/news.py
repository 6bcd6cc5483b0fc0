"""What is new at the servers, in plain sentences: pure, two looks at their records in, sentences out.

Promises: each thing is told once; files are not news here, the view shows where they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from relayd.sandbox.records import Records

CONTROL_ROOM, TEXT_MESSAGES, STATUS_PAGE = "control room", "SMS", "status page"
_STATES = {1: "investigating", 2: "identified", 3: "watching", 4: "fixed"}


class News:
    """What has been told already."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def since_last(self, records: Records) -> Iterator[tuple[str, str]]:
        """(who, what) of everything that has not been told yet."""
        for key, who, text in _everything(records):
            if (who, key) not in self._told:
                self._told.add((who, key))
                yield who, text


def _everything(records: Records) -> Iterator[tuple[str, str, str]]:
    for number, report in records.reports.items():
        yield number, CONTROL_ROOM, f"report {number}: {report['body'].get('description', '')}"
    for link in records.links:
        to = link["body"].get("phone_number") or link["body"].get("email")
        opened = f"link for live video sent to {to}; stream {link['stream_id']} is open"
        yield str(link["number"]), TEXT_MESSAGES, opened
    for number, report in records.reports.items():
        for index, line in enumerate(report["lines"]):
            yield f"{number}/{index}", CONTROL_ROOM, f"chat of report {number}: {line}"
    for fault in records.faults:
        yield str(fault["id"]), STATUS_PAGE, f"incident {fault['id']} opened: {fault['name']}"
        for update in fault["updates"]:
            state = _STATES.get(update["status"], str(update["status"]))
            said = f"incident {fault['id']} is {state}: {update['message']}"
            yield f"{fault['id']}/{update['id']}", STATUS_PAGE, said
