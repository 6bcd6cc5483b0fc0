"""The fleet as it is seen from outside: what relays publish below `<base>/<device id>/`, put together and judged.

Promises: no I/O; whatever is published (no JSON, wrong types, endless texts, hostile names) yields a row and no error.
Memory is bounded: so many relays, so many bytes of each. A late will of an old session never makes a relay offline.

Words: *online* and *stopped* as the relay says; *offline*: its will came, so the connection broke; *stale*: said to be
online, but no health for too long; *lost*: offline, and nothing heard for too long; *unknown*: it says nothing usable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from relayd.clock import rfc3339
from relayd.fleet_payloads import CLOCK_TOLERANCE_SECONDS, Health, State, document_of, health_of, state_of

STALE_SECONDS = 300.0
"""Silence for longer than this is too long, where the usual interval is not known yet."""
STALE_INTERVALS = 3.0
SHORTEST_STALE_SECONDS = 15.0
MOST_RELAYS = 20_000
SHORTEST_INTERVAL_SECONDS = 0.2
LONGEST_INTERVAL_SECONDS = 86_400.0
INTERVALS_KEPT = 4

STATES = ("lost", "stale", "unknown", "offline", "online", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """One relay as of now. None: not known. `ignored_will`: an `offline` of an old session was let go."""

    id: str
    name: str | None
    site: str | None
    state: str
    health: str
    reasons: tuple[str, ...]
    health_age_seconds: float | None
    health_at: str | None
    pending: int | None
    oldest_pending_seconds: float | None
    dead: int | None
    version: str | None
    session: str | None
    clock_ahead_seconds: float | None
    ignored_will: bool

    @property
    def attention(self) -> int:
        """The smaller, the sooner a person should look: lost, stale, unknown, fault, offline, degraded, ok, stopped."""
        if self.state in ("lost", "stale", "unknown"):
            return ("lost", "stale", "unknown").index(self.state)
        if self.state == "stopped":
            return 7
        if self.health == "fault":
            return 3
        return 4 if self.state == "offline" else 5 if self.health == "degraded" else 6

    @property
    def is_troubled(self) -> bool:
        return self.attention <= 5


@dataclass(slots=True)
class _Known:
    state: State | None = None
    birth: State | None = None
    health: Health | None = None
    intervals: deque[float] = field(default_factory=lambda: deque(maxlen=INTERVALS_KEPT))
    troubles: dict[str, str] = field(default_factory=dict)


class Fleet:
    """Everything that was published so far. `stale_seconds` None: judged by each relay's usual interval."""

    def __init__(self, base: str, *, stale_seconds: float | None = None) -> None:
        self._base = base + "/"
        self._stale_seconds = stale_seconds
        self._known: dict[str, _Known] = {}
        self.not_shown = 0
        """Messages of relays beyond the most that are kept."""

    @property
    def filters(self) -> tuple[str, str]:
        """What to subscribe to, one after the other."""
        return f"{self._base}+/state", f"{self._base}+/health"

    @property
    def gaps(self) -> list[str]:
        """The topics of which nothing has come, of relays whose other topic was heard of."""
        missing = [(name, "health") for name, one in self._known.items() if one.health is None]
        missing += [(name, "state") for name, one in self._known.items() if one.state is None]
        return [f"{self._base}{name}/{kind}" for name, kind in missing if not set(name) & set("+#")]

    def __len__(self) -> int:
        return len(self._known)

    def take(self, topic: str, payload: bytes, *, is_retained: bool, now: float, monotonic: float) -> None:
        """One message, whatever is in it. An empty one takes back what was published before."""
        found = self._part_of(topic)
        if found is None:
            return
        known, kind = found
        known.troubles.pop(kind, None)
        if not payload:
            setattr(known, kind, None)
            if known.state is None and known.health is None:
                self._forget(topic)
            return
        document = document_of(payload)
        if isinstance(document, str):
            known.troubles[kind] = f"{kind} cannot be read: {document}"
        elif kind == "state":
            _take_state(known, state_of(document))
        else:
            _take_health(known, health_of(document, now=now, heard_at=None if is_retained else monotonic))

    def too_large(self, topic: str, size_bytes: int) -> None:
        """A message that was not even read."""
        found = self._part_of(topic)
        if found is not None:
            known, kind = found
            known.troubles[kind] = f"{kind} cannot be read: {size_bytes:,} bytes are too many"

    def relays(self, *, now: float, monotonic: float) -> list[Relay]:
        """Every relay as of now, in no particular order."""
        return [self._judged(name, known, now, monotonic) for name, known in self._known.items()]

    def _part_of(self, topic: str) -> tuple[_Known, str] | None:
        name, slash, kind = topic.removeprefix(self._base).rpartition("/")
        if not topic.startswith(self._base) or not slash or kind not in ("state", "health") or "/" in name:
            return None
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= MOST_RELAYS:
                self.not_shown += 1
                return None
            known = self._known[name] = _Known()
        return known, kind

    def _forget(self, topic: str) -> None:
        self._known.pop(topic.removeprefix(self._base).rpartition("/")[0], None)

    def _judged(self, name: str, known: _Known, now: float, monotonic: float) -> Relay:
        state, health = known.state or State(), known.health or Health()
        is_late = _is_late(known)
        age = _age(health, now, monotonic)
        silence = age if known.health is not None else None if state.at is None else max(0.0, now - state.at)
        is_silent = silence is not None and silence > self._patience(known)
        is_shown_health = known.health is not None
        return Relay(
            id=name,
            name=health.name,
            site=health.site,
            state=_word("online" if is_late else state.word, is_silent=is_silent),
            health=health.word,
            reasons=(*known.troubles.values(), *health.reasons),
            health_age_seconds=age,
            health_at=_rfc3339(health.at) if is_shown_health else None,
            pending=health.pending,
            oldest_pending_seconds=health.oldest,
            dead=health.dead,
            version=state.version if state.version and not is_late else health.version or state.version,
            session=health.session if is_late or state.session is None else state.session,
            clock_ahead_seconds=health.ahead_seconds,
            ignored_will=is_late,
        )

    def _patience(self, known: _Known) -> float:
        """How many seconds of silence are not too long."""
        if self._stale_seconds is not None:
            return self._stale_seconds
        if not known.intervals:
            return STALE_SECONDS
        return max(SHORTEST_STALE_SECONDS, STALE_INTERVALS * max(known.intervals))


# --- judging


def _is_late(known: _Known) -> bool:
    """Whether the last word of `state` is of an old session: another one was heard of that is newer than it."""
    state = known.state
    if state is None or state.word not in ("offline", "stopped") or state.session is None or state.at is None:
        return False
    for witness in (known.health, known.birth):
        if witness is not None and witness.session not in (None, state.session) and (witness.at or 0.0) > state.at:
            return True
    return False


def _age(health: Health, now: float, monotonic: float) -> float | None:
    """By our own clock if we heard it come, else by the relay's, unless that one is plainly ahead."""
    if health.heard_at is not None:
        return max(0.0, monotonic - health.heard_at)
    if health.at is None or health.at - now > CLOCK_TOLERANCE_SECONDS:
        return None
    return max(0.0, now - health.at)


def _word(word: str, *, is_silent: bool) -> str:
    if word == "online":
        return "stale" if is_silent else "online"
    if word == "offline":
        return "lost" if is_silent else "offline"
    return word if word == "stopped" else "unknown"


# --- keeping


def _take_state(known: _Known, state: State) -> None:
    if state.word == "online" and (known.birth is None or (state.at or 0.0) >= (known.birth.at or 0.0)):
        known.birth = state
    if state.word not in ("online", "offline", "stopped"):
        known.troubles["state"] = "state says nothing that is known"
    known.state = state


def _take_health(known: _Known, health: Health) -> None:
    before = known.health
    if before is not None and before.session == health.session and before.at is not None and health.at is not None:
        seconds = health.at - before.at
        if SHORTEST_INTERVAL_SECONDS < seconds < LONGEST_INTERVAL_SECONDS:
            known.intervals.append(seconds)
    known.health = health


def _rfc3339(moment: float | None) -> str | None:
    return None if moment is None else rfc3339(moment)
