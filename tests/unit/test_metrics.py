"""Prometheus text out of a status snapshot."""

import re
from typing import Any

from relayd.web import metrics

SNAPSHOT: dict[str, Any] = {
    "schema": 1,
    "device": {"id": "amb-0417", "name": 'Ambulance "417"\n\\', "site": None},
    "version": "0.1.0",
    "state": "degraded",
    "reasons": ["destination rapidsos: unreachable"],
    "at": "2026-01-31T12:00:00.500Z",
    "uptime_seconds": 12.5,
    "session": "ab12",
    "clock": {"synchronized": True, "offset_seconds": None},
    "config": {"sha256": "00ff", "loaded_at": "2026-01-31T12:00:00.000Z", "error": None, "files": ["/etc/x"]},
    "spool": {"items": 3, "bytes": 20_000_000_000, "oldest_pending_seconds": None},
    "sources": {"front camera": {"state": "ok", "reason": "", "captured": 3, "last_at": None}},
    "destinations": {'r"1': {"state": "waiting", "reason": "x", "pending": 2, "bytes_sent": 7}},
    "links": {"wwan0": {"state": "up", "used-today": 1.5}},
    "incidents": {"open": 0},
}
LINE = re.compile(r'[a-z0-9_]+(\{[a-z0-9_]+="(\\.|[^"\\])*"(,[a-z0-9_]+="(\\.|[^"\\])*")*\})? -?[0-9.e+-]+')


def test_every_number_of_the_snapshot_is_a_metric() -> None:
    lines = metrics.text(SNAPSHOT).splitlines()
    assert "relayd_uptime_seconds 12.5" in lines
    assert "relayd_spool_bytes 20000000000" in lines
    assert "relayd_clock_synchronized 1" in lines
    assert 'relayd_source_captured_total{source="front camera"} 3' in lines
    assert 'relayd_destination_pending{destination="r\\"1"} 2' in lines
    assert 'relayd_link_used_today{link="wwan0"} 1.5' in lines
    assert "relayd_config_loaded_timestamp_seconds 1769860800" in lines


def test_states_and_identity_are_labels() -> None:
    lines = metrics.text(SNAPSHOT).splitlines()
    assert 'relayd_state{state="degraded"} 1' in lines
    assert 'relayd_destination_state{destination="r\\"1",state="waiting"} 1' in lines
    assert 'device_name="Ambulance \\"417\\"\\n\\\\"' in next(line for line in lines if line.startswith("relayd_info{"))


def test_the_text_is_what_prometheus_parses() -> None:
    """Each line has the format's shape, each name one type line before all of its samples, no sample twice."""
    seen: set[str] = set()
    current = ""
    for line in metrics.text(SNAPSHOT).splitlines():
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert kind in ("counter", "gauge")
            assert current not in seen
            seen.add(current)
            continue
        assert LINE.fullmatch(line), line
        assert re.split(r"[{ ]", line)[0] == current
    assert metrics.text(SNAPSHOT).endswith("\n")
