"""The messages that a technician meets most, each by an id: the journal's catalog explains them (`journalctl -x`).

Promises: an id stays with its meaning for ever. A test holds these and `systemd/relayd.catalog` together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

FIELDS = "journal_fields"
"""The attribute of a log record that carries the fields of its journal entry."""


class Message(StrEnum):
    """`MESSAGE_ID` of the journal entry."""

    CONFIG_REFUSED = "50a74cff026f4c84aa8ff5f8d837115f"
    DESTINATION_AWAY = "f11fc8de3eb449c88f8de0e973e1d036"
    LOGIN_REFUSED = "2e7abed5658e430d856980bb0977e471"
    DESTINATION_BACK = "f99e6ae5c3c74558bad367d4ab3e1d35"
    ITEM_DEAD = "9fddb5fef12147098c1d5c6a1f99f50d"
    FILE_QUARANTINED = "0dd6a32cc059453497bfc82d73d9c869"
    SOURCE_BROKE = "d9f0b7c0e6f64abf9c86269bdefda9aa"
    BROKER_REFUSED = "dd1c84e44fa940d781ace0d9a2729d41"
    SPOOL_FULL = "0b1f3790be0642fd9aaf6ec4a380626b"
    SPOOL_SALVAGED = "ea3d9d2048ec40429e19cfdf06744ffa"
    CLOCK_ADRIFT = "2d4579fe90cf4f1da7e3deeab99a14f8"
    SPOOL_ELSEWHERE = "6f2a1c5b0e7d4b8f9c3d2e1f0a9b8c7d"
    LOOP_STUCK = "46d1d9af3dd440f3951bc8cc9eddb5e7"


def about(message: Message | None = None, /, **fields: str) -> dict[str, Any]:
    """For `extra=` of a log call: what it is about (`item=`, `destination=`, `source=`, `broker=`), by the name of the
    journal's field in small letters."""
    named = {name.upper(): value for name, value in fields.items()}
    return {FIELDS: named if message is None else {"MESSAGE_ID": message.value, **named}}
