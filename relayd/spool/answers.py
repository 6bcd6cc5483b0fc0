"""Commands that came from afar, by the id that the sender chose: remembered before they run, with the answer after.

Promises: an id that is remembered is never run again, also after a crash or a power cut. The oldest are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from relayd.model import Fields
from relayd.spool.change import Change
from relayd.spool.rows import fields_from, to_json

LONGEST_ANSWER = 16_384
"""A longer answer is not kept: whoever asks again is told so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A command that began before. `answer` None: nobody knows whether it was carried out."""

    name: str
    at: float
    answer: Fields | None


def begin_command(change: Change, command_id: str, name: str, *, most: int, now: float) -> Remembered | None:
    """None: it is new, and remembered from now on. At most so many are."""
    row = change.db.execute("SELECT name, at, answer FROM commands WHERE id = ?", (command_id,)).fetchone()
    if row is not None:
        answer = None if row["answer"] is None else fields_from(row["answer"])
        return Remembered(name=row["name"], at=row["at"], answer=answer)
    seq = change.db.execute("INSERT INTO commands (id, name, at) VALUES (?, ?, ?)", (command_id, name, now)).lastrowid
    change.db.execute("DELETE FROM commands WHERE seq <= ?", ((seq or 0) - most,))
    return None


def finish_command(change: Change, command_id: str, answer: Fields, too_long: Fields) -> None:
    """How it came out; `too_long` is what is kept in place of an answer that is."""
    text = to_json(dict(answer))
    kept = text if len(text) <= LONGEST_ANSWER else to_json(dict(too_long))
    change.db.execute("UPDATE commands SET answer = ? WHERE id = ?", (kept, command_id))
